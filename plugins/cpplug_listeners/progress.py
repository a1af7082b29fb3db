"""The progress bar: how many units of work are done, while a run lasts.

It is drawn on the standard error and only on a terminal; ``--no-progress`` leaves it out.
"""

from __future__ import annotations

import atexit
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cpplug.api import Envelope, hookimpl
from cpplug.api.events import RunStarted, UnitFailed, UnitFinished, UnitSkipped

_bars: dict[str, Progress] = {}


@hookimpl
def cpplug_event(event: Envelope) -> None:
    """Start, move or remove the bar of a run."""
    body = event.body
    if isinstance(body, RunStarted):
        _start(event.run, body)
    elif event.event in {"run.finished", "run.failed"}:
        if bar := _bars.pop(event.run, None):
            bar.stop()
    elif event.run in _bars:
        bar = _bars[event.run]
        task = bar.task_ids[0]
        if isinstance(body, UnitFinished):
            bar.update(task, completed=body.done, total=body.total)
        elif isinstance(body, UnitFailed | UnitSkipped):
            bar.advance(task)


def _start(run: str, started: RunStarted) -> None:
    if not sys.stderr.isatty():
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,  # results belong to the standard output
    )
    bar.add_task(started.calibration, total=started.n_units)
    bar.start()
    atexit.register(bar.stop)  # gives the cursor back, however the run ends
    _bars[run] = bar
