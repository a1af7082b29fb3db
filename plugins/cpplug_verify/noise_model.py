"""How noisy a perfect residual is.

A residual is a bias frame minus the overscan of its rows minus the master bias. Each of the three
brings noise. Predicting their sum to a few parts in a thousand lets the tests ask for a few per
cent without false alarms. All formulas are for noise that is independent from pixel to pixel, with
read noise R (electron); sources: verification 3.3, and for the median of n Gaussian numbers its
exact variance (order statistics), which pi/2/n only reaches for many columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from cpplug.api import ProductFacts


def median_variance(n: int) -> float:
    """Return the variance of the median of n unit Gaussians.

    pi/2/n for large n; here with the correction for finite n (odd: pi/(2n + 1), even:
    pi/(2n + 2.7)), good to 1 % from n = 3.
    """
    if n <= 2:
        return 1 / max(n, 1)
    return math.pi / (2 * n + (1.0 if n % 2 else 2.7))


def level_variance(n: float, kind: str) -> float:
    """Return the variance of an overscan level, in units of R squared; 0 without overscan.

    Parameters
    ----------
    n
        Overscan pixels that the level rests on.
    kind
        ``mean`` or ``median``.
    """
    if not n >= 1:
        return 0.0
    return 1 / n if kind == "mean" else median_variance(int(n))


def combiner_kind(product: ProductFacts) -> str:
    """Return ``median`` or ``mean``: how the product was combined."""
    return "median" if "median" in str(product.metadata.get("COMBINER", "")) else "mean"


def overscan_kind(product: ProductFacts) -> str:
    """Return ``median`` or ``mean``: how overscan pixels became the level of a row.

    A curve along the rows goes through means of rows.
    """
    fit_type = str(product.options.get("isr.overscan.fit_type", "median")).lower()
    return "median" if fit_type.startswith("median") else "mean"


def product_noise(n_inputs: int, kind: str) -> float:
    """Return the variance of a combined image over that of one frame."""
    return 1 / n_inputs if kind == "mean" else median_variance(n_inputs)


def membership_factor(n_inputs: int, kind: str, membership: str) -> float:
    """Return the variance of "frame minus product" over that of a frame.

    An independent frame adds the product's noise: 1 + v. A member has part of itself subtracted:
    1 + v - 2/N, since the covariance of one frame with the mean, and with the median, of N is 1/N.
    For the mean that is 1 + 1/N and 1 - 1/N, for the median of many 1 + 1.57/N and 1 - 0.43/N. A
    frame that was left out of the product (``loo``) is independent of one made of N - 1.
    """
    if n_inputs < 1:
        return math.nan
    if membership == "loo":
        n_inputs = max(n_inputs - 1, 1)
    factor = 1 + product_noise(n_inputs, kind)
    return max(factor - 2 / n_inputs, 0.0) if membership == "member" else factor


def overscan_bias(n: float, kind: str) -> float:
    """Return the variance of overscan pixels minus their own row's level, in units of R squared.

    1 + v - 2/n, as for a frame that is a member: the level moves with the pixels it rests on.
    """
    return 1 + level_variance(n, kind) - 2 / n if n >= 1 else 1.0


def expected_noise(read_noise: float, rows: float, factor: float) -> float:
    """Return the noise of a residual pixel: R * sqrt(f * (1 + rows)), electron.

    ``rows`` is the variance of the level subtracted from each row (units of R squared), ``factor``
    the membership factor. Both apply to frame and product alike, so they multiply.
    """
    return read_noise * math.sqrt(factor * (1 + rows))


def mean_error(noise: float, pixels: float, level: float) -> float:
    """Return the standard error of the mean of residual pixels.

    The error of the overscan level is common to all pixels of a row, so it does not shrink with
    their number: for 2000 x 509 pixels, 61 overscan columns and R = 6 electron it is 0.021 electron
    out of 0.022.

    Parameters
    ----------
    noise
        Noise of a residual pixel without the share of its row's level (any unit).
    pixels
        Number of pixels.
    level
        Variance of the mean overscan level, in units of R squared.
    """
    return noise * math.sqrt(1 / pixels + level)


class Box(NamedTuple):
    """How many pixels, rows and columns a mean is taken over."""

    pixels: float
    rows: float
    columns: float


def difference_error(noise: float, part: Box, whole: Box, rows: float, columns: float) -> float:
    """Return the standard error of "mean of a box minus mean of the whole it is part of".

    A part of n pixels and the N that contain it have a difference of variance 1/n - 1/N; the same
    holds for the levels of rows and columns.

    Parameters
    ----------
    noise
        Noise of a residual pixel without the share of its row's level (any unit).
    part, whole
        The two boxes.
    rows, columns
        Variance of the level subtracted from each row and each column, in units of R squared.
    """
    variance = 1 / part.pixels - 1 / whole.pixels
    variance += rows * (1 / part.rows - 1 / whole.rows)
    variance += columns * (1 / part.columns - 1 / whole.columns)
    return noise * math.sqrt(max(variance, 0.0))


def noise_error(pixels: float, n_rows: float, rows: float) -> float:
    """Return the relative standard error of the noise of residual pixels.

    1/sqrt(2n) for independent pixels; the share q of the variance that a row's pixels have in
    common rests on as many numbers as there are rows: sqrt(((1 - q^2)/n + q^2/n_rows) / 2).
    """
    return correlation_error(pixels, n_rows, rows) / math.sqrt(2)


def correlation_error(pixels: float, n_rows: float, rows: float) -> float:
    """Return the standard error of Pearson's r of two independent residuals.

    1/sqrt(n) for independent pixels; with the share q as in :func:`noise_error`,
    sqrt((1 - q^2)/n + q^2/n_rows).
    """
    shared = rows / (1 + rows)
    return math.sqrt((1 - shared**2) / pixels + shared**2 / n_rows)
