"""Overscan: remove the level of the electronics from every row and column.

After the light-sensitive pixels of a row the camera goes on reading a few pixels that do not exist
(serial overscan); after the last row it reads rows that do not exist (parallel overscan). They show
the level, in ADU, on which the image sits. The serial step estimates it from each row, the parallel
step from each column of what is left, and both subtract it. How well the level was known, and how
noisy the overscan is, is recorded for every amplifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Box,
    Calibs,
    Config,
    ConfigError,
    DataError,
    IsrStep,
    RawExposure,
    at_least,
    clipped,
    doc,
    fraction,
    good_pixels,
    hookimpl,
    mask_bits,
    mean_rows,
    median,
    median_rows,
    not_negative,
    positive,
    running_median,
)
from cpplug_isr.levels import FitType, Reals, fill_gaps, fit_level

Flags = npt.NDArray[np.bool_]
Count = Annotated[int, not_negative]


class OverscanConfig(Config, frozen=True):
    """How the serial overscan is read."""

    fit_type: Annotated[
        FitType,
        doc("one level (MEAN, MEANCLIP, MEDIAN), one per row, or a curve along the rows"),
    ] = "MEDIAN_PER_ROW"
    order: Annotated[int, at_least(0), doc("degree of a polynomial, or number of spline bins")] = 1
    num_sigma_clip: Annotated[float, positive, doc("half width of the clips, sigma")] = 3.0
    mask_planes: Annotated[tuple[str, ...], doc("mask planes of overscan pixels not used")] = (
        "BAD",
        "SAT",
    )
    overscan_is_int: Annotated[
        bool,
        doc(
            "cut pixels to whole ADU before a statistic per row, as the reference does; "
            "biases the level of pixels that are not whole by -0.5 ADU"
        ),
    ] = False
    max_deviation: Annotated[
        float, positive, doc("overscan pixels farther than this from the median are BAD, ADU")
    ] = 1000.0
    do_absolute_max_deviation: Annotated[
        bool, doc("apply max_deviation on both sides, not only above the median")
    ] = True
    leading_to_skip: Annotated[Count, doc("lines next to the image not used, pixels")] = 0
    trailing_to_skip: Annotated[Count, doc("lines on the far side not used, pixels")] = 0


class ParallelOverscanConfig(OverscanConfig, frozen=True):
    """How the parallel overscan is read, and when bleeding stars forbid to read it."""

    max_deviation: Annotated[
        float, positive, doc("overscan pixels farther than this from the median are BAD, ADU")
    ] = 100.0
    do_absolute_max_deviation: Annotated[
        bool, doc("apply max_deviation on both sides, not only above the median")
    ] = False
    saturation_level: Annotated[
        float,
        positive,
        doc("bleed threshold where the saturation step recorded no finite level, ADU"),
    ] = 20000.0
    saturation_level_adjustment_factor: Annotated[
        float, positive, doc("fraction of the recorded saturation level that counts as a bleed")
    ] = 0.75
    mask_threshold: Annotated[
        float | None,
        doc("fixed bleed threshold in ADU instead of the saturation level (2021: 100000)"),
    ] = None
    mask_grow_size: Annotated[Count, doc("how far bleeds are grown, pixels")] = 7
    mask_all_amplifiers: Annotated[
        bool, doc("mask the bleeds of any amplifier in all of them, as the 2021 pipeline did")
    ] = False
    masked_column_grow_size: Annotated[Count, doc("how far bad columns are grown, pixels")] = 2
    fraction: Annotated[
        float,
        fraction,
        doc("no correction when overscan over image level exceeds this (and image_threshold)"),
    ] = 0.5
    image_threshold: Annotated[
        float, not_negative, doc("image level above which fraction is looked at, ADU")
    ] = 10000.0
    do_median_smoothing_outlier_rejection: Annotated[
        bool, doc("mask columns that stand above the running median of their neighbours")
    ] = True
    median_smoothing_kernel: Annotated[
        int, at_least(1), doc("width of that running median, columns, odd")
    ] = 5
    median_smoothing_outlier_threshold: Annotated[
        float, positive, doc("how far a column must stand out, ADU")
    ] = 5.0


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


def _box(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    rows, columns = box.slices
    return array[rows, columns]


def _used(width: int, far_side_last: bool, config: OverscanConfig, where: str) -> slice:
    lead, trail = config.leading_to_skip, config.trailing_to_skip
    if lead + trail >= width:
        raise DataError(
            f"Skipping {lead} + {trail} of the {width} overscan pixels of {where} leaves none.",
            "Lower leading_to_skip or trailing_to_skip.",
        )
    return slice(lead, width - trail) if far_side_last else slice(trail, width - lead)


def _serial(frame: RawExposure, amp: Amplifier, config: OverscanConfig) -> Strip:
    """Views for the serial overscan: rows from the data through the parallel overscan."""
    over, data, parallel = amp.serial_overscan, amp.data, amp.parallel_overscan
    boxes = [data] if parallel.empty else [data, parallel]
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
    )


def _parallel(frame: RawExposure, amp: Amplifier, config: OverscanConfig) -> Strip:
    """Views for the parallel overscan: the columns of the data."""
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
    )


def _where(frame: RawExposure, amp: Amplifier) -> str:
    return f"amplifier {amp.name} of detector {frame.detector.name}"


def subtract_overscan(frame: RawExposure, config: OverscanConfig, calibs: Calibs) -> RawExposure:
    """Subtract the serial overscan level from every row of data and parallel overscan.

    Records per amplifier: ``overscan_columns``, ``overscan_level`` / ``_median`` / ``_sigma`` (of
    the level), ``overscan_residual_mean`` / ``_median`` / ``_sigma`` (of the corrected overscan),
    all ADU; ``overscan_skipped`` = 1 when there is no overscan or no usable pixel of it. Keeps the
    series ``overscan_level`` and ``overscan_rows`` (mean overscan as read), one value per row.

    Raises
    ------
    DataError
        When the skipped columns leave none, or a polynomial has too many terms.
    """
    _check_planes(config)
    for amp, _, _ in frame.amplifiers():
        if amp.serial_overscan.empty:
            frame.record("overscan_skipped", 1, "1", amp.name)
            continue
        strip = _serial(frame, amp, config)
        width = strip.used.stop - strip.used.start
        frame.record("overscan_columns", width, "pixel", amp.name)
        use = good_pixels(strip.pixels, strip.mask, mask_bits(*config.mask_planes))[:, strip.used]
        rows = mean_rows(strip.pixels[:, strip.used], use)
        frame.series["overscan_rows", amp.name] = fill_gaps(rows)
        _mark_strays(strip, config)
        _correct(frame, amp, strip, config, "overscan")
    return frame


def subtract_parallel_overscan(
    frame: RawExposure, config: ParallelOverscanConfig, calibs: Calibs
) -> RawExposure:
    """Subtract from every column of the data the level that the parallel overscan shows.

    Charge that bled into the overscan is masked SAT first, columns that stand out are masked BAD.
    Records the same numbers as the serial step, with the prefix ``parallel_overscan``; nothing is
    subtracted (``parallel_overscan_skipped`` = 1) when no pixel is usable or when the overscan
    follows a bright image, as it does when charge lags behind.

    Raises
    ------
    ConfigError
        When the smoothing kernel is even.
    DataError
        When the skipped rows leave none, or the overscan does not span the data.
    """
    _check_planes(config)
    if config.median_smoothing_kernel % 2 == 0:
        raise ConfigError(
            f"median_smoothing_kernel = {config.median_smoothing_kernel} is even.",
            "Choose an odd number of columns.",
        )
    strips = dict(_strips(frame, config))
    _mask_bleeds(frame, strips, config)
    for amp, _, _ in frame.amplifiers():
        strip = strips.get(amp.name)
        if strip is None:
            frame.record("parallel_overscan_skipped", 1, "1", amp.name)
            continue
        frame.record("parallel_overscan_bad_columns", _mark_columns(strip, config), "1", amp.name)
        if _follows_image(strip, config):
            frame.record("parallel_overscan_skipped", 1, "1", amp.name)
        else:
            _correct(frame, amp, strip, config, "parallel_overscan")
    return frame


def _strips(frame: RawExposure, config: OverscanConfig) -> Iterator[tuple[str, Strip]]:
    for amp, _, _ in frame.amplifiers():
        if not amp.parallel_overscan.empty:
            yield amp.name, _parallel(frame, amp, config)


def _check_planes(config: OverscanConfig) -> None:
    mask_bits(*config.mask_planes)


def _mask_bleeds(
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
        found = strip.pixels >= threshold
        if config.mask_grow_size and found.any():
            found = binary_dilation(found, iterations=config.mask_grow_size)
        bleeds[name] = found
    if config.mask_all_amplifiers and len({found.shape for found in bleeds.values()}) == 1:
        anywhere = np.logical_or.reduce(list(bleeds.values()))
        bleeds = dict.fromkeys(bleeds, anywhere)
    for name, found in bleeds.items():
        strips[name].mask[found] |= MASK_DTYPE(mask_bits("SAT"))


def _mark_strays(strip: Strip, config: OverscanConfig) -> Flags:
    """Set BAD on used overscan pixels far from the median; return the lines that are all strays."""
    pixels, mask = strip.pixels[:, strip.used], strip.mask[:, strip.used]
    good = good_pixels(pixels, mask, mask_bits(*config.mask_planes))
    deviation = pixels - median(pixels, good)
    if config.do_absolute_max_deviation:
        deviation = np.abs(deviation)
    stray = good & (deviation > config.max_deviation)
    mask[stray] |= MASK_DTYPE(mask_bits("BAD"))
    whole: Flags = stray.all(axis=1)
    return whole


def _mark_columns(strip: Strip, config: ParallelOverscanConfig) -> int:
    """Set BAD on columns that stand out, and their neighbours; return how many stand out."""
    bad = _mark_strays(strip, config)
    kernel = config.median_smoothing_kernel
    if config.do_median_smoothing_outlier_rejection and bad.size > 2 * kernel:
        levels = median_rows(strip.pixels[:, strip.used])
        excess = levels - running_median(levels, kernel)
        inner = slice(kernel, levels.size - kernel)
        bad[inner] |= excess[inner] >= config.median_smoothing_outlier_threshold
    count = int(np.count_nonzero(bad))
    if count and config.masked_column_grow_size:
        bad = binary_dilation(bad, iterations=config.masked_column_grow_size)
    strip.mask[bad] |= MASK_DTYPE(mask_bits("BAD"))
    return count


def _follows_image(strip: Strip, config: ParallelOverscanConfig) -> bool:
    bits = mask_bits(*config.mask_planes)
    image = median(strip.image, good_pixels(strip.image, strip.image_mask, bits))
    pixels, mask = strip.pixels[:, strip.used], strip.mask[:, strip.used]
    over = median(pixels, good_pixels(pixels, mask, bits))
    return image > config.image_threshold and over / image > config.fraction


def _correct(
    frame: RawExposure, amp: Amplifier, strip: Strip, config: OverscanConfig, prefix: str
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
        frame.record(f"{prefix}_{name}", value, "adu", amp.name)


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the serial and the parallel overscan correction."""
    yield IsrStep(
        name="overscan",
        summary="Subtract the level that the serial overscan of each row shows",
        level="amplifier",
        apply=subtract_overscan,
        config=OverscanConfig,
    )
    yield IsrStep(
        name="parallel_overscan",
        summary="Subtract the level that the parallel overscan of each column shows",
        level="amplifier",
        apply=subtract_parallel_overscan,
        config=ParallelOverscanConfig,
        after=("overscan",),
    )
