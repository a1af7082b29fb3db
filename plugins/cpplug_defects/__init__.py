"""Defects: mark the pixels of a detector that are known to be broken.

The list of defects is a table of boxes on the trimmed detector. Every pixel in one of them becomes
BAD, so that combining and statistics leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Box,
    Calibs,
    DataError,
    Exposure,
    IsrStep,
    NoConfig,
    hookimpl,
    mask_bits,
)

COLUMNS = ("x0", "y0", "width", "height")


def mask_defects(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Set BAD in the boxes of the table ``defects`` (x0, y0, width, height; trimmed pixels).

    Records ``defect_pixels``, the number of pixels in any box.

    Raises
    ------
    DataError
        When a column is missing, or a box is empty or leaves the detector.
    """
    table = calibs.table("defects")
    name = exposure.detector.name
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(
            f"The defects of detector {name} have no column {', '.join(missing)}.",
            "Certify a table with x0, y0, width and height.",
        )
    height, width = exposure.image.shape
    whole = Box(0, 0, width, height)
    marked = np.zeros(exposure.image.shape, dtype=bool)
    for values in zip(*(table.columns[column] for column in COLUMNS), strict=True):
        box = Box(*(int(value) for value in values))
        if box.empty or not whole.contains(box):
            raise DataError(
                f"Defect box (x {box.x}, y {box.y}, {box.width} x {box.height}) does not lie on "
                f"detector {name}, {width} x {height} pixels.",
                "Check that the defects belong to this detector and binning.",
            )
        marked[box.slices] = True
    exposure.mask[marked] |= MASK_DTYPE(mask_bits("BAD"))
    exposure.record("defect_pixels", int(np.count_nonzero(marked)), "pixel")
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the defect step."""
    yield IsrStep(
        name="defects",
        summary="Mark the pixels of known defects",
        level="detector",
        apply=mask_defects,
        needs=("defects",),
        after=("assemble",),
        aliases=("defect",),
    )
