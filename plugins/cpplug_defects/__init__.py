"""Defects: mark the pixels of a detector that are known to be broken.

The list of defects is a table of boxes on the trimmed detector. Every pixel in one of them becomes
BAD, so that combining and statistics leave it out. An amplifier that lies in a defect as a whole is
dead, and is marked before its overscan is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Box,
    Calibs,
    Config,
    DataError,
    Detector,
    Exposure,
    IsrStep,
    RawExposure,
    TableProduct,
    at_least,
    doc,
    hookimpl,
    mask_bits,
)
from cpplug_defects.edges import EdgeLevel, edge_pixels

COLUMNS = ("x0", "y0", "width", "height")


class DefectsConfig(Config, frozen=True):
    """What is marked beside the listed defects."""

    bad_amps: Annotated[
        tuple[str, ...],
        doc("amplifiers that are BAD as a whole: NAME, or DETECTOR_NAME for one detector"),
    ] = ()
    num_edge_suspect: Annotated[
        int, at_least(0), doc("pixels next to the edge that become SUSPECT")
    ] = 0
    edge_mask_level: Annotated[
        EdgeLevel, doc("edge of the whole detector, or of every amplifier")
    ] = "DETECTOR"


class BadAmplifiersConfig(Config, frozen=True):
    """When an exposure is given up."""

    check_unprocessable_data: Annotated[
        bool, doc("fail when every amplifier of the detector is dead")
    ] = True


def make_table(boxes: Iterable[Box]) -> TableProduct:
    """Return a list of defects as a table: x0, y0, width, height (int32; trimmed pixels)."""
    rows = [(box.x, box.y, box.width, box.height) for box in boxes]
    values = np.array(rows, np.int32).reshape(-1, 4)
    return TableProduct(
        columns=dict(zip(COLUMNS, values.T.copy(), strict=True)),
        units=dict.fromkeys(COLUMNS, "pixel"),
    )


def boxes_of(table: TableProduct, detector: Detector) -> list[Box]:
    """Return the boxes of a table of defects.

    Raises
    ------
    DataError
        When a column is missing, or a box is empty or leaves the detector.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(
            f"The defects of detector {detector.name} have no column {', '.join(missing)}.",
            "Certify a table with x0, y0, width and height.",
        )
    whole = Box(0, 0, detector.width, detector.height)
    boxes = []
    for values in zip(*(table.columns[column] for column in COLUMNS), strict=True):
        box = Box(*(int(value) for value in values))
        if box.empty or not whole.contains(box):
            raise DataError(
                f"Defect box (x {box.x}, y {box.y}, {box.width} x {box.height}) does not lie on "
                f"detector {detector.name}, {whole.width} x {whole.height} pixels.",
                "Check that the defects belong to this detector and binning.",
            )
        boxes.append(box)
    return boxes


def mask_defects(exposure: Exposure, config: DefectsConfig, calibs: Calibs) -> Exposure:
    """Set BAD in the boxes of the table ``defects``, SUSPECT along the edges; algorithms A.14.

    The table has x0, y0, width, height in trimmed pixels. Records ``defect_pixels``, the number of
    pixels in any box or bad amplifier, and ``edge_pixels`` where edges are marked.

    Raises
    ------
    DataError
        When a column is missing, a box is empty or leaves the detector, or a listed amplifier does
        not exist.
    """
    detector = exposure.detector
    marked = np.zeros(exposure.image.shape, dtype=bool)
    for box in [*boxes_of(calibs.table("defects"), detector), *_bad_amps(detector, config)]:
        marked[box.slices] = True
    exposure.mask[marked] |= MASK_DTYPE(mask_bits("BAD"))
    exposure.record("defect_pixels", int(np.count_nonzero(marked)), "pixel")
    if config.num_edge_suspect:
        edge = edge_pixels(detector, config.num_edge_suspect, config.edge_mask_level)
        exposure.mask[edge] |= MASK_DTYPE(mask_bits("SUSPECT"))
        exposure.record("edge_pixels", int(np.count_nonzero(edge)), "pixel")
    return exposure


def _bad_amps(detector: Detector, config: DefectsConfig) -> Iterator[Box]:
    """Yield the boxes of listed amplifiers that this detector has."""
    prefix = f"{detector.name}_"
    known = {amp.name: amp.bbox for amp in detector.amplifiers}
    for name in config.bad_amps:
        short = name.removeprefix(prefix)
        if short in known:
            yield known[short]
        elif short != name or not any(name.endswith(f"_{amp}") for amp in known):
            raise DataError(
                f"Detector {detector.name} has no amplifier {short!r} that could be bad.",
                f"Correct defects:bad_amps; its amplifiers are {', '.join(known)}.",
            )


def mask_bad_amplifiers(
    frame: RawExposure, config: BadAmplifiersConfig, calibs: Calibs
) -> RawExposure:
    """Set BAD on every pixel of an amplifier that lies in one defect box; algorithms A.3.

    Its overscan is marked too, so that no level is read from it. Records ``dead_amplifier`` = 1.

    Raises
    ------
    DataError
        When the table cannot be used, or every amplifier is dead.
    """
    boxes = boxes_of(calibs.table("defects"), frame.detector)
    dead = 0
    for amp, _, mask in frame.amplifiers():
        if any(box.contains(amp.bbox) for box in boxes):
            mask |= MASK_DTYPE(mask_bits("BAD"))
            frame.record("dead_amplifier", 1, "1", amp.name)
        bad = bool(np.all(mask & MASK_DTYPE(mask_bits("BAD"))))
        dead += bad
    if config.check_unprocessable_data and dead == len(frame.detector.amplifiers):
        raise DataError(
            f"Every amplifier of detector {frame.detector.name} in exposure "
            f"{frame.info.exposure} is dead.",
            "Leave the exposure out, or check the defects.",
        )
    return frame


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the steps for dead amplifiers and for defects."""
    yield IsrStep(
        name="bad_amplifiers",
        summary="Mark amplifiers that are dead according to the list of defects",
        level="amplifier",
        apply=mask_bad_amplifiers,
        config=BadAmplifiersConfig,
        needs=("defects",),
    )
    yield IsrStep(
        name="defects",
        summary="Mark the pixels of known defects",
        level="detector",
        apply=mask_defects,
        config=DefectsConfig,
        needs=("defects",),
        after=("assemble",),
        aliases=("defect",),
    )
