"""How each event reads in the log: its level, and one short sentence with the numbers in it.

What a night operator wants to know is ``info`` or above: what started, what was left out, what
failed, what was made, and how it was judged. Everything else is ``debug``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cpplug.api import Envelope

Phrase = tuple[str, Callable[[Any], str]]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)


def _number(value: float | None, unit: str) -> str:
    return "no value" if value is None else f"{value:.5g} {unit}".rstrip()


def _check(e: Any) -> str:
    text = f"{e.verdict} {e.check} {e.scope}: {_number(e.value, e.unit)}"
    if e.expected is not None:
        text += f", expected {_number(e.expected, e.unit)}"
    return text + (f" within {e.tolerance:.5g}" if e.tolerance is not None else "")


def _dims(dims: dict[str, Any]) -> str:
    return " ".join(str(value) for value in dims.values() if value != "")


PHRASES: dict[str, Phrase] = {
    "run.started": (
        "info",
        lambda e: f"{e.calibration}: {e.n_exposures} exposures, {e.n_units} units of work",
    ),
    "config.resolved": ("debug", lambda e: f"{len(e.values)} options"),
    "exposure.rejected": ("warning", lambda e: f"exposure left out: {e.reason}"),
    "isr.step.finished": ("debug", lambda e: f"{e.step} took {e.seconds:.3f} s"),
    "isr.step.skipped": ("debug", lambda e: f"{e.step} skipped: {e.reason}"),
    "measurement.recorded": (
        "debug",
        lambda e: f"{e.quantity} of {e.scope} is {_number(e.value, e.unit)}",
    ),
    "unit.finished": ("debug", lambda e: f"{e.unit} done ({e.done}/{e.total}), {e.seconds:.2f} s"),
    "unit.failed": ("error", lambda e: f"{e.unit} failed: {e.error}"),
    "unit.skipped": ("debug", lambda e: f"{e.unit} skipped: {e.reason}"),
    "combine.finished": (
        "info",
        lambda e: (
            f"{e.combiner} of {e.n_inputs} frames, {100 * e.rejected_fraction:.3f} % rejected, "
            f"{e.seconds:.1f} s"
        ),
    ),
    "solve.finished": (
        "debug",
        lambda e: f"{e.solver} of {e.scope}: chi2 {e.chi2:.4g} from {e.n} points",
    ),
    "product.written": (
        "info",
        lambda e: f"{e.dataset_type} {_dims(e.dims)} written to {e.path}",
    ),
    "run.finished": (
        "info",
        lambda e: (
            f"{len(e.products)} product{'' if len(e.products) == 1 else 's'} in {e.seconds:.1f} s"
            + (f", {e.n_failed} units failed" if e.n_failed else "")
        ),
    ),
    "run.failed": ("error", lambda e: f"failed while {e.stage}: {e.error}"),
    "check.evaluated": ("debug", _check),
    "verify.finished": (
        "info",
        lambda e: f"{e.dataset}: {e.verdict} ({e.profile}; {_counts(e.counts)})",
    ),
    "certification.granted": (
        "info",
        lambda e: f"{e.dataset} certified in {e.collection} from {e.begin} to {e.end}",
    ),
    "certification.refused": ("error", lambda e: f"refused for {e.collection}: {e.reason}"),
    "chain.changed": ("info", lambda e: f"{e.parent} is now {', '.join(e.children) or 'empty'}"),
    "plugin.rejected": ("warning", lambda e: f"{e.plugin} of {e.provider}: {e.error}"),
    # The bus itself warns about this on the standard error: the log may be what failed.
    "listener.failed": ("debug", lambda e: f"{e.listener} failed at {e.during}: {e.error}"),
}
"""Level and phrase of every event by name."""

_LOUD_VERDICTS = {"FAIL": "warning"}


def level_of(envelope: Envelope) -> str:
    """Return the level at which an event is logged; unknown events are ``debug``."""
    verdict = getattr(envelope.body, "verdict", "")
    if envelope.event in {"check.evaluated", "verify.finished"} and verdict in _LOUD_VERDICTS:
        return _LOUD_VERDICTS[verdict]
    return PHRASES.get(envelope.event, ("debug", str))[0]


def sentence(envelope: Envelope) -> str:
    """Return the phrase of an event; an unknown one is shown with its fields."""
    if envelope.event not in PHRASES:
        return str(envelope.body)
    return PHRASES[envelope.event][1](envelope.body)


def data_id(envelope: Envelope) -> str:
    """Return ``(instrument/detector/exposure)`` with the parts that are known, or nothing."""
    parts = [envelope.instrument, envelope.detector, envelope.exposure]
    known = [str(part) for part in parts if part not in ("", None)]
    return f"({'/'.join(known)})" if known else ""
