"""Interpolation: fill pixels that could not be measured from their neighbours in the same row.

The value of a bad pixel is a weighted sum of the two nearest good pixels on either side. Filled
pixels are marked INTRP. They look better; they hold no information of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    Exposure,
    Image,
    IsrStep,
    at_least,
    clipped,
    doc,
    hookimpl,
    mask_bits,
)
from cpplug_isr.shapes import Flags, Runs, Whole, grow, runs_of

Reals = npt.NDArray[np.float64]

SIDE = 2
"""Good neighbours that are used on each side."""
REACH = 6
"""How far, in pixels, values are carried into a hole that is open at one end."""


class InterpolateConfig(Config, frozen=True):
    """What is filled, and with what where there are no neighbours."""

    mask_list_to_interpolate: Annotated[
        tuple[str, ...], doc("mask planes whose pixels are filled")
    ] = ("SAT", "BAD", "UNMASKEDNAN")
    grow_saturation_footprint_size: Annotated[
        int,
        at_least(0),
        doc("how far SAT is grown before, pixels (diamond metric), where SAT is filled"),
    ] = 1
    use_fallback_value_at_edge: Annotated[
        bool,
        doc("fill wide holes at the edge of the detector with the typical value of the image"),
    ] = True
    fallback_value: Annotated[
        float | None,
        doc("typical value, in the unit of the image; None: clipped mean of the pixels not filled"),
    ] = None
    reference_quirks: Annotated[
        bool,
        doc(
            "as the reference pipeline: weights of four digits that need not add up to 1, typical "
            "value from all pixels, the same number as typical variance"
        ),
    ] = False


@lru_cache(maxsize=4096)
def weights(width: int, left: int, right: int, fallback: bool, digits: int | None = None) -> Reals:
    """Return the weights with which a run of bad pixels is filled.

    Neighbouring pixels of an image with a Gaussian PSF of sigma 1 pixel correlate as
    exp(-d^2 / 4) at distance d. The weights minimise the expected squared error of the prediction
    under that correlation, and add up to 1: with C the correlations between the good pixels and c
    those with the bad one, C w + m = c and sum(w) = 1 (m a Lagrange multiplier). They are the
    numbers of algorithms 0.4.

    Parameters
    ----------
    width
        Length of the run.
    left, right
        Number of good neighbours on each side, 0 to 2.
    fallback
        A run of more than 6 pixels that is open on one side is closed there by two pixels of the
        typical value, 6 pixels from the good ones; what lies beyond gets the typical value.
    digits
        Round the weights to this number of decimals.

    Returns
    -------
    numpy.ndarray
        (width, left + right + 1): left neighbours from the nearest, right ones, typical value.
    """
    if left + right == 0:
        return np.ones((width, 1))
    if left == 0:
        mirrored = weights(width, right, 0, fallback, digits)
        return mirrored[::-1].copy()
    open_end = right == 0 and fallback and width > REACH
    span = REACH if open_end else width
    places = [-1.0 - k for k in range(left)]
    places += [float(span + k) for k in range(SIDE if open_end else right)]
    at = np.array(places)
    n = at.size
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = np.exp(-((at[:, None] - at) ** 2) / 4)
    system[n, n] = 0.0
    wanted = np.ones((n + 1, span))
    wanted[:n] = np.exp(-((at[:, None] - np.arange(span)) ** 2) / 4)
    solved = np.linalg.solve(system, wanted)[:n].T
    if digits is not None:
        solved = solved.round(digits)
    result = np.zeros((width, left + right + 1))
    result[:span, : left + right] = solved[:, : left + right]
    result[:span, -1] = solved[:, left + right :].sum(axis=1)
    result[span:, -1] = 1.0
    return result


def neighbours(runs: Runs, usable: Flags) -> tuple[Whole, Whole]:
    """Return how many good pixels, 0 to 2, lie without a gap on either side of each run."""
    width = usable.shape[1]
    counts = []
    for edge, step in ((runs.start - 1, -1), (runs.stop, 1)):
        unbroken = np.ones(edge.size, dtype=bool)
        count = np.zeros(edge.size, dtype=np.int64)
        for k in range(SIDE):
            column = edge + step * k
            inside = (column >= 0) & (column < width)
            unbroken &= inside & usable[runs.row, np.clip(column, 0, width - 1)]
            count += unbroken
        counts.append(count)
    return counts[0], counts[1]


def fill(
    image: Image,
    variance: Image | None,
    bad: Flags,
    config: InterpolateConfig,
) -> None:
    """Fill the bad pixels of the image, in place; the variance by the same weights.

    ``image`` and ``variance`` are float32 (rows, columns) in the frame's unit and its square. The
    filled variance is that of a measured pixel of this neighbourhood, not that of the prediction;
    where the weights would make it negative it is the mean of the neighbours.
    """
    runs = runs_of(bad)
    if not runs.row.size:
        return
    usable = ~bad & np.isfinite(image)
    left, right = neighbours(runs, usable)
    digits = 4 if config.reference_quirks else None
    kinds, members = np.unique(
        np.stack([runs.length, left, right], axis=1), axis=0, return_inverse=True
    )
    order = np.argsort(members.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(members.ravel(), minlength=len(kinds)))
    planes = [plane for plane in (image, variance) if plane is not None]
    typical: list[float] = []
    for (width, n_left, n_right), group in zip(
        kinds.tolist(), np.split(order, ends[:-1]), strict=True
    ):
        table = weights(width, n_left, n_right, config.use_fallback_value_at_edge, digits)
        if table[:, -1].any() and not typical:
            typical = _typical(planes, usable, config)
        offsets = np.concatenate([-1 - np.arange(n_left), width + np.arange(n_right)]).astype(int)
        rows, start = runs.row[group, None], runs.start[group, None]
        columns = start + np.arange(width)
        for index, plane in enumerate(planes):
            near = plane[rows, start + offsets].astype(np.float64)
            filled = near @ table[:, :-1].T
            if typical:
                filled += table[:, -1] * typical[index]
            if plane is variance and offsets.size:
                filled = np.where(filled > 0, filled, near.mean(axis=1, keepdims=True))
            plane[rows, columns] = filled


def _typical(planes: list[Image], usable: Flags, config: InterpolateConfig) -> list[float]:
    """Return the typical value of the image and of its variance."""
    good = None if config.reference_quirks else usable
    value = config.fallback_value
    found = [clipped(planes[0], good).mean if value is None else value]
    for plane in planes[1:]:
        found.append(found[0] if config.reference_quirks else clipped(plane, good).mean)
    return found


def interpolate(exposure: Exposure, config: InterpolateConfig, calibs: Calibs) -> Exposure:
    """Fill the pixels of the listed planes along their rows and mark them INTRP; algorithms 0.4.

    SAT is grown first, so that the mask says why a pixel was filled. Records
    ``interpolated_pixels``. A detector without a usable pixel is left as it is, unless there is a
    ``fallback_value``.
    """
    mask = exposure.mask
    if config.grow_saturation_footprint_size and "SAT" in config.mask_list_to_interpolate:
        saturated = mask & MASK_DTYPE(mask_bits("SAT")) != 0
        grown = grow(saturated, config.grow_saturation_footprint_size)
        mask[grown] |= MASK_DTYPE(mask_bits("SAT"))
    bad = mask & MASK_DTYPE(mask_bits(*config.mask_list_to_interpolate)) != 0
    if config.fallback_value is None and not (np.isfinite(exposure.image) & ~bad).any():
        bad[:] = False
    count = int(np.count_nonzero(bad))
    exposure.record("interpolated_pixels", count, "pixel")
    if not count:
        return exposure
    variance = exposure.variance_plane() if exposure.noise else exposure.variance
    fill(exposure.image, variance, bad, config)
    mask[bad] |= MASK_DTYPE(mask_bits("INTRP"))
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the interpolation step."""
    yield IsrStep(
        name="interpolate",
        summary="Fill saturated and bad pixels from their neighbours in the row",
        level="detector",
        apply=interpolate,
        config=InterpolateConfig,
        after=("assemble",),
    )
