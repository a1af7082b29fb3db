"""A smooth model of the sky, and where sources stand out of it.

The image is divided into cells; through their clipped means run curves, first along columns and
then along rows. What the smoothed image shows far above that is taken for a source. Good enough to
keep sky and stars out of a measurement; no photometry rests on it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.interpolate import Akima1DInterpolator, CubicSpline, PPoly
from scipy.ndimage import binary_dilation, gaussian_filter

from cpplug.api import clipped, mad_sigma

Pixels = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

AKIMA_NODES = 5
NATURAL_NODES = 3
GROWTH = 2.4
"""Sources are grown by this many standard deviations of the smoothing kernel."""


def sky_model(image: Pixels, good: Flags, cells: tuple[int, int]) -> Pixels:
    """Return a smooth surface through the clipped means of cells.

    Parameters
    ----------
    image
        (rows, columns).
    good
        Which pixels count; cells without any take the mean of the other cells.
    cells
        Number of cells along rows (y) and columns (x). The curves are Akima splines through five
        nodes or more, natural splines through three or four, else straight lines.

    Returns
    -------
    numpy.ndarray
        float32 (rows, columns); zero when no pixel is good.
    """
    edges = [np.arange(n + 1) * size // n for n, size in zip(cells, image.shape, strict=True)]
    means = np.full(cells, np.nan)
    for i in range(cells[0]):
        for j in range(cells[1]):
            cell = np.s_[edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]]
            means[i, j] = clipped(image[cell], good[cell]).mean
    if not np.isfinite(means).any():
        return np.zeros_like(image)
    means[~np.isfinite(means)] = np.nanmean(means)
    centres = [(edge[:-1] + edge[1:] - 1) / 2 for edge in edges]
    down = _through(centres[0], means, np.arange(image.shape[0], dtype=np.float64))
    surface = np.empty_like(image)
    across = np.arange(image.shape[1], dtype=np.float64)
    for first in range(0, image.shape[0], 256):  # keeps the float64 intermediate small
        rows = down[first : first + 256]
        surface[first : first + 256] = _through(centres[1], rows.T, across).T
    return surface


def _through(nodes: Reals, values: Reals, at: Reals) -> Reals:
    """Return curves through ``values`` (nodes, m) at the positions ``at``, (positions, m).

    Beyond the first and the last node a curve goes on as the parabola that has its value, slope and
    curvature there.
    """
    if nodes.size == 1:
        return np.repeat(values, at.size, axis=0)
    if nodes.size < NATURAL_NODES:
        slope = (values[1] - values[0]) / (nodes[1] - nodes[0])
        straight: Reals = values[0] + (at - nodes[0])[:, None] * slope
        return straight
    curve: PPoly = (
        Akima1DInterpolator(nodes, values, axis=0)
        if nodes.size >= AKIMA_NODES
        else CubicSpline(nodes, values, axis=0, bc_type="natural")
    )
    fitted: Reals = np.asarray(curve(np.clip(at, nodes[0], nodes[-1])), dtype=np.float64)
    for end, outside in ((nodes[0], at < nodes[0]), (nodes[-1], at > nodes[-1])):
        step = (at[outside] - end)[:, None]
        fitted[outside] += step * curve(end, 1) + 0.5 * step**2 * curve(end, 2)
    return fitted


def sources(residual: Pixels, good: Flags, sigma: float, threshold: float) -> Flags:
    """Tell which pixels belong to a source.

    Parameters
    ----------
    residual
        Image without its sky, (rows, columns).
    good
        Which pixels count.
    sigma
        Standard deviation of the Gaussian that the image is smoothed with, pixels.
    threshold
        How far a source stands above zero, in robust standard deviations of the smoothed image.
    """
    weight = gaussian_filter(good.astype(np.float32), sigma)
    smooth = gaussian_filter(np.where(good, residual, np.float32(0)), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        smooth /= weight
    spread = mad_sigma(smooth, good)
    found = good & (smooth > threshold * spread) if spread > 0 else np.zeros_like(good)
    grown: Flags = binary_dilation(found, iterations=math.ceil(GROWTH * sigma))
    return grown
