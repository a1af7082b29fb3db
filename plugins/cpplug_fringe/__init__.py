"""Fringes: take the ripples out that night-sky lines make in a thin detector.

Red light passes through a thin CCD and back; narrow sky lines interfere with themselves and leave
a pattern of light and dark bands that stays the same for a filter while its strength follows the
sky. A calibration of type ``fringe`` shows the pattern, one image or several; the step finds out
how strong it is in an exposure and subtracts that much of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    Exposure,
    IsrStep,
    at_least,
    doc,
    hookimpl,
    mask_bits,
    median,
    positive,
)
from cpplug_fringe.fit import Statistic, contrasts, draw, fit_scales
from cpplug_fringe.product import Pattern, patterns_of

Count = Annotated[int, at_least(1)]


class FringeConfig(Config, frozen=True):
    """How the strength of the pattern is measured."""

    filters: Annotated[
        tuple[str, ...],
        doc("physical filters that are corrected; empty: all for which a calibration is found"),
    ] = ()
    num: Annotated[Count, doc("number of random positions at which pattern and image compare")] = (
        30000
    )
    small: Annotated[Count, doc("half side of the box whose level is taken, pixels")] = 3
    large: Annotated[
        Count, doc("half side of the box around it that says what is background, pixels")
    ] = 30
    iterations: Annotated[Count, doc("largest number of fits with outliers left out")] = 20
    clip: Annotated[float, positive, doc("positions farther off than this are outliers, sigma")] = (
        3.0
    )
    pedestal: Annotated[bool, doc("subtract the median of each pattern from it first")] = False
    bad_mask_planes: Annotated[
        tuple[str, ...], doc("mask planes whose pixels do not count in a box")
    ] = ("SAT",)
    stat: Annotated[Statistic, doc("the level of a box: MEDIAN, MEAN or MEANCLIP")] = "MEDIAN"
    stats_clip: Annotated[float, positive, doc("half width of the clip of MEANCLIP, sigma")] = 3.0
    stats_iterations: Annotated[Count, doc("passes of that clip")] = 3
    rng_seed_offset: Annotated[
        int, at_least(0), doc("added to the exposure id to seed the random positions")
    ] = 0


def subtract_fringe(exposure: Exposure, config: FringeConfig, calibs: Calibs) -> Exposure:
    """Fit the strength of the fringe patterns of the exposure's filter, and subtract them.

    Level differences between a small and a large box around random positions are fitted, without
    intercept, by those of the patterns; outliers are left out round by round (algorithms A.12).
    The variance of the patterns, times the squares of the scales, adds to that of the image; the
    error of the scales themselves is far below it and not added. Pixels where a pattern is unknown
    stay as they are and become BAD.

    Records ``fringe_scale_<k>`` of every pattern (unit of the image over that of the pattern),
    ``fringe_rms`` (scatter of the positions about the fit), ``fringe_positions`` (number used; 0
    says that nothing could be measured and nothing was subtracted) and ``fringe_unknown_pixels``.

    Raises
    ------
    DataError
        When a pattern is of another filter, detector, size or unit, or the boxes do not fit in the
        image.
    """
    if config.filters and exposure.info.physical_filter not in config.filters:
        return exposure
    patterns = patterns_of(calibs, exposure)
    positions = draw(exposure, config.num, config.large, config.rng_seed_offset)
    out = (exposure.mask & MASK_DTYPE(mask_bits(*config.bad_mask_planes))) != 0
    if config.pedestal:
        patterns = [_without_pedestal(pattern, config) for pattern in patterns]

    def measure(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
        return contrasts(
            image,
            bad,
            positions,
            (config.small, config.large),
            config.stat,
            config.stats_clip,
            config.stats_iterations,
        )

    science = measure(exposure.image, out)
    shapes = np.stack([measure(one.image, out | _bad(one, config)) for one in patterns], axis=1)
    fitted = fit_scales(science, shapes, config.clip, config.iterations)
    if exposure.variance is not None or exposure.noise:
        # The plane must be made before the image changes: it follows from the image as it was.
        variance = exposure.variance_plane()
        for scale, pattern in zip(fitted.scales, patterns, strict=True):
            variance += np.float32(scale**2) * np.nan_to_num(pattern.variance)
    unknown = np.zeros(exposure.image.shape, dtype=bool)
    for number, (scale, pattern) in enumerate(zip(fitted.scales, patterns, strict=True)):
        known = np.isfinite(pattern.image)
        unknown |= ~known
        np.subtract(
            exposure.image, np.float32(scale) * pattern.image, out=exposure.image, where=known
        )
        unit = exposure.unit if pattern.unit == "1" else "1"
        exposure.record(f"fringe_scale_{number}", scale, unit)
    exposure.mask[unknown] |= MASK_DTYPE(mask_bits("BAD"))
    exposure.record("fringe_rms", fitted.rms, exposure.unit)
    exposure.record("fringe_positions", fitted.n, "1")
    exposure.record("fringe_unknown_pixels", int(np.count_nonzero(unknown)), "pixel")
    return exposure


def _bad(pattern: Pattern, config: FringeConfig) -> np.ndarray:
    flagged: np.ndarray = (pattern.mask & MASK_DTYPE(mask_bits(*config.bad_mask_planes))) != 0
    return flagged


def _without_pedestal(pattern: Pattern, config: FringeConfig) -> Pattern:
    good = np.isfinite(pattern.image) & ~_bad(pattern, config)
    level = median(pattern.image, good) if good.any() else 0.0
    return pattern._replace(image=pattern.image - np.float32(level))


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the fringe correction."""
    yield IsrStep(
        name="fringe",
        summary="Fit and subtract the fringe pattern of the filter",
        level="detector",
        apply=subtract_fringe,
        config=FringeConfig,
        needs=("fringe",),
        after=("assemble",),
    )
