"""What a plugin function is handed: small, typed, and without live handles.

No database, no plugin manager, no command line: a context offers configuration, geometry,
calibrations, a log, a way to say what happened, and the two services "combine" and "solve".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from cpplug.api.records import Check, Frame, Solution, Threshold

if TYPE_CHECKING:
    from cpplug.api.camera import Camera, Detector
    from cpplug.api.events import Event
    from cpplug.api.exposure import Exposure
    from cpplug.api.instrument import ExposureInfo, Instrument
    from cpplug.api.product import ImageProduct, TableProduct
    from cpplug.api.stack import Combined

C = TypeVar("C", covariant=True)


class Log(Protocol):
    """Chatter for whoever debugs; facts go through ``emit``."""

    def debug(self, message: str) -> None:
        """Say something only a developer wants to read."""

    def info(self, message: str) -> None:
        """Say something a user may want to read."""

    def warning(self, message: str) -> None:
        """Say something a user should read."""


class Calibs(Protocol):
    """The calibrations found for one exposure."""

    def image(self, dataset_type: str, like: Exposure | None = None) -> ImageProduct:
        """Return an image calibration; with ``like``, checked to fit that exposure.

        Raises
        ------
        CalibrationMissing
            When none was found.
        DataError
            When it is of another detector, size or unit.
        """

    def table(self, dataset_type: str) -> TableProduct:
        """Return a table calibration; CalibrationMissing when none was found."""

    def has(self, dataset_type: str) -> bool:
        """Tell whether a calibration of this type was found."""

    def sibling(self, detector: str) -> Frame | None:
        """Return another detector's frame of the same exposure, to look at and not to change.

        It stands at the same stage of the chain: after the same steps, up to the one that asks and
        without it. None when the exposure has no raw frame of that detector. Steps whose record
        says ``siblings=True`` may ask.

        Raises
        ------
        UnknownNameError
            When the camera has no detector of this name.
        CpplugError
            When that frame cannot be read or corrected so far.
        """


class Exposures(Protocol):
    """The exposures of a group after ISR: a lazy sequence, in order of exposure id."""

    @property
    def infos(self) -> Sequence[ExposureInfo]:
        """What the headers say, one per exposure."""

    def __len__(self) -> int:
        """Return the number of exposures."""

    def __iter__(self) -> Iterator[Exposure]:
        """Yield the exposures, read one at a time."""


class Context(Protocol[C]):
    """What ``measure`` and ``reduce`` are handed."""

    @property
    def config(self) -> C:
        """The calibration's options."""

    @property
    def camera(self) -> Camera:
        """The camera."""

    @property
    def detector(self) -> Detector:
        """The detector being worked on."""

    @property
    def calibs(self) -> Calibs:
        """Calibrations found for this unit."""

    @property
    def log(self) -> Log:
        """Chatter."""

    @property
    def seed(self) -> int:
        """A number for random generators, the same whenever the unit is repeated."""

    @property
    def scratch(self) -> Path:
        """A folder that is gone after the run."""

    def emit(self, event: Event) -> None:
        """Say that something happened."""

    def require(self, condition: object, message: str, next_step: str = "") -> None:
        """Raise a DataError with this message unless the condition holds."""

    def combine(
        self,
        exposures: Exposures,
        combiner: str,
        *,
        scales: Mapping[int, float | Mapping[str, float]] | None = None,
        halves: bool = False,
    ) -> Combined:
        """Collapse exposures into one image.

        Parameters
        ----------
        exposures
            The frames.
        combiner
            Name of a combiner.
        scales
            By exposure id: what each frame is divided by, one number or one per amplifier.
        halves
            Also return the difference of the means of odd and even frames.
        """

    def solve(self, solver: str, data: Mapping[str, Any]) -> Solution:
        """Fit ``data`` with the solver of this name."""


@dataclass(kw_only=True)
class Residual:
    """An exposure after the calibration under test was applied, for verifiers to measure.

    ``cache`` lets several verifiers share one statistic: look there before computing.
    ``exclude`` are the mask bits that take a pixel out of statistics.
    """

    exposure: Exposure
    detector: Detector
    membership: str
    exclude: int
    cache: dict[str, Any] = field(default_factory=dict)


class FrameEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one exposure: numbers by scope (amplifier or ``detector``) and name."""

    exposure: int
    mjd: float
    """Middle of the exposure, MJD (TAI)."""
    membership: str
    """``member``, ``loo`` or ``independent`` of the product under test."""
    values: dict[str, dict[str, float]]
    masked: dict[str, dict[str, float]] = {}
    """Fraction of pixels lost per scope and mask plane."""
    n_good: dict[str, int] = {}
    error: str = ""
    """Why there are no values, if there are none."""


class ProductFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What verifiers may know of the product under test without its pixels."""

    dataset: str
    sha256: str
    dataset_type: str
    unit: str
    n_inputs: int
    members: tuple[int, ...]
    metadata: dict[str, str | int | float | bool]
    """The product's header cards."""
    overscan_columns: int = 0
    """Serial overscan columns that the row level rests on."""
    options: dict[str, Any] = {}
    """The options that the product was built with, by dotted path."""


@dataclass(kw_only=True)
class Evidence:
    """Everything a verifier's ``check`` sees: one product, one detector, all frames."""

    test: str
    product: ProductFacts
    detector: Detector
    frames: tuple[FrameEvidence, ...]
    threshold: Threshold
    n_comparisons: int
    """Number of comparisons in the run: sets the family-wise limit."""
    min_independent: int
    min_good_fraction: float
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, **fields: Any) -> Check:
        """Start a Check with test, detector, severity, unit and requirements filled in."""
        base: dict[str, Any] = {
            "test": self.test,
            "detector": self.detector.name,
            "severity": self.threshold.severity,
            "requirements": self.threshold.requirements,
            "unit": self.threshold.unit,
            "tolerance": self.threshold.tolerance,
            "goal": self.threshold.goal,
        }
        return Check(**{**base, **fields})


class Toolbox(Protocol):
    """What a command plugin finds in ``click.Context.obj``."""

    def instrument(self, name: str) -> Instrument:
        """Load an instrument by name."""

    def instruments(self) -> tuple[str, ...]:
        """Return the names of all registered instruments, without importing any."""
