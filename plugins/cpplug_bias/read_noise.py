"""Read noise from pairs of bias frames.

Two bias frames differ by nothing but noise, so the standard deviation of their difference is the
read noise times the square root of two, whatever structure the bias has. The error of the level of
a row is common to its pixels and is taken out first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2 as chi2_distribution

from cpplug.api import (
    Config,
    Detector,
    Exposures,
    Solution,
    clipped,
    doc,
    fraction,
    good_pixels,
    mad_sigma,
    mask_bits,
    mean_rows,
    median,
    truncation_correction,
)

MAX_PIXELS = 250_000
"""Pixels of an amplifier that are looked at: enough for an error of 0.15 %."""
CLIP = 5.0
LOST = ("BAD", "SAT", "SUSPECT", "NO_DATA", "CR")

Pairs = dict[str, npt.NDArray[np.float64]]


class PairsConfig(Config, frozen=True):
    """When the pairs are said to disagree."""

    min_probability: Annotated[
        float,
        fraction,
        doc("flag pairs_disagree when chance alone would scatter them so with less than this"),
    ] = 1e-6


def pair_noise(exposures: Exposures, detector: Detector) -> dict[str, Pairs]:
    """Measure the read noise of every amplifier on pairs of consecutive exposures.

    Exposures 1 and 2 make a pair, 3 and 4 the next, so that pairs are independent.

    Returns
    -------
    dict
        By amplifier: ``sigma`` (ADU per frame) and ``n`` (pixels), one entry per usable pair.
    """
    found: dict[str, list[tuple[float, int]]] = {amp.name: [] for amp in detector.amplifiers}
    previous = None
    for exposure in exposures:
        if previous is None:
            previous = exposure
            continue
        for amp in detector.amplifiers:
            sample = slice(None, None, max(1, -(-amp.bbox.width * amp.bbox.height // MAX_PIXELS)))
            (a, a_mask), (b, b_mask) = exposure.amp(amp.name), previous.amp(amp.name)
            mask = a_mask[sample] | b_mask[sample]
            sigma, n = difference_noise(a[sample] - b[sample], mask)
            if n:
                found[amp.name].append((sigma, n))
        previous = None
    return {
        name: {
            "sigma": np.array([sigma for sigma, _ in pairs]),
            "n": np.array([n for _, n in pairs], dtype=np.float64),
        }
        for name, pairs in found.items()
    }


def difference_noise(
    difference: npt.NDArray[np.float32], mask: npt.NDArray[np.uint16]
) -> tuple[float, int]:
    """Return the noise of one frame (ADU) from a difference (rows, columns), and pixels used.

    Pixels beyond five sigma do not count; the mean of each row is removed first and the degree of
    freedom that this costs is given back. (NaN, 0) when fewer than two pixels per row are left.
    """
    good = good_pixels(difference, mask, mask_bits(*LOST))
    if np.count_nonzero(good) < 2:
        return math.nan, 0
    centre, width = median(difference, good), mad_sigma(difference, good)
    if width > 0:
        good &= np.abs(difference - centre) <= CLIP * width
    level = mean_rows(difference, good)
    good &= np.isfinite(level)[:, None]
    rows = np.count_nonzero(good.any(axis=1))
    flat = difference - np.nan_to_num(level)[:, None]
    stats = clipped(flat, good, clip=CLIP)
    if stats.n - rows < 2:
        return math.nan, 0
    freedom = (stats.n - 1) / (stats.n - rows)
    return math.sqrt(stats.variance * freedom / 2) * truncation_correction(CLIP), stats.n


def combine_pairs(data: Mapping[str, Any], config: PairsConfig) -> Solution:
    """Average the read noise of pairs.

    Parameters
    ----------
    data
        ``sigma``: read noise of each pair, ADU; ``n``: pixels it rests on.
    config
        Limit on the scatter.

    Returns
    -------
    Solution
        ``read_noise`` with its standard error, from the scatter of the pairs or, for a single
        pair (flag ``single_pair``), from the number of pixels: sigma / sqrt(2 n). ``chi2`` compares
        the scatter with those errors; flag ``pairs_disagree`` when it is beyond chance. Without
        pairs: n = 0, flag ``no_pairs``.
    """
    sigma = np.asarray(data["sigma"], dtype=np.float64)
    count = np.asarray(data["n"], dtype=np.float64)
    if sigma.size == 0:
        return Solution(parameters={}, flags=("no_pairs",))
    mean = float(np.average(sigma, weights=count))
    formal = mean / np.sqrt(2 * count)
    if sigma.size == 1:
        return Solution(
            parameters={"read_noise": mean},
            errors={"read_noise": float(formal[0])},
            chi2=0.0,
            n=1,
            flags=("single_pair",),
        )
    chi2 = float((((sigma - mean) / formal) ** 2).sum()) if mean > 0 else 0.0
    beyond = chi2_distribution.sf(chi2, sigma.size - 1) < config.min_probability
    return Solution(
        parameters={"read_noise": mean},
        errors={"read_noise": float(sigma.std(ddof=1) / math.sqrt(sigma.size))},
        chi2=chi2,
        n=sigma.size,
        flags=("pairs_disagree",) if beyond else (),
    )
