"""Filling pixels from their neighbours: the weights, the reference cases, and what stays alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import Box, Exposure, mask_bits
from cpplug.api.fakes import make_exposure
from cpplug.api.testing import IsrStepContract
from cpplug_defects import DefectsConfig, make_table, mask_defects
from cpplug_isr import interpolate as module
from cpplug_isr.interpolate import InterpolateConfig, fill, interpolate, weights
from cpplug_isr.shapes import grow, runs_of

BAD, SAT, INTRP = (mask_bits(plane) for plane in ("BAD", "SAT", "INTRP"))


class TestInterpolate(IsrStepContract):
    (step,) = module.cpplug_isr_steps()


class Found:
    """Calibrations with a list of defects."""

    def __init__(self, boxes) -> None:
        self.product = make_table([Box(*(int(v) for v in box)) for box in boxes])

    def table(self, dataset_type):
        return self.product


def frame(detector_of, image, mask=None, variance=None) -> Exposure:
    height, width = image.shape
    detector = detector_of((height, width), Box(0, 0, width, height), Box(0, 0, 0, 0))
    return Exposure(None, detector, image.astype(np.float32), mask, variance)


# ---- weights -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("run", "pixel", "expected"),
    [
        ((1, 2, 2), 0, (0.7737, -0.2737, 0.7737, -0.2737)),
        ((2, 2, 2), 0, (1.1904, -0.4793, 0.5212, -0.2323)),
        ((2, 2, 2), 1, (0.5212, -0.2323, 1.1904, -0.4793)),
        ((3, 2, 2), 0, (1.3163, -0.5230, 0.2536, -0.0469)),
        ((3, 2, 2), 1, (0.8144, -0.3144, 0.8144, -0.3144)),
        ((1, 1, 1), 0, (0.5, 0.5)),
        ((6, 2, 0), 0, (1.4288, -0.4288)),
        ((6, 2, 0), 1, (1.0933, -0.0933)),
        ((6, 2, 0), 2, (0.6968, 0.3032)),
        ((6, 2, 0), 3, (0.5370, 0.4630)),
        ((6, 2, 0), 4, (0.5041, 0.4959)),
        ((6, 2, 0), 5, (0.5003, 0.4997)),
        ((13, 2, 2), 6, (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_weights_are_the_published_numbers(run, pixel, expected) -> None:
    found = weights(*run, fallback=True)[pixel]
    np.testing.assert_allclose(found[:-1], expected, atol=6e-5)
    assert found[-1] == 0


@given(st.integers(1, 30), st.integers(0, 2), st.integers(0, 2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_weights_add_up_to_one_and_mirror(width, left, right, fallback) -> None:
    found = weights(width, left, right, fallback)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    mirrored = weights(width, right, left, fallback)[::-1]
    turned = np.concatenate([mirrored[:, right:-1], mirrored[:, :right], mirrored[:, -1:]], axis=1)
    np.testing.assert_allclose(found, turned, atol=1e-12)


def test_wide_holes_at_the_edge_reach_the_typical_value() -> None:
    found = weights(9, 2, 0, True)[:, -1]
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found[6:], 1)
    np.testing.assert_allclose(found[:6] + found[5::-1], 1)
    assert not weights(9, 2, 0, False)[:, -1].any()


# ---- reference cases -----------------------------------------------------------------------------
@pytest.mark.parametrize(("key", "at_edge"), [("edge_fallback", True), ("edge_interp", False)])
def test_case_defect_interp(reference_case, key, at_edge) -> None:
    inputs, expected, _ = reference_case("defect_interp")
    bad = np.zeros(inputs["image"].shape, bool)
    for x, y, width, height in inputs["boxes"]:
        bad[y : y + height, x : x + width] = True
    assert np.array_equal(bad, expected[f"{key}_intrp"])
    config = InterpolateConfig(
        fallback_value=777.0, use_fallback_value_at_edge=at_edge, reference_quirks=True
    )
    image, variance = inputs["image"].copy(), inputs["variance"].copy()
    fill(image, variance, bad, config)
    assert np.array_equal(image, expected[f"{key}_image"])
    assert np.array_equal(variance, expected[f"{key}_variance"])
    # Weights that add up to 1 differ from the rounded ones by at most 1.2e-4 of the level.
    plain = inputs["image"].copy()
    config = InterpolateConfig(fallback_value=777.0, use_fallback_value_at_edge=at_edge)
    fill(plain, None, bad, config)
    assert 0.1 < np.abs(plain - image).max() < 1.2e-4 * image.max()


def test_case_isr_classic(reference_case, detector_of) -> None:
    inputs, expected, _ = reference_case("isr_classic")
    mask = np.zeros(expected["flat_mask"].shape, np.uint16)

    def made(**options) -> Exposure:
        one = frame(
            detector_of, expected["flat_image"], mask.copy(), expected["flat_variance"].copy()
        )
        mask_defects(one, DefectsConfig(), Found(inputs["defects"]))
        return interpolate(one, InterpolateConfig(**options), None)

    one = made(reference_quirks=True)
    for plane in ("BAD", "SAT", "INTRP", "SUSPECT"):
        bit = mask_bits(plane)
        assert np.array_equal(one.mask & bit, expected["sat_defect_mask"] & bit), plane
    assert np.count_nonzero(one.mask & INTRP) == 2000
    np.testing.assert_allclose(one.image, expected["sat_defect_image"], rtol=1e-6, atol=2e-3)
    np.testing.assert_allclose(one.variance, expected["sat_defect_variance"], rtol=1e-5)
    # By default the typical value leaves out the pixels to fill (0.23 ADU more here), and the
    # typical variance is one: 367, not the 181 of the image.
    plain = made()
    assert plain.image[0, 0] - one.image[0, 0] == pytest.approx(0.22627, abs=1e-4)
    assert (one.variance[0, 0], plain.variance[0, 0]) == pytest.approx((180.68, 367.26), abs=0.01)


@pytest.mark.parametrize(("quirks", "tolerance"), [(True, 1e-3), (False, 0.02)])
def test_case_isr_lsst(reference_case, detector_of, quirks, tolerance) -> None:
    inputs, expected, folder = reference_case("isr_lsst")
    planes = json.loads((folder / "meta.json").read_text())["maskPlanes"]
    one = frame(
        detector_of, expected["dark_flat_image"], np.zeros((204, 200), np.uint16),
        expected["all_variance"].copy(),
    )  # fmt: skip
    mask_defects(one, DefectsConfig(), Found(inputs["defects"]))
    interpolate(one, InterpolateConfig(reference_quirks=quirks), None)
    np.testing.assert_allclose(one.image, expected["all_image"], rtol=1e-6, atol=tolerance)
    clean = one.mask & BAD == 0
    np.testing.assert_array_equal(one.image[clean], expected["all_image"][clean])
    for plane in ("BAD", "SAT", "INTRP", "SUSPECT"):
        theirs = expected["all_mask"] >> planes[plane] & 1
        assert np.array_equal((one.mask & mask_bits(plane)) > 0, theirs > 0), plane


# ---- what the step does --------------------------------------------------------------------------
def test_saturation_is_grown_by_a_diamond(detector_of) -> None:
    image = np.full((20, 20), 100.0)
    image[5:16, 9] = 1000
    one = frame(detector_of, image)
    one.mask[image >= 1000] = SAT
    assert np.count_nonzero(one.mask) == 11
    interpolate(one, InterpolateConfig(mask_list_to_interpolate=("SAT",)), None)
    expected = np.zeros((20, 20), bool)
    expected[5:16, 8:11] = expected[4:17, 9] = True
    assert np.array_equal(one.mask & INTRP > 0, expected)
    assert np.array_equal(one.mask & SAT > 0, expected), "the mask says why"
    np.testing.assert_allclose(one.image, 100, rtol=1e-6)
    assert one.measured("interpolated_pixels") == 35


def test_saturation_is_not_grown_where_it_is_not_filled(detector_of) -> None:
    one = frame(detector_of, np.full((9, 9), 5.0))
    one.mask[4, 4] = SAT
    interpolate(one, InterpolateConfig(mask_list_to_interpolate=("BAD",)), None)
    assert np.count_nonzero(one.mask) == 1
    assert one.measured("interpolated_pixels") == 0


def test_a_neighbour_that_is_no_number_is_not_used(detector_of) -> None:
    image = np.arange(12.0)[None, :].repeat(3, axis=0)
    image[:, 4] = np.nan
    one = frame(detector_of, image)
    one.mask[:, 5] = BAD
    interpolate(one, InterpolateConfig(), None)
    np.testing.assert_allclose(one.image[:, 5], 1.428849 * 6 - 0.428849 * 7, rtol=1e-5)
    assert np.isnan(one.image[:, 4]).all(), "only what is masked is filled"


def test_a_detector_without_a_usable_pixel(detector_of) -> None:
    one = frame(detector_of, np.full((4, 5), 3.0), np.full((4, 5), BAD, np.uint16))
    interpolate(one, InterpolateConfig(), None)
    assert (one.image == 3).all()
    assert not (one.mask & INTRP).any()
    interpolate(one, InterpolateConfig(fallback_value=7.5), None)
    assert (one.image == 7.5).all()
    assert (one.mask & INTRP > 0).all()


def test_a_row_without_a_usable_pixel_gets_the_typical_value(detector_of) -> None:
    one = frame(detector_of, np.full((6, 8), 40.0), variance=np.full((6, 8), 9.0, np.float32))
    one.image[2], one.mask[2] = 1e5, BAD
    interpolate(one, InterpolateConfig(), None)
    np.testing.assert_allclose(one.image, 40)
    np.testing.assert_allclose(one.variance, 9)


def test_a_variance_that_weights_would_make_negative_is_that_of_the_neighbours(detector_of) -> None:
    variance = np.array([[90.0, 1.0, 5.0, 1.0, 90.0]], np.float32)
    one = frame(detector_of, np.ones((1, 5)), variance=variance)
    one.mask[0, 2] = BAD
    interpolate(one, InterpolateConfig(), None)
    assert one.variance[0, 2] == pytest.approx(45.5)


def test_monte_carlo_of_the_variance() -> None:
    """The plane of a filled pixel is that of a measured one; its own scatter is 1.35 times that.

    sum(w^2) is 2 (0.7737^2 + 0.2737^2) = 1.347 for a single column.
    """
    rng = np.random.default_rng(8)
    values = []
    for _ in range(40):
        one = make_exposure(900.0)
        sigma = np.sqrt(900 / 1.5 + 4.0**2)
        one.image = rng.normal(900, sigma, one.image.shape).astype(np.float32)
        one.mask[:, 10] = BAD
        interpolate(one, InterpolateConfig(), None)
        values.append(one.image[:, 10])
        assert one.variance is not None
    assert one.variance[:, 10].mean() == pytest.approx(900 / 1.5 + 16, rel=0.05)
    assert np.var(values) == pytest.approx(1.347 * (900 / 1.5 + 16), rel=0.1)


# ---- properties ----------------------------------------------------------------------------------
masks = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).random((9, 17)) < (seed % 7) / 8
)


@given(masks, st.floats(-1e4, 1e4), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_constant_stays_and_the_rest_is_untouched(bad, level, at_edge) -> None:
    config = InterpolateConfig(use_fallback_value_at_edge=at_edge)
    image = np.full(bad.shape, level, np.float32)
    image[bad] = 1e6
    before = image.copy()
    if not bad.all():
        fill(image, None, bad, config)
    assert np.array_equal(image[~bad], before[~bad])
    if not bad.all():
        np.testing.assert_allclose(image, level, rtol=1e-5, atol=1e-5)


@given(masks, st.floats(0.1, 10), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_filling_is_linear(bad, factor, shift) -> None:
    if bad.all():
        return
    config = InterpolateConfig(use_fallback_value_at_edge=False)
    rng = np.random.default_rng(3)
    bad[:, :2] = False
    image = rng.normal(100, 10, bad.shape).astype(np.float32)
    scaled = (image * factor + shift).astype(np.float32)
    fill(image, None, bad, config)
    fill(scaled, None, bad, config)
    np.testing.assert_allclose(scaled, image * factor + shift, rtol=2e-4, atol=2e-2)


@given(masks)
@settings(max_examples=50, deadline=None)
def test_runs_paint_their_flags_again(bad) -> None:
    runs = runs_of(bad)
    again = np.zeros_like(bad)
    for row, start, stop in zip(*runs, strict=True):
        assert not again[row, start:stop].any()
        again[row, start:stop] = True
    assert np.array_equal(again, bad)


@given(masks, st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_growing_is_the_diamond_metric(bad, radius) -> None:
    y, x = np.mgrid[:9, :17]
    expected = np.zeros_like(bad)
    for row, column in np.argwhere(bad):
        expected |= abs(y - row) + abs(x - column) <= radius
    assert np.array_equal(grow(bad, radius), expected)
