"""Flat: divide out how unevenly the light of a uniform sky arrives and is seen.

Dust, vignetting and the different sensitivity of pixels make an evenly lit frame uneven. A flat
shows that pattern, one per filter; dividing by it evens the image out. The illumination correction
is a second division, for the filters where the flat's own lamp or screen was not even.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    Exposure,
    Image,
    ImageProduct,
    IsrStep,
    Mask,
    divide_by_product,
    doc,
    hookimpl,
    mask_bits,
    median,
    positive,
    require_fit,
)

ANY_UNIT = ("1", "", "adu", "electron", "adu/s", "electron/s")
"""A flat is a pattern: what it was measured in does not matter to its shape."""


class FlatConfig(Config, frozen=True):
    """What the flat is divided by before it divides the image."""

    flat_scaling_type: Annotated[
        Literal["USER", "MEAN", "MEDIAN"],
        doc("level of the flat that counts as 1: flat_user_scale, or its mean or median"),
    ] = "USER"
    flat_user_scale: Annotated[
        float, positive, doc("that level with USER, in the unit of the flat")
    ] = 1.0
    no_data_variance: Annotated[
        float | None,
        doc(
            "set NO_DATA pixels to 0 with this variance (unit squared; modern chain: 1e10); "
            "None leaves them"
        ),
    ] = None


class IlluminationConfig(Config, frozen=True):
    """Where an illumination correction is made."""

    illum_scale: Annotated[
        float, positive, doc("level of the correction that counts as 1, in its unit")
    ] = 1.0
    illum_filters: Annotated[tuple[str, ...], doc("physical filters that are corrected")] = ()


def flat_product(
    image: Image,
    variance: Image | None = None,
    mask: Mask | None = None,
    *,
    unit: str = "1",
    physical_filter: str = "",
) -> ImageProduct:
    """Build a flat or an illumination correction from arrays (rows, columns).

    Parameters
    ----------
    image, variance, mask
        float32 in ``unit``, its square (zero when absent), uint16 (no bit set when absent).
    unit
        ``1`` for a normalised flat.
    physical_filter
        Becomes card ``FILTER``; when empty the product serves all filters.
    """
    return ImageProduct(
        image=np.asarray(image, np.float32),
        mask=np.zeros(image.shape, MASK_DTYPE) if mask is None else mask,
        variance=np.zeros(image.shape, np.float32) if variance is None else variance,
        unit=unit,
        metadata={"FILTER": physical_filter} if physical_filter else {},
    )


def divide_flat(exposure: Exposure, config: FlatConfig, calibs: Calibs) -> Exposure:
    """Divide by the flat over its level; algorithms A.6.

    Masks are joined. Pixels where the flat is not a positive number keep their value, become BAD
    and are counted as ``flat_bad_pixels``. Records ``flat_scale``, the level used.

    Raises
    ------
    DataError
        When the flat is of another detector, size or filter, or has no usable pixel.
    """
    flat = calibs.image("flat", like=exposure)
    require_fit(flat, "flat", exposure, ANY_UNIT)
    scale = config.flat_user_scale
    if config.flat_scaling_type != "USER":
        good = flat.image[np.isfinite(flat.image) & (flat.image > 0)]
        if not good.size:
            raise DataError(
                f"The flat of detector {exposure.detector.name} has no positive pixel.",
                "Build it again from exposures with light.",
            )
        level = median(good) if config.flat_scaling_type == "MEDIAN" else np.mean(good, dtype=float)
        scale = float(level)
    exposure.record("flat_scale", scale, flat.unit or "1")
    _divide(exposure, flat, "flat", scale)
    if config.no_data_variance is not None:
        empty = exposure.mask & MASK_DTYPE(mask_bits("NO_DATA")) != 0
        exposure.image[empty] = 0.0
        if exposure.variance is not None:
            exposure.variance[empty] = config.no_data_variance
    return exposure


def correct_illumination(
    exposure: Exposure, config: IlluminationConfig, calibs: Calibs
) -> Exposure:
    """Divide by the illumination correction over its level, in the listed filters; A.6.

    Other filters are left alone and ``illumination_correction_skipped`` = 1 is recorded. Pixels
    where the correction is not a positive number keep their value, become BAD and are counted as
    ``illum_bad_pixels``.

    Raises
    ------
    DataError
        When the correction is of another detector, size or filter, or has no usable pixel.
    """
    if exposure.info.physical_filter not in config.illum_filters:
        exposure.record("illumination_correction_skipped", 1, "1")
        return exposure
    illum = calibs.image("illum", like=exposure)
    require_fit(illum, "illum", exposure, ANY_UNIT)
    _divide(exposure, illum, "illum", config.illum_scale)
    return exposure


def _divide(exposure: Exposure, product: ImageProduct, name: str, scale: float) -> None:
    if not (product.image > 0).any():
        raise DataError(
            f"The {name} of detector {exposure.detector.name} has no positive pixel.",
            "Build it again from exposures with light.",
        )
    lost = divide_by_product(exposure, product, scale)
    if lost:
        exposure.record(f"{name}_bad_pixels", lost, "pixel")


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the division by flat and by illumination correction."""
    yield IsrStep(
        name="flat",
        summary="Divide by the flat of the filter",
        level="detector",
        apply=divide_flat,
        config=FlatConfig,
        needs=("flat",),
        after=("assemble", "bias", "dark"),
    )
    yield IsrStep(
        name="illumination_correction",
        summary="Divide by the illumination correction in chosen filters",
        level="detector",
        apply=correct_illumination,
        config=IlluminationConfig,
        needs=("illum",),
        after=("assemble",),
        aliases=("illumination",),
    )
