"""Images on their way through the instrument signature removal.

A :class:`RawExposure` holds one segment per amplifier, overscan included, in read-out order. An
:class:`Exposure` is the assembled detector. They are two types on purpose: the step that assembles
is the only bridge. Both carry float32 images (ADU unless ``unit`` says otherwise) and a compact
mask whose bits :data:`MASK_PLANES` names; a variance plane exists only where a step made one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt

from cpplug.api.camera import Amplifier, Detector
from cpplug.api.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from cpplug.api.instrument import ExposureInfo

MASK_DTYPE = np.uint16
Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint16]

MASK_PLANES: Final[dict[str, int]] = {
    "BAD": 0,
    "SAT": 1,
    "INTRP": 2,
    "CR": 3,
    "EDGE": 4,
    "DETECTED": 5,
    "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7,
    "NO_DATA": 8,
    "CROSSTALK": 9,
    "UNMASKEDNAN": 10,
    "ITL_DIP": 11,
    "VIGNETTED": 12,
    "PARTLY_VIGNETTED": 13,
}
"""Bit number of each mask plane; products repeat it in their header (``MP_<name>``)."""


def mask_bits(*planes: str) -> int:
    """Return the bits of the named mask planes, combined.

    Raises
    ------
    UnknownNameError
        When a plane does not exist.
    """
    bits = 0
    for plane in planes:
        if plane not in MASK_PLANES:
            raise UnknownNameError(
                f"Mask plane {plane!r} does not exist.", nearest(plane, MASK_PLANES)
            )
        bits |= 1 << MASK_PLANES[plane]
    return bits


class Measurement(msgspec.Struct, frozen=True):
    """A number found on the way: its name, value, unit and scope (an amplifier, or "detector")."""

    name: str
    value: float
    unit: str
    scope: str


class AmplifierNoise(msgspec.Struct, frozen=True):
    """What the variance of an amplifier rests on: gain (electron/ADU), read noise (ADU)."""

    gain: float
    read_noise: float


class _Frame:
    """What raw and assembled exposures share: identity and notes.

    ``measurements`` are single numbers, ``series`` small one-dimensional arrays by (name, scope),
    for example the overscan level of every row of an amplifier; ``noise`` is what the variance
    rests on, by amplifier.
    """

    def __init__(self, info: ExposureInfo, detector: Detector) -> None:
        self.info = info
        self.detector = detector
        self.unit = "adu"
        self.measurements: list[Measurement] = []
        self.series: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
        self.noise: dict[str, AmplifierNoise] = {}

    def record(self, name: str, value: float, unit: str, scope: str = "detector") -> None:
        """Keep a measured number; the engine announces it as ``measurement.recorded``."""
        self.measurements.append(Measurement(name, float(value), unit, scope))

    def notes_from(self, other: _Frame) -> None:
        """Take over unit, measurements, series and noise of another stage of the same exposure."""
        self.unit = other.unit
        self.measurements = other.measurements
        self.series = other.series
        self.noise = other.noise

    def measured(self, name: str, scope: str = "detector") -> float | None:
        """Return the last value recorded under ``name`` for ``scope``, or None."""
        for item in reversed(self.measurements):
            if item.name == name and item.scope == scope:
                return item.value
        return None

    def gain(self, amplifier: str) -> float:
        """Return the gain of an amplifier, electron/ADU: last one recorded, or the camera's."""
        found = self.measured("gain", amplifier)
        return self.detector.amplifier(amplifier).gain if found is None else found


class RawExposure(_Frame):
    """One exposure of one detector before assembly.

    Parameters
    ----------
    info
        What the header says.
    detector
        The detector's geometry.
    segments
        Amplifier name to float32 image (rows, columns), in read-out order, ADU.
    masks
        Amplifier name to uint16 mask of the same shape; made when absent.
    """

    def __init__(
        self,
        info: ExposureInfo,
        detector: Detector,
        segments: dict[str, Image],
        masks: dict[str, Mask] | None = None,
    ) -> None:
        super().__init__(info, detector)
        self.segments = segments
        self.masks: dict[str, Mask] = masks or {
            name: np.zeros(image.shape, MASK_DTYPE) for name, image in segments.items()
        }

    def amplifiers(self) -> Iterator[tuple[Amplifier, Image, Mask]]:
        """Yield every amplifier with its image and mask."""
        for amplifier in self.detector.amplifiers:
            yield amplifier, self.segments[amplifier.name], self.masks[amplifier.name]


class Exposure(_Frame):
    """One exposure of one detector, assembled and trimmed.

    ``image`` is float32 (rows, columns), ``mask`` uint16, ``variance`` float32 or None (unit
    squared). ``amp`` gives views, so work in place is seen.
    """

    def __init__(
        self,
        info: ExposureInfo,
        detector: Detector,
        image: Image,
        mask: Mask | None = None,
        variance: Image | None = None,
    ) -> None:
        super().__init__(info, detector)
        self.image = image
        self.mask: Mask = np.zeros(image.shape, MASK_DTYPE) if mask is None else mask
        self.variance = variance

    def amp(self, name: str) -> tuple[Image, Mask]:
        """Return views of the image and the mask of one amplifier."""
        box = self.detector.amplifier(name).bbox
        return self.image[box.slices], self.mask[box.slices]

    def variance_plane(self) -> Image:
        """Return the variance plane (unit squared), computed from the image where there is none.

        V = I/g + R^2 per amplifier, with g the gain (electron/ADU) and R the read noise
        (ADU) that the variance step noted.
        """
        if self.variance is None:
            variance = np.empty_like(self.image)
            for amplifier in self.detector.amplifiers:
                noise = self.noise[amplifier.name]
                rows, columns = amplifier.bbox.slices
                view = variance[rows, columns]
                np.divide(self.image[rows, columns], np.float32(noise.gain), out=view)
                view += np.float32(noise.read_noise**2)
            self.variance = variance
        return self.variance


def fraction_masked(mask: Mask, planes: Iterable[str]) -> dict[str, float]:
    """Return, for each plane, the fraction of pixels that carry it (0 to 1)."""
    return {
        plane: float(np.count_nonzero(mask & MASK_DTYPE(mask_bits(plane)))) / max(mask.size, 1)
        for plane in planes
    }
