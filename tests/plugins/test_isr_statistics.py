"""Quality statistics: numbers that were put in come out, and the frame stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from cpplug.api import mask_bits
from cpplug.api.fakes import make_exposure, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug_isr import statistics as module
from cpplug_isr.options import OverscanConfig
from cpplug_isr.overscan import subtract_overscan
from cpplug_isr.profiles import banding, bias_shifts, spectrum, tearing
from cpplug_isr.statistics import (
    OverscanStatisticsConfig,
    StatisticsConfig,
    measure_image,
    measure_overscans,
)

ALL = StatisticsConfig(
    do_banding_statistics=True,
    do_projection_statistics=True,
    do_divisadero_statistics=True,
    do_bias_shift_statistics=True,
    do_amplifier_correlation_statistics=True,
)


class TestOverscanStatistics(IsrStepContract):
    step = next(s for s in module.cpplug_isr_steps() if s.name == "overscan_statistics")


class TestStatistics(IsrStepContract):
    step = next(s for s in module.cpplug_isr_steps() if s.name == "statistics")


def test_standard_statistics() -> None:
    frame = make_exposure(200.0, noise=4.0)
    frame.mask[0, :3], frame.mask[1, 30] = mask_bits("SAT"), mask_bits("BAD", "SUSPECT")
    frame.image[0, :3] = 1e6
    frame.record("overscan_residual_median", 2.0, "adu", "A")
    before = frame.image.copy(), frame.mask.copy()
    measure_image(frame, StatisticsConfig(), None)
    assert frame.measured("final_mean", "A") == pytest.approx(200, abs=0.6)
    assert frame.measured("final_sigma", "A") == pytest.approx(4, rel=0.1)
    assert frame.measured("final_median", "A") == pytest.approx(200, abs=0.7)
    level = frame.measured("final_median", "A") - 2.0
    assert frame.measured("final_level", "A") == pytest.approx(level)
    assert frame.measured("final_level", "B") is None
    counts = {
        p: [frame.measured(f"masked_{p}", a) for a in "AB"] for p in ("sat", "bad", "suspect")
    }
    assert counts == {"sat": [3, 0], "bad": [0, 1], "suspect": [0, 1]}
    assert np.array_equal(frame.image, before[0])
    assert np.array_equal(frame.mask, before[1])
    assert not frame.series


def test_overscans_in_electrons() -> None:
    """A trail of 30, 10 ADU behind the last column and 6 behind the last row is found."""
    frame = make_raw(level=1000.0, pedestal=0.0, noise=0.01)
    amp = frame.detector.amplifier("A")
    image = frame.segments["A"]
    image[amp.data.slices[0], amp.serial_overscan.x] += 30
    image[amp.data.slices[0], amp.serial_overscan.x + 1] += 10
    image[amp.parallel_overscan.y, amp.data.slices[1]] += 6
    image[:, amp.data.x] -= 100
    measure_overscans(frame, OverscanStatisticsConfig(), None)
    gain = 1.5
    serial = frame.series["cti_serial_overscan", "A"]
    parallel = frame.series["cti_parallel_overscan", "A"]
    np.testing.assert_allclose(serial[:3], [30 * gain, 10 * gain, 0], atol=0.02)
    np.testing.assert_allclose(parallel, [6 * gain, 0, 0, 0], atol=0.02)
    for name, value in (
        ("first_column", 900), ("last_column", 1000), ("first_row", 1000), ("last_row", 1000),
        ("image_mean", 1000),
    ):  # fmt: skip
        assert frame.measured(f"cti_{name}", "A") == pytest.approx(value * gain, abs=0.1), name
    assert frame.measured("cti_first_column", "B") == pytest.approx(1500, abs=0.1)


def test_a_strip_without_a_good_pixel_is_nan_and_not_recorded() -> None:
    frame = make_raw(level=1000.0)
    frame.masks["A"][:, 2] = mask_bits("BAD")
    frame.masks["A"][:, 26] = mask_bits("SAT")
    measure_overscans(frame, OverscanStatisticsConfig(), None)
    assert frame.measured("cti_first_column", "A") is None
    assert np.isnan(frame.series["cti_serial_overscan", "A"]).tolist() == [True] + [False] * 7


def test_groups_are_measured_when_switched_on() -> None:
    raw = subtract_overscan(make_raw(level=500.0, noise=2.0), OverscanConfig(), None)
    frame = make_exposure(500.0, noise=2.0)
    frame.notes_from(raw)
    frame.image[:, 24:] = frame.image[:, 23::-1]  # B is read from the right: the same pixels
    measure_image(frame, ALL, None)
    np.testing.assert_allclose(frame.series["amplifier_correlation", "A"], 1)
    assert frame.measured("banding", "A") > 0
    assert frame.measured("banding") == pytest.approx(
        np.median([frame.measured("banding", name) for name in "AB"])
    )
    columns = frame.series["column_means", "A"]
    np.testing.assert_allclose(columns, frame.series["column_means", "B"])
    np.testing.assert_allclose(columns, 500, atol=2)
    assert frame.series["row_means", "A"].shape == (32,)
    assert frame.series["row_means_spectrum", "A"].shape == (17,)
    assert frame.measured("tearing", "A") is None, "too small an amplifier"


def test_uncorrelated_amplifiers() -> None:
    frame = make_exposure(0.0)
    measure_image(frame, ALL, None)
    assert frame.series["amplifier_correlation", "A"][0] == pytest.approx(1)
    assert abs(frame.series["amplifier_correlation", "A"][1]) < 0.15


def test_a_masked_amplifier_is_no_number() -> None:
    frame = make_exposure(10.0)
    frame.mask[:] = mask_bits("BAD")
    measure_image(frame, ALL, None)
    assert frame.measured("final_mean", "A") is None
    assert ("column_means", "A") not in frame.series
    assert np.isnan(frame.series["amplifier_correlation", "A"]).all()


# ---- profiles ------------------------------------------------------------------------------------
def test_banding_is_the_spread_of_the_smoothed_levels() -> None:
    assert banding(np.repeat([0.0, 8.0], 50)) == pytest.approx(8)
    assert banding(np.tile([0.0, 3.0, 6.0], 40)) == pytest.approx(0), "smoothed over three rows"
    assert np.isnan(banding(np.zeros(2)))


def test_spectrum_finds_the_wave() -> None:
    x = np.arange(200)
    profile = 100 + 3 * np.sin(2 * np.pi * x * 20 / 200)
    profile[7] = np.nan
    found = spectrum(profile)
    assert int(np.argmax(found[3:])) + 3 == 20
    assert found[20] == pytest.approx(3 / 2 * np.hamming(200).sum(), rel=0.02)


def test_tearing_is_what_the_ends_stand_out() -> None:
    image = np.tile(np.linspace(900, 1100, 120), (300, 1)).astype(np.float32)
    good = np.ones(image.shape, bool)
    assert tearing(image, good)[1] == pytest.approx(0, abs=1e-6)
    image[:, -1] *= 1.02
    image[250:, 0] *= 2  # away from the register
    image[50, 1], good[50, 1] = 1e9, False
    profile, worst = tearing(image, good)
    assert worst == pytest.approx(0.02, abs=1e-4)
    np.testing.assert_allclose(profile[:-1], 1, atol=1e-4)
    assert np.isnan(tearing(-image, good)[1])


def test_bias_shifts_are_found_where_they_are() -> None:
    rng = np.random.default_rng(5)
    levels = rng.normal(1000, 0.2, 1000)
    assert bias_shifts(levels)[1] == []
    levels[400:] += 5
    levels[700:] -= 8
    noise, found = bias_shifts(levels)
    assert noise == pytest.approx(0.2, rel=0.15)
    assert [row for row, _ in found] == pytest.approx([400, 700], abs=2)
    assert [height for _, height in found] == pytest.approx([5, -8], abs=0.3)
    drift = np.linspace(0, 50, 1000) + rng.normal(0, 0.05, 1000)
    assert bias_shifts(drift)[1] == [], "a drift is no step"
    assert bias_shifts(np.zeros(50))[1] == []
