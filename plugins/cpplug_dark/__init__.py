"""Dark: subtract the charge that a detector collects without light.

A warm silicon pixel makes electrons by itself, some pixels far more than others. The master dark
says how many per second; the step subtracts as much of it as the exposure lasted, from the clear of
the detector to its read-out (the dark time).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    DataError,
    Exposure,
    Image,
    ImageProduct,
    IsrStep,
    Mask,
    NoConfig,
    hookimpl,
    require_fit,
    subtract_product,
)

DARK_TIME = "DARKTIME"
"""Header card: seconds that a dark in adu or electron stands for."""


def dark_product(
    image: Image,
    variance: Image | None = None,
    mask: Mask | None = None,
    *,
    unit: str = "adu/s",
    dark_time: float | None = None,
) -> ImageProduct:
    """Build a dark from arrays (rows, columns).

    Parameters
    ----------
    image, variance, mask
        float32 in ``unit``, its square (zero when absent), uint16 (no bit set when absent).
    unit
        ``adu/s`` or ``electron/s``; or ``adu`` or ``electron``, collected in ``dark_time`` seconds.
    dark_time
        Seconds; goes with ``adu`` and ``electron``.
    """
    product = ImageProduct(
        image=np.asarray(image, np.float32),
        mask=np.zeros(image.shape, MASK_DTYPE) if mask is None else mask,
        variance=np.zeros(image.shape, np.float32) if variance is None else variance,
        unit=unit,
    )
    if dark_time is not None:
        product.metadata[DARK_TIME] = dark_time
    return product


def dark_scale(exposure: Exposure, dark: ImageProduct) -> float:
    """Return what the dark is multiplied by: dark time of the exposure over that of the dark.

    A dark per second stands for one second. A dark that says nothing usable of its time is taken
    to stand for one second too, and ``dark_time_assumed`` = 1 is recorded.

    Raises
    ------
    DataError
        When the dark time of the exposure is not a number of 0 or more, or a dark per second
        claims to stand for another time.
    """
    time, detector = exposure.info.dark_time, exposure.detector.name
    if not (math.isfinite(time) and time >= 0):
        raise DataError(
            f"Exposure {exposure.info.exposure} of detector {detector} has no dark time "
            f"({time!r} s), so the dark cannot be scaled to it.",
            "Correct the instrument's translator, or switch the dark off: -c isr:do_dark=False.",
        )
    stated = dark.metadata.get(DARK_TIME)
    known = isinstance(stated, int | float) and math.isfinite(stated) and stated > 0
    stands_for = float(stated) if known and stated is not None else 1.0
    if dark.unit.endswith("/s"):
        if stands_for != 1.0:
            raise DataError(
                f"The dark of detector {detector} is in {dark.unit} and yet has {DARK_TIME} = "
                f"{stands_for} s.",
                "Build it again: per second, or in adu with its time.",
            )
    elif not known:
        exposure.record("dark_time_assumed", 1, "s")
    return time / stands_for


def subtract_dark(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Subtract the dark, scaled to the dark time of the exposure; algorithms A.6.

    Variance grows by scale^2 times that of the dark, masks are joined. Records ``dark_scale``
    and, where the dark is not finite, ``dark_bad_pixels``: these pixels become BAD.

    Raises
    ------
    DataError
        When the dark is of another detector, size or unit, or a dark time makes no sense.
    """
    dark = calibs.image("dark", like=exposure)
    require_fit(dark, "dark", exposure, (f"{exposure.unit}/s", exposure.unit))
    scale = dark_scale(exposure, dark)
    lost = subtract_product(exposure, dark, scale)
    exposure.record("dark_scale", scale, "s" if dark.unit.endswith("/s") else "1")
    if lost:
        exposure.record("dark_bad_pixels", lost, "pixel")
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the subtraction of the dark."""
    yield IsrStep(
        name="dark",
        summary="Subtract the dark, scaled to the dark time of the exposure",
        level="detector",
        apply=subtract_dark,
        needs=("dark",),
        after=("assemble",),
    )
