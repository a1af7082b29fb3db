"""How strong a fringe pattern is in an image: levels at random positions, and a robust fit.

At every position the level of a small box is compared with that of a larger one around it, which
takes slow changes of the sky out. What the image shows is then a sum of what the patterns show.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from cpplug.api import DataError, Exposure, quantiles
from cpplug_fringe.compiled import box_levels

Statistic = Literal["MEDIAN", "MEAN", "MEANCLIP"]
Reals = npt.NDArray[np.float64]

FAST_IQR_TO_SIGMA = 0.74
"""The factor that the reference uses here (algorithms 0.3, item 6)."""


class Fitted(NamedTuple):
    """Scale of every pattern, scatter about the fit, number of positions used."""

    scales: Reals
    rms: float
    n: int


def draw(exposure: Exposure, number: int, large: int, seed_offset: int) -> npt.NDArray[np.int64]:
    """Return random positions (x, y), (number, 2), the same for the same exposure.

    The legacy generator of numpy is seeded with the exposure id, as the reference does.

    Raises
    ------
    DataError
        When the large box does not fit in the image.
    """
    rows, columns = exposure.image.shape
    if 2 * large >= min(rows, columns):
        raise DataError(
            f"A box of {2 * large} pixels does not fit in the {columns} x {rows} pixels of "
            f"detector {exposure.detector.name}.",
            "Lower fringe:large.",
        )
    seed = (seed_offset + exposure.info.exposure) % 2**32
    random = np.random.RandomState(seed)
    x = random.randint(large, columns - large, size=number)
    y = random.randint(large, rows - large, size=number)
    return np.stack([x, y], axis=1).astype(np.int64)


def contrasts(
    image: npt.NDArray[np.float32],
    bad: npt.NDArray[np.bool_],
    positions: npt.NDArray[np.int64],
    halves: tuple[int, int],
    stat: Statistic,
    clip: float,
    n_iter: int,
) -> Reals:
    """Return level of the small box less level of the large one at all positions.

    Parameters
    ----------
    image, bad
        (rows, columns); pixels that are bad or not finite do not count.
    positions
        (n, 2), x and y; a box of half side s covers x - s to x + s - 1.
    halves
        Half sides of the small and the large box, pixels.
    stat, clip, n_iter
        What a level is.

    Returns
    -------
    numpy.ndarray
        float64 (n,); NaN where a box has no good pixel.
    """
    kind = get_args(Statistic).index(stat)
    small, large = (box_levels(image, bad, positions, s, kind, clip, n_iter) for s in halves)
    difference: Reals = small - large
    return difference


def fit_scales(science: Reals, shapes: Reals, clip: float, iterations: int) -> Fitted:
    """Fit ``science`` (n,) by a sum of the columns of ``shapes`` (n, patterns), without outliers.

    Positions at which the image or a pattern is more than ``clip`` sigma off its median do not
    take part; then positions off the fit by more than ``clip`` times its scatter are dropped until
    none is. Sigma is 0.74 times the interquartile range.

    Returns
    -------
    Fitted
        Scales of zero when too few positions are left.
    """
    patterns = shapes.shape[1]
    good = np.isfinite(science) & np.isfinite(shapes).all(axis=1)
    for values in (science, *shapes.T) if good.any() else ():
        finite = np.isfinite(values)
        low, middle, high = quantiles(values, (0.25, 0.5, 0.75), finite)
        inside = np.abs(values[good] - middle) < clip * FAST_IQR_TO_SIGMA * (high - low)
        good[good] = inside
    science, shapes = science[good], shapes[good]
    scales, rms = np.zeros(patterns), float("nan")
    for _ in range(iterations):
        if science.size < max(patterns, 2):
            return Fitted(np.zeros(patterns), float("nan"), 0)
        scales = np.asarray(np.linalg.lstsq(shapes, science, rcond=None)[0], dtype=np.float64)
        left = science - shapes @ scales
        low, high = quantiles(left, (0.25, 0.75))
        rms = FAST_IQR_TO_SIGMA * (high - low)
        keep = np.abs(left) <= clip * rms
        if keep.all():
            break
        science, shapes = science[keep], shapes[keep]
    return Fitted(scales, float(rms), int(left.size))
