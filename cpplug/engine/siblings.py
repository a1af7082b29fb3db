"""The other detectors of an exposure, for steps that look beyond their own.

Electronics of one detector can leave a ghost in another, so a step may ask for the frame of a
second detector as it is at the same stage of the chain. It is read and corrected that far only when
a step asks, it cannot be changed, and what is reported on the way is not repeated: that detector
has a unit of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt

from cpplug.api.camera import Camera
from cpplug.api.context import Calibs
from cpplug.api.errors import CalibrationMissing, CpplugError
from cpplug.api.exposure import Exposure, RawExposure
from cpplug.api.instrument import ExposureInfo
from cpplug.api.records import Frame, PlannedStep
from cpplug.engine import fits
from cpplug.engine.calibs import CalibRef, FoundCalibs, ProductCache
from cpplug.engine.isr import Executor, put_in_front, run_steps


class Sibling(msgspec.Struct, frozen=True, kw_only=True):
    """One detector of an exposure: its raw file, and what its part of the chain needs."""

    detector: int
    raw: str
    calibs: tuple[CalibRef, ...] = ()
    sha256: str = ""
    """Checksum of the raw file, for the key of units that may look at it."""
    missing: str = ""
    """Which calibration was not found, and why; said when a step asks for this detector."""

    def content(self) -> tuple[int, str, list[str]]:
        """Return what decides its frame: detector, checksums of the raw file and calibrations."""
        return self.detector, self.sha256, sorted(calib.sha256 for calib in self.calibs)


@dataclass(frozen=True)
class Others:
    """All detectors of one exposure, and the chain that each goes through.

    Attributes
    ----------
    camera, info
        The camera, and what the header says.
    steps
        The chain of the unit.
    executor, cache
        The plugin catalog, and the calibrations opened last.
    own
        The detector that is being corrected.
    siblings
        The others.
    """

    camera: Camera
    info: ExposureInfo
    steps: Sequence[PlannedStep]
    executor: Executor
    cache: ProductCache
    own: Sibling
    siblings: Sequence[Sibling]

    def at(self, number: int) -> Calibs:
        """Return the calibrations of step ``number``; frames it asks for live as long as it."""
        return _Beside(self, number, {})


class _Beside(FoundCalibs):
    """Calibrations of one step, with the other detectors at its stage of the chain."""

    def __init__(self, others: Others, number: int, frames: dict[tuple[int, int], Frame]) -> None:
        super().__init__(others.own.calibs, others.cache)
        self._others = others
        self._number = number
        self._frames = frames

    def sibling(self, detector: str) -> Frame | None:
        """Return another detector's frame as it is before this step; None without a raw file."""
        known = self._others.camera.detector(detector)
        members = (self._others.own, *self._others.siblings)
        member = next((m for m in members if m.detector == known.id), None)
        if member is None:
            return None
        key = (known.id, self._number)
        if key not in self._frames:
            try:
                self._frames[key] = self._bring(member)
            except CpplugError as error:
                put_in_front(error, f"Detector {known.name}: ")
                raise
        return self._frames[key]

    def _bring(self, member: Sibling) -> Frame:
        """Read a detector's frame and run the steps that stand before this one."""
        if member.missing:
            raise CalibrationMissing(member.missing, "Build one, or add its collection to --input.")
        rest = [m for m in (self._others.own, *self._others.siblings) if m is not member]
        its = replace(self._others, own=member, siblings=rest)
        frame = run_steps(
            fits.read_raw(Path(member.raw), its.info, its.camera.detector(member.detector)),
            its.steps[: self._number],
            FoundCalibs(member.calibs, its.cache),
            its.executor,
            lambda _: None,
            lambda number: _Beside(its, number, self._frames),
        )
        for plane in _planes(frame):
            plane.flags.writeable = False
        return frame


def _planes(frame: RawExposure | Exposure) -> list[npt.NDArray[Any]]:
    if isinstance(frame, RawExposure):
        return [*frame.segments.values(), *frame.masks.values()]
    return [p for p in (frame.image, frame.mask, frame.variance) if p is not None]
