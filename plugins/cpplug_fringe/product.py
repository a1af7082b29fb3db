"""The fringe calibration: how it is made of images, and read for one exposure.

One pattern is an image product. Several (a camera may show more than one set of lines) are a table
product with one pattern per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    DataError,
    Exposure,
    Image,
    ImageProduct,
    Mask,
    TableProduct,
)


class Pattern(NamedTuple):
    """One fringe pattern: image, mask, variance (rows, columns), and the unit of the image."""

    image: Image
    mask: Mask
    variance: Image
    unit: str


def fringe_product(
    images: Sequence[Image],
    physical_filter: str,
    variances: Sequence[Image] | None = None,
    masks: Sequence[Mask] | None = None,
    unit: str = "1",
) -> ImageProduct | TableProduct:
    """Make a product of one or several patterns.

    Parameters
    ----------
    images
        float32, (rows, columns) each.
    physical_filter
        The filter that shows them.
    variances, masks
        Of the images; zero when None.
    unit
        ``1`` for a pattern relative to the sky, or ``adu`` or ``electron``.
    """
    image = np.stack(images).astype(np.float32)
    variance = np.zeros_like(image) if variances is None else np.stack(variances).astype(np.float32)
    mask = (
        np.zeros(image.shape, MASK_DTYPE) if masks is None else np.stack(masks).astype(MASK_DTYPE)
    )
    if len(image) == 1:
        return ImageProduct(
            image=image[0],
            mask=mask[0],
            variance=variance[0],
            unit=unit,
            metadata={"FILTER": physical_filter},
        )
    return TableProduct(
        columns={"image": image, "mask": mask, "variance": variance},
        units={} if unit == "1" else {"image": unit, "variance": f"{unit}2"},
        metadata={"FILTER": physical_filter},
    )


def patterns_of(calibs: Calibs, exposure: Exposure) -> list[Pattern]:
    """Return the patterns for an exposure.

    Raises
    ------
    CalibrationMissing
        When there is no fringe calibration.
    DataError
        When it is of another filter, detector, size or unit, or a table without its columns.
    """
    name = exposure.detector.name
    try:
        product: ImageProduct | TableProduct = calibs.table("fringe")
    except DataError:  # not a table: then it is an image, or the next line says what is wrong
        product = calibs.image("fringe", like=exposure)
    if isinstance(product, ImageProduct):
        patterns = [Pattern(product.image, product.mask, product.variance, product.unit)]
    else:
        missing = [c for c in ("image", "mask", "variance") if c not in product.columns]
        if missing:
            raise DataError(
                f"The fringe table of detector {name} has no column {', '.join(missing)}.",
                "Certify one with image, mask and variance per pattern.",
            )
        unit = product.units.get("image", "1")
        columns = product.columns
        patterns = [
            Pattern(image.astype(np.float32), mask.astype(MASK_DTYPE), one.astype(np.float32), unit)
            for image, mask, one in zip(
                columns["image"], columns["mask"], columns["variance"], strict=True
            )
        ]
    _check(product, patterns, exposure)
    return patterns


def _check(
    product: ImageProduct | TableProduct, patterns: list[Pattern], exposure: Exposure
) -> None:
    name, info = exposure.detector.name, exposure.info
    shapes = {pattern.image.shape for pattern in patterns}
    if shapes != {exposure.image.shape}:
        raise DataError(
            f"The fringe of detector {name} has {' and '.join(map(str, sorted(shapes)))} rows and "
            f"columns, the image {exposure.image.shape}.",
            "Certify one made with the same binning and camera file.",
        )
    made_for = product.metadata.get("DETECTOR", exposure.detector.id)
    if made_for != exposure.detector.id:
        raise DataError(
            f"The fringe is of detector {made_for}, the image of detector {exposure.detector.id}.",
            "Certify one for this detector.",
        )
    made_in = product.metadata.get("FILTER", info.physical_filter)
    if made_in != info.physical_filter:
        raise DataError(
            f"The fringe of detector {name} is of filter {made_in!r}, exposure {info.exposure} of "
            f"{info.physical_filter!r}.",
            "Certify one for this filter, or switch the step off with -c isr:do_fringe=False.",
        )
    unit = patterns[0].unit
    if unit not in ("1", exposure.unit):
        raise DataError(
            f"The fringe of detector {name} is in {unit}, the image in {exposure.unit}.",
            "Make the fringe relative to the sky (unit 1), or in the unit of the image.",
        )
