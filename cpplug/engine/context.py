"""What the engine hands to plugin functions: the concrete ``Context`` and ``Exposures``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpplug.api.camera import Camera, Detector
from cpplug.api.context import Calibs, Exposures
from cpplug.api.errors import DataError
from cpplug.api.events import CombineFinished, Event, SolveFinished
from cpplug.api.exposure import Exposure, Image
from cpplug.api.instrument import ExposureInfo
from cpplug.api.records import Calibration, Combiner, Solution, Solver, Work
from cpplug.api.stack import Block, Combined, Plane
from cpplug.engine.frames import FrameFile
from cpplug.engine.settings import Settings, build
from cpplug.engine.stack import stack

if TYPE_CHECKING:
    from cpplug.host.catalog import Catalog

CHATTER = logging.getLogger("cpplug.plugin")


class StackFrame(FrameFile):
    """A scratch frame whose variance rows always exist: stored, or computed from the image."""

    def __init__(self, stem: Path, detector: Detector) -> None:
        super().__init__(stem)
        self._detector = detector

    def variance_rows(self, first: int, stop: int) -> Image:
        """Return rows of the variance: the plane, else I/g + R^2 as the variance step noted."""
        stored = super().variance_rows(first, stop)
        if stored is not None:
            return stored
        image = self.image_rows(first, stop)
        variance = np.empty(image.shape, np.float32)
        for amplifier in self._detector.amplifiers:
            box, noise = amplifier.bbox, self.notes.noise.get(amplifier.name)
            low, high = max(first, box.y), min(stop, box.y + box.height)
            if low >= high:
                continue
            if noise is None:
                raise DataError(
                    f"Exposure {self.info.exposure} has no noise for amplifier {amplifier.name}.",
                    "Few frames need the variance step: keep -c isr:doVariance=True.",
                )
            part = (slice(low - first, high - first), slice(box.x, box.x + box.width))
            variance[part] = image[part] / np.float32(noise.gain)
            variance[part] += np.float32(noise.read_noise**2)
        return variance


class StoredExposures:
    """The exposures of a group after ISR, on disk, read one at a time."""

    def __init__(self, stems: Sequence[Path], detector: Detector) -> None:
        self.frames = tuple(StackFrame(stem, detector) for stem in stems)
        self._detector = detector

    @property
    def infos(self) -> Sequence[ExposureInfo]:
        """What the headers say, one per exposure."""
        return tuple(frame.info for frame in self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Exposure]:
        for frame in self.frames:
            yield frame.load(self._detector)


class UnitContext:
    """The ``Context`` of one unit of work; see ``cpplug.api.Context`` for the promise."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        calibration: Calibration,
        options: Mapping[str, Any],
        camera: Camera,
        detector: Detector,
        calibs: Calibs,
        emit: Callable[[Event], None],
        seed: int,
        scratch: Path,
        settings: Settings | None = None,
        workers: int = 1,
    ) -> None:
        self.config: Any = build(calibration.config, options)
        self.camera = camera
        self.detector = detector
        self.calibs = calibs
        self.log = CHATTER
        self.seed = seed
        self.scratch = scratch
        self._catalog = catalog
        self._emit = emit
        self._settings = settings
        self._workers = workers

    def emit(self, event: Event) -> None:
        """Say that something happened."""
        self._emit(event)

    def require(self, condition: object, message: str, next_step: str = "") -> None:
        """Raise a DataError with this message unless the condition holds."""
        if not condition:
            raise DataError(message, next_step)

    def combine(
        self,
        exposures: Exposures,
        combiner: str,
        *,
        scales: Mapping[int, float | Mapping[str, float]] | None = None,
        halves: bool = False,
    ) -> Combined:
        """Collapse exposures into one image; see ``cpplug.api.Context.combine``."""
        if self._settings is None or not isinstance(exposures, StoredExposures):
            raise DataError("Frames can be combined in the reduction only.")
        record: Combiner = self._catalog.get("combiner", combiner)
        config = self._settings.combiner_config(record)
        ordered: list[float | Mapping[str, float]] | None = None
        if scales is not None:
            missing = [i.exposure for i in exposures.infos if i.exposure not in scales]
            if missing:
                raise DataError(f"No scale is given for exposure {missing[0]}.")
            ordered = [scales[info.exposure] for info in exposures.infos]
        started = time.perf_counter()

        def one(block: Block) -> Plane:
            return record.combine(block, config)

        settings = self._settings

        def work() -> Combined:
            return stack(
                exposures.frames,
                one,
                settings.stack_config(),
                self.detector,
                scales=ordered,
                halves=halves,
                workers=self._workers,
            )

        combined: Combined = self._catalog.execute(
            Work(kind="combine", name=combiner, run=work), self
        )
        self.emit(
            CombineFinished(
                combiner=combiner,
                n_inputs=combined.n_inputs,
                rejected_fraction=combined.rejected_fraction,
                seconds=time.perf_counter() - started,
            )
        )
        return combined

    def solve(self, solver: str, data: Mapping[str, Any]) -> Solution:
        """Fit ``data`` with the solver of this name, default options."""
        record: Solver = self._catalog.get("solver", solver)

        def work() -> Solution:
            return record.solve(data, record.config())

        solution: Solution = self._catalog.execute(Work(kind="solve", name=solver, run=work), self)
        self.emit(
            SolveFinished(
                solver=solver,
                scope=self.detector.name,
                chi2=solution.chi2,
                n=solution.n,
                flags=list(solution.flags),
            )
        )
        return solution
