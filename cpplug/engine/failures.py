"""How units end, said to whoever listens; and what may go wrong without stopping a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cpplug.api.errors import UsageError
from cpplug.api.events import Event, UnitFailed, UnitFinished
from cpplug.engine.units import Done
from cpplug.host.bus import Bus

_log = logging.getLogger("cpplug.run")


def allowed_failures(text: str, total: int) -> int:
    """Read ``--max-failed``: a count, or a percentage of ``total`` rounded down.

    Raises
    ------
    UsageError
        When the text is neither.
    """
    value = text.strip()
    try:
        if value.endswith("%"):
            share = float(value[:-1])
            if not 0 <= share <= 100:
                raise ValueError
            return int(total * share / 100)
        count = int(value)
        if count < 0:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--max-failed {text!r} is not a number of exposures or a percentage.",
            "Write --max-failed 2 or --max-failed 10%.",
        ) from None
    return count


def warn_unusable(what: str, amplifiers: Sequence[str]) -> None:
    """Say which amplifiers carry nothing: the result is made, but not from them."""
    for name in amplifiers:
        _log.warning(
            "amplifier %s of %s has no usable pixel: all are bad, saturated or not a number",
            name,
            what,
        )


def tell(bus: Bus, done: Done, instrument: str, kind: str, number: int, total: int) -> None:
    """Say what happened in a worker, and how its unit ended.

    Parameters
    ----------
    bus
        Who hears it.
    done
        What the worker sent home.
    instrument, kind
        Where the unit belongs, and what was done: ``isr`` or ``verify``.
    number, total
        How many units have ended, this one included, of how many.
    """
    where: dict[str, Any] = {
        "instrument": instrument,
        "detector": done.detector,
        "exposure": done.exposure,
    }
    bus.forward((event, *where.values(), done.worker) for event in done.events)
    if done.unusable:
        warn_unusable(f"exposure {done.exposure}", done.unusable)
    event: Event
    if done.error:
        event = UnitFailed(unit=done.unit, kind=kind, error=done.error, traceback=done.trace)
    else:
        event = UnitFinished(
            unit=done.unit,
            kind=kind,
            seconds=done.seconds,
            done=number,
            total=total,
            peak_mb=done.peak_mb,
        )
    bus.emit(event, **where)
