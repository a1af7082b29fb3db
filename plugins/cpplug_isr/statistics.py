"""Quality statistics: what a night operator wants to know of a frame without looking at it.

One step looks at the raw amplifiers with their overscans, where transfer problems show; the other
at the corrected image. Nothing of the frame changes: numbers are recorded as measurements, profiles
as series, always in read-out order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Box,
    Calibs,
    Config,
    Exposure,
    Image,
    IsrStep,
    RawExposure,
    at_least,
    clipped,
    doc,
    good_pixels,
    hookimpl,
    mask_bits,
    median,
    positive,
)
from cpplug_isr.profiles import banding, bias_shifts, correlation, means, spectrum, tearing
from cpplug_isr.shapes import Flags

COUNTED = ("SAT", "BAD", "SUSPECT")


class OverscanStatisticsConfig(Config, frozen=True):
    """How the means are taken."""

    n_sigma_clip: Annotated[float, positive, doc("half width of the clip, sigma")] = 3.0
    n_iter: Annotated[int, at_least(1), doc("passes of the clip")] = 3
    bad_mask: Annotated[tuple[str, ...], doc("mask planes of pixels not used")] = (
        "BAD",
        "INTRP",
        "SAT",
    )


class StatisticsConfig(OverscanStatisticsConfig, frozen=True):
    """Which groups are measured beside the standard one."""

    do_banding_statistics: Annotated[bool, doc("bands in the serial overscan level")] = False
    do_projection_statistics: Annotated[
        bool, doc("means of rows and columns, and the waves in them")
    ] = False
    do_divisadero_statistics: Annotated[bool, doc("tears next to the register")] = False
    do_bias_shift_statistics: Annotated[bool, doc("jumps of the serial overscan level")] = False
    do_amplifier_correlation_statistics: Annotated[
        bool, doc("correlation of the pixels of every two amplifiers")
    ] = False


def measure_overscans(
    frame: RawExposure, config: OverscanStatisticsConfig, calibs: Calibs
) -> RawExposure:
    """Measure what follows the last pixels of an amplifier into its overscans; algorithms A.18.

    Records per amplifier, electron: ``cti_image_mean``, ``cti_first_column``, ``cti_last_column``,
    ``cti_first_row``, ``cti_last_row`` (clipped means), and the series ``cti_serial_overscan`` (one
    mean per overscan column, data rows only) and ``cti_parallel_overscan`` (one per overscan row,
    data columns only). The overscans must still be there, so the step stands before assembly, best
    after the overscan level has been subtracted.
    """
    for amp, image, mask in frame.amplifiers():
        scale = frame.gain(amp.name) if frame.unit == "adu" else 1.0
        good = good_pixels(image, mask, mask_bits(*config.bad_mask))
        box = amp.data
        regions = {
            "image_mean": box,
            "first_column": Box(box.x, box.y, 1, box.height),
            "last_column": Box(box.x + box.width - 1, box.y, 1, box.height),
            "first_row": Box(box.x, box.y, box.width, 1),
            "last_row": Box(box.x, box.y + box.height - 1, box.width, 1),
        }
        for name, region in regions.items():
            value = clipped(
                image[region.slices], good[region.slices], clip=config.n_sigma_clip,
                n_iter=config.n_iter,
            ).mean  # fmt: skip
            if math.isfinite(value):
                frame.record(f"cti_{name}", value * scale, "electron", amp.name)
        serial, parallel = amp.serial_overscan, amp.parallel_overscan
        strips = {
            "serial_overscan": (Box(serial.x, box.y, serial.width, box.height), 0),
            "parallel_overscan": (Box(box.x, parallel.y, box.width, parallel.height), 1),
        }
        for name, (region, axis) in strips.items():
            if not region.empty:
                profile = means(
                    image[region.slices], good[region.slices], axis, config.n_sigma_clip,
                    config.n_iter,
                )  # fmt: skip
                frame.series[f"cti_{name}", amp.name] = profile * scale
    return frame


def measure_image(exposure: Exposure, config: StatisticsConfig, calibs: Calibs) -> Exposure:
    """Measure the corrected image; algorithms A.18.

    Records per amplifier: ``final_mean``, ``final_sigma`` (clipped), ``final_median`` (unit of the
    image), ``final_level`` (median above that of the corrected overscan) and the number of pixels
    ``masked_sat``, ``masked_bad``, ``masked_suspect``. Groups that are switched on add
    ``banding`` (and that of the detector, the median); series ``column_means``, ``row_means`` and
    their ``..._spectrum``; ``tearing`` and the series ``tearing_profile``; ``bias_shift_noise``,
    ``bias_shifts`` and the series ``bias_shift_rows`` and ``bias_shift_heights``; the series
    ``amplifier_correlation`` (Pearson's r with every amplifier in order).
    """
    bits = mask_bits(*config.bad_mask)
    for amp in exposure.detector.amplifiers:
        image, mask = _read_order(exposure, amp)
        good = good_pixels(image, mask, bits)
        _standard(exposure, amp, image, good, config)
        for plane in COUNTED:
            count = int(np.count_nonzero(mask & MASK_DTYPE(mask_bits(plane))))
            exposure.record(f"masked_{plane.lower()}", count, "pixel", amp.name)
        if config.do_projection_statistics and good.any():
            for name, axis in (("column_means", 0), ("row_means", 1)):
                profile = means(image, good, axis, config.n_sigma_clip, config.n_iter)
                exposure.series[name, amp.name] = profile
                exposure.series[f"{name}_spectrum", amp.name] = spectrum(profile)
        if config.do_divisadero_statistics:
            exposure.series["tearing_profile", amp.name], worst = tearing(image, good)
            _record(exposure, "tearing", worst, "1", amp.name)
        _overscan_groups(exposure, amp, config)
    if config.do_banding_statistics:
        bands = [exposure.measured("banding", a.name) for a in exposure.detector.amplifiers]
        found = np.array([band for band in bands if band is not None])
        _record(exposure, "banding", median(found), exposure.unit, "detector")
    if config.do_amplifier_correlation_statistics:
        _correlations(exposure, bits)
    return exposure


def _record(exposure: Exposure, name: str, value: float, unit: str, scope: str) -> None:
    if math.isfinite(value):
        exposure.record(name, value, unit, scope)


def _read_order(exposure: Exposure, amp: Amplifier) -> tuple[Image, Any]:
    """Return views of image and mask of an amplifier in read-out order."""
    turn = tuple(slice(None, None, -1 if flip else 1) for flip in (amp.flip_y, amp.flip_x))
    image, mask = exposure.amp(amp.name)
    return image[turn], mask[turn]


def _standard(
    exposure: Exposure, amp: Amplifier, image: Image, good: Flags, config: StatisticsConfig
) -> None:
    found = clipped(image, good, clip=config.n_sigma_clip, n_iter=config.n_iter)
    middle = median(image, good)
    _record(exposure, "final_mean", found.mean, exposure.unit, amp.name)
    _record(exposure, "final_median", middle, exposure.unit, amp.name)
    _record(exposure, "final_sigma", math.sqrt(found.variance), exposure.unit, amp.name)
    for item in reversed(exposure.measurements):
        if item.name == "overscan_residual_median" and item.scope == amp.name:
            factor = 1.0 if item.unit == exposure.unit else exposure.gain(amp.name)
            level = middle - item.value * factor
            _record(exposure, "final_level", level, exposure.unit, amp.name)
            break


def _overscan_groups(exposure: Exposure, amp: Amplifier, config: StatisticsConfig) -> None:
    levels = exposure.series.get(("overscan_level", amp.name))
    if levels is None:
        return
    unit = next(
        m.unit for m in exposure.measurements if (m.name, m.scope) == ("overscan_level", amp.name)
    )
    scale = 1.0 if unit == exposure.unit else exposure.gain(amp.name)
    if config.do_banding_statistics:
        _record(exposure, "banding", banding(levels) * scale, exposure.unit, amp.name)
    if config.do_bias_shift_statistics:
        noise, found = bias_shifts(levels * scale)
        _record(exposure, "bias_shift_noise", noise, exposure.unit, amp.name)
        exposure.record("bias_shifts", len(found), "1", amp.name)
        exposure.series["bias_shift_rows", amp.name] = np.array([r for r, _ in found], np.float64)
        exposure.series["bias_shift_heights", amp.name] = np.array([h for _, h in found])


def _correlations(exposure: Exposure, bits: int) -> None:
    """Correlate amplifiers of equal shape, each pair over the pixels that are good in both."""
    amps = exposure.detector.amplifiers
    shapes = {amp.bbox.shape for amp in amps}
    rows = {amp.name: np.full(len(amps), np.nan) for amp in amps}
    for shape in shapes:
        group = [index for index, amp in enumerate(amps) if amp.bbox.shape == shape]
        views = [_read_order(exposure, amps[index]) for index in group]
        found = correlation([image for image, _ in views], [mask for _, mask in views], bits)
        for row, index in zip(found, group, strict=True):
            rows[amps[index].name][group] = row
    for name, row in rows.items():
        exposure.series["amplifier_correlation", name] = row


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the two steps that measure."""
    yield IsrStep(
        name="overscan_statistics",
        summary="Measure what the last pixels leave in the overscans",
        level="amplifier",
        apply=measure_overscans,
        config=OverscanStatisticsConfig,
        aliases=("cti_statistics",),
    )
    yield IsrStep(
        name="statistics",
        summary="Measure levels, scatter and masks of the corrected image",
        level="detector",
        apply=measure_image,
        config=StatisticsConfig,
        after=("assemble",),
        aliases=("standard_statistics", "calculate_statistics"),
    )
