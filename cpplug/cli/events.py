"""``cpplug events``: what happened in a run, from its ledger."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cpplug.cli.output import emit_table, format_option
from cpplug.cli.state import State


@click.command()
@click.argument("run")
@click.option("--event", "pattern", default="*", help="Only these events, such as 'isr.*'.")
@click.option("--follow", is_flag=True, help="Wait for more until the run ends.")
@format_option
@click.pass_obj
def events(state: State, run: str, pattern: str, follow: bool, format: str) -> None:
    """Show the events of RUN (or of the newest run of a chain)."""
    from cpplug.api.errors import DataError
    from cpplug.engine.ledger import read_events

    with state.repository() as repo:
        row = repo.collection(run)
        name = row.children[0] if row.children else row.name
        path = repo.root / "runs" / name / "events.jsonl"
    if not path.exists():
        raise DataError(f"Run {name} has no ledger {path}.", "It may have been made elsewhere.")
    rows = [_row(event) for event in read_events(path) if _match(event, pattern)]
    emit_table(rows, ["seq", "time", "event", "where", "what"], format)
    if follow:
        for event in _more(path, rows[-1]["seq"] if rows else 0):
            if _match(event, pattern):
                shown = _row(event)
                click.echo(f"{shown['seq']:6} {shown['time']} {shown['event']} {shown['what']}")


def _match(event: dict[str, Any], pattern: str) -> bool:
    return fnmatch.fnmatchcase(event["event"], pattern)


def _row(event: dict[str, Any]) -> dict[str, Any]:
    where = "/".join(
        str(event[key])
        for key in ("instrument", "detector", "exposure")
        if event.get(key) not in (None, "")
    )
    what = ", ".join(f"{key}={value}" for key, value in event["body"].items())
    return {**event, "where": where, "what": what if len(what) < 200 else what[:197] + "..."}


def _more(path: Path, last: int) -> Iterator[dict[str, Any]]:
    """Yield events as they are appended, until the run has ended."""
    from cpplug.engine.ledger import read_events

    ended = False
    while not ended:
        time.sleep(0.5)
        for event in read_events(path):
            if event["seq"] > last:
                last = event["seq"]
                yield event
            ended = event["event"] in {"run.finished", "run.failed", "verify.finished"}
