"""The overscan steps against the reference cases, known answers and properties."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    Box,
    ConfigError,
    DataError,
    Detector,
    ExposureInfo,
    RawExposure,
    UnknownNameError,
    mask_bits,
)
from cpplug_isr.levels import FIT_TYPES, fill_gaps
from cpplug_isr.options import OverscanConfig, ParallelOverscanConfig
from cpplug_isr.overscan import subtract_overscan, subtract_parallel_overscan

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


def test_both_overscans_together_agree_with_the_reference(case) -> None:
    make, expected, runs = case
    run, frame = runs["combined"], make("int")
    subtract_overscan(
        frame, OverscanConfig(overscan_is_int=True, leading_to_skip=3, trailing_to_skip=2), None
    )
    old_task = ParallelOverscanConfig(
        overscan_is_int=True,
        max_deviation=1000,
        do_absolute_max_deviation=True,
        mask_threshold=100000,
        masked_column_grow_size=0,
        do_median_smoothing_outlier_rejection=False,
        leading_to_skip=2,
    )
    subtract_parallel_overscan(frame, old_task, None)
    assert np.abs(frame.segments["A"] - expected["combined_image"]).max() <= 2e-3
    assert np.array_equal(frame.masks["A"], expected["combined_mask"])
    for i, prefix in enumerate(("overscan", "parallel_overscan")):
        for key, value in stats_of(frame, prefix).items():
            assert value == pytest.approx(run[key][i], abs=1e-4)


# ---- known answers: algorithms D.3 and D.5.2 -----------------------------------------------------
TOY_BOXES = (Box(0, 0, 10, 10), Box(10, 0, 3, 10), Box(0, 10, 10, 3))


def toy() -> np.ndarray:
    image = np.full((13, 13), 2.0, np.float32)
    image[:10, :10] = 10
    return image


@pytest.mark.parametrize("fit", FIT_TYPES)
def test_constant_overscan_is_removed_by_every_fit(detector_of, raw, fit) -> None:
    frame = raw(detector_of((13, 13), *TOY_BOXES), toy())
    subtract_overscan(frame, OverscanConfig(fit_type=fit), None)
    assert np.allclose(frame.segments["A"][:10, :10], 8, atol=1e-5)
    assert np.allclose(frame.segments["A"][:, 10:], 0, atol=1e-5)


@pytest.mark.parametrize(("as_int", "left"), [(True, 0.5), (False, 0.0)])
def test_whole_numbers_cost_half_an_adu(detector_of, raw, as_int, left) -> None:
    image = toy()
    image[4, 11] = 12345
    image[:10, 10:] += 0.5
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    config = OverscanConfig(num_sigma_clip=2.7, overscan_is_int=as_int, max_deviation=1e9)
    subtract_overscan(frame, config, None)
    assert np.array_equal(frame.segments["A"][:10, :10], np.full((10, 10), 7.5 + left))
    assert frame.segments["A"][4, 11] == 12343.0 + left
    assert frame.segments["A"][5, 11] == left


@pytest.mark.parametrize("fit", [f for f in FIT_TYPES if not f.startswith(("MEAN", "MEDIAN"))])
def test_curves_follow_a_ramp(detector_of, raw, fit) -> None:
    image = toy()
    image[:, 10:] = 2 + np.arange(13)[:, None] + np.array([-0.5, 0, 0.5])
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    subtract_overscan(frame, OverscanConfig(fit_type=fit, order=5), None)
    rows = np.arange(10)[:, None]
    assert np.allclose(frame.segments["A"][:10, :10], 8 - rows, atol=1e-4)
    assert np.allclose(frame.segments["A"][:, 10:], [-0.5, 0, 0.5], atol=1e-4)


@pytest.mark.parametrize("fit", ["MEDIAN_PER_ROW", "MEAN_PER_ROW"])
def test_a_wave_along_the_rows_disappears(detector_of, raw, fit) -> None:
    image = np.zeros((500, 100), np.float32)
    image[:, :70] = 50
    wave = (20 + 15 * np.sin(15.70795 * np.linspace(0, 6.28318, 500))).astype(int)
    detector = detector_of((500, 100), Box(0, 0, 70, 500), Box(70, 0, 30, 500))
    frame = raw(detector, image + wave[:, None])
    subtract_overscan(frame, OverscanConfig(fit_type=fit), None)
    assert np.array_equal(frame.segments["A"], image)


def test_the_parallel_overscan_removes_a_ramp_along_the_columns(detector_of, raw) -> None:
    image = toy()
    image[:, :10] += np.arange(10)
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    subtract_overscan(frame, OverscanConfig(), None)
    subtract_parallel_overscan(frame, ParallelOverscanConfig(), None)
    assert frame.measured("overscan_level", "A") == 2.0
    assert frame.measured("parallel_overscan_level", "A") == 4.5
    assert frame.segments["A"][:10, :10].std() == 0


@pytest.mark.parametrize("saturated", [True, False])
@pytest.mark.parametrize(
    ("value", "absolute"), [(1e5, False), (200, False), (7, False), (-200, True)]
)
def test_a_column_that_stands_out_is_the_only_bad_one(
    detector_of, raw, saturated, value, absolute
) -> None:
    image, mask = toy(), np.zeros((13, 13))
    image[10:, 4] = value
    if saturated:
        mask[10:, 4] = SAT
    frame = raw(detector_of((13, 13), *TOY_BOXES), image, mask)
    config = ParallelOverscanConfig(
        median_smoothing_kernel=3,
        masked_column_grow_size=0,
        mask_grow_size=0,
        saturation_level=1e6,
        do_absolute_max_deviation=absolute,
    )
    subtract_parallel_overscan(frame, config, None)
    expected = 0 if saturated and value < 0 else 1
    assert frame.measured("parallel_overscan_bad_columns", "A") == expected
    bad = frame.masks["A"][10:, :10] & BAD
    assert bad[:, 4].all() == bool(expected)
    assert not bad[:, [0, 1, 2, 3, 5, 6, 7, 8, 9]].any()


def test_a_bleed_is_masked_before_the_columns_are_read(detector_of, raw) -> None:
    image = toy()
    image[:, :10] += np.arange(10)
    image[10:, 4:6] = 110000
    config = ParallelOverscanConfig(mask_grow_size=1, fit_type="MEDIAN_PER_ROW")
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    subtract_parallel_overscan(frame, config, None)
    sat = (frame.masks["A"] & SAT) != 0
    assert sat[10:, 3:7].all()
    assert sat.sum() == 12
    untouched = [0, 1, 2, 7, 8, 9]
    assert np.array_equal(
        frame.series["parallel_overscan_level", "A"][untouched], 2.0 + np.array(untouched)
    )


def test_the_recorded_saturation_level_sets_the_bleed_threshold(detector_of, raw) -> None:
    image = toy()
    image[11, 3] = 80.0
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    frame.record("saturation_level", 100.0, "adu", "A")
    subtract_parallel_overscan(frame, ParallelOverscanConfig(mask_grow_size=0), None)
    assert np.argwhere(frame.masks["A"] & SAT).tolist() == [[11, 3]]


def test_an_overscan_under_a_bright_image_is_not_trusted(detector_of, raw) -> None:
    image = toy()
    image[:10, :10], image[10:, :10] = 20000, 15000
    frame = raw(detector_of((13, 13), *TOY_BOXES), image)
    subtract_parallel_overscan(frame, ParallelOverscanConfig(), None)
    assert frame.measured("parallel_overscan_skipped", "A") == 1
    assert np.array_equal(frame.segments["A"], image)


# ---- what cannot be corrected --------------------------------------------------------------------
def test_without_overscan_nothing_happens_and_it_is_said(detector_of, raw) -> None:
    empty = Box(0, 0, 0, 0)
    frame = raw(detector_of((13, 13), TOY_BOXES[0], empty), toy())
    subtract_overscan(frame, OverscanConfig(), None)
    subtract_parallel_overscan(frame, ParallelOverscanConfig(), None)
    assert np.array_equal(frame.segments["A"], toy())
    assert frame.measured("overscan_skipped", "A") == 1
    assert frame.measured("parallel_overscan_skipped", "A") == 1


@pytest.mark.parametrize("fit", FIT_TYPES)
@pytest.mark.parametrize("kind", ["masked", "nan"])
def test_an_overscan_without_a_usable_pixel_corrects_nothing(detector_of, raw, fit, kind) -> None:
    image, mask = toy(), np.zeros((13, 13))
    if kind == "masked":
        mask[:, 10:] = BAD
    else:
        image[:, 10:] = np.nan
    frame = raw(detector_of((13, 13), *TOY_BOXES), image, mask)
    subtract_overscan(frame, OverscanConfig(fit_type=fit), None)
    assert frame.measured("overscan_skipped", "A") == 1
    assert np.array_equal(frame.segments["A"], image, equal_nan=True)


def test_skipping_every_column_is_refused_by_name(detector_of, raw) -> None:
    frame = raw(detector_of((13, 13), *TOY_BOXES), toy())
    with pytest.raises(DataError, match=r"amplifier A of detector toy leaves none"):
        subtract_overscan(frame, OverscanConfig(leading_to_skip=2, trailing_to_skip=1), None)


def test_a_polynomial_needs_enough_rows(detector_of, raw) -> None:
    frame = raw(detector_of((13, 13), *TOY_BOXES), toy())
    with pytest.raises(DataError, match="degree 13 needs more than the 13 overscan lines"):
        subtract_overscan(frame, OverscanConfig(fit_type="POLY", order=13), None)


def test_wrong_options_are_refused(detector_of, raw) -> None:
    frame = raw(detector_of((13, 13), *TOY_BOXES), toy())
    with pytest.raises(ConfigError, match="even"):
        subtract_parallel_overscan(frame, ParallelOverscanConfig(median_smoothing_kernel=4), None)
    with pytest.raises(UnknownNameError, match="SATT"):
        subtract_overscan(frame, OverscanConfig(mask_planes=("SATT",)), None)


def test_leading_columns_lie_beside_the_image_on_either_side(detector_of, raw) -> None:
    image = np.zeros((6, 10), np.float32)
    image[:, 3] = 100
    detector = detector_of((6, 10), Box(4, 0, 6, 6), Box(0, 0, 4, 6))
    frame = raw(detector, image)
    config = OverscanConfig(fit_type="MEAN", leading_to_skip=1)
    subtract_overscan(frame, config, None)
    assert frame.measured("overscan_level", "A") == 0
    assert frame.measured("overscan_columns", "A") == 3


def test_rows_of_the_parallel_overscan_can_be_left_alone(two_amplifiers) -> None:
    """As the 2021 pipeline did; the parallel step then has nothing sound to work on."""
    frame, before = two_amplifiers(), two_amplifiers()
    subtract_overscan(frame, OverscanConfig(correct_parallel_rows=False), None)
    for name in "AB":
        assert np.array_equal(frame.segments[name][7:], before.segments[name][7:])
        assert (frame.segments[name][:7, 1:6] == 8).all()
        assert frame.series["overscan_level", name].shape == (7,)
    with pytest.raises(DataError, match="correct_parallel_rows"):
        subtract_parallel_overscan(frame, ParallelOverscanConfig(), None)


def test_bleeds_of_one_amplifier_can_be_masked_in_all(two_amplifiers) -> None:
    frame = two_amplifiers()
    frame.segments["B"][8, 2] = 5e4
    config = ParallelOverscanConfig(mask_all_amplifiers=True, mask_grow_size=0)
    subtract_parallel_overscan(frame, config, None)
    assert np.argwhere(frame.masks["A"] & SAT).tolist() == [[8, 2]]
    assert np.argwhere(frame.masks["B"] & SAT).tolist() == [[8, 2]]


# ---- properties ----------------------------------------------------------------------------------
@given(
    seed=st.integers(0, 2**16),
    fit=st.sampled_from(FIT_TYPES),
    prescan=st.integers(0, 3),
    parallel=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_adding_the_level_back_gives_the_frame_and_the_rest_is_untouched(
    seed, fit, prescan, parallel
) -> None:
    rng = np.random.default_rng(seed)
    shape = (20 + parallel, prescan + 12 + 8)
    amp = Amplifier(
        name="A",
        source=(Box(0, 0, shape[1], shape[0]),),
        data=Box(prescan, 0, 12, 20),
        serial_overscan=Box(prescan + 12, 0, 8, 20),
        parallel_overscan=Box(prescan, 20, 12, parallel),
        bbox=Box(0, 0, 12, 20),
    )
    detector = Detector(id=0, name="toy", amplifiers=(amp,), width=12, height=20)
    info = ExposureInfo(
        instrument="toy", exposure=1, obs_id="1", day_obs=20210101, seq_num=1, begin=0, end=0,
        observation_type="bias", exposure_time=0.0, dark_time=0.0,
    )  # fmt: skip
    image = rng.normal(1000, 5, shape).astype(np.float32)
    frame = RawExposure(info, detector, {"A": image.copy()})
    subtract_overscan(frame, OverscanConfig(fit_type=fit, order=5), None)
    level = frame.series["overscan_level", "A"]
    restored = frame.segments["A"].astype(np.float64)
    restored[:, prescan:] += level[:, None]
    assert np.allclose(restored, image, atol=2e-4)
    assert np.array_equal(frame.segments["A"][:, :prescan], image[:, :prescan])
    rows = image[:, prescan + 12 :].mean(axis=1)
    assert np.allclose(frame.series["overscan_rows", "A"], rows, atol=1e-3)


@given(st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=1, max_size=40))
def test_gaps_are_filled_from_their_neighbours(levels) -> None:
    values = np.array([np.nan if v is None else v for v in levels])
    filled = fill_gaps(values)
    known = np.isfinite(values)
    assert np.array_equal(filled[known], values[known])
    if known.any():
        assert np.isfinite(filled).all()
        assert values[known].min() <= filled.min()
        assert filled.max() <= values[known].max()
