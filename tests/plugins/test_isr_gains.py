"""Gains, their correction, and stray light."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import DataError, Exposure, NoConfig, RawExposure, mask_bits
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_info, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug_isr import gains, stray_light
from cpplug_isr.assemble import assemble
from cpplug_isr.gains import (
    GainsConfig,
    apply_gains,
    correct_gains,
    gain_correction_product,
)
from cpplug_isr.overscan import ParallelOverscanConfig, subtract_parallel_overscan
from cpplug_isr.stray_light import stray_light_product, subtract_stray_light
from cpplug_isr.variance import VarianceConfig, note_variance

BAD, CR = mask_bits("BAD"), mask_bits("CR")
CORRECT, GAINS = gains.cpplug_isr_steps()
(STRAY,) = stray_light.cpplug_isr_steps()
DETECTOR = make_camera().detector(0)
SHAPE = DETECTOR.shape


class TestGainsContract(IsrStepContract):
    step = GAINS


class TestCorrectGainsContract(IsrStepContract):
    step = CORRECT
    tables = {"gain_correction": gain_correction_product({"A": 1.1, "B": 0.9})}

    def frame(self):
        return make_raw(level=200.0)


class TestStrayLightContract(IsrStepContract):
    step = STRAY

    def calibs(self):
        return FakeCalibs({"stray_light": stray_light_product(np.ones(SHAPE, np.float32))})


def with_gain(make, **gain_of):
    """Make a frame whose camera has these gains."""
    frame = make()
    for amp in frame.detector.amplifiers:
        frame.record("gain", gain_of.get(amp.name, amp.gain), "electron/adu", amp.name)
    return frame


# ---- gains -----------------------------------------------------------------------------------
def test_raw_and_assembled_frames_give_the_same_electrons() -> None:
    raw, later = (with_gain(lambda: make_raw(300.0), A=1.6, B=2.5) for _ in range(2))
    first = assemble(apply_gains(raw, GainsConfig(), None), NoConfig(), None)
    second = apply_gains(assemble(later, NoConfig(), None), GainsConfig(), None)
    assert np.array_equal(first.image, second.image)
    assert first.unit == second.unit == "electron"
    assert first.amp("B")[0].mean() == pytest.approx(1300 * 2.5, rel=1e-3)
    assert first.measured("gain", "B") == 2.5


def test_gains_are_applied_once() -> None:
    frame = apply_gains(make_raw(), GainsConfig(), None)
    with pytest.raises(DataError, match="applied before"):
        apply_gains(frame, GainsConfig(), None)


@pytest.mark.parametrize("gain", [-1.0, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("make", [make_raw, make_exposure])
def test_an_amplifier_without_gain_is_lost(make, gain) -> None:
    before = make()
    frame = apply_gains(with_gain(make, A=gain), GainsConfig(), None)
    assert frame.measured("invalid_gain", "A") == 1
    assert frame.measured("invalid_gain", "B") is None
    if isinstance(frame, RawExposure):
        assert np.array_equal(frame.segments["A"], before.segments["A"])
        masks = frame.masks["A"], frame.masks["B"]
    else:
        assert np.array_equal(frame.amp("A")[0], before.amp("A")[0])
        masks = frame.amp("A")[1], frame.amp("B")[1]
    assert (masks[0] & BAD).all() and not masks[1].any()


@pytest.mark.parametrize("make", [make_raw, make_exposure])
def test_normalised_amplifiers_have_one_level(make) -> None:
    frame = with_gain(lambda: make(500.0), A=1.5, B=1.8)
    middle = 500.0 + (1000.0 if make is make_raw else 0.0)
    apply_gains(frame, GainsConfig(normalize_gains=True), None)
    target = middle * (1.5 + 1.8) / 2
    for amp in frame.detector.amplifiers:
        image = (
            frame.segments[amp.name][amp.data.slices]
            if isinstance(frame, RawExposure)
            else frame.amp(amp.name)[0]
        )
        assert np.median(image) == pytest.approx(target, rel=2e-3)
    assert frame.measured("gain_normalization", "A") == pytest.approx(1.65 / 1.5, rel=2e-3)
    assert frame.measured("gain", "A") == pytest.approx(1.65, rel=2e-3)


def test_an_empty_amplifier_is_left_out_of_the_normalisation() -> None:
    frame = make_exposure(100.0)
    frame.amp("A")[0][:] = 0.0
    apply_gains(frame, GainsConfig(normalize_gains=True), None)
    assert not frame.amp("A")[0].any()
    assert frame.measured("gain_normalization", "A") is None
    assert frame.measured("gain_normalization", "B") == 1.0


@pytest.mark.parametrize("normalize", [False, True])
def test_variance_is_the_same_before_and_after(normalize) -> None:
    """A plane that is made, one that is not yet, and one noted in electrons agree."""
    config = GainsConfig(normalize_gains=normalize)
    made, noted, late = (with_gain(lambda: make_exposure(400.0), A=1.6, B=2.5) for _ in range(3))
    for frame in (made, noted):
        note_variance(frame, VarianceConfig(), None)
    made.variance_plane()
    for frame in (made, noted, late):
        apply_gains(frame, config, None)
    note_variance(late, VarianceConfig(), None)
    assert np.allclose(made.variance, noted.variance_plane(), rtol=1e-6)
    assert np.allclose(made.variance, late.variance_plane(), rtol=1e-6)


def test_variance_is_what_a_monte_carlo_says() -> None:
    random = np.random.default_rng(3)
    frame = make_exposure(0.0)
    frame.noise.clear()
    electrons = random.poisson(900, SHAPE) + random.normal(0, 6, SHAPE)
    frame.image[:] = electrons / 1.5
    note_variance(frame, VarianceConfig(), None)
    apply_gains(frame, GainsConfig(), None)
    said = float(frame.variance_plane().mean())
    assert said == pytest.approx(900 + 36, rel=0.01)
    assert float(frame.image.var(dtype=float)) == pytest.approx(said, rel=0.12)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_gains_can_be_undone(a, b) -> None:
    frame = with_gain(lambda: make_exposure(50.0), A=a, B=b)
    before, variance = frame.image.copy(), frame.variance_plane().copy()
    apply_gains(frame, GainsConfig(), None)
    frame.unit = "adu"
    for name, gain in (("A", 1 / a), ("B", 1 / b)):
        frame.record("gain", gain, "adu/electron", name)
    apply_gains(frame, GainsConfig(), None)
    assert np.allclose(frame.image, before, rtol=1e-6)
    assert np.allclose(frame.variance, variance, rtol=2e-6)
    assert not frame.mask.any()


def test_thresholds_of_the_overscan_are_adu_in_a_frame_of_electrons() -> None:
    """The same columns are lost before and after the gains."""

    def frame() -> RawExposure:
        made = with_gain(lambda: make_raw(100.0, pedestal=0.0, noise=0.5), A=30.0, B=30.0)
        made.segments["A"][32:, 10] += 60.0
        return made

    adu, electrons = frame(), apply_gains(frame(), GainsConfig(), None)
    config = ParallelOverscanConfig(max_deviation=40.0, do_median_smoothing_outlier_rejection=False)
    for one in (adu, electrons):
        subtract_parallel_overscan(one, config, None)
    assert np.array_equal(adu.masks["A"], electrons.masks["A"])
    assert adu.measured("parallel_overscan_bad_columns", "A") == 1
    level = electrons.measured("parallel_overscan_level", "A")
    assert level == pytest.approx(30 * adu.measured("parallel_overscan_level", "A"), rel=1e-4)
    assert {m.unit for m in electrons.measurements if m.name.endswith("overscan_level")} == {
        "electron"
    }


# ---- gain correction ---------------------------------------------------------------------------
def test_corrected_gains_are_used_by_gains_and_variance() -> None:
    calibs = FakeCalibs(tables={"gain_correction": gain_correction_product({"B": 0.5, "A": 2.0})})
    frame = correct_gains(make_raw(100.0), NoConfig(), calibs)
    assert [frame.gain(amp.name) for amp in frame.detector.amplifiers] == [3.0, 0.75]
    exposure = assemble(frame, NoConfig(), None)
    note_variance(exposure, VarianceConfig(), None)
    assert exposure.noise["A"].gain == 3.0
    assert exposure.noise["A"].read_noise == 2.0
    before = exposure.amp("B")[0].copy()
    apply_gains(exposure, GainsConfig(), None)
    assert np.array_equal(exposure.amp("B")[0], before * np.float32(0.75))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_cannot_be_is_refused(value) -> None:
    calibs = FakeCalibs(tables={"gain_correction": gain_correction_product({"A": value, "B": 1.0})})
    frame = make_raw()
    with pytest.raises(DataError, match="amplifier A"):
        correct_gains(frame, NoConfig(), calibs)
    assert not frame.measurements


@pytest.mark.parametrize("names", [("A",), ("A", "B", "C"), ("C00", "C01")])
def test_a_gain_correction_of_another_detector_is_refused(names) -> None:
    product = gain_correction_product(dict.fromkeys(names, 1.0))
    with pytest.raises(DataError, match="amplifiers"):
        correct_gains(make_raw(), NoConfig(), FakeCalibs(tables={"gain_correction": product}))


def test_a_gain_correction_without_its_columns_is_refused() -> None:
    product = gain_correction_product({"A": 1.0, "B": 1.0})
    del product.columns["gain_adjustment"]
    with pytest.raises(DataError, match="no column gain_adjustment"):
        correct_gains(make_raw(), NoConfig(), FakeCalibs(tables={"gain_correction": product}))


def test_a_gain_correction_comes_first() -> None:
    calibs = FakeCalibs(tables={"gain_correction": gain_correction_product({"A": 1.0, "B": 1.0})})
    frame = apply_gains(make_raw(), GainsConfig(), None)
    with pytest.raises(DataError, match="in use already"):
        correct_gains(frame, NoConfig(), calibs)
    exposure = note_variance(make_exposure(), VarianceConfig(), None)
    with pytest.raises(DataError, match="in use already"):
        correct_gains(exposure, NoConfig(), calibs)


# ---- stray light -------------------------------------------------------------------------------
def lit(time: float) -> Exposure:
    info = msgspec.structs.replace(make_info(dark_time=9.0), exposure_time=time)
    return Exposure(
        info, DETECTOR, np.full(SHAPE, 10, np.float32), None, np.ones(SHAPE, np.float32)
    )


def test_stray_light_goes_with_the_exposure_time() -> None:
    product = stray_light_product(np.full(SHAPE, 2, np.float32), np.full(SHAPE, 0.5, np.float32))
    product.mask[1, 1] = CR
    product.image[2, 2] = np.nan
    exposure = subtract_stray_light(lit(3.0), NoConfig(), FakeCalibs({"stray_light": product}))
    assert exposure.image[0, 0] == 4 and exposure.variance[0, 0] == 1 + 9 * 0.5
    assert exposure.image[2, 2] == 10 and exposure.mask[2, 2] == BAD
    assert exposure.mask[1, 1] == CR
    assert exposure.measured("stray_light_bad_pixels") == 1
    assert np.count_nonzero(exposure.mask) == 2


@pytest.mark.parametrize("time", [math.nan, -1.0])
def test_stray_light_needs_an_exposure_time(time) -> None:
    product = stray_light_product(np.ones(SHAPE, np.float32))
    with pytest.raises(DataError, match="no exposure time"):
        subtract_stray_light(lit(time), NoConfig(), FakeCalibs({"stray_light": product}))


def test_stray_light_is_a_rate_in_the_unit_of_the_image() -> None:
    for unit in ("adu", "electron/s"):
        product = stray_light_product(np.ones(SHAPE, np.float32), unit=unit)
        with pytest.raises(DataError, match="where adu/s is needed"):
            subtract_stray_light(lit(1.0), NoConfig(), FakeCalibs({"stray_light": product}))


def test_stray_light_of_another_filter_is_refused() -> None:
    product = stray_light_product(np.ones(SHAPE, np.float32))
    product.metadata["FILTER"] = "z"
    with pytest.raises(DataError, match="of filter z"):
        subtract_stray_light(lit(1.0), NoConfig(), FakeCalibs({"stray_light": product}))
