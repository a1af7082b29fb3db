"""The loops over pixels of the brighter-fatter correction, compiled by numba.

``near`` and ``field`` are a block of the image and of the field that its charge makes, with a ring
of one pixel around the block; results are added to ``total`` from row ``y0`` and column ``x0`` on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on first use; keep the result on disk wherever numba finds a folder to write to."""
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no such folder: compile again in every process
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def add_divergence(near: Array, field: Array, total: Array, y0: int, x0: int) -> None:
    """Add half the divergence of image times gradient: (grad I grad phi + I lap phi) / 2."""
    rows, columns = near.shape[0] - 2, near.shape[1] - 2
    for y in range(1, rows + 1):
        for x in range(1, columns + 1):
            slope = 0.25 * (near[y + 1, x] - near[y - 1, x]) * (field[y + 1, x] - field[y - 1, x])
            slope += 0.25 * (near[y, x + 1] - near[y, x - 1]) * (field[y, x + 1] - field[y, x - 1])
            bend = field[y + 1, x] + field[y - 1, x] + field[y, x + 1] + field[y, x - 1]
            bend -= 4.0 * field[y, x]
            total[y0 + y - 1, x0 + x - 1] += 0.5 * (slope + near[y, x] * bend)


@compiled
def add_flow(
    near: Array, field: Array, total: Array, y0: int, x0: int, end_y: int, end_x: int
) -> None:
    """Move charge across the right and the upper border of every pixel, down the field.

    The amount is half the difference of the field times the charge on the low side. Borders at
    ``end_y`` and ``end_x`` stay closed.
    """
    rows, columns = near.shape[0] - 2, near.shape[1] - 2
    for y in range(1, rows + 1):
        for x in range(1, columns + 1):
            ty, tx = y0 + y - 1, x0 + x - 1
            if tx + 1 < end_x:
                step = field[y, x + 1] - field[y, x]
                gain = 0.5 * step * (near[y, x] if step > 0 else near[y, x + 1])
                total[ty, tx] += gain
                total[ty, tx + 1] -= gain
            if ty + 1 < end_y:
                step = field[y + 1, x] - field[y, x]
                gain = 0.5 * step * (near[y, x] if step > 0 else near[y + 1, x])
                total[ty, tx] += gain
                total[ty + 1, tx] -= gain


@compiled
def add_shift(
    near: Array, field: Array, total: Array, y0: int, x0: int, end: int, dy: int, dx: int
) -> None:
    """Give back what crossed the border to the neighbour (dy, dx) because it was shifted.

    ``field`` is the final shift of that border, in pixels; on average it was half of it, and it
    swept the mean charge of the two pixels. Borders at ``end`` stay closed.
    """
    rows, columns = near.shape[0] - 2, near.shape[1] - 2
    for y in range(1, rows + 1):
        for x in range(1, columns + 1):
            ty, tx = y0 + y - 1, x0 + x - 1
            if (ty + 1) * dy + (tx + 1) * dx < end:
                moved = 0.25 * field[y, x] * (near[y, x] + near[y + dy, x + dx])
                total[ty, tx] -= moved
                total[ty + dy, tx + dx] += moved


@compiled
def fill_rows(image: Array, bad: Array) -> None:
    """Bridge bad pixels linearly along rows, in place; only rows without a good one stay bad."""
    rows, columns = image.shape
    for y in range(rows):
        last = -1
        for x in range(columns + 1):
            if x < columns and bad[y, x]:
                continue
            if x - last > 1 and not (last < 0 and x == columns):
                for i in range(last + 1, x):
                    if last < 0:
                        image[y, i] = image[y, x]
                    elif x == columns:
                        image[y, i] = image[y, last]
                    else:
                        part = (i - last) / (x - last)
                        image[y, i] = (1.0 - part) * image[y, last] + part * image[y, x]
                    bad[y, i] = False
            last = x
