"""The records a plugin offers: steps, combiners, solvers, calibrations, verifiers.

A record is a name, a sentence, and a plain function without hidden state. The host checks records
when the plugin is loaded; the engine plans with their names and calls their functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from cpplug.api.config import Config, NoConfig

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cpplug.api.context import Calibs, Context, Evidence, Exposures, Residual
    from cpplug.api.exposure import Exposure
    from cpplug.api.product import Product
    from cpplug.api.stack import Block, Plane

Frame = Any
"""A ``RawExposure`` before assembly, an ``Exposure`` after it."""
Measured = Mapping[str, Any]
"""What ``measure`` returns: names to numbers, strings or small numpy arrays."""
Verdict = Literal["PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT_APPLICABLE"]
Severity = Literal["required", "advisory"]


class IsrStep(Struct, frozen=True, kw_only=True):
    """One correction of the instrument signature."""

    name: str
    summary: str
    level: Literal["amplifier", "detector", "any"]
    """Works before assembly (amplifier), after it (detector) or on either frame (any)."""
    apply: Callable[[Frame, Any, Calibs], Frame]
    """``apply(frame, config, calibs)`` returns the frame, usually the same one changed in place."""
    config: type[Config] = NoConfig
    needs: tuple[str, ...] = ()
    """Dataset types that must be found before the run starts."""
    after: tuple[str, ...] = ()
    """Steps that must stand earlier if planned; checked, never used to sort."""
    aliases: tuple[str, ...] = ()
    """Other names for the switch: ``("defect",)`` lets ``isr:doDefect`` find ``defects``."""
    assembles: bool = False
    """True for the one step that turns a RawExposure into an Exposure."""
    siblings: bool = False
    """Looks at other detectors of the same exposure: may ask for ``Calibs.sibling``."""


class Combiner(Struct, frozen=True, kw_only=True):
    """A way to collapse a stack of frames into one."""

    name: str
    summary: str
    combine: Callable[[Block, Any], Plane]
    """``combine(block, config)``: (n, rows, columns) in, (rows, columns) out; pure, thread-safe."""
    config: type[Config] = NoConfig


class Solution(Struct, frozen=True, kw_only=True):
    """What a solver found: parameters, their errors, chi-squared, number of points, flags."""

    parameters: dict[str, Any]
    errors: dict[str, Any] = {}
    chi2: float = float("nan")
    n: int = 0
    flags: tuple[str, ...] = ()


class Solver(Struct, frozen=True, kw_only=True):
    """A fit; the name is ``family/name``."""

    name: str
    summary: str
    solve: Callable[[Mapping[str, Any], Any], Solution]
    config: type[Config] = NoConfig


class ExposureQuery(Struct, frozen=True, kw_only=True):
    """The default selection of a calibration's inputs; the user's ``--where`` narrows it.

    Empty fields select all. Times are seconds.
    """

    observation_type: str = ""
    min_exposure_time: float | None = None
    max_exposure_time: float | None = None

    def where(self) -> str:
        """Return the selection as a where expression."""
        terms = []
        if self.observation_type:
            terms.append(f"exposure.observation_type = '{self.observation_type}'")
        if self.min_exposure_time is not None:
            terms.append(f"exposure.exposure_time >= {self.min_exposure_time!r}")
        if self.max_exposure_time is not None:
            terms.append(f"exposure.exposure_time <= {self.max_exposure_time!r}")
        return " AND ".join(terms)


class Calibration(Struct, frozen=True, kw_only=True):
    """A recipe: which exposures, which steps in which order, how they become a product.

    ``measure`` runs in the worker right after the ISR of each exposure and returns small arrays;
    ``reduce`` runs once per group in the driver. A recipe without ``measure`` only combines.
    """

    name: str
    summary: str
    inputs: ExposureQuery
    isr: tuple[str, ...]
    """Steps in the order in which they run."""
    isr_off: tuple[str, ...] = ()
    """Steps of ``isr`` that are off unless ``isr:do_<step>=True``."""
    reduce: Callable[[Sequence[Measured], Exposures, Context[Any]], Product]
    measure: Callable[[Exposure, Context[Any]], Measured] | None = None
    config: type[Config] = NoConfig
    per: tuple[str, ...] = ("detector",)
    """What one product is made for; flat, fringe and sky add ``physical_filter``."""
    verify: tuple[str, ...] = ()
    """Verifiers by name."""
    verify_isr: tuple[str, ...] = ()
    """ISR steps of the verification, in order: the one under test on, later ones left out."""
    verify_isr_off: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Words of other pipelines: ``cpBias``, ``verifyBiasApply``."""
    keeps_frames: bool = True
    """False when ``reduce`` needs only measurements, so that no frame goes to disk."""


class Threshold(Struct, frozen=True, kw_only=True):
    """The limits of one test in a verification profile."""

    tolerance: float | None = None
    """Deviation beyond which the test fails."""
    goal: float | None = None
    """Deviation beyond which it warns."""
    unit: str = ""
    severity: Severity = "required"
    two_sided: bool = True
    requirements: tuple[str, ...] = ()
    options: dict[str, float | str | bool] = {}
    """Other numbers that the test reads, by name."""


class Check(Struct, frozen=True, kw_only=True):
    """One verdict, with everything that is needed to understand it."""

    test: str
    detector: str
    amplifier: str = ""
    exposure: int | None = None
    membership: str = ""
    quantity: str = ""
    """Which number of the test, where it judges several: ``rows``, ``columns``, ``mean``."""
    value: float | None = None
    error: float | None = None
    unit: str = ""
    expected: float | None = None
    model: str = ""
    inputs: dict[str, float] = {}
    deviation: float | None = None
    tolerance: float | None = None
    goal: float | None = None
    z: float | None = None
    n_good: int | None = None
    masked: dict[str, float] = {}
    verdict: Verdict
    severity: Severity = "required"
    requirements: tuple[str, ...] = ()
    reason: str = ""


class Verifier(Struct, frozen=True, kw_only=True):
    """One test of a calibration.

    ``measure`` runs in the worker on each residual (an exposure with the calibration applied) and
    returns numbers by scope (amplifier name or ``detector``); ``check`` runs once per product and
    detector, sees all measurements, and yields verdicts.
    """

    name: str
    summary: str
    applies_to: str
    scope: Literal["amplifier", "detector", "exposure", "run", "product"]
    check: Callable[[Evidence], Iterable[Check]]
    measure: Callable[[Residual], Mapping[str, Mapping[str, float]]] | None = None


class ExecutorSetup(Struct, frozen=True, kw_only=True):
    """What an executor is made from."""

    jobs: int
    """Units at a time."""
    start: Callable[[], None]
    """Called once in every new worker (or once here, when units share this process)."""
    preload: tuple[str, ...] = ()
    """Modules that a worker process is going to need."""


class WorkExecutor(Struct, frozen=True, kw_only=True):
    """A place where units of work are done; the entry point names this record itself.

    ``make`` returns a ``concurrent.futures.Executor``. With ``processes`` the workers are other
    processes, on this machine or elsewhere: units travel pickled, and a worker may die; the
    executor then fails with ``BrokenExecutor`` and is made anew.
    """

    name: str
    summary: str
    make: Callable[[ExecutorSetup], Executor]
    processes: bool


class Problem(Struct, frozen=True, kw_only=True):
    """An objection to a plan: ``error`` stops the run before any pixel is read."""

    severity: Literal["error", "warning"]
    message: str
    next_step: str = ""


class PlannedStep(Struct, frozen=True, kw_only=True):
    """A step as planned: whether it runs, and where the switch came from."""

    name: str
    enabled: bool
    source: str
    options: dict[str, Any] = {}


class PlanView(Struct, frozen=True, kw_only=True):
    """What plugins may see of a plan when they are asked for objections."""

    calibration: str
    instrument: str
    purpose: Literal["build", "verify"] = "build"
    steps: tuple[PlannedStep, ...]
    exposures: tuple[int, ...]
    detectors: tuple[int, ...]
    options: dict[str, Any]


class Work(Struct, frozen=True, kw_only=True):
    """One unit of work handed to ``cpplug_execute``; ``run()`` does it."""

    kind: Literal["isr_step", "measure", "combine", "solve", "reduce", "verify"]
    name: str
    run: Callable[[], Any]


RECORD_KINDS: dict[str, type[msgspec.Struct]] = {
    "isr_step": IsrStep,
    "combiner": Combiner,
    "solver": Solver,
    "calibration": Calibration,
    "verifier": Verifier,
}
"""Kinds whose plugins offer records; instruments and listeners are offered otherwise."""
