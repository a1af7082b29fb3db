"""Profiles along rows and columns: bands, waves, tears and steps that single numbers hide.

Pure functions on the pixels of one amplifier in read-out order. Source of the groups and their
numbers: algorithms A.18.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfiltfilt

from cpplug.api import Image, Mask, clipped_rows, good_pixels, mad_sigma, median
from cpplug_isr.shapes import Flags

Reals = npt.NDArray[np.float64]

BOXCAR = 3
"""Rows over which the overscan level is smoothed before bands are measured."""
BAND_QUANTILES = (0.1, 0.9)
TEAR_ROWS = slice(10, 210)
"""Rows next to the register in which tears are looked for."""
TEAR_EDGE = 25
"""Columns at either end that do not take part in the straight line."""
TEAR_PIXELS = 2
"""Columns at either end that show a tear."""
FILTER_ORDER = 5
FILTER_CUT = 1 / 15
BLOCK_ROWS = 64
WINDOW = 30
"""Rows on either side of a step; the first ones are skipped."""
STEP_THRESHOLD = 3.0
FLATNESS = 0.5
"""Largest change along a side of a step, over the step."""


def means(image: Image, good: Flags, axis: int, clip: float, n_iter: int) -> Reals:
    """Return the clipped mean of every row (axis 1) or column (axis 0); NaN where none is good."""
    values, use = (image, good) if axis == 1 else (image.T, good.T)
    with np.errstate(invalid="ignore"):
        return clipped_rows(values, use, clip=clip, n_iter=n_iter).mean


def spectrum(profile: Reals) -> Reals:
    """Return the amplitude of the waves in a profile: |FFT| under a Hamming window.

    Entry k belongs to k waves over the length of the profile. NaN count as the mean.
    """
    filled = np.where(np.isfinite(profile), profile, np.nanmean(profile))
    result: Reals = np.abs(np.fft.rfft(filled * np.hamming(filled.size)))
    return result


def banding(levels: Reals) -> float:
    """Return how far the 10 and 90 per cent points of the smoothed overscan levels are apart."""
    if levels.size < BOXCAR:
        return math.nan
    smooth = np.convolve(levels, np.ones(BOXCAR) / BOXCAR, mode="valid")
    low, high = np.quantile(smooth, BAND_QUANTILES)
    return float(high - low)


def tearing(image: Image, good: Flags) -> tuple[Reals, float]:
    """Return the column profile next to the register over its straight line, and its worst end.

    The profile is the mean of rows 10 to 209; the line is fitted without 25 columns at either end.
    The second value is the largest |profile - 1| of the two outermost columns of either end, NaN
    where the amplifier is too small or dark.
    """
    n = np.count_nonzero(good[TEAR_ROWS], axis=0)
    total = np.where(good, image, 0)[TEAR_ROWS].sum(axis=0, dtype=np.float64)
    profile = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    x = np.arange(profile.size)
    use = np.isfinite(profile)
    use[:TEAR_EDGE] = use[x.size - TEAR_EDGE :] = False
    if np.count_nonzero(use) < 2:
        return np.full(profile.size, np.nan), math.nan
    line = np.polynomial.Polynomial.fit(x[use], profile[use], 1)(x)
    if not (line > 0).all():
        return np.full(profile.size, np.nan), math.nan
    relative = profile / line
    ends = np.abs(np.concatenate([relative[:TEAR_PIXELS], relative[-TEAR_PIXELS:]]) - 1)
    return relative, float(np.nanmax(ends)) if np.isfinite(ends).any() else math.nan


def correlation(images: Sequence[Image], masks: Sequence[Mask], exclude: int) -> Reals:
    """Return Pearson's r of every two images of one shape, (n, n).

    Each pair is compared over the pixels that are finite and free of the excluded mask bits in
    both; NaN where these are fewer than three or do not vary.
    """
    centre = [
        median(image, good_pixels(image, mask, exclude))
        for image, mask in zip(images, masks, strict=True)
    ]
    sums = np.zeros((4, len(images), len(images)))
    for first in range(0, images[0].shape[0], BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        good = np.stack(
            [
                good_pixels(i[block], m[block], exclude).ravel()
                for i, m in zip(images, masks, strict=True)
            ]
        )
        values = np.stack([i[block].ravel() for i in images]) - np.array(centre)[:, None]
        values = np.where(good, values, 0.0)
        weight = good.astype(np.float64)
        sums += [weight @ weight.T, values @ weight.T, values**2 @ weight.T, values @ values.T]
    n, s, ss, cross = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = ss - s * s / n
        r: Reals = (cross - s * s.T / n) / np.sqrt(variance * variance.T)
    r[(n < 3) | ~np.isfinite(r)] = np.nan
    return r


def bias_shifts(levels: Reals) -> tuple[float, list[tuple[int, float]]]:
    """Return the noise of the overscan levels and the rows at which they jump, with the height.

    The noise is the robust standard deviation, which jumps do not raise, of the levels above 1/15
    of the highest frequency (Butterworth filter of order 5, forth and back). A jump is the
    difference of the ramp-weighted means of the 30 rows after and before; it counts beyond row 30
    when it exceeds three times the noise, is the largest within 30 rows, and both sides are flat
    beside it.
    """
    if levels.size < 3 * WINDOW or not np.isfinite(levels).all():
        return math.nan, []
    high = butter(FILTER_ORDER, FILTER_CUT, btype="highpass", output="sos")
    noise = mad_sigma(sosfiltfilt(high, levels))
    ramp = np.arange(1.0, WINDOW + 1)
    ramp /= ramp.sum()
    after = np.convolve(levels, ramp, mode="valid")
    before = np.convolve(levels, ramp[::-1], mode="valid")
    jumps = after[WINDOW:] - before[:-WINDOW]
    found = []
    for index in np.flatnonzero(np.abs(jumps) > STEP_THRESHOLD * noise):
        near = jumps[max(index - WINDOW, 0) : index + WINDOW + 1]
        row, jump = int(index) + WINDOW, float(jumps[index])
        sides = (levels[row - WINDOW : row], levels[row : row + WINDOW])
        change = max(abs(np.polyfit(np.arange(WINDOW), side, 1)[0]) * WINDOW for side in sides)
        if row > WINDOW and abs(jump) >= np.abs(near).max() and change < FLATNESS * abs(jump):
            found.append((row, jump))
    return noise, found
