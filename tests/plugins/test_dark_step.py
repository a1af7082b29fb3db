"""The dark: scaled by time, with its variance; what does not fit is refused."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import DataError, Exposure, NoConfig, mask_bits
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_info
from cpplug.api.testing import IsrStepContract
from cpplug_dark import cpplug_isr_steps, dark_product, subtract_dark

BAD, SAT, CR = (mask_bits(plane) for plane in ("BAD", "SAT", "CR"))
DETECTOR = make_camera().detector(0)
SHAPE = DETECTOR.shape
(STEP,) = cpplug_isr_steps()


class TestDarkContract(IsrStepContract):
    step = STEP

    def calibs(self):
        return FakeCalibs({"dark": dark_product(np.ones(SHAPE, np.float32))})


def flat_exposure(level: float, dark_time: float = 1.0) -> Exposure:
    info = make_info(observation_type="dark", exposure_time=1.0, dark_time=dark_time)
    return Exposure(info, DETECTOR, np.full(SHAPE, level, np.float32))


def dark_of(value: float, **facts: object) -> FakeCalibs:
    return FakeCalibs({"dark": dark_product(np.full(SHAPE, value, np.float32), **facts)})


@pytest.mark.parametrize("time", [10.0, 0.1, 3.7])
def test_known_answer_of_a_dark_with_its_time(time) -> None:
    """Algorithms D.5.4: image 10, dark 1 of s seconds, exposure of 1 s: 10 - 1/s."""
    exposure = subtract_dark(
        flat_exposure(10.0), NoConfig(), dark_of(1.0, unit="adu", dark_time=time)
    )
    assert np.allclose(exposure.image, 10 - 1 / time, rtol=1e-6)
    assert exposure.measured("dark_time_assumed") is None
    assert exposure.variance is None, "no plane where nobody asked for one"


def test_known_answer_of_small_and_large_times() -> None:
    """Algorithms D.5.4: dark time 128, image 1, dark 1/128 per second: nothing is left."""
    exposure = flat_exposure(1.0, dark_time=128.0)
    exposure.variance = np.full(SHAPE, 3, np.float32)
    subtract_dark(exposure, NoConfig(), dark_of(1 / 128))
    assert not exposure.image.any()
    assert (exposure.variance == 3).all()
    assert exposure.measured("dark_scale") == 128


@pytest.mark.parametrize("stated", [None, math.nan, 0.0, -1.0])
def test_a_dark_without_its_time_stands_for_one_second(stated) -> None:
    exposure = flat_exposure(10.0, dark_time=4.0)
    subtract_dark(exposure, NoConfig(), dark_of(2.0, unit="adu", dark_time=stated))
    assert (exposure.image == 2).all()
    assert exposure.measured("dark_time_assumed") == 1


@pytest.mark.parametrize("time", [math.nan, math.inf, -3.0])
def test_an_exposure_without_dark_time_is_refused(time) -> None:
    exposure = flat_exposure(10.0, dark_time=time)
    with pytest.raises(DataError, match="no dark time"):
        subtract_dark(exposure, NoConfig(), dark_of(1.0))
    assert (exposure.image == 10).all()


def test_a_rate_with_another_time_is_refused() -> None:
    with pytest.raises(DataError, match="DARKTIME = 3"):
        subtract_dark(flat_exposure(1.0), NoConfig(), dark_of(1.0, dark_time=3.0))


def test_units_must_agree() -> None:
    exposure = flat_exposure(10.0)
    with pytest.raises(DataError, match="in electron/s, where adu/s or adu is needed"):
        subtract_dark(exposure, NoConfig(), dark_of(1.0, unit="electron/s"))
    exposure.unit = "electron"
    subtract_dark(exposure, NoConfig(), dark_of(1.0, unit="electron/s"))
    assert (exposure.image == 9).all()


def test_another_detector_or_size_is_refused() -> None:
    calibs = dark_of(1.0)
    calibs.images["dark"].metadata["DETECTOR"] = 7
    with pytest.raises(DataError, match="of detector 7"):
        subtract_dark(flat_exposure(10.0), NoConfig(), calibs)
    calibs = FakeCalibs({"dark": dark_product(np.ones((3, 4), np.float32))})
    with pytest.raises(DataError, match="size"):
        subtract_dark(flat_exposure(10.0), NoConfig(), calibs)


def test_no_number_in_the_dark_is_marked_and_counted() -> None:
    exposure, calibs = flat_exposure(10.0), dark_of(1.0)
    exposure.variance = np.ones(SHAPE, np.float32)
    calibs.images["dark"].image[3, 4] = np.nan
    calibs.images["dark"].image[5, 6] = np.inf
    calibs.images["dark"].mask[0, 0] = CR
    exposure.mask[0, 0] = SAT
    subtract_dark(exposure, NoConfig(), calibs)
    assert np.argwhere(exposure.mask & BAD).tolist() == [[3, 4], [5, 6]]
    assert exposure.mask[0, 0] == SAT | CR
    assert exposure.image[3, 4] == 10 and exposure.image[3, 5] == 9
    assert np.isfinite(exposure.variance).all()
    assert exposure.measured("dark_bad_pixels") == 2


@given(st.floats(-1e4, 1e4, width=32), st.floats(0, 1e3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_subtraction_can_be_undone(level, time, seed) -> None:
    """The opposite dark gives the image back; the mask never loses a bit."""
    pattern = np.random.default_rng(seed).normal(0, 5, SHAPE).astype(np.float32)
    info = make_info(dark_time=time)
    exposure = make_exposure(level, seed=seed, info=info)
    before = exposure.image.copy()
    exposure.mask[:] = np.random.default_rng(seed).integers(0, 1 << 12, SHAPE)
    mask = exposure.mask.copy()
    for sign in (1, -1):
        subtract_dark(exposure, NoConfig(), FakeCalibs({"dark": dark_product(sign * pattern)}))
    size = np.abs(before) + np.abs(pattern) * time
    assert (np.abs(exposure.image - before) <= 1e-6 * size).all()
    assert np.array_equal(exposure.mask, mask)


@given(st.floats(0, 1e4))
@settings(max_examples=10, deadline=None)
def test_an_empty_dark_changes_nothing(time) -> None:
    exposure = make_exposure(7.0, info=make_info(dark_time=time))
    before, variance = exposure.image.copy(), exposure.variance_plane().copy()
    subtract_dark(exposure, NoConfig(), dark_of(0.0))
    assert np.array_equal(exposure.image, before)
    assert np.array_equal(exposure.variance, variance)


def test_variance_is_what_a_monte_carlo_says() -> None:
    """Noise of image and dark: 4000 draws of one pixel pair, spread known to 1.1 %."""
    n, time = (200, 20), 3.0
    random = np.random.default_rng(11)
    detector = msgspec.structs.replace(DETECTOR, width=20, height=200)
    image = random.normal(50, 4, n).astype(np.float32)
    dark = random.normal(2, 1.5, n).astype(np.float32)
    exposure = Exposure(
        make_info(dark_time=time), detector, image, None, np.full(n, 16, np.float32)
    )
    product = dark_product(dark, np.full(n, 2.25, np.float32))
    subtract_dark(exposure, NoConfig(), FakeCalibs({"dark": product}))
    assert exposure.variance[0, 0] == 16 + 9 * 2.25
    assert exposure.image.var() == pytest.approx(exposure.variance[0, 0], rel=0.08)


def test_the_variance_follows_the_image_before_the_dark() -> None:
    """Photon noise of the dark charge is part of the frame: it must not be subtracted with it."""
    exposure = make_exposure(100.0, noise=2.0, info=make_info(dark_time=10.0))
    expected = exposure.image / 1.5 + 4
    subtract_dark(exposure, NoConfig(), dark_of(5.0))
    assert np.allclose(exposure.variance_plane(), expected, rtol=1e-6)
