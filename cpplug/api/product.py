"""What a calibration run makes: an image product or a table product.

Both are plain holders; writing them to disk with provenance is the engine's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cpplug.api.errors import DataError
from cpplug.api.exposure import Image, Mask

if TYPE_CHECKING:
    from cpplug.api.camera import Detector

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

    def rows_for(self, detector: Detector, kind: str, columns: Iterable[str]) -> dict[str, int]:
        """Return the row of each amplifier in a table with one row per amplifier of a detector.

        Parameters
        ----------
        detector
            The detector that the table must be of.
        kind
            What the table is, for messages: ``linearity``.
        columns
            Columns that must be there, beside ``amplifier``.

        Returns
        -------
        dict
            Amplifier name to row number, in the detector's order.

        Raises
        ------
        DataError
            When a column is missing, the header names another detector, or the amplifiers are not
            those of the detector, each once.
        """
        missing = [name for name in ("amplifier", *columns) if name not in self.columns]
        if missing:
            raise DataError(
                f"The {kind} of detector {detector.name} has no column {', '.join(missing)}.",
                "See docs/reference/product-format.md for its columns.",
            )
        for card, own in (("DETECTOR", detector.id), ("DETNAME", detector.name)):
            if str(self.metadata.get(card, own)) != str(own):
                raise DataError(
                    f"The {kind} is of detector {self.metadata[card]}, the exposure of {own}.",
                    "Certify one that was made for this detector.",
                )
        names = [str(name).strip() for name in self.columns["amplifier"]]
        wanted = [amplifier.name for amplifier in detector.amplifiers]
        if sorted(names) != sorted(wanted):
            raise DataError(
                f"The {kind} is of amplifiers {', '.join(names)}; detector {detector.name} has "
                f"{', '.join(wanted)}.",
                "Certify one that was made for this detector.",
            )
        return {name: names.index(name) for name in wanted}


Product = ImageProduct | TableProduct
