"""Every event cpplug emits: frozen, flat, past tense, with a stable name.

A plugin says what happened with ``context.emit(StepFinished(...))``; the bus stamps the envelope
(sequence number, time, run, worker) and hands it to the listeners. Logs, progress bars and the
run's ledger only listen. The JSON schema of each event is in ``docs/reference/events.md``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events. ``name`` is stable; ``v`` rises when a field changes its meaning."""

    name: ClassVar[str] = ""
    v: ClassVar[int] = 1


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An event as listeners get it: the fact, and who said it when."""

    event: str
    v: int
    id: str
    seq: int
    """Number within the run, without gaps."""
    time: str
    """UTC, ISO 8601 with microseconds and ``Z``."""
    run: str
    worker: str
    body: Event
    instrument: str = ""
    detector: int | None = None
    exposure: int | None = None


class RunStarted(Event, frozen=True, kw_only=True):
    """A plan was accepted and work begins."""

    name: ClassVar[str] = "run.started"
    calibration: str
    plugins: dict[str, str]
    config_digest: str
    inputs: list[str]
    n_exposures: int
    n_units: int


class ConfigResolved(Event, frozen=True, kw_only=True):
    """The options of the run, each with the place it came from."""

    name: ClassVar[str] = "config.resolved"
    values: dict[str, tuple[Any, str]]


class ExposureRejected(Event, frozen=True, kw_only=True):
    """An exposure was left out, by the selection or because it cannot be used."""

    name: ClassVar[str] = "exposure.rejected"
    reason: str


class StepFinished(Event, frozen=True, kw_only=True):
    """An instrument signature removal step ran."""

    name: ClassVar[str] = "isr.step.finished"
    step: str
    seconds: float


class StepSkipped(Event, frozen=True, kw_only=True):
    """A planned step did not run."""

    name: ClassVar[str] = "isr.step.skipped"
    step: str
    reason: str


class MeasurementRecorded(Event, frozen=True, kw_only=True):
    """A step found a number worth keeping, for example the empirical read noise."""

    name: ClassVar[str] = "measurement.recorded"
    quantity: str
    value: float
    unit: str
    scope: str


class UnitFinished(Event, frozen=True, kw_only=True):
    """One unit of work (an exposure of a detector, or the reduction of a group) is done."""

    name: ClassVar[str] = "unit.finished"
    unit: str
    kind: str
    seconds: float
    done: int
    total: int
    peak_mb: float


class UnitFailed(Event, frozen=True, kw_only=True):
    """One unit of work failed; the others go on."""

    name: ClassVar[str] = "unit.failed"
    unit: str
    kind: str
    error: str
    traceback: str


class UnitSkipped(Event, frozen=True, kw_only=True):
    """A unit was already done by an earlier attempt and is not repeated."""

    name: ClassVar[str] = "unit.skipped"
    unit: str
    kind: str
    reason: str


class CombineFinished(Event, frozen=True, kw_only=True):
    """A stack of frames became one image."""

    name: ClassVar[str] = "combine.finished"
    combiner: str
    n_inputs: int
    rejected_fraction: float
    seconds: float


class SolveFinished(Event, frozen=True, kw_only=True):
    """A fit ended."""

    name: ClassVar[str] = "solve.finished"
    solver: str
    scope: str
    chi2: float
    n: int
    flags: list[str]


class ProductWritten(Event, frozen=True, kw_only=True):
    """A product is on disk and in the registry."""

    name: ClassVar[str] = "product.written"
    dataset: str
    dataset_type: str
    path: str
    sha256: str
    dims: dict[str, str | int]


class RunFinished(Event, frozen=True, kw_only=True):
    """A run ended well."""

    name: ClassVar[str] = "run.finished"
    seconds: float
    products: list[str]
    n_failed: int


class RunFailed(Event, frozen=True, kw_only=True):
    """A run ended without its product."""

    name: ClassVar[str] = "run.failed"
    error: str
    stage: str


class CheckEvaluated(Event, frozen=True, kw_only=True):
    """One verification check has its verdict."""

    name: ClassVar[str] = "check.evaluated"
    check: str
    scope: str
    value: float | None
    error: float | None
    expected: float | None
    tolerance: float | None
    unit: str
    verdict: str


class VerifyFinished(Event, frozen=True, kw_only=True):
    """The verification of one product ended."""

    name: ClassVar[str] = "verify.finished"
    dataset: str
    product_sha256: str
    profile: str
    verdict: str
    counts: dict[str, int]


class CertificationGranted(Event, frozen=True, kw_only=True):
    """A product was certified for a range of dates."""

    name: ClassVar[str] = "certification.granted"
    collection: str
    dataset: str
    product_sha256: str
    begin: str
    end: str
    reason: str


class CertificationRefusedEvent(Event, frozen=True, kw_only=True):
    """A certification was asked for and not given."""

    name: ClassVar[str] = "certification.refused"
    collection: str
    reason: str


class ChainChanged(Event, frozen=True, kw_only=True):
    """A chain of collections changed."""

    name: ClassVar[str] = "chain.changed"
    parent: str
    mode: str
    children: list[str]


class PluginRejected(Event, frozen=True, kw_only=True):
    """A plugin could not be used."""

    name: ClassVar[str] = "plugin.rejected"
    plugin: str
    provider: str
    stage: str
    error: str


class ListenerFailed(Event, frozen=True, kw_only=True):
    """A listener raised; after three failures it is switched off for the run."""

    name: ClassVar[str] = "listener.failed"
    listener: str
    during: str
    error: str
    disabled: bool


EVENTS: dict[str, type[Event]] = {
    cls.name: cls
    for cls in (
        RunStarted, ConfigResolved, ExposureRejected, StepFinished, StepSkipped,
        MeasurementRecorded, UnitFinished, UnitFailed, UnitSkipped, CombineFinished, SolveFinished,
        ProductWritten, RunFinished, RunFailed, CheckEvaluated, VerifyFinished,
        CertificationGranted, CertificationRefusedEvent, ChainChanged, PluginRejected,
        ListenerFailed,
    )
}  # fmt: skip
"""Every event by its stable name."""
