"""Arithmetic of images that carry a mask and a variance: subtract or divide by a calibration.

A correction step asks whether a calibration fits the exposure (:func:`require_fit`) and then
subtracts it (:func:`subtract_product`) or divides by it (:func:`divide_by_product`). Image, mask
and variance change together; pixels where the calibration says nothing become BAD and keep their
value. Formulas: algorithms 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpplug.api.errors import DataError
from cpplug.api.exposure import MASK_DTYPE, Exposure, Image, mask_bits
from cpplug.api.product import ImageProduct

BLOCK_ROWS = 64
"""Rows worked on at a time, so that intermediate images stay in the processor's cache."""


def require_fit(
    product: ImageProduct, dataset_type: str, exposure: Exposure, units: Sequence[str]
) -> None:
    """Refuse a calibration that was made for something else.

    Size and unit must match; so must detector and physical filter where the product's header
    names them (cards ``DETECTOR`` and ``FILTER``).

    Parameters
    ----------
    product
        The calibration.
    dataset_type
        What it is called in messages: ``flat``.
    exposure
        What it is meant for.
    units
        Units that will do.

    Raises
    ------
    DataError
        When it does not fit.
    """
    name, detector = exposure.detector.name, product.metadata.get("DETECTOR")
    if detector is not None and detector != exposure.detector.id:
        raise DataError(
            f"The {dataset_type} is of detector {detector}, the exposure of detector "
            f"{exposure.detector.id} ({name}).",
            f"Certify a {dataset_type} of this detector.",
        )
    if product.image.shape != exposure.image.shape:
        raise DataError(
            f"The {dataset_type} of detector {name} has {product.image.shape} rows and columns, "
            f"the image {exposure.image.shape}.",
            f"Build a {dataset_type} with the same binning and camera file.",
        )
    if product.unit not in units:
        raise DataError(
            f"The {dataset_type} of detector {name} is in {product.unit or '1'}, where "
            f"{' or '.join(units)} is needed: the image is in {exposure.unit}.",
            "Check where in the chain the unit changes, and how the calibration was built.",
        )
    made_for = product.metadata.get("FILTER")
    if made_for not in (None, exposure.info.physical_filter):
        raise DataError(
            f"The {dataset_type} of detector {name} is of filter {made_for}, the exposure "
            f"{exposure.info.exposure} was taken with {exposure.info.physical_filter}.",
            f"Certify a {dataset_type} of filter {exposure.info.physical_filter}.",
        )


def subtract_product(exposure: Exposure, product: ImageProduct, scale: float = 1.0) -> int:
    """Subtract ``scale`` times a calibration: image, variance + scale^2 variance, masks joined.

    Variance is followed where there is a plane or where the variance step has run. Pixels where
    the calibration is not finite keep image and variance and become BAD.

    Parameters
    ----------
    exposure
        Changed in place.
    product
        In the unit of the exposure once it is multiplied by ``scale``.
    scale
        Finite.

    Returns
    -------
    int
        Number of pixels where the calibration is not finite.
    """
    variance = _variance(exposure)
    lost, factor = 0, np.float32(scale)
    for rows in _blocks(exposure.image):
        other = product.image[rows]
        usable = np.isfinite(other)
        if usable.all():
            exposure.image[rows] -= factor * other
            if variance is not None:
                variance[rows] += factor * factor * product.variance[rows]
        else:
            exposure.image[rows][usable] -= factor * other[usable]
            if variance is not None:
                variance[rows][usable] += factor * factor * product.variance[rows][usable]
            lost += _lose(exposure, rows, usable)
        exposure.mask[rows] |= product.mask[rows]
    return lost


def divide_by_product(exposure: Exposure, product: ImageProduct, scale: float = 1.0) -> int:
    """Divide by a calibration over ``scale``: image, variance, masks joined.

    With B = calibration / scale, I' = I / B and V' = (V + I'^2 V_B) / B^2, the same as
    (I^2 V_B + B^2 V) / B^4. Variance is followed where there is a plane or where the variance step
    has run. Pixels where the calibration is not a positive number keep image and variance and
    become BAD.

    Parameters
    ----------
    exposure
        Changed in place.
    product
        The divisor.
    scale
        Positive, in the unit of the product.

    Returns
    -------
    int
        Number of pixels where the calibration is not a positive number.
    """
    variance = _variance(exposure)
    lost, factor = 0, np.float32(1.0 / scale)
    for rows in _blocks(exposure.image):
        divisor = factor * product.image[rows]
        usable = np.isfinite(divisor) & (divisor > 0)
        whole = bool(usable.all())
        if not whole:
            divisor[~usable] = 1.0
            lost += _lose(exposure, rows, usable)
        exposure.image[rows] /= divisor
        if variance is not None:
            of_divisor = factor * factor * product.variance[rows]
            if not whole:
                of_divisor[~usable] = 0.0
            of_divisor *= np.square(exposure.image[rows])
            variance[rows] += of_divisor
            variance[rows] /= np.square(divisor)
        exposure.mask[rows] |= product.mask[rows]
    return lost


def _variance(exposure: Exposure) -> Image | None:
    """Return the plane to follow; made now where it follows from the image as it still is."""
    if exposure.variance is None and not exposure.noise:
        return None
    return exposure.variance_plane()


def _blocks(image: Image) -> list[slice]:
    return [slice(y, y + BLOCK_ROWS) for y in range(0, image.shape[0], BLOCK_ROWS)]


def _lose(exposure: Exposure, rows: slice, usable: np.ndarray) -> int:
    exposure.mask[rows][~usable] |= MASK_DTYPE(mask_bits("BAD"))
    return int(usable.size - np.count_nonzero(usable))
