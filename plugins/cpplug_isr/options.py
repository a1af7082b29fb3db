"""What can be set about reading the overscan."""

from __future__ import annotations

from typing import Annotated

from cpplug.api import Config, at_least, doc, fraction, not_negative, positive
from cpplug_isr.levels import FitType

Count = Annotated[int, not_negative]


class StripConfig(Config, frozen=True):
    """How an overscan strip is read."""

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


class OverscanConfig(StripConfig, frozen=True):
    """How the serial overscan is read, and which rows it corrects."""

    correct_parallel_rows: Annotated[
        bool,
        doc(
            "correct the rows of the parallel overscan too, as the parallel step needs; the 2021 "
            "pipeline left them out where that step was off"
        ),
    ] = True


class ParallelOverscanConfig(StripConfig, frozen=True):
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
