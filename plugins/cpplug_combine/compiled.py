"""The inner loop of the combiners, compiled by numba.

Pixels are worked on in tiles of 64 neighbours that stay in the processor's cache. Quartiles come
from a sorting network whose exchanges run over all lanes of a tile at once; the clip then goes over
the frames in their order with float64 sums. What it computes is written down, in fewer lines, in
``cpplug_combine.kernel.stack_numpy``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from cpplug_combine.kernel import CLIPPED_MEAN, HALF_PI, IQR_TO_SIGMA, MEAN, MEDIAN

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])
LANES = 64
EVERYTHING = np.finfo(np.float64).max
"""Half width of a clip that clips nothing."""


def compiled(function: F) -> F:
    """Compile on first use; keep the result on disk wherever numba finds a folder to write to."""
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no such folder: compile again in every process
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def _sum_inside(data: Array, centre: Array, half: Array, s1: Array, s2: Array, k: Array) -> None:
    """Sum the deviations from ``centre`` of what lies within ``half``: count, sum, squares."""
    for lane in range(LANES):
        s1[lane] = 0.0
        s2[lane] = 0.0
        k[lane] = 0.0
    for i in range(data.shape[0]):
        for lane in range(LANES):
            d = np.float64(data[i, lane]) - centre[lane]
            inside = abs(d) <= half[lane]
            d = d if inside else 0.0
            s1[lane] += d
            s2[lane] += d * d
            k[lane] += 1.0 if inside else 0.0


@compiled
def _close(origin: float, s1: float, s2: float, k: float) -> tuple[float, float]:
    """Turn sums of deviations into mean and unbiased variance."""
    return origin + s1 / k, max(s2 - s1 * s1 / k, 0.0) / (k - 1) if k > 1 else np.nan


@compiled
def _exchange(ordered: Array, network: Array) -> None:
    """Sort every lane: put the smaller of each pair first."""
    for m in range(network.shape[0]):
        i, j = network[m, 0], network[m, 1]
        for lane in range(LANES):
            a, b = ordered[i, lane], ordered[j, lane]
            ordered[i, lane] = a if a < b else b
            ordered[j, lane] = b if a < b else a


@compiled
def _at(ordered: Array, lane: int, count: int, fraction: float) -> float:
    """Return a quantile of the ``count`` good values of a lane."""
    last = max(count - 1, 0)
    position = fraction * last
    low = int(position)
    below = np.float64(ordered[low, lane])
    above = np.float64(ordered[min(low + 1, last), lane])
    return below + (position - low) * (above - below)


@compiled
def stack_compiled(
    values: Array,
    masks: Array,
    variances: Array,
    exclude: int,
    no_good: int,
    statistic: int,
    clip: float,
    n_iter: int,
    full: Array,
    short: Array,
    image: Array,
    variance: Array,
    mask: Array,
    used: Array,
) -> int:
    """Do what :func:`stack_numpy` does; written for numba."""
    usable = 0
    n, pixels = values.shape
    has_masks, has_variances = masks.shape[0] > 0, variances.shape[0] > 0
    data = np.empty((n, LANES), np.float32)
    ordered = np.empty((n, LANES), np.float32)
    count = np.empty(LANES, np.int64)
    kept = np.empty(LANES, np.int64)
    union = np.empty(LANES, np.uint16)
    centre, half = np.empty(LANES), np.empty(LANES)
    used_centre, used_half = np.empty(LANES), np.empty(LANES)
    middle, mean, spread = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    origin, clipped = np.empty(LANES), np.empty(LANES, np.bool_)
    s1, s2, k = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for first in range(0, pixels, LANES):
        lanes = min(LANES, pixels - first)
        # -- gather: infinity stands for a pixel that is not good
        for lane in range(LANES):
            count[lane] = 0
            union[lane] = 0
            centre[lane] = 0.0
        for i in range(n):
            for lane in range(lanes):
                value = values[i, first + lane]
                good = np.isfinite(value)
                if has_masks:
                    bits = masks[i, first + lane]
                    good = good and (bits & exclude) == 0
                    if good:
                        union[lane] |= bits
                if good and count[lane] == 0:
                    centre[lane] = value
                data[i, lane] = value if good else np.float32(np.inf)
                count[lane] += good
            for lane in range(lanes, LANES):
                data[i, lane] = np.float32(0)
        # -- plain mean around the first good value; a clip asks for it where it keeps too little
        for lane in range(LANES):
            half[lane] = EVERYTHING
            kept[lane] = count[lane]
            origin[lane] = centre[lane]
            used_centre[lane], used_half[lane] = centre[lane], EVERYTHING
            clipped[lane] = False
        clips = statistic == CLIPPED_MEAN and n_iter > 0
        if not clips:
            _sum_inside(data, centre, half, s1, s2, k)
            for lane in range(LANES):
                mean[lane], spread[lane] = _close(centre[lane], s1[lane], s2[lane], k[lane])
        # -- order statistics
        if statistic != MEAN:
            whole = True
            for i in range(n):
                for lane in range(LANES):
                    ordered[i, lane] = data[i, lane]
            for lane in range(lanes):
                whole = whole and count[lane] == n
            _exchange(ordered, short if whole else full)
            for lane in range(lanes):
                middle[lane] = _at(ordered, lane, count[lane], 0.5)
        if statistic == CLIPPED_MEAN:
            for lane in range(lanes):
                q25 = _at(ordered, lane, count[lane], 0.25)
                q75 = _at(ordered, lane, count[lane], 0.75)
                centre[lane] = middle[lane]
                half[lane] = (clip * IQR_TO_SIGMA) * (q75 - q25)
            for _ in range(n_iter):
                _sum_inside(data, centre, half, s1, s2, k)
                missing = False
                for lane in range(lanes):
                    if k[lane] >= 2:
                        mean[lane], spread[lane] = _close(centre[lane], s1[lane], s2[lane], k[lane])
                        kept[lane] = np.int64(k[lane])
                        used_centre[lane], used_half[lane] = centre[lane], half[lane]
                        clipped[lane] = True
                    missing = missing or not clipped[lane]
                if missing:
                    for lane in range(LANES):
                        half[lane] = EVERYTHING
                    _sum_inside(data, origin, half, s1, s2, k)
                    for lane in range(lanes):
                        if not clipped[lane]:
                            mean[lane], spread[lane] = _close(
                                origin[lane], s1[lane], s2[lane], k[lane]
                            )
                for lane in range(lanes):
                    centre[lane] = mean[lane]
                    half[lane] = clip * np.sqrt(spread[lane])
        # -- write
        for lane in range(lanes):
            p = first + lane
            used[p] = kept[lane]
            usable += count[lane]
            if count[lane] == 0:
                image[p], variance[p], mask[p] = np.nan, np.nan, no_good
                continue
            mask[p] = union[lane]
            error2 = spread[lane] / kept[lane]
            if statistic == MEDIAN:
                image[p], variance[p] = middle[lane], HALF_PI * error2
                continue
            if has_variances:
                total = 0.0
                for i in range(n):
                    value = data[i, lane]
                    inside = abs(value - used_centre[lane]) <= used_half[lane]
                    total += variances[i, p] if inside else 0.0
                error2 = total / (np.float64(kept[lane]) * kept[lane])
            image[p], variance[p] = mean[lane], error2
    return usable
