"""Saturation: mark pixels that the electronics or the well could not measure.

Works on pixels as they were read, bias level included. Pixels at or above the saturation level of
their amplifier become SAT, those at or above the suspect level SUSPECT. An amplifier of which no
pixel is left, and one that was read as nothing but NaN, is dead: all of it becomes BAD.
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
        doc("level in ADU for all amplifiers, bias included, instead of the camera's"),
    ] = None
    suspect: Annotated[
        float | None,
        doc("suspect level in ADU for all amplifiers, bias included, instead of the camera's"),
    ] = None


def mark_saturation(frame: RawExposure, config: SaturationConfig, calibs: Calibs) -> RawExposure:
    """Set SAT, SUSPECT and BAD; algorithms A.3.

    Records per amplifier ``saturation_level`` (ADU, when finite), ``saturated_fraction`` of the
    data pixels and, for a dead amplifier, ``dead_amplifier`` = 1. A level that is NaN or infinite
    marks nothing. Pixels that are NaN or infinite become UNMASKEDNAN.

    Raises
    ------
    DataError
        When the frame is no longer in ADU.
    """
    if frame.unit != "adu":
        raise DataError(
            f"Saturation of detector {frame.detector.name} is judged in adu, not {frame.unit}.",
            "Put the saturation step first.",
        )
    sat, suspect, no_number, bad = (
        MASK_DTYPE(mask_bits(plane)) for plane in ("SAT", "SUSPECT", "UNMASKEDNAN", "BAD")
    )
    for amp, image, mask in frame.amplifiers():
        level = amp.saturation if config.saturation is None else config.saturation
        suspicious = amp.suspect if config.suspect is None else config.suspect
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
