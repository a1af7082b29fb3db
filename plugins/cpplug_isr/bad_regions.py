"""Bad regions: give pixels that cannot be repaired the typical value of the detector.

A hole in the image disturbs every later smoothing and background fit. This step puts the typical
value of the good pixels there. The pixels stay BAD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    Exposure,
    IsrStep,
    clipped,
    doc,
    hookimpl,
    mask_bits,
    median,
)


class BadRegionsConfig(Config, frozen=True):
    """What the typical value is."""

    bad_statistic: Annotated[
        Literal["MEDIAN", "MEANCLIP"], doc("typical value of the pixels that are not BAD")
    ] = "MEDIAN"


def set_bad_regions(exposure: Exposure, config: BadRegionsConfig, calibs: Calibs) -> Exposure:
    """Set pixels that are BAD and not INTRP to the typical value; algorithms A.15.

    The variance stays as it was. Records ``bad_region_pixels`` and, when there are any,
    ``bad_region_value`` (unit of the image). A detector on which every pixel is BAD or not a number
    is left alone.
    """
    bad = exposure.mask & MASK_DTYPE(mask_bits("BAD")) != 0
    target = bad & (exposure.mask & MASK_DTYPE(mask_bits("INTRP")) == 0)
    count = int(np.count_nonzero(target))
    value = math.nan
    if count:
        good = np.isfinite(exposure.image) & ~bad
        if config.bad_statistic == "MEDIAN":
            value = median(exposure.image, good)
        else:
            value = clipped(exposure.image, good).mean
    if not math.isfinite(value):
        exposure.record("bad_region_pixels", 0, "pixel")
        return exposure
    if exposure.noise:
        exposure.variance_plane()
    exposure.image[target] = value
    exposure.record("bad_region_pixels", count, "pixel")
    exposure.record("bad_region_value", value, exposure.unit)
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the step for bad regions."""
    yield IsrStep(
        name="bad_regions",
        summary="Set bad pixels that were not filled to the typical value of the detector",
        level="detector",
        apply=set_bad_regions,
        config=BadRegionsConfig,
        after=("assemble",),
        aliases=("set_bad_regions",),
    )
