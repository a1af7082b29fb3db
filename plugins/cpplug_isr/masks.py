"""Masks that follow from the image itself: no number, no noise, trails, neighbours.

Each step here only sets bits of the mask. No pixel value is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    Exposure,
    IsrStep,
    NoConfig,
    at_least,
    doc,
    hookimpl,
    mask_bits,
)
from cpplug_isr.shapes import grow, paint_runs, runs_of

TRAIL_LENGTHS = (6, 8, 10)
"""Shortest runs that are made longer, and by how many pixels at each end (algorithms A.3)."""
TRAIL_STEPS = (1, 2, 1)


class NegativeVarianceConfig(Config, frozen=True):
    """What is set on pixels without a sensible variance."""

    negative_variance_mask_name: Annotated[str, doc("mask plane that is set")] = "BAD"


class WidenTrailsConfig(Config, frozen=True):
    """Whose trails are widened."""

    saturated_mask_name: Annotated[str, doc("mask plane of the trails")] = "SAT"


class GrowMaskConfig(Config, frozen=True):
    """What is grown, how far and into which plane."""

    radius: Annotated[int, at_least(0), doc("how far, pixels (diamond metric)")] = 1
    mask_name_list: Annotated[tuple[str, ...], doc("mask planes that are grown, as one")] = ("SAT",)
    mask_value: Annotated[str, doc("mask plane that is set on the grown area")] = "SAT"


def mask_nan(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Set UNMASKEDNAN where the image, or an existing variance plane, is NaN or infinite.

    Records ``nan_pixels``; algorithms A.15.
    """
    bad = ~np.isfinite(exposure.image)
    if exposure.variance is not None:
        bad |= ~np.isfinite(exposure.variance)
    exposure.mask[bad] |= MASK_DTYPE(mask_bits("UNMASKEDNAN"))
    exposure.record("nan_pixels", int(np.count_nonzero(bad)), "pixel")
    return exposure


def mask_negative_variance(
    exposure: Exposure, config: NegativeVarianceConfig, calibs: Calibs
) -> Exposure:
    """Set BAD where the variance is zero or less; algorithms A.7.

    Records ``negative_variance_pixels``. On a bias frame with little read noise that takes a good
    part of the pixels: noise alone brings I / g below -R^2.

    Raises
    ------
    DataError
        When there is no variance yet.
    """
    if exposure.variance is None and not exposure.noise:
        raise DataError(
            f"The variance of detector {exposure.detector.name} is not known yet.",
            "Put the variance step before this one, or switch it on with isr:do_variance=True.",
        )
    bad = exposure.variance_plane() <= 0
    exposure.mask[bad] |= MASK_DTYPE(mask_bits(config.negative_variance_mask_name))
    exposure.record("negative_variance_pixels", int(np.count_nonzero(bad)), "pixel")
    return exposure


def widen_trails(exposure: Exposure, config: WidenTrailsConfig, calibs: Calibs) -> Exposure:
    """Make runs of saturated pixels in a row longer at both ends; algorithms A.3.

    Runs of 1 to 5 pixels stay, 6 to 7 gain 1 pixel at each end, 8 to 9 gain 3, longer ones 4.
    Records ``widened_pixels``.
    """
    bit = MASK_DTYPE(mask_bits(config.saturated_mask_name))
    before = exposure.mask & bit != 0
    runs = runs_of(before)
    kind = np.searchsorted(TRAIL_LENGTHS, runs.length, side="right")
    extra = np.concatenate([[0], np.cumsum(TRAIL_STEPS)])[kind]
    long = extra > 0
    added = 0
    if long.any():
        some = type(runs)(*(part[long] for part in runs))
        rows, where = np.unique(some.row, return_inverse=True)
        shape = (rows.size, exposure.mask.shape[1])
        wide = paint_runs(shape, some._replace(row=where.ravel()), extra[long])
        added = int(np.count_nonzero(wide & ~before[rows]))
        exposure.mask[rows] |= np.where(wide, bit, MASK_DTYPE(0))
    exposure.record("widened_pixels", added, "pixel")
    return exposure


def grow_mask(exposure: Exposure, config: GrowMaskConfig, calibs: Calibs) -> Exposure:
    """Grow the listed planes by ``radius`` and set the result in another plane; algorithms A.3."""
    found = exposure.mask & MASK_DTYPE(mask_bits(*config.mask_name_list)) != 0
    exposure.mask[grow(found, config.radius)] |= MASK_DTYPE(mask_bits(config.mask_value))
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the steps that mark pixels."""
    yield IsrStep(
        name="nan_mask",
        summary="Mark pixels that are not numbers",
        level="detector",
        apply=mask_nan,
        after=("assemble",),
        aliases=("nan_masking",),
    )
    yield IsrStep(
        name="negative_variance",
        summary="Mark pixels whose variance is zero or less",
        level="detector",
        apply=mask_negative_variance,
        config=NegativeVarianceConfig,
        after=("assemble", "variance"),
        aliases=("mask_negative_variance",),
    )
    yield IsrStep(
        name="widen_trails",
        summary="Widen the saturated trails of bright stars along the rows",
        level="detector",
        apply=widen_trails,
        config=WidenTrailsConfig,
        after=("assemble",),
        aliases=("widen_saturation_trails",),
    )
    yield IsrStep(
        name="grow_mask",
        summary="Grow a mask plane by some pixels",
        level="detector",
        apply=grow_mask,
        config=GrowMaskConfig,
        after=("assemble",),
    )
