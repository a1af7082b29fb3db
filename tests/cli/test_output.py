"""Rows as tables, JSON, CSV and ids."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpplug.cli.output import FORMATS, render, with_instrument

ROWS = [
    {"id": 2021012000019, "name": "a b", "value": 1.0 / 3.0, "tags": ["x", "y"], "more": {"k": 1}},
    {"id": 7, "name": None, "value": None, "tags": [], "more": {}},
]


def test_plain_table_is_aligned():
    text = render(ROWS, ["id", "name", "value"], "table", title="Things")
    assert text.splitlines() == [
        "Things",
        "           id  name     value",
        "2021012000019  a b   0.333333",
        "            7",
    ]


def test_json_keeps_everything():
    assert json.loads(render(ROWS, ["id"], "json")) == ROWS
    assert render([], ["id"], "json") == "[]\n"


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows(form):
    text = render([], ["id", "name"], form)
    assert text in {"id  name\n", "[]\n", "", "id,name\n"}


def test_terminal_gets_a_drawn_table(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    text = render([{"verdict": "FAIL", "n": 3}], ["verdict", "n"])
    assert "FAIL" in text and "\x1b[" in text


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    row = {"id": "e18a2487-3e49-4fd0-9d4a-07b81aa4b2b9", "path": "/a/long/path/" * 8 + "x.fits"}
    text = render([row], ["id", "path"])
    assert row["id"] in text and "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.count("/") == row["path"].count("/")


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.integers()})))
def test_csv_round_trip(rows):
    rows = [{**row, "a": row["a"].replace("\r", "")} for row in rows]
    read = list(csv.DictReader(io.StringIO(render(rows, ["a", "b"], "csv"), newline="")))
    assert [(row["a"], int(row["b"])) for row in read] == [(r["a"], r["b"]) for r in rows]


def test_csv_keeps_every_digit_and_a_table_does_not():
    rows = [{"id": 1, "value": 0.1 + 0.2}]
    assert render(rows, ["id", "value"], "csv") == "id,value\n1,0.30000000000000004\n"
    assert render(rows, ["id", "value"], "table").endswith("0.3\n")


def test_rows_of_several_instruments_say_which():
    rows = [{"id": 1, "instrument": "a"}, {"id": 1, "instrument": "b"}]
    assert with_instrument(rows, ["id", "name"]) == ["id", "instrument", "name"]
    assert with_instrument(rows[:1], ["id", "name"]) == ["id", "name"]
    assert with_instrument([], ["id"]) == ["id"]
