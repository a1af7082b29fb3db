"""What very bright stars do beside their own saturated area: edge bleeds, sags and dips.

Charge that runs along a column to the serial register spreads there (edge bleed); on detectors of
ITL the whole column sags, and columns beside a star are darker by a small fraction (dip). Each
function finds the places from the saturated areas. Source: algorithms A.17.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cpplug.api import Detector, Image
from cpplug_isr.shapes import Flags, runs_of

STRIP_ROWS = 200
"""Rows from the edge over which an edge bleed is marked."""
WIDTH_ROWS = 100
"""Rows from the edge in which its width is measured."""
TEST_ROWS = 50
"""Rows from the edge in which it is looked for."""
E2V_ROWS = 350
SAG_FRACTION = 0.2
"""Columns of which more than this fraction saturated sag as a whole."""


class Area(NamedTuple):
    """A connected area: first row and column, and its pixels within its bounding box."""

    row: int
    column: int
    pixels: Flags

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.pixels))

    @property
    def centre(self) -> tuple[float, float]:
        """Mean row and column of the pixels, in the detector."""
        rows, columns = np.nonzero(self.pixels)
        return self.row + float(rows.mean()), self.column + float(columns.mean())


class Core(NamedTuple):
    """The middle of a saturated star: its column, and how many pixels wide it is."""

    column: int
    width: int


class BleedModel(NamedTuple):
    """How an edge bleed is found and how it narrows away from the edge."""

    min_area: int
    max_area: int
    threshold: float
    """Signal above the background, unit of the image."""
    constant: float
    """Decay of the width, per row."""
    saturation: float
    """Saturation level of the detector, unit of the image."""
    fraction: float
    """Part of it from which a pixel belongs to the bleed."""


def areas_of(flags: Flags) -> Iterator[Area]:
    """Yield the areas of True that hang together, corners included."""
    labels, _ = ndimage.label(flags, structure=np.ones((3, 3)))
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        yield Area(place[0].start, place[1].start, labels[place] == number)


def e2v_edge_bleeds(saturated: Flags, detector: Detector, min_area: int, max_area: int) -> Flags:
    """Return the first 350 rows of lower amplifiers in which a large bleed reaches row 0."""
    found = np.zeros(saturated.shape, dtype=bool)
    for area in areas_of(saturated):
        if area.row != 0 or not min_area <= area.size < max_area:
            continue
        y, x = area.centre
        for amp in detector.amplifiers:
            box = amp.bbox
            across = box.x <= x < box.x + box.width
            if box.y == 0 and across and y < box.y + box.height:
                found[: min(E2V_ROWS, box.height), box.slices[1]] = True
    return found


def itl_edge_bleeds(
    image: Image, saturated: Flags, detector: Detector, model: BleedModel
) -> tuple[Flags, int]:
    """Return the pixels of edge bleeds at both edges, and how many bleeds there are."""
    found = np.zeros(saturated.shape, dtype=bool)
    count = 0
    for area in areas_of(saturated):
        if not model.min_area <= area.size < model.max_area:
            continue
        for core in cores_of(area, model):
            for bottom in (True, False):
                count += _mark_bleed(image, detector, core, bottom, model, found)
    return found, count


def cores_of(area: Area, model: BleedModel) -> list[Core]:
    """Return the one or two stars of a saturated area; none when there are more.

    The row through the middle of the area tells: one run of pixels is one star, two are two, each
    with its column and width where its part of the area is longest and widest.
    """
    y, x = area.centre
    line = area.pixels[int(y) - area.row]
    runs = runs_of(line[None, :])
    if runs.row.size == 1:
        return [Core(int(x), int(np.count_nonzero(line)))]
    if runs.row.size != 2:
        return []
    middle = int((runs.stop[0] + runs.start[1]) // 2)
    cores = []
    for part, first in ((area.pixels[:, :middle], 0), (area.pixels[:, middle:], middle)):
        if not model.min_area < np.count_nonzero(part) < model.max_area:
            continue
        per_row = part.sum(axis=1)
        if per_row.size > 2 * WIDTH_ROWS:
            per_row = per_row[WIDTH_ROWS:-WIDTH_ROWS]
        column = area.column + first + int(np.argmax(part.sum(axis=0)))
        cores.append(Core(column, int(per_row.max())))
    return cores


def _mark_bleed(
    image: Image, detector: Detector, core: Core, bottom: bool, model: BleedModel, found: Flags
) -> bool:
    """Mark the bleed of one star at one edge; False when there is none."""
    turn = slice(None) if bottom else slice(None, None, -1)
    strip = image[turn][:STRIP_ROWS]
    width = image.shape[1]
    near = strip[:TEST_ROWS, max(core.column - 5, 0) : core.column + 5]
    background = _background(image, detector, core.column, bottom)
    if not np.median(near) > background + model.threshold:
        return False
    wide = strip[:WIDTH_ROWS, max(core.column - 250, 0) : core.column + 250]
    reach = int((wide > model.fraction * model.saturation).sum(axis=1).max())
    for y in range(strip.shape[0]):
        half = int((reach * math.exp(-model.constant * y) + core.width) / 2)
        found[turn][y, max(core.column - half, 0) : min(core.column + half, width)] = True
    return True


def _background(image: Image, detector: Detector, column: int, bottom: bool) -> float:
    """Return the median of the amplifier in this column at the edge opposite to the bleed."""
    for amp in detector.amplifiers:
        box = amp.bbox
        opposite = box.y + box.height == detector.height if bottom else box.y == 0
        if opposite and box.x <= column < box.x + box.width:
            return float(np.median(image[box.slices]))
    return math.nan


def sag_columns(saturated: Flags, min_area: int, max_area: int) -> npt.NDArray[np.bool_]:
    """Tell which columns sag: more than a fifth of their rows in one saturated area; (columns,)."""
    found = np.zeros(saturated.shape[1], dtype=bool)
    for area in areas_of(saturated):
        if min_area <= area.size < max_area:
            long = area.pixels.sum(axis=0) > SAG_FRACTION * saturated.shape[0]
            found[area.column : area.column + long.size] |= long
    return found


def dip_columns(
    saturated: Flags,
    background: float,
    *,
    fraction: float,
    min_height: int,
    min_width: int,
    max_width: int,
    width_scale: float,
    min_noise_fraction: float,
) -> npt.NDArray[np.bool_]:
    """Tell which columns show a dip, (columns,).

    An area of ``min_width`` to ``max_width`` columns and at least ``min_height`` rows darkens the
    columns within ``width_scale`` times its width, when the loss of ``fraction`` of the background
    (electron) over its width is at least ``min_noise_fraction`` of the background's photon noise.
    """
    found = np.zeros(saturated.shape[1], dtype=bool)
    if not background > 0:
        return found
    for area in areas_of(saturated):
        height, width = area.pixels.shape
        if height < min_height or not min_width <= width <= max_width:
            continue
        if fraction * background * width >= min_noise_fraction * math.sqrt(background):
            middle, half = area.column + (width - 1) / 2, width_scale * width / 2
            found[max(int(middle - half), 0) : int(middle + half) + 1] = True
    return found
