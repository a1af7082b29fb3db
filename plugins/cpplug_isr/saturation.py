"""Saturation: mark pixels that the electronics or the well could not measure.

Works on pixels as they were read, bias level included, or after the overscan has been subtracted.
Pixels at or above the saturation level of their amplifier become SAT, those at or above the suspect
level SUSPECT. An amplifier of which no pixel is left, and one that was read as nothing but NaN, is
dead: all of it becomes BAD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    IsrStep,
    RawExposure,
    doc,
    hookimpl,
    mask_bits,
)


class SaturationConfig(Config, frozen=True):
    """Levels at which pixels are marked."""

    saturation: Annotated[
        float | None,
        doc("level in ADU for all amplifiers, as compared, instead of the camera's"),
    ] = None
    suspect: Annotated[
        float | None,
        doc("suspect level in ADU for all amplifiers, as compared, instead of the camera's"),
    ] = None
    amplifier_levels: Annotated[
        tuple[tuple[str, float, float], ...],
        doc("amplifier, its saturation and suspect level in ADU, as compared; wins over the rest"),
    ] = ()
    after_overscan: Annotated[
        bool,
        doc(
            "compare pixels from which the overscan has been subtracted: levels given here are "
            "then without bias, and the overscan level is taken off the camera's"
        ),
    ] = False


def mark_saturation(frame: RawExposure, config: SaturationConfig, calibs: Calibs) -> RawExposure:
    """Set SAT, SUSPECT and BAD; algorithms A.3.

    Records per amplifier ``saturation_level`` (ADU, when finite), ``saturated_fraction`` of the
    data pixels and, for a dead amplifier, ``dead_amplifier`` = 1. A level that is NaN or infinite
    marks nothing. Pixels that are NaN or infinite become UNMASKEDNAN.

    After the overscan step, ``after_overscan`` must be set. The camera's levels, which include the
    bias, are then lowered by the mean overscan level of the exposure.

    Raises
    ------
    DataError
        When the frame is no longer in ADU, or ``after_overscan`` does not say what is the case.
    UnknownNameError
        When levels are given for an amplifier that does not exist.
    """
    if frame.unit != "adu":
        raise DataError(
            f"Saturation of detector {frame.detector.name} is judged in adu, not {frame.unit}.",
            "Put the saturation step first.",
        )
    _check_order(frame, config)
    levels = _levels(frame, config)
    sat, suspect, no_number, bad = (
        MASK_DTYPE(mask_bits(plane)) for plane in ("SAT", "SUSPECT", "UNMASKEDNAN", "BAD")
    )
    for amp, image, mask in frame.amplifiers():
        level, suspicious = levels[amp.name]
        for limit, bit in ((level, sat), (suspicious, suspect)):
            if math.isfinite(limit):
                mask[image >= limit] |= bit
        mask[~np.isfinite(image)] |= no_number
        if math.isfinite(level):
            frame.record("saturation_level", level, "adu", amp.name)
        rows, columns = amp.data.slices
        data = mask[rows, columns]
        lost = np.count_nonzero(data & sat) / data.size
        frame.record("saturated_fraction", lost, "1", amp.name)
        if (data & (sat | suspect | no_number)).all():
            mask |= bad
            frame.record("dead_amplifier", 1, "1", amp.name)
    return frame


def _check_order(frame: RawExposure, config: SaturationConfig) -> None:
    subtracted = any(m.name in ("overscan_level", "overscan_skipped") for m in frame.measurements)
    if subtracted != config.after_overscan:
        found = "has been" if subtracted else "has not been"
        raise DataError(
            f"The overscan of detector {frame.detector.name} {found} subtracted when saturation is "
            "judged.",
            "Move the saturation step, or change saturation:after_overscan.",
        )


def _levels(frame: RawExposure, config: SaturationConfig) -> dict[str, tuple[float, float]]:
    """Return saturation and suspect level by amplifier, ADU, as the pixels are compared."""
    levels = {}
    for amp in frame.detector.amplifiers:
        bias = frame.measured("overscan_level", amp.name) if config.after_overscan else None
        level, suspect = amp.saturation - (bias or 0.0), amp.suspect - (bias or 0.0)
        levels[amp.name] = (
            level if config.saturation is None else config.saturation,
            suspect if config.suspect is None else config.suspect,
        )
    for name, level, suspect in config.amplifier_levels:
        levels[frame.detector.amplifier(name).name] = (level, suspect)
    return levels


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the saturation step."""
    yield IsrStep(
        name="saturation",
        summary="Mark saturated and suspect pixels, and dead amplifiers",
        level="amplifier",
        apply=mark_saturation,
        config=SaturationConfig,
    )
