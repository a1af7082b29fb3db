"""What every test wants to know of an amplifier: how many pixels are good, their mean, their width.

Measured once per residual and shared through ``residual.cache``. Pixels that carry an excluded mask
bit or are not finite do not count; mean and width are clipped at 5 standard deviations in three
passes, so that a hot column does not decide. The residual itself is never changed. Numbers leave
here in electrons; the images are in ADU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api import Amplifier, Exposure, Residual, clipped, good_pixels, truncation_correction

Flags = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]
Numbers = dict[str, float]

CLIP = 5.0
PASSES = 3
OVERSCAN_CLIP = 3.0
"""Clip of the overscan's standard deviation as the overscan step measures it."""
SMOOTH = 0.3
"""A level that jumps from row to row by less than this share of the noise expected of one level per
row is a curve or a constant: it brings no noise of its own to each row."""


@dataclass
class AmpView:
    """One amplifier of a residual: views of its pixels and what was measured on them.

    ``image`` (ADU), ``good`` and ``kept`` (good and within the clip) are (rows, columns) in
    read-out order: pixel (0, 0) is the first one read. ``mean`` and ``sigma`` are clipped, ADU.
    """

    amplifier: Amplifier
    gain: float
    image: npt.NDArray[np.float32]
    good: Flags
    kept: Flags
    n_good: int
    n_kept: int
    mean: float
    sigma: float


def gain_of(exposure: Exposure, amplifier: Amplifier) -> float:
    """Return the gain (electron/ADU) that the variance rests on, else the camera's."""
    noise = exposure.noise.get(amplifier.name)
    return noise.gain if noise else amplifier.gain


def readout_order(
    exposure: Exposure, amplifier: Amplifier
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Return views of image and mask of an amplifier with the first pixel read at (0, 0)."""
    image, mask = exposure.amp(amplifier.name)
    turn = (
        slice(None, None, -1 if amplifier.flip_y else 1),
        slice(None, None, -1 if amplifier.flip_x else 1),
    )
    return image[turn], mask[turn]


def amp_view(residual: Residual, amplifier: Amplifier, exclude: int | None = None) -> AmpView:
    """Measure an amplifier, or return what was measured before.

    ``exclude`` are mask bits to use instead of the residual's own.
    """
    bits = residual.exclude if exclude is None else exclude
    key = f"cpplug_verify.amp_view/{amplifier.name}/{bits}"
    if key not in residual.cache:
        residual.cache[key] = _measure(residual.exposure, amplifier, bits)
    view: AmpView = residual.cache[key]
    return view


def _measure(exposure: Exposure, amplifier: Amplifier, bits: int) -> AmpView:
    image, mask = readout_order(exposure, amplifier)
    good = good_pixels(image, mask, bits)
    found = clipped(image, good, clip=CLIP, n_iter=PASSES)
    kept = good & (np.abs(image - np.float32(found.mean)) <= np.float32(CLIP * found.sigma))
    return AmpView(
        amplifier=amplifier,
        gain=gain_of(exposure, amplifier),
        image=image,
        good=good,
        kept=kept,
        n_good=found.n_good,
        n_kept=int(np.count_nonzero(kept)),
        mean=found.mean,
        sigma=found.sigma,
    )


def clip_correction(clip: float = OVERSCAN_CLIP, passes: int = PASSES) -> float:
    """Return what a standard deviation that was clipped in several passes is multiplied by.

    The first pass clips at ``clip`` true sigma, each later one at ``clip`` times the sigma found
    before it, which is already too small: 1.0154 for three passes at 3 sigma.
    """
    correction = 1.0
    for _ in range(passes):
        correction = truncation_correction(clip / correction)
    return correction


def basics(residual: Residual) -> dict[str, Numbers]:
    """Measure what nearly all tests need, per amplifier.

    Returns
    -------
    dict
        Amplifier to: ``n_good``, ``n_total``, ``n_rows``, ``n_columns`` (pixels); ``gain``
        (electron/ADU); ``mean``, ``sigma`` (electron, clipped); ``overscan_columns``;
        ``row_levels`` (1 when every row has a level of its own, 0 for a curve or constant);
        ``overscan_sigma`` (electron, corrected for its clip; only if measured);
        ``overscan_pixels``; ``parallel_rows`` (0 unless every column has a level of its own).
    """
    key = "cpplug_verify.basics"
    if key not in residual.cache:
        residual.cache[key] = {a.name: _basics(residual, a) for a in residual.detector.amplifiers}
    found: dict[str, Numbers] = residual.cache[key]
    return found


def _basics(residual: Residual, amplifier: Amplifier) -> Numbers:
    view = amp_view(residual, amplifier)
    exposure, name = residual.exposure, amplifier.name
    numbers: dict[str, float] = {
        "n_good": view.n_good,
        "n_total": view.image.size,
        "n_rows": view.image.shape[0],
        "n_columns": view.image.shape[1],
        "gain": view.gain,
        "mean": view.mean * view.gain,
        "sigma": view.sigma * view.gain,
    }
    sigma = exposure.measured("overscan_residual_sigma", name)
    columns = exposure.measured("overscan_columns", name)
    levels = exposure.series.get(("overscan_level", name))
    if sigma is not None:
        numbers["overscan_sigma"] = sigma * view.gain * clip_correction()
    if columns is not None:
        numbers["overscan_columns"] = columns
        rows = view.image.shape[0] if levels is None else levels.size
        numbers["overscan_pixels"] = columns * rows
        if levels is not None:
            numbers["row_levels"] = float(has_own_levels(levels, view.sigma, columns))
    parallel = exposure.series.get(("parallel_overscan_level", name))
    height = amplifier.parallel_overscan.height
    own = parallel is not None and has_own_levels(parallel, view.sigma, height)
    numbers["parallel_rows"] = float(height) if own else 0.0
    return numbers


def has_own_levels(levels: Reals, sigma: float, n: float) -> bool:
    """Tell whether levels scatter from line to line as independent means of n pixels do."""
    if levels.size < 3 or not math.isfinite(sigma):
        return True
    jump = float(np.var(np.diff(levels))) / 2
    return jump > SMOOTH * sigma**2 / max(n, 1)
