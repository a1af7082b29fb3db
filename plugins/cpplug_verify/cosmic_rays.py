"""Find cosmic rays, and whatever else is sharper than a star can be.

A cosmic ray or a hot pixel shows itself by its edges: light that came through the telescope is
spread over neighbouring pixels, a hit is not. Pixels found are left out of statistics; nothing is
painted over them. In a zero-second frame nearly nothing should be found, so a high rate means that
a defect leaks through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

Flags = npt.NDArray[np.bool_]
Image = npt.NDArray[np.float32]

PAIRS = (((0, -1), (0, 1)), ((-1, 0), (1, 0)), ((-1, -1), (1, 1)), ((-1, 1), (1, -1)))
"""The four pairs of opposite neighbours, as (row, column) steps."""
AROUND = tuple(step for pair in PAIRS for step in pair)
PREFILTER = 0.6
"""Share of the detection limit that a pixel must reach to be looked at; its neighbours' mean may
lie below zero by the rest."""


@dataclass(frozen=True)
class Settings:
    """What counts as a cosmic ray; levels are standard deviations of a pixel.

    ``psf_sigma`` is that of a Gaussian star image in pixels; ``min_sum`` the least charge of an
    event, in the image's unit; ``ratio_noise`` and ``ratio_factor`` say how clearly a pixel must be
    sharper than the star; ``max_fraction`` of pixels found makes the answer worthless.
    """

    min_sigma: float = 6.0
    min_sum: float = 150.0
    psf_sigma: float = 1.0
    ratio_noise: float = 2.5
    ratio_factor: float = 0.6
    grow: int = 3
    max_fraction: float = 0.01


@dataclass(frozen=True)
class CosmicRays:
    """What was found: pixels (flags like the image), number of events, and whether too many."""

    pixels: Flags
    n_events: int
    n_pixels: int
    overflow: bool


def find_cosmic_rays(
    image: Image, good: Flags, level: float, sigma: float, settings: Settings | None = None
) -> CosmicRays:
    """Find events that are sharper than a star.

    A pixel is a candidate when it exceeds the mean of at least one pair of opposite neighbours by
    ``min_sigma``, and when along at least one pair r k (p - f s) > m + f s / sqrt(2), with p the
    pixel, m the pair's mean, s the noise, r what the star's profile leaves at that distance, k the
    ``ratio_factor`` and f the ``ratio_noise`` (after the criteria of verification 2.6). Bright
    neighbours (half the limit) join in ``grow`` rounds, and events with too little charge are
    dropped. Neighbours outside the image or not good count as background.

    Parameters
    ----------
    image
        (rows, columns); not changed.
    good
        Pixels that may be part of an event.
    level, sigma
        Background and noise of a pixel, in the image's unit.
    settings
        The limits.
    """
    limits = settings or Settings()
    found = np.zeros(image.shape, np.bool_)
    if not (math.isfinite(sigma) and sigma > 0):
        return CosmicRays(found, 0, 0, overflow=False)
    rows, columns = np.nonzero(good & (image > level + PREFILTER * limits.min_sigma * sigma))
    if rows.size > limits.max_fraction * image.size:
        return CosmicRays(found, 0, int(rows.size), overflow=True)
    seen = _Background(image, good, level)
    sharp = _sharp(seen, rows, columns, sigma, limits)
    found[rows[sharp], columns[sharp]] = True
    _grow(found, seen, 0.5 * limits.min_sigma * sigma, limits.grow)
    n_events = _drop_faint(found, seen, limits.min_sum)
    n_pixels = int(np.count_nonzero(found))
    return CosmicRays(found, n_events, n_pixels, n_pixels > limits.max_fraction * image.size)


@dataclass
class _Background:
    """Pixels above the background, zero where there is none to see."""

    image: Image
    good: Flags
    level: float

    def at(
        self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float64]:
        n_rows, n_columns = self.image.shape
        inside = (rows >= 0) & (rows < n_rows) & (columns >= 0) & (columns < n_columns)
        y, x = np.where(inside, rows, 0), np.where(inside, columns, 0)
        seen = inside & self.good[y, x]
        return np.where(seen, self.image[y, x].astype(np.float64) - self.level, 0.0)


def _sharp(
    seen: _Background,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    sigma: float,
    limits: Settings,
) -> Flags:
    peak = seen.at(rows, columns)
    high = np.zeros(rows.shape, np.bool_)
    sharp = np.zeros(rows.shape, np.bool_)
    margin = limits.ratio_noise * sigma
    for (y0, x0), (y1, x1) in PAIRS:
        mean = (seen.at(rows + y0, columns + x0) + seen.at(rows + y1, columns + x1)) / 2
        high |= peak - mean > limits.min_sigma * sigma
        left = math.exp(-(y0**2 + x0**2) / (2 * limits.psf_sigma**2))
        star = limits.ratio_factor * left * (peak - margin)
        sharp |= star > mean + margin / math.sqrt(2)
    return high & sharp


def _grow(found: Flags, seen: _Background, limit: float, rounds: int) -> None:
    n_rows, n_columns = found.shape
    edge = np.argwhere(found)
    for _ in range(rounds):
        if not len(edge):
            return
        near = np.unique(np.concatenate([edge + step for step in AROUND]), axis=0)
        inside = ((near >= 0) & (near < (n_rows, n_columns))).all(axis=1)
        near = near[inside]
        near = near[~found[near[:, 0], near[:, 1]]]
        edge = near[seen.at(near[:, 0], near[:, 1]) > limit]
        found[edge[:, 0], edge[:, 1]] = True


def _drop_faint(found: Flags, seen: _Background, min_sum: float) -> int:
    """Clear events with less charge than ``min_sum``; return how many stay."""
    if not found.any():
        return 0
    events, n_events = label(found, structure=np.ones((3, 3)))
    rows, columns = np.nonzero(found)
    which = events[rows, columns]
    charge = np.bincount(which, weights=seen.at(rows, columns), minlength=n_events + 1)
    faint = charge[which] < min_sum
    found[rows[faint], columns[faint]] = False
    return int(np.count_nonzero(charge[1:] >= min_sum))
