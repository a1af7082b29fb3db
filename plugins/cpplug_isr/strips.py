"""Overscan strips: cut them out, mark what cannot be used, subtract what they show.

Serial and parallel overscan are the same thing turned by 90 degrees; a :class:`Strip` holds views
of one amplifier that hide the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Box,
    DataError,
    RawExposure,
    clipped,
    good_pixels,
    mask_bits,
    median,
    median_rows,
    running_median,
)
from cpplug_isr.gains import units_per_adu
from cpplug_isr.levels import Reals, fit_level
from cpplug_isr.options import OverscanConfig, ParallelOverscanConfig, StripConfig

Flags = npt.NDArray[np.bool_]


@dataclass
class Strip:
    """Views of one amplifier, turned so that axis 0 runs along the lines (rows or columns)."""

    pixels: npt.NDArray[np.float32]
    """The overscan box."""
    mask: npt.NDArray[np.uint16]
    image: npt.NDArray[np.float32]
    """The pixels that the level is subtracted from."""
    image_mask: npt.NDArray[np.uint16]
    used: slice
    """Overscan pixels of a line that are not skipped."""
    per_adu: float = 1.0
    """What one ADU is in the unit of the frame: the gain, once it is in electrons."""


def _box(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    rows, columns = box.slices
    return array[rows, columns]


def _used(width: int, far_side_last: bool, config: StripConfig, where: str) -> slice:
    lead, trail = config.leading_to_skip, config.trailing_to_skip
    if lead + trail >= width:
        raise DataError(
            f"Skipping {lead} + {trail} of the {width} overscan pixels of {where} leaves none.",
            "Lower leading_to_skip or trailing_to_skip.",
        )
    return slice(lead, width - trail) if far_side_last else slice(trail, width - lead)


def serial_strip(frame: RawExposure, amp: Amplifier, config: OverscanConfig) -> Strip:
    """Return views for the serial overscan: rows of the data, and of the parallel overscan."""
    over, data, parallel = amp.serial_overscan, amp.data, amp.parallel_overscan
    both = config.correct_parallel_rows and not parallel.empty
    boxes = [data, parallel] if both else [data]
    first, last = min(b.y for b in boxes), max(b.y + b.height for b in boxes)
    strip = Box(over.x, first, over.width, last - first)
    image = Box(data.x, first, data.width, last - first)
    pixels, mask = frame.segments[amp.name], frame.masks[amp.name]
    return Strip(
        pixels=_box(pixels, strip),
        mask=_box(mask, strip),
        image=_box(pixels, image),
        image_mask=_box(mask, image),
        used=_used(over.width, data.x < over.x, config, _where(frame, amp)),
        per_adu=units_per_adu(frame, amp),
    )


def parallel_strip(frame: RawExposure, amp: Amplifier, config: StripConfig) -> Strip:
    """Return views for the parallel overscan: the columns of the data."""
    over, data = amp.parallel_overscan, amp.data
    if over.x > data.x or over.x + over.width < data.x + data.width:
        raise DataError(
            f"The parallel overscan of {_where(frame, amp)} does not span the data columns.",
            "Correct the camera file.",
        )
    strip = Box(data.x, over.y, data.width, over.height)
    pixels, mask = frame.segments[amp.name], frame.masks[amp.name]
    return Strip(
        pixels=_box(pixels, strip).T,
        mask=_box(mask, strip).T,
        image=_box(pixels, data).T,
        image_mask=_box(mask, data).T,
        used=_used(over.height, data.y < over.y, config, _where(frame, amp)),
        per_adu=units_per_adu(frame, amp),
    )


def _where(frame: RawExposure, amp: Amplifier) -> str:
    return f"amplifier {amp.name} of detector {frame.detector.name}"


def mask_bleeds(
    frame: RawExposure, strips: dict[str, Strip], config: ParallelOverscanConfig
) -> None:
    """Set SAT on overscan pixels at or above the bleed threshold, grown (diamond metric)."""
    bleeds: dict[str, Flags] = {}
    for name, strip in strips.items():
        level = frame.measured("saturation_level", name)
        threshold = config.saturation_level
        if level is not None and np.isfinite(level):
            threshold = config.saturation_level_adjustment_factor * level
        if config.mask_threshold is not None:
            threshold = config.mask_threshold
        bleeds[name] = strip.pixels >= threshold * strip.per_adu
        if config.mask_grow_size and bleeds[name].any():
            bleeds[name] = binary_dilation(bleeds[name], iterations=config.mask_grow_size)
    if config.mask_all_amplifiers and len({found.shape for found in bleeds.values()}) == 1:
        anywhere: Flags = np.logical_or.reduce(list(bleeds.values()))
        bleeds = dict.fromkeys(bleeds, anywhere)
    for name, found in bleeds.items():
        strips[name].mask[found] |= MASK_DTYPE(mask_bits("SAT"))


def mark_strays(strip: Strip, config: StripConfig) -> Flags:
    """Set BAD on used overscan pixels far from the median; return the lines that are all strays."""
    pixels, mask = strip.pixels[:, strip.used], strip.mask[:, strip.used]
    good = good_pixels(pixels, mask, mask_bits(*config.mask_planes))
    deviation = pixels - median(pixels, good)
    if config.do_absolute_max_deviation:
        deviation = np.abs(deviation)
    stray = good & (deviation > config.max_deviation * strip.per_adu)
    mask[stray] |= MASK_DTYPE(mask_bits("BAD"))
    return np.asarray(stray.all(axis=1))


def mark_columns(strip: Strip, config: ParallelOverscanConfig) -> int:
    """Set BAD on columns that stand out, and their neighbours; return how many stand out."""
    bad: Flags = mark_strays(strip, config)
    kernel = config.median_smoothing_kernel
    if config.do_median_smoothing_outlier_rejection and bad.size > 2 * kernel:
        levels = median_rows(strip.pixels[:, strip.used])
        excess = levels - running_median(levels, kernel)
        inner = slice(kernel, levels.size - kernel)
        limit = config.median_smoothing_outlier_threshold * strip.per_adu
        bad[inner] |= excess[inner] >= limit
    count = int(np.count_nonzero(bad))
    if count and config.masked_column_grow_size:
        bad = binary_dilation(bad, iterations=config.masked_column_grow_size)
    strip.mask[bad] |= MASK_DTYPE(mask_bits("BAD"))
    return count


def follows_image(strip: Strip, config: ParallelOverscanConfig) -> bool:
    """Tell whether the overscan is so bright, under a bright image, that it cannot be trusted."""
    bits = mask_bits(*config.mask_planes)
    pixels, mask = strip.pixels[:, strip.used], strip.mask[:, strip.used]
    over = median(pixels, good_pixels(pixels, mask, bits))
    bright = config.image_threshold * strip.per_adu
    if not over > config.fraction * bright:
        return False
    image = median(strip.image, good_pixels(strip.image, strip.image_mask, bits))
    return image > bright and over / image > config.fraction


def correct(
    frame: RawExposure, amp: Amplifier, strip: Strip, config: StripConfig, prefix: str
) -> None:
    """Fit the level, subtract it from image and overscan, record both and what is left."""
    bits = mask_bits(*config.mask_planes)
    pixels = strip.pixels[:, strip.used]
    good = good_pixels(pixels, strip.mask[:, strip.used], bits)
    lines = pixels.shape[0]
    if config.fit_type in ("POLY", "CHEB", "LEG") and config.order >= lines:
        raise DataError(
            f"A polynomial of degree {config.order} needs more than the {lines} overscan lines of "
            f"{_where(frame, amp)}.",
            "Lower order.",
        )
    level: float | Reals = np.nan
    if good.any():
        level = fit_level(
            pixels,
            good,
            config.fit_type,
            order=config.order,
            clip=config.num_sigma_clip,
            as_integers=config.overscan_is_int,
        )
    levels = np.broadcast_to(np.asarray(level, dtype=np.float64), (lines,))
    if not np.isfinite(levels).all():
        frame.record(f"{prefix}_skipped", 1, "1", amp.name)
        return
    shift = levels.astype(np.float32)[:, None]
    strip.image -= shift
    strip.pixels -= shift
    fitted = clipped(levels, clip=config.num_sigma_clip)
    rest_good = good_pixels(strip.pixels, strip.mask, bits)
    rest = clipped(strip.pixels, rest_good, clip=config.num_sigma_clip)
    frame.series[f"{prefix}_level", amp.name] = levels.copy()
    for name, value in (
        ("level", float(levels.mean())),
        ("median", median(levels)),
        ("sigma", fitted.sigma),
        ("residual_mean", float(strip.pixels[rest_good].mean(dtype=np.float64))),
        ("residual_median", median(strip.pixels, rest_good)),
        ("residual_sigma", rest.sigma),
    ):
        frame.record(f"{prefix}_{name}", value, frame.unit, amp.name)
