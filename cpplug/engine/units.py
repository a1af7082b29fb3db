"""The units of work that go to workers, and what comes home from them.

A unit is one exposure of one detector: read, correct, and then write a scratch frame, measure, or
measure a residual for verification. It travels as names, paths and small values; pixels never cross
a process boundary. A worker rebuilds its own plugin catalog from names and sends its events home.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import resource
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api import times
from cpplug.api.camera import Detector
from cpplug.api.context import FrameEvidence, Residual
from cpplug.api.errors import CpplugError, DataError
from cpplug.api.events import Event
from cpplug.api.exposure import Exposure, Mask, fraction_masked, mask_bits
from cpplug.api.instrument import ExposureInfo
from cpplug.api.records import Calibration, PlannedStep, Verifier, Work
from cpplug.engine import fits, frames, scratch
from cpplug.engine.calibs import CalibRef, FoundCalibs, ProductCache
from cpplug.engine.context import UnitContext
from cpplug.engine.isr import run_chain
from cpplug.engine.siblings import Others, Sibling
from cpplug.host.catalog import Catalog

UNUSABLE = ("BAD", "SAT", "NO_DATA", "UNMASKEDNAN")
RESIDUAL_PLANES = ("BAD", "SAT", "SUSPECT", "NO_DATA", "CR", "EDGE", "INTRP")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One exposure of one detector, and what is to be done with it."""

    unit: str
    """What people read: ``LATISS/det0/2021012000019``."""
    key: str
    """Hash of everything that decides the result; a finished unit with this key is not repeated."""
    instrument: str
    info: ExposureInfo
    detector: int
    raw: str
    steps: tuple[PlannedStep, ...]
    calibs: tuple[CalibRef, ...]
    siblings: tuple[Sibling, ...] = ()
    """The other detectors of the exposure, where a step looks at them."""
    calibration: str
    options: dict[str, Any]
    frame: str
    """Stem of the unit's scratch files; empty when nothing is kept."""
    keep_frame: bool = False
    """Write the corrected frame to scratch."""
    measure: bool = False
    verifiers: tuple[str, ...] = ()
    membership: str = ""
    seed: int = 0


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit sends home."""

    unit: str
    exposure: int
    detector: int
    events: list[Event]
    seconds: float
    peak_mb: float
    worker: str
    measured: dict[str, Any] = {}
    evidence: FrameEvidence | None = None
    unusable: tuple[str, ...] = ()
    """Amplifiers of which every pixel is bad, saturated or not a number."""
    error: str = ""
    next_step: str = ""
    exit_code: int = 0
    trace: str = ""


class Session:
    """What a worker keeps between units: plugins, and the calibrations it opened last."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.cache = ProductCache()

    def do(self, task: Task) -> Done:
        """Do one unit; an error becomes part of the answer, so that the others go on."""
        events: list[Event] = []
        started = time.perf_counter()
        fields: dict[str, Any] = {}
        try:
            fields = self._work(task, events)
        except CpplugError as error:
            fields = {
                "error": error.message,
                "next_step": error.next_step,
                "exit_code": error.exit_code,
                "trace": traceback.format_exc(),
            }
        except MemoryError:
            fields = {"error": "Out of memory.", "exit_code": 1, "trace": traceback.format_exc()}
        except Exception as error:
            fields = {
                "error": f"{type(error).__name__}: {error}",
                "exit_code": 1,
                "trace": traceback.format_exc(),
            }
        return Done(
            unit=task.unit,
            exposure=task.info.exposure,
            detector=task.detector,
            events=events,
            seconds=time.perf_counter() - started,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            worker=f"pid {os.getpid()}",
            **fields,
        )

    def _work(self, task: Task, events: list[Event]) -> dict[str, Any]:
        instrument = self.catalog.get("instrument", task.instrument)
        detector = instrument.camera.detector(task.detector)
        raw = fits.read_raw(Path(task.raw), task.info, detector)
        calibs = FoundCalibs(task.calibs, self.cache)
        others = Others(
            camera=instrument.camera,
            info=task.info,
            steps=task.steps,
            executor=self.catalog,
            cache=self.cache,
            own=Sibling(detector=task.detector, raw=task.raw, calibs=task.calibs),
            siblings=task.siblings,
        )
        exposure = run_chain(raw, task.steps, calibs, self.catalog, events.append, others.at)
        del raw
        fields: dict[str, Any] = {"unusable": unusable_amplifiers(detector, exposure.mask)}
        if task.measure:
            recipe: Calibration = self.catalog.find_calibration(task.calibration)
            measure = recipe.measure
            if measure is None:
                raise DataError(f"{recipe.name} has nothing to measure.")
            context = UnitContext(
                catalog=self.catalog,
                calibration=recipe,
                options=task.options,
                camera=instrument.camera,
                detector=detector,
                calibs=calibs,
                emit=events.append,
                seed=task.seed,
                scratch=Path(task.frame or "."),
            )
            work = Work(
                kind="measure", name=recipe.name, run=lambda: dict(measure(exposure, context))
            )
            fields["measured"] = self.catalog.execute(work, context)
        if task.verifiers:
            fields["evidence"] = self._verify(task, exposure)
        if task.frame:
            if task.keep_frame:
                frames.write_frame(Path(task.frame), exposure)
            scratch.finish(Path(task.frame), task.key, fields.get("measured", {}))
        return fields

    def _verify(self, task: Task, exposure: Exposure) -> FrameEvidence:
        residual = Residual(
            exposure=exposure,
            detector=exposure.detector,
            membership=task.membership,
            exclude=mask_bits(*RESIDUAL_PLANES),
        )
        values: dict[str, dict[str, float]] = {}
        problems = []
        for name in task.verifiers:
            verifier: Verifier = self.catalog.get("verifier", name)
            measure = verifier.measure
            if measure is None:
                continue
            work = Work(kind="verify", name=name, run=partial(measure, residual))
            try:
                measured = self.catalog.execute(work, None)
            except Exception as error:
                # One test that cannot be measured leaves the others as evidence (fail closed).
                problems.append(f"{name}: {type(error).__name__}: {error}")
                continue
            for scope, numbers in measured.items():
                values.setdefault(scope, {}).update(numbers)
        masked, good = {}, {}
        for amplifier in exposure.detector.amplifiers:
            _, mask = exposure.amp(amplifier.name)
            masked[amplifier.name] = fraction_masked(mask, RESIDUAL_PLANES)
            good[amplifier.name] = int((mask & residual.exclude == 0).sum())
        return FrameEvidence(
            exposure=task.info.exposure,
            mjd=times.to_mjd(task.info.middle),
            membership=task.membership,
            values=values,
            masked=masked,
            n_good=good,
            error="; ".join(problems),
        )


def unusable_amplifiers(detector: Detector, mask: Mask) -> tuple[str, ...]:
    """Return the amplifiers of an assembled mask (rows, columns) without one usable pixel."""
    bits = mask_bits(*UNUSABLE)
    parts = {amp.name: mask[amp.bbox.slices] for amp in detector.amplifiers}
    # The first row spares a look at the whole of a healthy amplifier.
    return tuple(
        name for name, part in parts.items() if (part[:1] & bits).all() and (part & bits).all()
    )


_SESSION: Session | None = None


def start_worker(spec: dict[str, Any]) -> None:
    """Prepare a worker process: its own catalog, one thread for numerical libraries."""
    import signal

    global _SESSION
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    _SESSION = Session(Catalog.from_spec(spec))


def _end_with_parent() -> None:
    """Wait for the end of the driver, then end: a driver that is killed leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def do_in_worker(task: Task) -> Done:
    """Do one unit in a worker process that :func:`start_worker` prepared."""
    if _SESSION is None:
        raise DataError("This worker was not started.")
    return _SESSION.do(task)
