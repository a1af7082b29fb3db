"""Levels of many small boxes of an image, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])
MEDIAN, MEAN = 0, 1
IQR_TO_SIGMA = 0.741301109252802


def compiled(function: F) -> F:
    """Compile on first use; keep the result on disk wherever numba finds a folder to write to."""
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no such folder: compile again in every process
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def _inside(values: Array, centre: float, half: float) -> tuple[float, float, int]:
    """Return mean, unbiased standard deviation and number of values within half of centre."""
    total, count = 0.0, 0
    for value in values:
        if abs(value - centre) <= half:
            total += value
            count += 1
    if count < 2:
        return np.nan, np.nan, count
    mean, squares = total / count, 0.0
    for value in values:
        if abs(value - centre) <= half:
            squares += (value - mean) ** 2
    return mean, np.sqrt(squares / (count - 1)), count


@compiled
def _clipped_mean(values: Array, clip: float, n_iter: int) -> Any:
    """Return the clipped mean as ``cpplug.api.clipped`` defines it."""
    quartiles = np.quantile(values, np.array([0.25, 0.5, 0.75]))
    centre, half = quartiles[1], clip * IQR_TO_SIGMA * (quartiles[2] - quartiles[0])
    result = values.mean()
    for _ in range(n_iter):
        mean, sigma, count = _inside(values, centre, half)
        if count < 2:
            break
        result, centre, half = mean, mean, clip * sigma
    return result


@compiled
def box_levels(
    image: Array, bad: Array, positions: Array, half: int, kind: int, clip: float, n_iter: int
) -> Array:
    """Return median (0), mean (1) or clipped mean (2) of the good pixels of boxes, float64."""
    levels = np.full(positions.shape[0], np.nan)
    values = np.empty(4 * half * half)
    for n in range(positions.shape[0]):
        x0, y0 = positions[n, 0] - half, positions[n, 1] - half
        count = 0
        for y in range(y0, y0 + 2 * half):
            for x in range(x0, x0 + 2 * half):
                if not bad[y, x] and np.isfinite(image[y, x]):
                    values[count] = image[y, x]
                    count += 1
        if count == 0:
            continue
        if kind == MEDIAN:
            levels[n] = np.median(values[:count])
        elif kind == MEAN:
            levels[n] = values[:count].mean()
        else:
            levels[n] = _clipped_mean(values[:count], clip, n_iter)
    return levels
