"""Brighter-fatter: put charge back that bright pixels pushed away.

Electrons that are already collected in a pixel repel those that arrive later, so that some of them
end in the neighbours: bright stars come out wider than faint ones, and the noise of a bright flat
smaller than its photons say. The correction computes from the image itself how far each pixel
pushed, and moves that much charge back. A calibration of type ``bfk`` says how strongly a detector
pushes, per electron.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Calibs,
    Config,
    DataError,
    Exposure,
    IsrStep,
    at_least,
    doc,
    hookimpl,
    mask_bits,
    not_negative,
)
from cpplug_bfk.holes import fill_holes, grow
from cpplug_bfk.passes import settle
from cpplug_bfk.product import Level, Method, Push, push_of


class BrighterFatterConfig(Config, frozen=True):
    """How charge is moved back."""

    method: Annotated[
        Method,
        doc(
            "COULTON18 (scalar kernel), FLUX_CONSERVING (the same kernel, charge only changes "
            "places) or ELECTROSTATIC (shifts of the pixel borders, one pass)"
        ),
    ] = "COULTON18"
    level: Annotated[
        Level, doc("one kernel for the DETECTOR, or that of each AMP for its own pixels")
    ] = "DETECTOR"
    max_iter: Annotated[int, at_least(1), doc("largest number of passes")] = 10
    threshold: Annotated[
        float,
        not_negative,
        doc("stop when a pass changes all pixels together by less than this, electron"),
    ] = 1000.0
    apply_gain: Annotated[
        bool, doc("bring an image in adu to electron for the correction, and back")
    ] = True
    mask_list_to_interpolate: Annotated[
        tuple[str, ...],
        doc("mask planes whose pixels are bridged, along rows, where the push is computed"),
    ] = ("SAT", "BAD", "NO_DATA", "UNMASKEDNAN")
    mask_grow_size: Annotated[
        int, not_negative, doc("how far these planes are grown afterwards, pixels")
    ] = 0
    reference_quirks: Annotated[
        bool,
        doc(
            "do as the reference pipeline at the edges (zero charge outside, borders left alone), "
            "count NaN as no charge, compare the first pass with zero, and for FLUX_CONSERVING "
            "subtract the mean and keep the push of the uncorrected image"
        ),
    ] = False


def correct_brighter_fatter(
    exposure: Exposure, config: BrighterFatterConfig, calibs: Calibs
) -> Exposure:
    """Move charge back to the pixels that pushed it away; algorithms A.11.

    The change is computed on a copy without holes and added to the image, so that no bridged value
    reaches it. Pixels within half a kernel of the detector's edge get EDGE: what lies beyond is
    not known. A variance plane follows the charge, V += change / gain, because the shot noise of
    a pixel is that of the light that fell on it; one that is computed later from the image needs
    nothing. (Read noise grows by the part of the change per electron, below 1 % for less than a
    third of a CCD's full well; this is left out.)

    Records ``brighter_fatter_passes``, ``brighter_fatter_change`` (sum of the absolute changes of
    the last pass, electron), ``brighter_fatter_converged`` (1 or 0), ``brighter_fatter_moved``
    (half the sum of absolute changes, electron).

    Raises
    ------
    DataError
        When the calibration is of another detector or unit, does not hold what the method needs, is
        larger than the image, when a gain is not positive, or the passes run away.
    """
    push = push_of(calibs.table("bfk"), exposure, config.method, config.level)
    gain = _gain_plane(exposure, push, config)
    image = exposure.image if gain is None else exposure.image * gain
    planes = mask_bits(*config.mask_list_to_interpolate)
    holes = (exposure.mask & MASK_DTYPE(planes)) != 0
    unknown = ~np.isfinite(image)
    whole = fill_holes(image, holes if config.reference_quirks else holes | unknown)
    known = ~unknown if config.reference_quirks else None
    settled = settle(whole, push, config.max_iter, config.threshold, known)
    if not np.isfinite(settled.change):
        raise DataError(
            f"The brighter-fatter correction of detector {exposure.detector.name} runs away: pass "
            f"{settled.passes} changes the image beyond all bounds.",
            "Check sign and unit (1/electron) of the bfk.",
        )
    change = settled.correction if gain is None else settled.correction / gain
    if exposure.variance is not None and exposure.noise:
        for amp in exposure.detector.amplifiers:
            where = amp.bbox.slices
            exposure.variance[where] += change[where] / np.float32(exposure.noise[amp.name].gain)
    exposure.image += change
    _mask(exposure, config, push.reach)
    scale = "electron" if gain is not None else exposure.unit
    exposure.record("brighter_fatter_passes", settled.passes, "1")
    exposure.record("brighter_fatter_change", settled.change, scale)
    exposure.record("brighter_fatter_converged", settled.converged, "1")
    moved = float(np.abs(settled.correction).sum(dtype=np.float64)) / 2
    exposure.record("brighter_fatter_moved", moved, scale)
    return exposure


def _gain_plane(
    exposure: Exposure, push: Push, config: BrighterFatterConfig
) -> npt.NDArray[np.float32] | None:
    """Return what the image is multiplied by to have the unit of the calibration, if anything."""
    name = exposure.detector.name
    if push.per == exposure.unit:
        return None
    if (push.per, exposure.unit) != ("electron", "adu") or not config.apply_gain:
        raise DataError(
            f"The bfk of detector {name} is per {push.per}, the image in {exposure.unit}.",
            "Switch apply_gain on, or choose a calibration made for this unit.",
        )
    plane = np.empty(exposure.image.shape, np.float32)
    for amp in exposure.detector.amplifiers:
        plane[amp.bbox.slices] = _gain(exposure, amp)
    return plane


def _gain(exposure: Exposure, amp: Amplifier) -> float:
    """Return the gain recorded last, else the one that the variance rests on, else the camera's."""
    gain = exposure.measured("gain", amp.name)
    if gain is None:
        noted = exposure.noise.get(amp.name)
        gain = amp.gain if noted is None else noted.gain
    if not (np.isfinite(gain) and gain > 0):
        raise DataError(
            f"The gain of amplifier {amp.name} of detector {exposure.detector.name} is {gain} "
            "electron/ADU; electrons cannot be counted with it.",
            "Correct the gain in the camera file.",
        )
    return gain


def _mask(exposure: Exposure, config: BrighterFatterConfig, reach: int) -> None:
    """Mark the rim of the detector EDGE; grow the planes that were bridged."""
    edge = MASK_DTYPE(mask_bits("EDGE"))
    for rim in (np.s_[:reach], np.s_[-reach:], np.s_[:, :reach], np.s_[:, -reach:]):
        exposure.mask[rim] |= edge
    for plane in config.mask_list_to_interpolate if config.mask_grow_size else ():
        bit = MASK_DTYPE(mask_bits(plane))
        exposure.mask[grow((exposure.mask & bit) != 0, config.mask_grow_size)] |= bit


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the brighter-fatter correction."""
    yield IsrStep(
        name="brighter_fatter",
        summary="Move charge back to the bright pixels that pushed it away",
        level="detector",
        apply=correct_brighter_fatter,
        config=BrighterFatterConfig,
        needs=("bfk",),
        after=("assemble",),
        aliases=("bf", "bfk"),
    )
