"""The linearity curves, evaluated pixel by pixel and compiled by numba.

Every function works in place on one amplifier. Curves are in ADU; pixels are ADU times ``gain``
(pass 1 for an image in ADU), so that one curve serves frames in ADU and in electrons. Where
``variance`` has pixels it is multiplied by the square of the slope of the curve at each pixel. A
pixel brighter than the curve covers gets ``bit`` in its mask. Pixels that are not numbers stay.
Formulas: algorithms A.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
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
def polynomial(image: Array, variance: Array, terms: Array, gain: float) -> None:
    """Replace x by x + sum of ``terms[k] * x**(k + 2)``."""
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            x = np.float64(image[row, column]) / gain
            if not np.isfinite(x):
                continue
            excess, slope = 0.0, 0.0
            for k in range(terms.size - 1, -1, -1):
                slope = slope * x + (k + 2) * terms[k]
                excess = excess * x + terms[k]
            image[row, column] = (x + excess * x * x) * gain
            if variance.size:
                variance[row, column] *= (1.0 + slope * x) ** 2


@compiled
def splines(
    image: Array,
    mask: Array,
    variance: Array,
    breaks: Array,
    cubics: Array,
    ends: Array,
    gain: float,
    bit: int,
) -> int:
    """Subtract one spline of the pixel after the other; return the number of pixels beyond one.

    Spline ``i`` has the breakpoints ``breaks[ends[i] : ends[i + 1]]``; ``cubics[:, j]`` are the
    coefficients, highest power first, of the piece that starts at breakpoint j. Below the first
    and beyond the last breakpoint the spline keeps the value it has there.
    """
    rows, columns = image.shape
    beyond = 0
    for row in range(rows):
        for column in range(columns):
            x = np.float64(image[row, column]) / gain
            if not np.isfinite(x):
                continue
            slope, outside = 1.0, False
            for i in range(ends.size - 1):
                first, last = ends[i], ends[i + 1] - 1
                at = min(max(x, breaks[first]), breaks[last])
                low, high = first, last
                while high - low > 1:
                    middle = (low + high) // 2
                    if at >= breaks[middle]:
                        low = middle
                    else:
                        high = middle
                t = at - breaks[low]
                a, b, c, d = cubics[0, low], cubics[1, low], cubics[2, low], cubics[3, low]
                outside = outside or x > breaks[last]
                if breaks[first] <= x <= breaks[last]:
                    slope *= 1.0 - ((3.0 * a * t + 2.0 * b) * t + c)
                x -= ((a * t + b) * t + c) * t + d
            image[row, column] = x * gain
            if outside:
                mask[row, column] |= bit
                beyond += 1
            if variance.size:
                variance[row, column] *= slope * slope
    return beyond


@compiled
def _entry(table: Array, x: float) -> float:
    """Return the table at the whole part of x, its first or last entry outside."""
    value: float = table[int(min(max(x, 0.0), table.size - 1.0))]
    return value


@compiled
def lookup(
    image: Array,
    mask: Array,
    variance: Array,
    table: Array,
    offset: float,
    gain: float,
    bit: int,
) -> int:
    """Add the table entry of each pixel; return the number of pixels off either end of the table.

    The slope is that of the table over one standard deviation of the pixel to either side.
    """
    rows, columns = image.shape
    off = 0
    for row in range(rows):
        for column in range(columns):
            x = np.float64(image[row, column]) / gain
            if not np.isfinite(x):
                continue
            at = x + offset
            if at >= table.size:
                mask[row, column] |= bit
            if at >= table.size or at <= -1.0:
                off += 1
            image[row, column] = (x + _entry(table, at)) * gain
            if variance.size:
                reach = max(np.sqrt(max(variance[row, column], 0.0)) / gain, 1.0)
                rise = _entry(table, at + reach) - _entry(table, at - reach)
                variance[row, column] *= (1.0 + rise / (2.0 * reach)) ** 2
    return off
