"""Linearity: make twice the light count twice.

The read-out chain of a CCD answers a little less (or more) than in proportion to the charge. The
product ``linearity`` holds a curve for every amplifier, in ADU above the overscan level, and the
step replaces each pixel by what a proportional camera would have read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    Exposure,
    Image,
    IsrStep,
    Mask,
    RawExposure,
    doc,
    hookimpl,
    mask_bits,
)
from cpplug_linearity.table import Curve, make_linearity, pieces, read_linearity

__all__ = ["Curve", "LinearizeConfig", "correct", "linearize", "make_linearity"]
NO_VARIANCE: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)


class LinearizeConfig(Config, frozen=True):
    """What happens to pixels that the curve does not cover."""

    out_of_range_plane: Annotated[
        str, doc("mask plane of pixels brighter than the curve covers; empty: none")
    ] = "SUSPECT"


def linearize(
    frame: RawExposure | Exposure, config: LinearizeConfig, calibs: Calibs
) -> RawExposure | Exposure:
    """Put every pixel on its amplifier's curve; algorithms A.8.

    The level must have been subtracted (overscan); a raw frame is corrected with its overscans. A
    frame in electrons is taken to ADU with the gain and back. Variance is multiplied by the square
    of the curve's slope. An amplifier whose curve or gain is not a number keeps its pixels and
    becomes BAD. Records per amplifier ``linearity_applied`` (0 where the curve changes nothing) and
    ``linearity_out_of_range`` (pixels beyond the curve; they get its value at the end), and
    ``invalid_gain`` = 1 where the gain is not a positive number.

    Raises
    ------
    CalibrationMissing
        When there is no linearity.
    DataError
        When it is of another detector or malformed, or the frame is neither in adu nor electron.
    UnknownNameError
        When the mask plane does not exist.
    """
    curves = read_linearity(calibs.table("linearity"), frame.detector)
    if frame.unit not in ("adu", "electron"):
        raise DataError(
            f"Detector {frame.detector.name} cannot be linearised in {frame.unit}.",
            "Put the linearize step before the one that changes the unit.",
        )
    bit = mask_bits(config.out_of_range_plane) if config.out_of_range_plane else 0
    change = {name for name, curve in curves.items() if _changes(curve)}
    whole = NO_VARIANCE
    if change and isinstance(frame, Exposure) and (frame.variance is not None or frame.noise):
        # The plane must be made before the image changes: it follows from the image as read.
        whole = frame.variance_plane()
    for amp in frame.detector.amplifiers:
        image, mask = (
            (frame.segments[amp.name], frame.masks[amp.name])
            if isinstance(frame, RawExposure)
            else frame.amp(amp.name)
        )
        gain = frame.gain(amp.name) if frame.unit == "electron" else 1.0
        usable = math.isfinite(gain) and gain > 0
        if not usable:
            frame.record("invalid_gain", 1, "1", amp.name)
        usable = usable and curves[amp.name].finite
        applied = usable and amp.name in change
        outside = 0
        if applied:
            variance = whole[amp.bbox.slices] if whole.size else whole
            outside = correct(image, mask, variance, curves[amp.name], gain, bit)
        elif not usable:
            mask |= MASK_DTYPE(mask_bits("BAD"))
        frame.record("linearity_applied", applied, "1", amp.name)
        frame.record("linearity_out_of_range", outside, "pixel", amp.name)
    return frame


def _changes(curve: Curve) -> bool:
    """Tell whether a curve does anything; one that is not made of numbers does not."""
    if curve.kind in ("None", "Proportional") or not curve.finite:
        return False
    return curve.kind not in ("Squared", "Polynomial") or bool(curve.coefficients.any())


def correct(
    image: Image, mask: Mask, variance: Image, curve: Curve, gain: float = 1.0, bit: int = 0
) -> int:
    """Linearise the pixels of one amplifier in place.

    Parameters
    ----------
    image
        ADU times ``gain``, (rows, columns).
    mask
        Same shape; pixels brighter than the curve covers get ``bit``.
    variance
        Same shape, or no pixels at all when there is none; multiplied by the slope squared.
    curve
        In ADU, of finite numbers.
    gain
        1 for an image in ADU, electron/ADU for one in electrons.
    bit
        Mask bits.

    Returns
    -------
    int
        Number of pixels off the curve: beyond the last node of a spline, off either end of a table.
    """
    from cpplug_linearity import kernels

    if curve.lookup is not None:
        offset = float(curve.coefficients[0])
        return kernels.lookup(image, mask, variance, curve.lookup, offset, gain, bit)
    if curve.kind in ("Spline", "DoubleSpline"):
        cut = pieces(curve)
        return kernels.splines(image, mask, variance, cut.breaks, cut.cubics, cut.ends, gain, bit)
    terms = curve.coefficients[:1] if curve.kind == "Squared" else curve.coefficients
    kernels.polynomial(image, variance, terms, gain)
    return 0


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the linearity correction."""
    yield IsrStep(
        name="linearize",
        summary="Make the signal proportional to the charge",
        level="any",
        apply=linearize,
        config=LinearizeConfig,
        needs=("linearity",),
        after=("overscan",),
        aliases=("linearity",),
    )
