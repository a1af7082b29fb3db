"""Flat and illumination correction: level, variance, bad pixels, what does not fit."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import DataError, Exposure, mask_bits
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_info
from cpplug.api.testing import IsrStepContract
from cpplug_flat import (
    FlatConfig,
    IlluminationConfig,
    correct_illumination,
    cpplug_isr_steps,
    divide_flat,
    flat_product,
)

BAD, SAT, NO_DATA = (mask_bits(plane) for plane in ("BAD", "SAT", "NO_DATA"))
DETECTOR = make_camera().detector(0)
SHAPE = DETECTOR.shape
FLAT, ILLUM = cpplug_isr_steps()


class TestFlatContract(IsrStepContract):
    step = FLAT

    def calibs(self):
        return FakeCalibs({"flat": flat_product(np.full(SHAPE, 1.1, np.float32))})


class TestIlluminationContract(IsrStepContract):
    step = ILLUM


def even(level: float, physical_filter: str = "r") -> Exposure:
    info = make_info(observation_type="science", physical_filter=physical_filter)
    return Exposure(info, DETECTOR, np.full(SHAPE, level, np.float32))


def flat_of(value: float, name: str = "flat", **facts: object) -> FakeCalibs:
    return FakeCalibs({name: flat_product(np.full(SHAPE, value, np.float32), **facts)})


@pytest.mark.parametrize("scale", [1.0, 10.0, 0.1, 3.7])
def test_known_answer_of_a_user_scale(scale) -> None:
    """Algorithms D.5.4: image 10, flat 1, scale s: 10 s."""
    exposure = divide_flat(even(10.0), FlatConfig(flat_user_scale=scale), flat_of(1.0))
    assert np.allclose(exposure.image, 10 * scale, rtol=1e-6)
    config = IlluminationConfig(illum_scale=scale, illum_filters=("r",))
    exposure = correct_illumination(even(10.0), config, flat_of(1.0, "illum"))
    assert np.allclose(exposure.image, 10 * scale, rtol=1e-6)
    assert exposure.variance is None


@pytest.mark.parametrize(("kind", "level"), [("MEAN", 1600.0), ("MEDIAN", 1000.0)])
def test_scale_taken_from_the_flat(kind, level) -> None:
    """A flat in counts; pixels that are no number do not take part in its level."""
    calibs = flat_of(1000.0, unit="adu")
    image = calibs.images["flat"].image
    image[: SHAPE[0] // 4] = 3400.0
    image[-1, -2:] = np.nan, 0.0
    image[-1, -3] = -5e9
    exposure = divide_flat(even(50.0), FlatConfig(flat_scaling_type=kind), calibs)
    assert exposure.measured("flat_scale") == pytest.approx(level, rel=2e-3)
    assert exposure.image[10, 0] == pytest.approx(50 * exposure.measured("flat_scale") / 1000)
    assert exposure.measured("flat_bad_pixels") == 3


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"flat_scaling_type": "MODE"}, FlatConfig)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.5])
def test_no_positive_number_in_the_flat_is_marked_and_counted(value) -> None:
    exposure, calibs = even(10.0), flat_of(2.0)
    exposure.variance = np.ones(SHAPE, np.float32)
    calibs.images["flat"].image[3, 4] = value
    calibs.images["flat"].mask[0, 0] = SAT
    divide_flat(exposure, FlatConfig(), calibs)
    assert np.argwhere(exposure.mask & BAD).tolist() == [[3, 4]]
    assert exposure.mask[0, 0] == SAT
    assert exposure.image[3, 4] == 10 and exposure.image[3, 5] == 5
    assert exposure.variance[3, 4] == 1 and exposure.variance[3, 5] == 0.25
    assert exposure.measured("flat_bad_pixels") == 1


@pytest.mark.parametrize("kind", ["USER", "MEAN", "MEDIAN"])
@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_a_flat_without_light_is_refused(kind, value) -> None:
    exposure = even(10.0)
    with pytest.raises(DataError, match="no positive pixel"):
        divide_flat(exposure, FlatConfig(flat_scaling_type=kind), flat_of(value))
    assert (exposure.image == 10).all()


def test_another_filter_is_refused() -> None:
    exposure = even(10.0, "g")
    with pytest.raises(DataError, match=r"of filter r.*taken with g"):
        divide_flat(exposure, FlatConfig(), flat_of(1.0, physical_filter="r"))
    assert (exposure.image == 10).all()
    divide_flat(exposure, FlatConfig(), flat_of(2.0, physical_filter="g"))
    assert (exposure.image == 5).all()


def test_another_detector_or_size_is_refused() -> None:
    calibs = flat_of(1.0)
    calibs.images["flat"].metadata["DETECTOR"] = 4
    with pytest.raises(DataError, match="of detector 4"):
        divide_flat(even(10.0), FlatConfig(), calibs)
    calibs = FakeCalibs({"flat": flat_product(np.ones((3, 4), np.float32))})
    with pytest.raises(DataError, match="size"):
        divide_flat(even(10.0), FlatConfig(), calibs)


def test_pixels_without_data_get_no_weight_when_asked() -> None:
    """The modern chain: image 0 and variance 1e10 where the flat saw nothing."""
    calibs = flat_of(2.0)
    calibs.images["flat"].mask[1, 2] = NO_DATA
    one = even(10.0)
    one.variance = np.ones(SHAPE, np.float32)
    divide_flat(one, FlatConfig(no_data_variance=1e10), calibs)
    assert one.image[1, 2] == 0 and one.variance[1, 2] == 1e10
    assert one.image[1, 3] == 5 and one.variance[1, 3] == 0.25
    two = divide_flat(even(10.0), FlatConfig(), calibs)
    assert two.image[1, 2] == 5 and two.variance is None
    three = divide_flat(even(10.0), FlatConfig(no_data_variance=1e10), calibs)
    assert three.image[1, 2] == 0 and three.variance is None


@pytest.mark.parametrize("listed", [(), ("g", "i")])
def test_illumination_of_other_filters_is_left_alone(listed) -> None:
    config = IlluminationConfig(illum_filters=listed)
    exposure = correct_illumination(even(10.0, "r"), config, flat_of(2.0, "illum"))
    assert (exposure.image == 10).all()
    assert exposure.measured("illumination_correction_skipped") == 1


@given(st.floats(-1e4, 1e4, width=32), st.floats(1e-3, 1e3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_division_can_be_undone(level, scale, seed) -> None:
    """The flat of reciprocals gives image and (without flat noise) variance back."""
    pattern = np.random.default_rng(seed).uniform(0.2, 4, SHAPE).astype(np.float32)
    exposure = make_exposure(level, seed=seed)
    before, variance = exposure.image.copy(), exposure.variance_plane().copy()
    for flat, by in ((pattern, scale), (1 / pattern, 1 / scale)):
        config = FlatConfig(flat_user_scale=by)
        divide_flat(exposure, config, FakeCalibs({"flat": flat_product(flat)}))
    assert np.allclose(exposure.image, before, rtol=2e-6)
    assert np.allclose(exposure.variance, variance, rtol=4e-6)
    assert not exposure.mask.any()


def test_a_flat_of_ones_changes_nothing() -> None:
    exposure = make_exposure(7.0)
    before, variance = exposure.image.copy(), exposure.variance_plane().copy()
    divide_flat(exposure, FlatConfig(), flat_of(1.0))
    assert np.array_equal(exposure.image, before)
    assert np.array_equal(exposure.variance, variance)


def test_variance_is_what_a_monte_carlo_says() -> None:
    """Noise of image and flat: 10000 draws of one pixel, spread known to 0.7 %."""
    n, scale = (200, 50), 2.0
    random = np.random.default_rng(12)
    detector = msgspec.structs.replace(DETECTOR, width=50, height=200)
    image = random.normal(1000, 20, n).astype(np.float32)
    pattern = random.normal(1.6, 0.02, n).astype(np.float32)
    exposure = Exposure(make_info(), detector, image, None, np.full(n, 400, np.float32))
    product = flat_product(pattern, np.full(n, 4e-4, np.float32))
    divide_flat(exposure, FlatConfig(flat_user_scale=scale), FakeCalibs({"flat": product}))
    said = float(np.median(exposure.variance))
    assert said == pytest.approx((1000**2 * 4e-4 + 1.6**2 * 400) / 1.6**4 * scale**2, rel=0.01)
    assert float(exposure.image.var(dtype=float)) == pytest.approx(said, rel=0.06)
