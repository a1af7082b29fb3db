"""How the level of the electronics is read from an overscan strip.

A strip is an image whose lines (axis 0) are read-out rows for the serial overscan and columns for
the parallel one; axis 1 runs across the few overscan pixels of a line. The result is one level for
the strip, or one per line. Formulas: algorithms A.4, step 5.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.interpolate import Akima1DInterpolator, CubicSpline, PPoly

from cpplug.api import (
    clipped,
    integer_median_rows,
    mean_rows,
    mean_variance,
    median,
    median_rows,
    quantile_rows,
)

FitType = Literal[
    "MEAN", "MEANCLIP", "MEDIAN", "MEAN_PER_ROW", "MEDIAN_PER_ROW", "POLY", "CHEB", "LEG",
    "NATURAL_SPLINE", "CUBIC_SPLINE", "AKIMA_SPLINE",
]  # fmt: skip
FIT_TYPES: tuple[str, ...] = get_args(FitType)

Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]

FAST_IQR_TO_SIGMA = 0.74
"""The factor that the reference uses for outliers within a line (algorithms 0.3, item 6)."""
MIN_SPLINE_BINS = 5
FILL_SPAN = 5


def fit_level(
    pixels: Pixels,
    good: Flags,
    fit_type: FitType,
    *,
    order: int = 1,
    clip: float = 3.0,
    as_integers: bool = False,
) -> float | Reals:
    """Estimate the level of an overscan strip.

    Parameters
    ----------
    pixels
        ADU, (lines, n).
    good
        Which pixels may be used, same shape; at least one.
    fit_type
        ``MEAN``, ``MEANCLIP``, ``MEDIAN`` give one number; ``*_PER_ROW`` one per line; ``POLY``,
        ``CHEB`` and ``LEG`` a polynomial along the lines; ``*_SPLINE`` a spline through bins.
    order
        Degree of the polynomial, or number of spline bins.
    clip
        Clip of ``MEANCLIP`` and of the outliers within each line, in standard deviations.
    as_integers
        Cut pixels to whole numbers, toward zero, before the statistic of a ``*_PER_ROW`` type.

    Returns
    -------
    float or numpy.ndarray
        ADU: one number, or float64 (lines,).
    """
    if fit_type == "MEAN":
        return mean_variance(pixels, good)[0]
    if fit_type == "MEANCLIP":
        return clipped(pixels, good, clip=clip).mean
    if fit_type == "MEDIAN":
        return median(pixels, good)
    use = good & ~line_outliers(pixels, clip)
    if fit_type == "MEDIAN_PER_ROW":
        whole = integer_median_rows(np.trunc(pixels), use) if as_integers else None
        return fill_gaps(median_rows(pixels, use) if whole is None else whole)
    if fit_type == "MEAN_PER_ROW":
        return fill_gaps(mean_rows(np.trunc(pixels) if as_integers else pixels, use))
    means = mean_rows(pixels, use)
    if fit_type in ("POLY", "CHEB", "LEG"):
        return _polynomial(fill_gaps(means), fit_type, order)
    return _spline(fill_gaps(means), fit_type, order)


def line_outliers(pixels: Pixels, clip: float) -> Flags:
    """Tell which pixels stray from the median of their line by more than ``clip`` sigma.

    Sigma is 0.74 times the interquartile range of the line; a line that is more than twice as
    ragged as the typical one is judged by the typical sigma.
    """
    q25, q50, q75 = quantile_rows(pixels, (0.25, 0.5, 0.75))
    sigma = FAST_IQR_TO_SIGMA * (q75 - q25)
    typical = median(sigma)
    sigma = np.where(sigma > 2 * typical, typical, sigma)
    outliers: Flags = np.abs(pixels - q50[:, None]) > clip * sigma[:, None]
    return outliers


def fill_gaps(levels: Reals) -> Reals:
    """Replace NaN stretches by the median of up to five values on either side.

    The five values before count when the stretch starts after line 5, those after when it ends
    before the last five lines; where neither does, the median of all levels is taken.
    """
    bad = ~np.isfinite(levels)
    if not bad.any():
        return levels
    filled = levels.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.view(np.int8), [0]])))
    overall = median(levels)
    for start, stop in edges.reshape(-1, 2):
        before = levels[start - FILL_SPAN : start] if start > FILL_SPAN else levels[:0]
        after = levels[stop : stop + FILL_SPAN] if stop <= levels.size - FILL_SPAN else levels[:0]
        near = median(np.concatenate([before, after]))
        filled[start:stop] = near if np.isfinite(near) else overall
    return filled


def _abscissa(n: int) -> Reals:
    """Return x = 2 i / n - 1, the reference's abscissa; it ends short of 1."""
    return 2.0 * np.arange(n) / n - 1.0


def _polynomial(levels: Reals, family: str, order: int) -> Reals:
    x = _abscissa(levels.size)
    kind = {
        "POLY": np.polynomial.Polynomial,
        "CHEB": np.polynomial.Chebyshev,
        "LEG": np.polynomial.Legendre,
    }[family]
    fitted: Reals = kind.fit(x, levels, order, domain=[-1, 1], window=[-1, 1])(x)
    return fitted


def _spline(levels: Reals, family: str, bins: int) -> Reals:
    """Interpolate between the mean levels of ``bins`` stretches of lines.

    Beyond the first and the last bin centre the curve goes on as the parabola that has the
    spline's value, slope and curvature there.
    """
    lines = _abscissa(levels.size)
    count, _ = np.histogram(lines, bins=bins)
    used = count > 0
    x = np.histogram(lines, bins=bins, weights=lines)[0][used] / count[used]
    y = np.histogram(lines, bins=bins, weights=levels)[0][used] / count[used]
    if x.size < MIN_SPLINE_BINS:
        return np.full(levels.size, y[0])
    curve: PPoly = (
        Akima1DInterpolator(x, y)
        if family == "AKIMA_SPLINE"
        else CubicSpline(x, y, bc_type="natural")
    )
    fitted: Reals = np.asarray(curve(np.clip(lines, x[0], x[-1])), dtype=np.float64)
    for end, outside in ((x[0], lines < x[0]), (x[-1], lines > x[-1])):
        step = lines[outside] - end
        fitted[outside] += step * curve(end, 1) + 0.5 * step**2 * curve(end, 2)
    return fitted
