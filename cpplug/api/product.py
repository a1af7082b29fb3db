"""What a calibration run makes: an image product or a table product.

Both are plain holders; writing them to disk with provenance is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cpplug.api.exposure import Image, Mask

MetaValue = str | int | float | bool


@dataclass(kw_only=True)
class ImageProduct:
    """A calibration image with mask and variance.

    Attributes
    ----------
    image, variance
        float32, (rows, columns); ``unit`` and ``unit`` squared.
    mask
        uint16, bits as in ``cpplug.api.MASK_PLANES``.
    unit
        ``adu``, ``electron``, ``adu/s`` or ``1``.
    metadata
        Header cards: keyword to value. Keywords longer than eight characters become HIERARCH cards.
    """

    image: Image
    mask: Mask
    variance: Image
    unit: str
    metadata: dict[str, MetaValue] = field(default_factory=dict)


@dataclass(kw_only=True)
class TableProduct:
    """A calibration table: columns of equal length, the unit of each, and header cards."""

    columns: dict[str, npt.NDArray[np.generic]]
    units: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, MetaValue] = field(default_factory=dict)


Product = ImageProduct | TableProduct
