"""Gains: from digital units to electrons.

Every amplifier has its own gain, electrons per ADU. Multiplying by it puts all amplifiers on the
same scale and in electrons. Gains that have drifted since they were measured can first be adjusted
by a factor per amplifier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    AmplifierNoise,
    Calibs,
    Config,
    DataError,
    Exposure,
    Image,
    IsrStep,
    Mask,
    NoConfig,
    RawExposure,
    TableProduct,
    doc,
    good_pixels,
    hookimpl,
    mask_bits,
    median,
)

AnyFrame = RawExposure | Exposure


class GainsConfig(Config, frozen=True):
    """Whether amplifiers are brought to one level."""

    normalize_gains: Annotated[
        bool, doc("also scale every amplifier to the median of the amplifiers' medians")
    ] = False


def units_per_adu(frame: AnyFrame, amp: Amplifier) -> float:
    """Return what one ADU of an amplifier is in the unit of the frame: 1, or its gain."""
    return 1.0 if frame.unit == "adu" else frame.gain(amp.name)


def gain_correction_product(adjustments: Mapping[str, float]) -> TableProduct:
    """Build a gain correction: amplifier name to the factor (a pure number) on its gain."""
    return TableProduct(
        columns={
            "amplifier": np.array(list(adjustments)),
            "gain_adjustment": np.array(list(adjustments.values()), np.float64),
        },
        units={"gain_adjustment": "1"},
    )


def correct_gains(frame: AnyFrame, config: NoConfig, calibs: Calibs) -> AnyFrame:
    """Multiply the gains by the table ``gain_correction``; algorithms A.19. Pixels stay.

    Records the new ``gain`` (electron/adu) of every amplifier, which later steps use.

    Raises
    ------
    DataError
        When gains or variance were already used, or the table misses an amplifier, has one of
        another detector or a factor that is not a positive number.
    """
    name = frame.detector.name
    if frame.unit != "adu" or frame.noise:
        raise DataError(
            f"The gains of detector {name} are in use already.",
            "Put correct_gains before the gains and the variance step.",
        )
    table = calibs.table("gain_correction")
    rows = table.rows_for(frame.detector, "gain correction", ["gain_adjustment"])
    factors = {amp: float(table.columns["gain_adjustment"][row]) for amp, row in rows.items()}
    for amp, factor in factors.items():
        if not (math.isfinite(factor) and factor > 0):
            raise DataError(
                f"The gain correction of amplifier {amp} of detector {name} is {factor}.",
                "Give a positive factor.",
            )
    for amp, factor in factors.items():
        frame.record("gain", frame.gain(amp) * factor, "electron/adu", amp)
    return frame


def apply_gains(frame: AnyFrame, config: GainsConfig, calibs: Calibs) -> AnyFrame:
    """Multiply every amplifier by its gain: adu to electron; algorithms A.7.

    The variance is multiplied by the square of the gain, and so is what it rests on. An amplifier
    whose gain is not a positive number counts with 1 and becomes BAD (``invalid_gain`` = 1).
    Normalised, every amplifier is scaled by the median of the amplifiers' medians over its own
    (good data pixels only; medians that are not positive are left alone). Records ``gain``
    (electron/adu), the factor applied in all, and ``gain_normalization`` where there is one.

    Raises
    ------
    DataError
        When the frame is in electrons already.
    """
    if frame.unit != "adu":
        raise DataError(
            f"Detector {frame.detector.name} of exposure {frame.info.exposure} is in {frame.unit}: "
            "the gains were applied before.",
            "Keep the gains step once in the chain.",
        )
    gains: dict[str, float] = {}
    for amp in frame.detector.amplifiers:
        gain = frame.gain(amp.name)
        if not (math.isfinite(gain) and gain > 0):
            frame.record("invalid_gain", 1, "1", amp.name)
            _pixels(frame, amp)[1][...] |= MASK_DTYPE(mask_bits("BAD"))
            gain = 1.0
        gains[amp.name] = gain
    if config.normalize_gains:
        for name, factor in _normalisation(frame, gains).items():
            frame.record("gain_normalization", factor, "1", name)
            gains[name] *= factor
    for amp in frame.detector.amplifiers:
        gain = gains[amp.name]
        _scale(frame, amp, gain)
        frame.record("gain", gain, "electron/adu", amp.name)
    frame.unit = "electron"
    return frame


def _pixels(frame: AnyFrame, amp: Amplifier) -> tuple[Image, Mask]:
    """Return views of all pixels of an amplifier: image and mask."""
    if isinstance(frame, RawExposure):
        return frame.segments[amp.name], frame.masks[amp.name]
    return frame.amp(amp.name)


def _normalisation(frame: AnyFrame, gains: Mapping[str, float]) -> dict[str, float]:
    """Return the factor that brings the median of each amplifier to the median of all."""
    levels: dict[str, float] = {}
    bad = mask_bits("BAD", "SAT", "NO_DATA")
    for amp in frame.detector.amplifiers:
        image, mask = _pixels(frame, amp)
        if isinstance(frame, RawExposure):
            rows, columns = amp.data.slices
            image, mask = image[rows, columns], mask[rows, columns]
        good: npt.NDArray[np.bool_] = good_pixels(image, mask, bad)
        level = median(image, good) * gains[amp.name]
        if level > 0:
            levels[amp.name] = level
    target = median(np.array(list(levels.values()))) if levels else math.nan
    return {name: target / level for name, level in levels.items()}


def _scale(frame: AnyFrame, amp: Amplifier, gain: float) -> None:
    """Multiply image, variance and noise of one amplifier.

    With G applied, V = I/g + R^2 becomes G^2 V = I' / (g/G) + (G R)^2, I' = G I.
    """
    factor = np.float32(gain)
    image, _ = _pixels(frame, amp)
    image *= factor
    if isinstance(frame, Exposure) and frame.variance is not None:
        frame.variance[amp.bbox.slices] *= factor * factor
    if amp.name in frame.noise:
        noise = frame.noise[amp.name]
        frame.noise[amp.name] = AmplifierNoise(noise.gain / gain, noise.read_noise * gain)


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the adjustment of the gains and their application."""
    yield IsrStep(
        name="correct_gains",
        summary="Adjust the gains by the gain correction table",
        level="any",
        apply=correct_gains,
        needs=("gain_correction",),
        aliases=("gain_correction",),
    )
    yield IsrStep(
        name="gains",
        summary="Multiply every amplifier by its gain: from ADU to electrons",
        level="any",
        apply=apply_gains,
        config=GainsConfig,
        aliases=("apply_gains",),
    )
