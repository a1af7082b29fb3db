"""Overscan: remove the level of the electronics from every row and column.

After the light-sensitive pixels of a row the camera goes on reading a few pixels that do not exist
(serial overscan); after the last row it reads rows that do not exist (parallel overscan). They show
the level, in ADU, on which the image sits. The serial step estimates it from each row, the parallel
step from each column of what is left, and both subtract it. How well the level was known, and how
noisy the overscan is, is recorded for every amplifier.
"""

from __future__ import annotations

from collections.abc import Iterator

from cpplug.api import (
    Calibs,
    ConfigError,
    DataError,
    IsrStep,
    RawExposure,
    good_pixels,
    hookimpl,
    mask_bits,
    mean_rows,
)
from cpplug_isr.levels import fill_gaps
from cpplug_isr.options import OverscanConfig, ParallelOverscanConfig
from cpplug_isr.strips import (
    correct,
    follows_image,
    mark_columns,
    mark_strays,
    mask_bleeds,
    parallel_strip,
    serial_strip,
)


def subtract_overscan(frame: RawExposure, config: OverscanConfig, calibs: Calibs) -> RawExposure:
    """Subtract the serial overscan level from every row of data and parallel overscan.

    Records per amplifier: ``overscan_columns``, ``overscan_level`` / ``_median`` / ``_sigma`` (of
    the level), ``overscan_residual_mean`` / ``_median`` / ``_sigma`` (of the corrected overscan),
    in the unit of the frame; ``overscan_skipped`` = 1 when there is no overscan or no usable pixel
    of it; ``overscan_parallel_rows_left`` = 1 when only rows of the data were corrected. Keeps the
    series ``overscan_level`` and ``overscan_rows`` (mean overscan as read), one value per row.

    Raises
    ------
    DataError
        When the skipped columns leave none, or a polynomial has too many terms.
    """
    for amp, _, _ in frame.amplifiers():
        if amp.serial_overscan.empty:
            frame.record("overscan_skipped", 1, "1", amp.name)
            continue
        strip = serial_strip(frame, amp, config)
        width = strip.used.stop - strip.used.start
        frame.record("overscan_columns", width, "pixel", amp.name)
        use = good_pixels(strip.pixels, strip.mask, mask_bits(*config.mask_planes))[:, strip.used]
        rows = mean_rows(strip.pixels[:, strip.used], use)
        frame.series["overscan_rows", amp.name] = fill_gaps(rows)
        if not config.correct_parallel_rows:
            frame.record("overscan_parallel_rows_left", 1, "1", amp.name)
        mark_strays(strip, config)
        correct(frame, amp, strip, config, "overscan")
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
        When the skipped rows leave none, the overscan does not span the data, or the serial step
        left its rows as they were.
    """
    if config.median_smoothing_kernel % 2 == 0:
        raise ConfigError(
            f"median_smoothing_kernel = {config.median_smoothing_kernel} is even.",
            "Choose an odd number of columns.",
        )
    strips = {
        amp.name: parallel_strip(frame, amp, config)
        for amp, _, _ in frame.amplifiers()
        if not amp.parallel_overscan.empty
    }
    mask_bleeds(frame, strips, config)
    for amp, _, _ in frame.amplifiers():
        strip = strips.get(amp.name)
        if strip is None:
            frame.record("parallel_overscan_skipped", 1, "1", amp.name)
            continue
        if frame.measured("overscan_parallel_rows_left", amp.name):
            raise DataError(
                f"The parallel overscan of amplifier {amp.name} of detector "
                f"{frame.detector.name} still has the level that the serial one shows.",
                "Leave overscan:correct_parallel_rows on.",
            )
        frame.record("parallel_overscan_bad_columns", mark_columns(strip, config), "1", amp.name)
        if follows_image(strip, config):
            frame.record("parallel_overscan_skipped", 1, "1", amp.name)
        else:
            correct(frame, amp, strip, config, "parallel_overscan")
    return frame


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
