"""``cpplug query``: look up exposures, products, runs and checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cpplug.cli.output import emit_table, format_option, with_instrument
from cpplug.cli.state import State

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(command: F) -> F:
    """Add ``--where``, ``--where-file`` and ``--bind``; see :func:`selection`."""
    for option in (
        click.option("--bind", "binds", multiple=True, metavar="NAME=VALUE", help="Fill in :NAME."),
        click.option(
            "--where-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Read it from a file.",
        ),
        click.option(
            "-d",
            "--where",
            "--data-query",
            multiple=True,
            help="Which ones: an expression; several must all hold.",
        ),
    ):
        command = option(command)
    return command


def selection(
    wheres: tuple[str, ...], where_file: Path | None, binds: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """Return the expression and the values to fill in.

    Raises
    ------
    UsageError
        When the file cannot be read or a ``--bind`` has no equals sign.
    """
    from cpplug.api.errors import UsageError

    given = [text for text in wheres if text.strip()]
    where = " AND ".join(f"({text})" for text in given) if len(given) > 1 else "".join(given)
    if where_file is not None:
        try:
            text = where_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--where-file {where_file} cannot be read: "
                f"{getattr(error, 'strerror', None) or error}.",
                "Name a text file that holds the expression.",
            ) from None
        first, second = (part.rstrip("\\ \t\r\n") for part in (where, text))
        where = f"({first}) AND ({second})" if first.strip() else second
    values: dict[str, Any] = {}
    for bind in binds:
        name, equals, value = bind.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--bind {bind!r} cannot be read.", "Write --bind NAME=VALUE.")
        items = [_number(part.strip()) for part in value.split(",")]
        values[name] = items if len(items) > 1 else items[0]
    return where, values


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


@click.group()
def query() -> None:
    """Look up exposures, products, runs and checks."""


@query.command()
@click.option("--instrument", default=None, help="Instrument; needed when there are several.")
@selection_options
@click.option("--order-by", multiple=True, metavar="FIELD", help="Sort; -FIELD reverses.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@format_option
@click.pass_obj
def exposures(
    state: State,
    instrument: str | None,
    where: tuple[str, ...],
    where_file: Path | None,
    binds: tuple[str, ...],
    order_by: tuple[str, ...],
    limit: int | None,
    format: str,
) -> None:
    """List raw exposures.

    Example: cpplug query exposures -d "observation_type = 'bias' AND day_obs > 20210101"
    """
    import msgspec

    from cpplug.api.times import format_time

    expression, values = selection(where, where_file, binds)
    with state.repository() as repo:
        infos = repo.exposures(
            expression, instrument=instrument, binds=values, order_by=order_by, limit=limit
        )
        if not infos:
            reason = repo.explain_empty(expression, instrument=instrument, binds=values)
            click.echo(f"No exposure matches. {reason}", err=True)
    rows = [
        {**msgspec.to_builtins(i), "begin": format_time(i.begin), "end": format_time(i.end)}
        for i in infos
    ]
    columns = [
        "exposure", "observation_type", "physical_filter", "exposure_time", "dark_time",
        "target_name", "begin",
    ]  # fmt: skip
    emit_table(rows, with_instrument(rows, columns), format)


@query.command()
@click.argument("dataset_type", required=False)
@click.option(
    "-i", "--input", "--collections", "inputs", multiple=True, help="Collections to look in."
)
@click.option("--instrument", default=None, help="Only of this instrument.")
@selection_options
@click.option("--find-first", is_flag=True, help="Only the one that a search would find.")
@click.option("--show-path", is_flag=True, help="Show where the files lie.")
@format_option
@click.pass_obj
def products(
    state: State,
    dataset_type: str | None,
    inputs: tuple[str, ...],
    instrument: str | None,
    where: tuple[str, ...],
    where_file: Path | None,
    binds: tuple[str, ...],
    find_first: bool,
    show_path: bool,
    format: str,
) -> None:
    """List calibration products."""
    from cpplug.api.times import format_time

    expression, values = selection(where, where_file, binds)
    with state.repository() as repo:
        found = repo.datasets(
            dataset_type,
            inputs or None,
            instrument=instrument,
            where=expression,
            binds=values,
            find_first=find_first,
        )
        rows = [
            {
                "id": row.id,
                "type": row.dataset_type,
                "instrument": row.data_id.instrument,
                "detector": row.data_id.detector,
                "physical_filter": row.data_id.physical_filter,
                "run": row.run,
                "collection": row.collection,
                "created": format_time(row.created, "utc"),
                "sha256": row.sha256,
                "path": str(repo.root / row.path),
            }
            for row in found
        ]
    columns = ["id", "type", "detector", "physical_filter", "run", "created"]
    columns += ["path"] if show_path else []
    emit_table(rows, with_instrument(rows, columns), format)


@query.command()
@click.argument("prefix", default="")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Newest so many."
)
@format_option
@click.pass_obj
def runs(state: State, prefix: str, limit: int, format: str) -> None:
    """List runs, newest first; PREFIX narrows by name."""
    from cpplug.api.times import format_time

    with state.repository() as repo:
        rows = [
            {
                "run": row.run,
                "kind": row.kind,
                "calibration": row.calibration,
                "status": row.status,
                "started": format_time(row.started, "utc"),
                "seconds": (row.finished - row.started) / 1e9 if row.finished else None,
                "user": row.user,
                "command": row.command,
            }
            for row in reversed(repo.runs())
            if row.run.startswith(prefix)
        ]
    emit_table(rows[:limit], ["run", "kind", "calibration", "status", "started", "seconds"], format)


@query.command()
@click.option("--run", default=None, help="Only of this verification run.")
@click.option("--product", default=None, help="Only of the product with this checksum.")
@click.option(
    "--verdict",
    default=None,
    type=click.Choice(
        ["PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT_APPLICABLE"], case_sensitive=False
    ),
    help="Only with this verdict.",
)
@click.option("--test", default=None, help="Only of this test.")
@selection_options
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@format_option
@click.pass_obj
def checks(
    state: State,
    where: tuple[str, ...],
    where_file: Path | None,
    binds: tuple[str, ...],
    run: str | None,
    product: str | None,
    verdict: str | None,
    test: str | None,
    limit: int | None,
    format: str,
) -> None:
    """List the results of verification, one row per test and scope."""
    expression, values = selection(where, where_file, binds)
    with state.repository() as repo:
        rows = repo.checks(
            run=run, product_sha256=product, verdict=verdict, where=expression, binds=values
        )
    if test:
        rows = [row for row in rows if row["test"] == test]
    columns = [
        "test", "verdict", "detector", "amplifier", "exposure", "membership", "value", "error",
        "expected", "unit", "reason",
    ]  # fmt: skip
    emit_table(rows[:limit], columns, format)
