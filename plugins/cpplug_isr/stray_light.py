"""Stray light: subtract light that reaches the detector by a way it should not.

A lamp or a leak in the camera lights the detector while the shutter is open. A product shows that
light in ADU or electrons per second; the step subtracts as much of it as the exposure took in. A
camera whose stray light follows another rule registers a step of its own.
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


def stray_light_product(
    image: Image, variance: Image | None = None, mask: Mask | None = None, *, unit: str = "adu/s"
) -> ImageProduct:
    """Build a stray light image from arrays (rows, columns), in ``adu/s`` or ``electron/s``."""
    return ImageProduct(
        image=np.asarray(image, np.float32),
        mask=np.zeros(image.shape, MASK_DTYPE) if mask is None else mask,
        variance=np.zeros(image.shape, np.float32) if variance is None else variance,
        unit=unit,
    )


def subtract_stray_light(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Subtract ``stray_light`` times the exposure time; algorithms A.19, in its simplest form.

    Variance grows by time^2 times that of the product, masks are joined; where the product is not
    finite, pixels become BAD and are counted as ``stray_light_bad_pixels``.

    Raises
    ------
    DataError
        When the product is of another detector, size, unit or filter, or the exposure time is not
        a number of 0 or more.
    """
    product = calibs.image("stray_light", like=exposure)
    require_fit(product, "stray_light", exposure, (f"{exposure.unit}/s",))
    time = exposure.info.exposure_time
    if not (math.isfinite(time) and time >= 0):
        raise DataError(
            f"Exposure {exposure.info.exposure} of detector {exposure.detector.name} has no "
            f"exposure time ({time!r} s), so the stray light cannot be scaled to it.",
            "Correct the instrument's translator, or switch the step off: "
            "-c isr:do_stray_light=False.",
        )
    lost = subtract_product(exposure, product, time)
    if lost:
        exposure.record("stray_light_bad_pixels", lost, "pixel")
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the subtraction of stray light."""
    yield IsrStep(
        name="stray_light",
        summary="Subtract the stray light collected in the exposure time",
        level="detector",
        apply=subtract_stray_light,
        needs=("stray_light",),
        after=("assemble",),
    )
