"""The inner loop of the combiners: one number per pixel from a stack of frames.

This module holds the numpy version and chooses between it and the compiled one in
``cpplug_combine.compiled``. Both add the same numbers in the same order and agree to the last bit;
numpy is used where numba is absent, or with ``CPPLUG_NO_NUMBA=1``. numba keeps its compiled code
beside the module, or where ``NUMBA_CACHE_DIR`` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kernel = Callable[..., int]

MEAN, MEDIAN, CLIPPED_MEAN = 0, 1, 2
IQR_TO_SIGMA = 0.741301109252802
HALF_PI = np.pi / 2


@cache
def sorting_network(n: int) -> npt.NDArray[np.int32]:
    """Return the exchanges (i, j) of Batcher's odd-even merge sort of ``n`` values, (m, 2)."""
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs.extend(
                    (i + j, i + j + k)
                    for i in range(min(k, n - j - k))
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                )
            k //= 2
        p *= 2
    return np.asarray(pairs, dtype=np.int32).reshape(-1, 2)


@cache
def quartile_network(n: int) -> npt.NDArray[np.int32]:
    """Return the part of :func:`sorting_network` that the median and the quartiles depend on."""
    wanted: set[int] = set()
    for fraction in (0.25, 0.5, 0.75):
        low = int(fraction * (n - 1))
        wanted |= {low, min(low + 1, n - 1)}
    kept = []
    for i, j in sorting_network(n)[::-1]:
        if i in wanted or j in wanted:
            wanted |= {i, j}
            kept.append((i, j))
    return np.asarray(kept[::-1], dtype=np.int32).reshape(-1, 2)


def stack_numpy(
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
    """Combine ``values`` (n, pixels) into ``image``, ``variance``, ``mask``, ``used`` (pixels,).

    Returns how many values were good: finite and not excluded by their mask.

    ``masks`` and ``variances`` are (n, pixels) or (0, 0) when there are none; ``full`` and
    ``short`` are the sorting networks, which only the compiled version needs.
    """
    n = values.shape[0]
    good = np.isfinite(values)
    if masks.size:
        good &= (masks & np.uint16(exclude)) == 0
    count = good.sum(axis=0)
    # Deviations are summed from the first good value, so that no digits are lost to the level.
    pixels = np.arange(values.shape[1])
    origin = np.where(count > 0, values[good.argmax(axis=0), pixels], 0).astype(np.float64)
    with np.errstate(all="ignore"):
        ordered = np.sort(np.where(good, values, np.float32(np.inf)), axis=0)
        mean, spread = _moments(values, good, origin)
        kept, keep = count.copy(), good
        if statistic != MEAN:
            middle = _quantile(ordered, count, 0.5)
        if statistic == CLIPPED_MEAN:
            centre = middle
            half = (clip * IQR_TO_SIGMA) * (
                _quantile(ordered, count, 0.75) - _quantile(ordered, count, 0.25)
            )
            for _ in range(n_iter):
                inside = good & (np.abs(values - centre) <= half)
                enough = inside.sum(axis=0) >= 2
                new_mean, new_spread = _moments(values, inside, centre)
                mean = np.where(enough, new_mean, mean)
                spread = np.where(enough, new_spread, spread)
                kept = np.where(enough, inside.sum(axis=0), kept)
                keep = np.where(enough, inside, keep)
                centre, half = mean, clip * np.sqrt(spread)
        error2 = spread / kept
        if statistic == MEDIAN:
            mean, error2 = middle, HALF_PI * error2
        elif variances.size:
            total = np.zeros(values.shape[1])
            for i in range(n):
                total += np.where(keep[i], variances[i], 0)
            error2 = total / (kept.astype(np.float64) * kept)
    empty = count == 0
    image[:] = np.where(empty, np.nan, mean)
    variance[:] = np.where(empty, np.nan, error2)
    used[:] = kept
    mask[:] = 0
    if masks.size:
        mask[:] = np.bitwise_or.reduce(np.where(good, masks, np.uint16(0)), axis=0)
    mask[empty] = no_good
    return int(count.sum())


def _moments(values: Array, use: Array, origin: Array) -> tuple[Array, Array]:
    """Return mean and unbiased variance over the frames, summed in order around ``origin``."""
    s1, s2 = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for i in range(values.shape[0]):
        d = np.where(use[i], values[i] - origin, 0.0)
        s1 += d
        s2 += d * d
    k = use.sum(axis=0)
    return origin + s1 / k, np.where(k > 1, np.maximum(s2 - s1 * s1 / k, 0.0) / (k - 1), np.nan)


def _quantile(ordered: Array, count: Array, fraction: float) -> Array:
    position = fraction * np.maximum(count - 1, 0)
    low = position.astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    pixels = np.arange(ordered.shape[1])
    below = ordered[low, pixels].astype(np.float64)
    result: Array = below + (position - low) * (ordered[high, pixels] - below)
    return result


@cache
def kernel() -> Kernel:
    """Return the compiled kernel, or the numpy one where numba is absent or not wanted."""
    if os.environ.get("CPPLUG_NO_NUMBA") == "1":
        return stack_numpy
    try:
        from cpplug_combine.compiled import stack_compiled
    except ImportError:
        return stack_numpy
    return stack_compiled
