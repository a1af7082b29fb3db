"""Statistics that every calibration rests on: clipped means, medians, robust widths.

All functions are pure and work on plain arrays. A pixel is *good* when it is finite and carries
none of the excluded mask bits. Sums are in float64 whatever the pixels are. The clipped statistics
restart from all good pixels in every pass, as the reference pipeline does (algorithms 0.3): a pixel
that the first crude pass threw out can come back.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

IQR_TO_SIGMA = 0.741301109252802
"""Standard deviation of a Gaussian over its interquartile range."""
MAD_TO_SIGMA = 1.4826022185056018
"""Standard deviation of a Gaussian over its median absolute deviation."""


class Clipped(NamedTuple):
    """A clipped mean: mean, unbiased variance of the kept values, how many were kept and good."""

    mean: float
    variance: float
    n: int
    n_good: int

    @property
    def sigma(self) -> float:
        """The standard deviation of the kept values."""
        return math.sqrt(self.variance)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.variance / self.n) if self.n else math.nan


class ClippedRows(NamedTuple):
    """Clipped means of many rows: mean, unbiased variance and number of kept values, (rows,)."""

    mean: Reals
    variance: Reals
    n: npt.NDArray[np.int64]


def good_pixels(values: Values, mask: Values | None = None, exclude: int = 0) -> Flags:
    """Tell which pixels are finite and free of the excluded mask bits; same shape as ``values``."""
    good: Flags = np.isfinite(values)
    if mask is not None and exclude:
        good &= (mask & mask.dtype.type(exclude)) == 0
    return good


def quantiles(values: Values, fractions: tuple[float, ...], good: Flags | None = None) -> Reals:
    """Return quantiles of the good values, interpolated linearly between neighbours.

    Parameters
    ----------
    values
        Any shape.
    fractions
        Quantiles wanted, each 0 to 1.
    good
        Which values count; finite ones when None.

    Returns
    -------
    numpy.ndarray
        float64, one per fraction; NaN when no value is good.
    """
    kept = values[np.isfinite(values) if good is None else good].ravel()
    if kept.size == 0:
        return np.full(len(fractions), np.nan)
    positions = np.asarray(fractions) * (kept.size - 1)
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, kept.size - 1)
    ordered = np.partition(kept, np.unique(np.concatenate([low, high])))
    below = ordered[low].astype(np.float64)
    above = ordered[high].astype(np.float64)
    result: Reals = below + (positions - low) * (above - below)
    return result


def median(values: Values, good: Flags | None = None) -> float:
    """Return the median of the good values; NaN when there is none."""
    return float(quantiles(values, (0.5,), good)[0])


def quartile_range(values: Values, good: Flags | None = None) -> float:
    """Return the interquartile range of the good values; NaN when there is none."""
    low, high = quantiles(values, (0.25, 0.75), good)
    return float(high - low)


def mad_sigma(values: Values, good: Flags | None = None) -> float:
    """Return 1.4826 times the median absolute deviation of the good values."""
    kept = values[np.isfinite(values) if good is None else good].astype(np.float64)
    return MAD_TO_SIGMA * median(np.abs(kept - median(kept))) if kept.size else math.nan


def mean_variance(values: Values, good: Flags | None = None) -> tuple[float, float, int]:
    """Return mean, unbiased variance (NaN below two values) and number of the good values."""
    kept = values[np.isfinite(values) if good is None else good]
    if kept.size == 0:
        return math.nan, math.nan, 0
    mean = float(kept.mean(dtype=np.float64))
    if kept.size < 2:
        return mean, math.nan, 1
    return mean, float(kept.var(dtype=np.float64, ddof=1)), kept.size


def clipped(
    values: Values, good: Flags | None = None, *, clip: float = 3.0, n_iter: int = 3
) -> Clipped:
    """Return mean and unbiased variance of the values within ``clip`` sigma of the centre.

    The first pass keeps ``|x - median| <= clip * 0.7413 * IQR``, later ones
    ``|x - mean| <= clip * sigma`` of the pass before; every pass tests all good values. A pass that
    would keep fewer than two values leaves the estimate as it was (algorithms 0.3, item 3).

    Parameters
    ----------
    values
        Any shape.
    good
        Which values count; finite ones when None.
    clip
        Half width of the clip, in standard deviations.
    n_iter
        Number of passes.
    """
    kept = values[np.isfinite(values) if good is None else good].ravel()
    mean, variance, n = mean_variance(kept)
    if kept.size < 2:
        return Clipped(mean, variance, n, kept.size)
    low, centre, high = quantiles(kept, (0.25, 0.5, 0.75))
    half = clip * IQR_TO_SIGMA * (high - low)
    for _ in range(n_iter):
        inside = kept[np.abs(kept - centre) <= half]
        if inside.size >= 2:
            mean, variance, n = mean_variance(inside)
        centre, half = mean, clip * math.sqrt(variance)
    return Clipped(mean, variance, n, kept.size)


def _sorted_rows(values: Values, good: Flags) -> tuple[Reals, npt.NDArray[np.int64]]:
    """Sort each row, good values first; return float64 (rows, n) and the good count per row."""
    ordered = np.where(good, values, np.inf).astype(np.float64)
    ordered.sort(axis=1)
    return ordered, np.count_nonzero(good, axis=1)


def _row_quantile(ordered: Reals, count: npt.NDArray[np.int64], fraction: float) -> Reals:
    position = fraction * np.maximum(count - 1, 0)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    rows = np.arange(ordered.shape[0])
    below, above = ordered[rows, low], ordered[rows, high]
    with np.errstate(invalid="ignore"):
        result: Reals = np.where(count > 0, below + (position - low) * (above - below), np.nan)
    return result


def quantile_rows(values: Values, fractions: tuple[float, ...], good: Flags | None = None) -> Reals:
    """Return quantiles along the last axis: (fractions, rows); NaN where a row has no good value.

    Parameters
    ----------
    values
        (rows, n).
    fractions
        Quantiles wanted, each 0 to 1.
    good
        (rows, n); finite values when None.
    """
    ordered, count = _sorted_rows(values, np.isfinite(values) if good is None else good)
    return np.stack([_row_quantile(ordered, count, fraction) for fraction in fractions])


def median_rows(values: Values, good: Flags | None = None) -> Reals:
    """Return the median of the good values of every row, (rows,); NaN where there is none."""
    ordered, count = _sorted_rows(values, np.isfinite(values) if good is None else good)
    return _row_quantile(ordered, count, 0.5)


def mean_rows(values: Values, good: Flags | None = None) -> Reals:
    """Return the mean of the good values of every row, (rows,); NaN where there is none."""
    use = np.isfinite(values) if good is None else good
    count = np.count_nonzero(use, axis=1)
    total = np.where(use, values, 0).sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def clipped_rows(
    values: Values, good: Flags | None = None, *, clip: float = 3.0, n_iter: int = 3
) -> ClippedRows:
    """Return :func:`clipped` of every row of ``values`` (rows, n), all rows at once."""
    use = np.isfinite(values) if good is None else good
    ordered, count = _sorted_rows(values, use)
    data = np.where(use, values, 0).astype(np.float64)
    low, centre, high = (_row_quantile(ordered, count, f) for f in (0.25, 0.5, 0.75))
    mean, variance = _moments_rows(data, use, count)
    kept = count.copy()
    half = clip * IQR_TO_SIGMA * (high - low)
    for _ in range(n_iter):
        with np.errstate(invalid="ignore"):
            inside = use & (np.abs(data - centre[:, None]) <= half[:, None])
        n = np.count_nonzero(inside, axis=1)
        new_mean, new_variance = _moments_rows(data, inside, n)
        enough = n >= 2
        mean = np.where(enough, new_mean, mean)
        variance = np.where(enough, new_variance, variance)
        kept = np.where(enough, n, kept)
        centre, half = mean, clip * np.sqrt(variance)
    return ClippedRows(mean, variance, kept)


def _moments_rows(data: Reals, use: Flags, n: npt.NDArray[np.int64]) -> tuple[Reals, Reals]:
    mean = np.where(n > 0, (data * use).sum(axis=1) / np.maximum(n, 1), np.nan)
    spread = np.where(use, data - np.where(n > 0, mean, 0.0)[:, None], 0.0)
    variance = np.where(n > 1, (spread**2).sum(axis=1) / np.maximum(n - 1, 1), np.nan)
    return mean, variance


def integer_median(values: Values, good: Flags | None = None) -> float:
    """Return the median of whole numbers, interpolated inside ties.

    Each number v stands for the interval [v - 0.5, v + 0.5], over which its repeats are spread
    evenly (algorithms 0.3, item 1), so the median of many whole numbers is not itself one.
    """
    kept = values[np.isfinite(values) if good is None else good].ravel()
    return float(integer_median_rows(kept[None, :])[0])


def integer_median_rows(values: Values, good: Flags | None = None) -> Reals:
    """Return :func:`integer_median` of every row of ``values`` (rows, n); NaN where none is good.

    With N good numbers of which ``below`` are less than the middle one, v, and ``ties`` equal it:
    v - 0.5 + (N / 2 - below) / ties.
    """
    use = np.isfinite(values) if good is None else good
    ordered, count = _sorted_rows(values, use)
    rows = np.arange(ordered.shape[0])
    if ordered.shape[1] == 0:
        return np.full(ordered.shape[0], np.nan)
    middle = ordered[rows, np.maximum(count - 1, 0) // 2]
    below = np.count_nonzero(ordered < middle[:, None], axis=1)
    ties = np.count_nonzero(ordered == middle[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, middle - 0.5 + (count / 2 - below) / np.maximum(ties, 1), np.nan)


def truncation_correction(clip: float) -> float:
    """Return what a standard deviation clipped at +- ``clip`` sigma is multiplied by.

    A Gaussian cut at n sigma keeps the fraction 1 - 2 n phi(n) / (Phi(n) - Phi(-n)) of its
    variance; the result is one over the root of it (algorithms 0.7): 1.0136 at 3 sigma.

    Raises
    ------
    ValueError
        When ``clip`` is not positive.
    """
    if not clip > 0:
        raise ValueError("the clip must be larger than zero")
    density = math.exp(-0.5 * clip * clip) / math.sqrt(2 * math.pi)
    return 1 / math.sqrt(1 - 2 * clip * density / math.erf(clip / math.sqrt(2)))


def running_median(values: Values, width: int) -> Reals:
    """Return the median of ``width`` neighbours around each value; ends are mirrored.

    Parameters
    ----------
    values
        (n,).
    width
        Odd number of neighbours, at least 1.

    Raises
    ------
    ValueError
        When ``width`` is even or less than 1.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError("the width of a running median must be odd")
    half = width // 2
    padded = np.pad(np.asarray(values, dtype=np.float64), half, mode="symmetric")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
