"""Shapes of masked areas: the runs of a row, and how areas are grown.

A run is an unbroken stretch of marked pixels in one row. Growing uses the diamond metric of the
reference pipeline: a pixel is reached when the sum of its row and column distance is small enough.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]


class Runs(NamedTuple):
    """Runs of marked pixels, row by row: row, first column, column after the last; (n,) each."""

    row: Whole
    start: Whole
    stop: Whole

    @property
    def length(self) -> Whole:
        """Number of pixels of each run."""
        return self.stop - self.start


def runs_of(flags: Flags) -> Runs:
    """Return the runs of True along the rows of ``flags`` (rows, columns)."""
    rows = np.flatnonzero(flags.any(axis=1))
    width = flags.shape[1] + 1
    padded = np.zeros((rows.size, width), dtype=bool)
    padded[:, :-1] = flags[rows]
    flat = padded.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        edges = np.concatenate([[0], edges])
    start, stop = edges[0::2], edges[1::2]
    return Runs(rows[start // width], start % width, stop % width)


def paint_runs(shape: tuple[int, int], runs: Runs, extra: Whole) -> Flags:
    """Return an image of the runs, each made longer at both ends by ``extra`` (n,), clipped."""
    height, width = shape
    change = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(change, (runs.row, np.maximum(runs.start - extra, 0)), 1)
    np.add.at(change, (runs.row, np.minimum(runs.stop + extra, width)), -1)
    return np.asarray(change.cumsum(axis=1)[:, :-1] > 0)


def grow(flags: Flags, radius: int) -> Flags:
    """Return ``flags`` grown by ``radius`` pixels in the diamond metric; a new array."""
    grown = flags.copy()
    if not grown.any():
        return grown
    for _ in range(radius):
        inner = grown.copy()
        grown[1:] |= inner[:-1]
        grown[:-1] |= inner[1:]
        grown[:, 1:] |= inner[:, :-1]
        grown[:, :-1] |= inner[:, 1:]
    return grown
