"""Every listing in every format: one that a program can read, and nothing else beside it."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

LISTINGS = {
    "exposures": (["query", "exposures"], 26),
    "exposures by id": (["query", "exposures", "-d", "seq_num <= 5"], 5),
    "no exposures": (["query", "exposures", "-d", "seq_num = 99"], 0),
    "products": (["query", "products"], 1),
    "products of a chain": (["query", "products", "bias", "-i", "u/me/biasGen"], 1),
    "no products": (["query", "products", "dark"], 0),
    "runs": (["query", "runs"], 2),
    "checks": (["query", "checks", "--limit", "7"], 7),
    "no checks": (["query", "checks", "--run", "none"], 0),
    "collections": (["collections", "u/me/*"], 4),
    "flat": (["collections", "u/me/biasGen", "--flatten"], 1),
    "inverse": (["collections", "u/me/biasGen/*", "--inverse"], 2),
    "validity": (["validity", "simcam/calib/daily"], 1),
    "journal": (["validity", "simcam/calib/daily", "--journal"], 1),
    "which": (["which", "bias", "--detector", "0", "--at", "2021-02-01", "-i", "u/me/biasGen"], 1),
    "events": (["events", "u/me/biasGen", "--event", "run.*"], 2),
    "present": (["ingest", "FRAMES"], 26),
    "chain": (["chain", "u/me/c", "u/me/biasGen,simcam/raw/all"], 2),
    "options": (["config", "show", "bias", "--instrument", "simcam"], None),
    "schema": (["config", "schema", "bias", "--instrument", "simcam"], None),
    "run": (["run", "bias", "--instrument", "simcam"], 1),
    "verify": (["verify", "bias", "--instrument", "simcam", "-i", "u/me/biasGen,simcam/raw/all"],
               None),
    "decertify": (["decertify", "simcam/calib/daily", "bias", "--begin-date", "2021-06-01"], 1),
    "certify": (["certify", "u/me/biasGen", "u/me/calib", "bias"], 1),
}  # fmt: skip


@pytest.fixture(scope="session")
def certified_repo(built_repo, tmp_path_factory, call):
    repo = tmp_path_factory.mktemp("certified") / "repo"
    shutil.copytree(built_repo, repo)
    answer = call(
        "-b", repo, "certify", "u/me/biasGen", "simcam/calib/daily", "bias", "--begin-date",
        "2021-01-01", "--end-date", "2022-01-01",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return repo


@pytest.fixture
def certified(certified_repo, tmp_path, shell_of):
    return shell_of(certified_repo, tmp_path)


@pytest.mark.parametrize("listing", LISTINGS)
def test_every_format_says_the_same(certified, listing, simcam_frames):
    words, count = LISTINGS[listing]
    words = [simcam_frames if word == "FRAMES" else word for word in words]

    def said(form):
        return certified(*words, "--format", form).out

    changing = words[0] in {"run", "verify", "certify", "decertify"}
    rows = json.loads(said("json"))
    assert all(isinstance(row, dict) for row in rows)
    count = len(rows) if count is None else count
    assert len(rows) == count
    if changing and words[0] == "decertify":
        return  # what is taken back once cannot be taken back again
    lines = [json.loads(line) for line in said("jsonl").splitlines()]
    assert [set(row) for row in lines] == [set(row) for row in rows]
    table = list(csv.DictReader(io.StringIO(said("csv"))))
    assert len(table) == count
    ids = said("ids").splitlines()
    assert len(ids) == count and all(ids)
    if not changing:
        assert lines == rows
    if words[0] != "ingest":  # its table shows only what could not be used
        assert len(said("table").splitlines()) > count


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "ids", "table"])
def test_the_plan_in_every_format(certified, form):
    words = ("run", "bias", "--instrument", "simcam", "-d", "seq_num <= 6", "--plan")
    out = certified(*words, "--format", form).out
    first, last = "2021012000001", "2021012000006"
    assert first in out and last in out
    if form == "ids":
        assert out.split() == [str(2021012000000 + n) for n in range(1, 7)]
    if form == "json":
        (plan,) = json.loads(out)
        steps = {step["step"]: step for step in plan["steps"]}
        assert [step["n"] for step in plan["steps"]] == list(range(1, len(steps) + 1))
        assert steps["overscan"]["runs"] == "yes" and steps["defects"]["runs"] == "no"
        assert all(step["switch"] for step in steps.values())
    assert len(certified.runs()) == 2


def test_the_plan_shows_the_source_of_a_switch_and_the_calibrations_found(certified):
    words = ("verify", "bias", "--instrument", "simcam", "-i", "u/me/biasGen,simcam/raw/all")
    out = certified(*words, "--plan", "-c", "isr:doParallelOverscan=True").out
    assert "-c isr:doParallelOverscan=True" in out
    assert "Calibrations found" in out and "u/me/biasGen" in out


def test_a_missing_calibration_stops_before_the_run_and_is_named(certified):
    words = ("run", "bias", "--instrument", "simcam", "-c", "isr:doDefect=True")
    for more in ([], ["--plan"]):
        text = certified.refuses(5, *words, *more)
        assert "Step 'defects' needs a defects for exposure 2021012000001" in text
        assert "isr:do_defects=False" in text
    assert len(certified.runs()) == 2


def test_the_switches_of_the_seed_documents_work_as_written(certified):
    words = ("-c", "isr:doDefect=False", "-c", "isr:doEmpiricalReadNoise=True")
    certified("run", "bias", "--instrument", "simcam", *words)
    run = certified.runs()[0]["run"]
    noise = [
        event["body"]
        for event in certified.events(run)
        if event["event"] == "measurement.recorded" and "read_noise" in event["body"]["quantity"]
    ]
    assert len(noise) == 52
    assert all(3 < item["value"] < 30 for item in noise), noise[:3]


def test_a_selection_with_line_breaks_as_in_the_seed_documents(certified):
    where = (
        "instrument='simcam' AND exposure.observation_type='bias' \\\n"
        "                 AND exposure.target_name='Park position' \\\n"
        "                 AND exposure.exposure_time=0.0 AND exposure.dark_time < 0.1 \\\n"
        "                 AND exposure.day_obs > 20210101"
    )
    assert (
        len(certified("query", "exposures", "--where", where, "--format", "ids").out.split()) == 26
    )
    ids = "2021012000001, 2021012000002, 2021012000003, \\\n   2021012000004, 2021012000005"
    where = f"instrument='simcam' AND detector=0 AND exposure IN ({ids}) \\\n"
    out = certified(
        "run", "bias", "--instrument", "simcam", "-d", where, "--plan", "--format", "ids"
    )
    assert out.out.split() == [str(2021012000000 + n) for n in range(1, 6)]


def test_exposures_from_a_file(certified, tmp_path):
    listed = tmp_path / "ids.txt"
    text = "# good nights\n2021012000002, 2021012000003\r\n2021012000004 # and this\n"
    listed.write_text(text, encoding="utf-8-sig", newline="")
    words = ("run", "bias", "--instrument", "simcam", "-c", "bias:min_exposures=3", "--plan")
    out = certified(*words, "--exposures", f"@{listed}", "--format", "ids").out
    assert out.split() == [str(2021012000000 + n) for n in (2, 3, 4)]
