"""Prints the rows of a listing: a table for people, JSON, CSV or bare ids for programs.

The standard output carries only data. On a terminal a table has lines and colours; in a pipe it is
aligned plain text.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("table", "json", "jsonl", "csv", "ids")


def format_option(command: F) -> F:
    """Add ``--format`` to a command; the function gets ``format``."""
    option = click.option(
        "--format",
        "format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print; ids is the first column only.",
    )
    return option(command)


def with_instrument(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the columns, with the instrument behind the first where rows are of several."""
    if len({row["instrument"] for row in rows}) < 2:
        return list(columns)
    return [columns[0], "instrument", *columns[1:]]


def emit_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    format: str = "table",
    title: str | None = None,
) -> None:
    """Print rows to the standard output.

    Parameters
    ----------
    rows
        One mapping per row; keys beyond ``columns`` appear in ``json`` and ``jsonl`` only.
    columns
        What a table shows, in order. The first one identifies a row.
    format
        One of :data:`FORMATS`.
    title
        Heading of a table.
    """
    click.echo(render(rows, columns, format, title), nl=False)


def render(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    format: str = "table",
    title: str | None = None,
) -> str:
    """Return what :func:`emit_table` prints."""
    if format in {"json", "jsonl"}:
        import msgspec

        encoded = [msgspec.json.encode(dict(row), enc_hook=str).decode() for row in rows]
        if format == "jsonl":
            return "".join(line + "\n" for line in encoded)
        return "[\n" + ",\n".join(f"  {line}" for line in encoded) + "\n]\n" if rows else "[]\n"
    if format == "csv":
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_field(row.get(column)) for column in columns] for row in rows)
        return target.getvalue()
    if format == "ids":
        return "".join(f"{_cell(row.get(columns[0]))}\n" for row in rows)
    if sys.stdout.isatty():
        return _rich(rows, columns, title)
    return _plain(rows, columns, title)


def _plain(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None) -> str:
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [rows and all(_is_number(row.get(c)) for row in rows) for c in columns]
    lines = []
    for line in cells:
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    head = [title] if title else []
    return "".join(line + "\n" for line in head + lines)


def _rich(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        to_right = rows and all(_is_number(row.get(column)) for row in rows)
        # Nothing is cut off in a narrow terminal, and the first column stays in one piece.
        table.add_column(
            column.replace("_", " "),
            justify="right" if to_right else "left",
            overflow="fold",
            no_wrap=number == 0,
        )
    for row in rows:
        table.add_row(*(_coloured(Text, _cell(row.get(column))) for column in columns))
    console = Console(file=io.StringIO(), force_terminal=True, width=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


_COLOURS = {
    "PASS": "green", "ok": "green", "WARN": "yellow", "FAIL": "bold red", "broken": "bold red",
    "lying": "bold red", "duplicate": "bold red", "incompatible": "bold red", "failed": "bold red",
    "INCONCLUSIVE": "magenta", "blocked": "yellow", "unlisted": "yellow",
}  # fmt: skip


def _coloured(text: Callable[..., Any], word: str) -> Any:
    return text(word, style=_COLOURS.get(word, ""))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _field(value: Any) -> str:
    """Return a value for a program: every digit, and line breaks as they are."""
    return str(value) if isinstance(value, str | float) else _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set):
        return ", ".join(_cell(item) for item in value)
    return " ".join(str(value).split("\n"))
