"""The inverse of the read-out, row by row, compiled by numba.

Images are (rows, columns) in electrons and in read-out order: column 0 is read first. Each row is
read from an empty register. Formulas: algorithms A.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])
LINEAR, LOGISTIC, SPLINE = 0, 1, 2


def compiled(function: F) -> F:
    """Compile on first use; keep the result on disk wherever numba finds a folder to write to."""
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no such folder: compile again in every process
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def captured(charge: float, kind: int, size: float, terms: Array) -> float:
    """Return the charge (electron) that a trap takes from ``charge`` passing by; 0 of NaN."""
    q = charge if charge > 0.0 else 0.0
    held: float = 0.0
    if kind == LINEAR:
        held = min(size, q * terms[0])
        return held
    if kind == LOGISTIC:
        held = size / (1.0 + np.exp(-terms[1] * (q - terms[0])))
        return held
    n = terms.size // 2
    if q >= terms[n - 1]:
        held = terms[2 * n - 1]
        return held
    if q <= terms[0]:
        held = terms[n]
        return held
    low, high = 0, n - 1
    while high - low > 1:
        middle = (low + high) // 2
        if q >= terms[middle]:
            low = middle
        else:
            high = middle
    rise = (terms[n + high] - terms[n + low]) / (terms[high] - terms[low])
    held = rise * (q - terms[low]) + terms[n + low]
    return held


@compiled
def capture(charge: Array, kind: int, size: float, terms: Array, out: Array) -> None:
    """Write what a trap takes of each charge, (n,)."""
    for i in range(charge.size):
        out[i] = captured(charge[i], kind, size, terms)


@compiled
def remove_offset(row: Array, weights: Array, out: Array) -> None:
    """Write the row without the drift of the output: I - max over n of w_n max(0, I(x - n))."""
    for x in range(row.size):
        out[x] = 0.0
    for n in range(weights.size):
        for x in range(n, row.size):
            drift = row[x - n] * weights[n]
            if drift > out[x]:
                out[x] = drift
    for x in range(row.size):
        out[x] = row[x] - out[x]


@compiled
def return_trapped(
    row: Array,
    kind: int,
    size: float,
    terms: Array,
    r: float,
    pixels: int,
    kept: float,
    taken: Array,
    out: Array,
) -> None:
    """Write the row with trapped charge put back where it was: I - kept (released - captured).

    The trap is as full as the fullest of the ``pixels`` before left it, at ``r`` per pixel;
    ``kept`` is 1 minus the loss per transfer; ``taken`` is room for one row.
    """
    for x in range(row.size):
        taken[x] = captured(row[x], kind, size, terms)
    for x in range(row.size):
        occupied, weight = 0.0, 1.0
        for n in range(min(pixels, x)):
            left = taken[x - 1 - n] * weight
            weight *= r
            if left > occupied:
                occupied = left
        released = occupied * (1.0 - r) if x > 0 else 0.0
        more = taken[x] - occupied * r
        out[x] = row[x] - kept * (released - (more if more > 0.0 else 0.0))


@compiled
def restore(
    image: Array,
    weights: Array,
    kind: int,
    size: float,
    terms: Array,
    r: float,
    pixels: int,
    kept: float,
    gain: float,
    start: int,
) -> float:
    """Undo drift and trapping of an amplifier in place, from column ``start`` on.

    Returns the mean of the absolute changes, in the unit of the image; pixels that are not numbers
    do not count.

    ``image`` times ``gain`` is electrons; columns before ``start`` count as empty and are left
    alone. ``weights`` without entries leaves the drift out.
    """
    rows, columns = image.shape
    read, settled = np.zeros(columns), np.zeros(columns)
    taken, whole = np.empty(columns), np.empty(columns)
    moved, counted = 0.0, 0
    for y in range(rows):
        for x in range(start, columns):
            read[x] = np.float64(image[y, x]) * gain
        if weights.size:
            remove_offset(read, weights, settled)
        else:
            settled[:] = read
        return_trapped(settled, kind, size, terms, r, pixels, kept, taken, whole)
        for x in range(start, columns):
            image[y, x] = whole[x] / gain
            change = abs(whole[x] - read[x]) / gain
            if np.isfinite(change):
                moved += change
                counted += 1
    return moved / counted if counted else 0.0
