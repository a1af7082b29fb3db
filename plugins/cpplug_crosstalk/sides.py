"""Frames as the correction sees them: amplifiers side by side, in the order they were read.

Works the same for the detector that is corrected and for one that leaks into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cpplug.api import MASK_DTYPE, DataError, Exposure, RawExposure, mask_bits
from cpplug_crosstalk.correction import Amplifiers, Flags, Reals
from cpplug_crosstalk.table import Coefficients

Frame = RawExposure | Exposure
Pixel = TypeVar("Pixel", np.float32, np.uint16)


@dataclass
class Side:
    """One detector of the correction, source or target.

    Attributes
    ----------
    frame, amps
        The frame, and its amplifiers in read-out order.
    found
        Coefficients whose sources are this detector's amplifiers.
    target
        The frame that is corrected; notes go there.
    """

    frame: Frame
    amps: Amplifiers
    found: Coefficients
    target: Frame

    @classmethod
    def of(cls, frame: Frame, found: Coefficients, target: Frame) -> Side:
        """Look at a frame.

        Raises
        ------
        DataError
            When its amplifiers differ in size.
        """
        if isinstance(frame, Exposure):
            images, masks = _views(frame, frame.image), _views(frame, frame.mask)
        else:
            names = [amp.name for amp in frame.detector.amplifiers]
            images = [frame.segments[name] for name in names]
            masks = [frame.masks[name] for name in names]
        if len({image.shape for image in images}) > 1:
            raise DataError(
                f"The amplifiers of detector {frame.detector.name} differ in size, so that their "
                "pixels cannot be paired."
            )
        return cls(frame, Amplifiers(images, masks, []), found, target)

    @property
    def name(self) -> str:
        """The detector's name."""
        return self.frame.detector.name

    def take_up_variance(self) -> None:
        """Look at the variance too, where the frame has one or something to compute it from.

        The plane must be made before the image changes: it follows from the image as read.
        """
        frame = self.frame
        known = isinstance(frame, Exposure) and (frame.variance is not None or frame.noise)
        if known and not self.amps.variances:
            assert isinstance(frame, Exposure)
            self.amps.variances = _views(frame, frame.variance_plane())

    @cached_property
    def dead(self) -> Flags:
        """Which amplifiers are BAD throughout."""
        bad = MASK_DTYPE(mask_bits("BAD"))
        return np.array([bool((mask & bad).all()) for mask in self.amps.masks])

    def data(self) -> Amplifiers:
        """Return the data pixels alone: levels are theirs, not those of prescan and overscan."""
        if isinstance(self.frame, Exposure):
            return self.amps
        boxes = [amp.data.slices for amp in self.frame.detector.amplifiers]
        return Amplifiers(
            [image[box] for image, box in zip(self.amps.images, boxes, strict=True)],
            [mask[box] for mask, box in zip(self.amps.masks, boxes, strict=True)],
            [],
        )

    @cached_property
    def scale(self) -> Reals:
        """Unit of the coefficients per unit of the frame, by amplifier.

        A gain that is no positive number is replaced by the one stored with the coefficients, or
        by the median of the others, and the target records it as ``invalid_gain``.

        Raises
        ------
        DataError
            When the units differ and no amplifier has a gain.
        """
        amps = self.frame.detector.amplifiers
        unit, stored = self.found.unit, self.found.gains
        if self.frame.unit == unit:
            return np.ones(len(amps))
        gains = np.array([self.frame.gain(amp.name) for amp in amps], np.float64)
        wrong = ~(np.isfinite(gains) & (gains > 0))
        if stored is not None:
            gains[wrong] = stored[wrong]
        usable = np.isfinite(gains) & (gains > 0)
        if not usable.any():
            raise DataError(
                f"The crosstalk of detector {self.name} is in {unit}, the image in "
                f"{self.frame.unit}, and no amplifier has a gain.",
                "Give the amplifiers a gain in the camera file.",
            )
        gains[~usable] = np.median(gains[usable])
        for amp, bad in zip(amps, wrong, strict=True):
            if bad:
                scope = amp.name if self.target is self.frame else f"{self.name} {amp.name}"
                self.target.record("invalid_gain", 1, "1", scope)
        return gains if self.frame.unit == "adu" else 1.0 / gains


def _views(frame: Exposure, plane: npt.NDArray[Pixel]) -> list[npt.NDArray[Pixel]]:
    """Return the amplifiers of an assembled plane, turned to read-out order."""
    turned = []
    for amp in frame.detector.amplifiers:
        turn = tuple(slice(None, None, -1 if flip else 1) for flip in (amp.flip_y, amp.flip_x))
        turned.append(plane[amp.bbox.slices][turn])
    return turned
