"""The overscan steps against the reference cases, known answers and properties."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cpplug.api import Box, RawExposure, mask_bits
from cpplug_isr.levels import FIT_TYPES
from cpplug_isr.overscan import (
    OverscanConfig,
    ParallelOverscanConfig,
    subtract_overscan,
    subtract_parallel_overscan,
)

BAD, SAT = mask_bits("BAD"), mask_bits("SAT")
CASE_BOXES = (Box(0, 0, 100, 120), Box(100, 0, 20, 120), Box(0, 120, 100, 16))
HALF_ULP = 6.2e-5  # the reference keeps levels of about 1200 ADU as float32
KINDS = [f"serial_{kind}_{fit}" for kind in ("int", "float") for fit in FIT_TYPES] + [
    f"serial_{kind}_{fit}_notint"
    for kind in ("int", "float")
    for fit in ("MEDIAN", "MEDIAN_PER_ROW", "MEAN_PER_ROW")
]


@pytest.fixture
def case(reference_case, detector_of, raw):
    inputs, expected, folder = reference_case("overscan")
    runs = json.loads((folder / "meta.json").read_text())["runs"]

    def frame(kind: str) -> RawExposure:
        detector = detector_of((136, 120), *CASE_BOXES)
        return raw(detector, inputs[f"image_{kind}"], inputs["mask"])

    return frame, expected, runs


def stats_of(frame: RawExposure, prefix: str) -> dict[str, float]:
    names = {
        "overscanMean": "level",
        "overscanMedian": "median",
        "overscanSigma": "sigma",
        "residualMean": "residual_mean",
        "residualMedian": "residual_median",
        "residualSigma": "residual_sigma",
    }
    return {key: frame.measured(f"{prefix}_{name}", "A") for key, name in names.items()}


@pytest.mark.parametrize("tag", KINDS)
def test_serial_overscan_agrees_with_the_reference(case, tag, record_property) -> None:
    make, expected, runs = case
    run = runs[tag]
    frame = make(tag.split("_")[1])
    raw_image = frame.segments["A"].copy()
    config = OverscanConfig(
        fit_type=run["fitType"],
        order=run["order"],
        overscan_is_int=run["overscanIsInt"],
        leading_to_skip=run["leadingToSkip"],
        trailing_to_skip=run["trailingToSkip"],
    )
    subtract_overscan(frame, config, None)
    level = frame.series["overscan_level", "A"]
    worst = {"fit": np.abs(level - expected[f"{tag}_fit"]).max()}
    tolerance = {"fit": 1e-3 if "SPLINE" in tag or "_PER_ROW" not in tag else HALF_ULP}
    for key, value in stats_of(frame, "overscan").items():
        worst[key] = abs(value - run[key])
        tolerance[key] = 1e-3 if key != "residualSigma" else 1e-4
    if f"{tag}_image" in expected:
        worst["image"] = np.abs(frame.segments["A"] - expected[f"{tag}_image"]).max()
        tolerance["image"] = 2e-3
    record_property("worst", {key: f"{value:.1e}" for key, value in worst.items()})
    assert all(worst[key] <= tolerance[key] for key in worst), worst
    changed = frame.segments["A"] != raw_image
    assert changed.all(), "data, parallel overscan and serial overscan are all corrected"


@pytest.mark.parametrize("fit", ["MEDIAN_PER_ROW", "MEDIAN", "AKIMA_SPLINE"])
def test_parallel_overscan_agrees_with_the_reference(case, fit, record_property) -> None:
    make, expected, runs = case
    run, tag = runs[f"serpar_{fit}"], f"serpar_{fit}"
    frame = make("int")
    serial = {"overscan_is_int": True, "leading_to_skip": 3, "trailing_to_skip": 2}
    skips = {"leading_to_skip": run["leadingToSkip"], "trailing_to_skip": run["trailingToSkip"]}
    subtract_overscan(frame, OverscanConfig(**serial), None)
    subtract_parallel_overscan(
        frame,
        ParallelOverscanConfig(
            fit_type=fit,
            order=run["order"],
            saturation_level=run["saturationLevel"],
            **skips,
            overscan_is_int=True,
        ),
        None,
    )
    assert frame.measured("parallel_overscan_bad_columns", "A") == len(run["bad"])
    worst = {
        "fit": np.abs(frame.series["parallel_overscan_level", "A"] - expected[f"{tag}_fit"]).max(),
        "image": np.abs(frame.segments["A"] - expected[f"{tag}_image"]).max(),
    }
    tolerance = {"fit": 1e-3, "image": 2e-3}
    for key, value in stats_of(frame, "parallel_overscan").items():
        worst[key] = abs(value - run[key])
        tolerance[key] = 1e-3 if key != "residualSigma" else 1e-4
    record_property("worst", {key: f"{value:.1e}" for key, value in worst.items()})
    assert np.array_equal(frame.masks["A"], expected[f"{tag}_mask"])
    assert all(worst[key] <= tolerance[key] for key in worst), worst
