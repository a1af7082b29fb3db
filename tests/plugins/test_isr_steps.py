"""Saturation, assembly and variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    Box,
    DataError,
    Detector,
    Exposure,
    NoConfig,
    RawExposure,
    mask_bits,
)
from cpplug_isr.assemble import assemble
from cpplug_isr.overscan import OverscanConfig, subtract_overscan
from cpplug_isr.saturation import SaturationConfig, mark_saturation
from cpplug_isr.variance import VarianceConfig, note_variance, start_variance

BAD, SAT, SUSPECT, NO_NUMBER = (
    mask_bits(plane) for plane in ("BAD", "SAT", "SUSPECT", "UNMASKEDNAN")
)


# ---- saturation ----------------------------------------------------------------------------------
def test_levels_are_inclusive_and_cover_the_whole_segment(two_amplifiers) -> None:
    frame = two_amplifiers(saturation=100.0, suspect=90.0)
    image = frame.segments["A"]
    image[2, 2], image[2, 3], image[2, 4], image[9, 8] = 99.9, 100, 89.9, 100
    mark_saturation(frame, SaturationConfig(), None)
    mask = frame.masks["A"]
    assert np.argwhere(mask & SAT).tolist() == [[2, 3], [9, 8]]
    assert np.argwhere(mask & SUSPECT).tolist() == [[2, 2], [2, 3], [9, 8]]
    assert not frame.masks["B"].any()
    assert frame.measured("saturation_level", "A") == 100
    assert frame.measured("saturated_fraction", "A") == pytest.approx(1 / 35)


@pytest.mark.parametrize("level", [math.inf, math.nan])
def test_a_level_that_is_not_a_number_marks_nothing(two_amplifiers, level) -> None:
    frame = two_amplifiers(level=1e9, saturation=level, suspect=level)
    mark_saturation(frame, SaturationConfig(), None)
    assert not frame.masks["A"].any()
    assert frame.measured("saturation_level", "A") is None


def test_options_win_over_the_camera(two_amplifiers) -> None:
    frame = two_amplifiers(level=50, saturation=10.0, suspect=10.0)
    frame.segments["A"][0, 1] = 80
    mark_saturation(frame, SaturationConfig(saturation=80, suspect=math.inf), None)
    assert np.argwhere(frame.masks["A"]).tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", ["saturated", "suspect", "nan"])
def test_an_amplifier_without_a_usable_pixel_is_dead(two_amplifiers, kind) -> None:
    frame = two_amplifiers(saturation=100.0, suspect=90.0)
    value = {"saturated": 150, "suspect": 95, "nan": np.nan}[kind]
    frame.segments["B"][0:7, 1:6] = value
    mark_saturation(frame, SaturationConfig(), None)
    assert (frame.masks["B"] & BAD).all(), "overscan included, so that it is not read"
    assert not frame.masks["A"].any()
    assert frame.measured("dead_amplifier", "B") == 1
    assert frame.measured("dead_amplifier", "A") is None


def test_single_pixels_without_a_number_are_marked(two_amplifiers) -> None:
    frame = two_amplifiers()
    frame.segments["A"][3, 3] = np.nan
    mark_saturation(frame, SaturationConfig(), None)
    assert np.argwhere(frame.masks["A"]).tolist() == [[3, 3]]
    assert frame.masks["A"][3, 3] == NO_NUMBER


def test_saturation_is_judged_in_adu(two_amplifiers) -> None:
    frame = two_amplifiers()
    frame.unit = "electron"
    with pytest.raises(DataError, match="twin is judged in adu, not electron"):
        mark_saturation(frame, SaturationConfig(), None)


# ---- assembly ------------------------------------------------------------------------------------
@st.composite
def cameras(draw):
    """A detector of a grid of amplifiers with any flips, prescan and overscan."""
    width, height = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    columns, rows = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    before, after, above = (draw(st.integers(0, 3)) for _ in range(3))
    amplifiers = tuple(
        Amplifier(
            name=f"{x}{y}",
            source=(Box(0, 0, before + width + after, height + above),),
            data=Box(before, 0, width, height),
            flip_x=draw(st.booleans()),
            flip_y=draw(st.booleans()),
            bbox=Box(x * width, y * height, width, height),
        )
        for y in range(rows)
        for x in range(columns)
    )
    return Detector(
        id=0, name="grid", amplifiers=amplifiers, width=columns * width, height=rows * height
    )


def take_apart(exposure: Exposure, amp: Amplifier) -> tuple[np.ndarray, np.ndarray]:
    """Undo the assembly of one amplifier."""
    parts = []
    for part in (exposure.image, exposure.mask):
        cut = part[amp.bbox.slices]
        cut = np.fliplr(cut) if amp.flip_x else cut
        parts.append(np.flipud(cut) if amp.flip_y else cut)
    return parts[0], parts[1]


@given(cameras(), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_assembly_can_be_undone(detector, seed) -> None:
    rng = np.random.default_rng(seed)
    shapes = {amp.name: amp.shape for amp in detector.amplifiers}
    frame = RawExposure(
        None,
        detector,
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        {name: rng.integers(0, 8, shape).astype(np.uint16) for name, shape in shapes.items()},
    )
    frame.record("overscan_level", 7, "adu", "00")
    exposure = assemble(frame, NoConfig(), None)
    assert exposure.image.dtype == np.float32
    assert exposure.mask.dtype == np.uint16
    assert exposure.measured("overscan_level", "00") == 7
    for amp in detector.amplifiers:
        image, mask = take_apart(exposure, amp)
        assert np.array_equal(image, frame.segments[amp.name][amp.data.slices])
        assert np.array_equal(mask, frame.masks[amp.name][amp.data.slices])


@pytest.mark.parametrize("fault", ["missing", "9 x 4 pixels"])
def test_a_segment_that_does_not_fit_is_named(two_amplifiers, fault) -> None:
    frame = two_amplifiers()
    if fault == "missing":
        del frame.segments["B"]
    else:
        frame.segments["B"] = frame.segments["B"][:4]
    with pytest.raises(DataError, match=f"Amplifier B of detector twin in exposure 1 is {fault}"):
        assemble(frame, NoConfig(), None)


# ---- variance ------------------------------------------------------------------------------------
@pytest.mark.parametrize("gain", [-1.0, 0.0, 0.1, 1.0, math.nan])
def test_variance_of_a_flat_image(two_amplifiers, gain) -> None:
    frame = two_amplifiers(gain=gain, read_noise=1.5)
    exposure = note_variance(assemble(frame, NoConfig(), None), VarianceConfig(), None)
    assert exposure.variance is None, "no plane until somebody needs one"
    valid = gain > 0
    g = gain if valid else 1.0
    assert np.allclose(exposure.variance_plane(), 10 / g + (1.5 / g) ** 2)
    assert exposure.measured("invalid_gain", "A") == (None if valid else 1)


def test_a_senseless_read_noise_counts_as_one_electron(two_amplifiers) -> None:
    frame = two_amplifiers(gain=2.0, read_noise=math.nan)
    exposure = note_variance(
        assemble(frame, NoConfig(), None), VarianceConfig(materialise=True), None
    )
    assert np.allclose(exposure.variance, 5 + 0.25)
    assert exposure.measured("invalid_read_noise", "B") == 1


def test_read_noise_of_the_frame_itself(two_amplifiers) -> None:
    """Algorithms D.5.4: two amplifiers with ramps, noise 1.234 ADU only in the overscans."""
    rng = np.random.Generator(np.random.MT19937(42))
    shared = {
        "source": (Box(0, 0, 139, 234),),
        "data": Box(0, 0, 123, 234),
        "serial_overscan": Box(123, 0, 16, 234),
        "gain": 1.0,
        "read_noise": 123456789.0,
    }
    amplifiers = tuple(
        Amplifier(name=name, bbox=Box(123 * i, 0, 123, 234), flip_x=bool(i), **shared)
        for i, name in enumerate("LR")
    )
    detector = Detector(id=0, name="ramps", amplifiers=amplifiers, width=246, height=234)
    rows = np.arange(234.0)[:, None]
    segments = {}
    for name, sign in (("L", 1), ("R", -1)):
        image = np.broadcast_to(100 + sign * rows, (234, 139)).copy()
        image[:, 123:] += rng.normal(0.0, 1.234, (234, 16))
        segments[name] = image.astype(np.float32)
    frame = RawExposure(None, detector, segments)
    subtract_overscan(frame, OverscanConfig(fit_type="CHEB", order=1), None)
    exposure = assemble(frame, NoConfig(), None)
    note_variance(exposure, VarianceConfig(empirical_read_noise=True), None)
    assert abs(np.median(exposure.image)) < 0.05
    assert np.median(exposure.variance_plane()) == pytest.approx(1.234**2, rel=0.05)


def test_empirical_noise_needs_the_overscan_step(two_amplifiers) -> None:
    exposure = assemble(two_amplifiers(), NoConfig(), None)
    with pytest.raises(DataError, match=r"amplifier A of detector twin .* has not run"):
        note_variance(exposure, VarianceConfig(empirical_read_noise=True), None)


def test_an_amplifier_with_an_unreadable_overscan_keeps_the_cameras_noise(two_amplifiers) -> None:
    frame = two_amplifiers(gain=2.0, read_noise=8.0)
    frame.masks["B"][:, 6:] = BAD
    subtract_overscan(frame, OverscanConfig(), None)
    exposure = assemble(frame, NoConfig(), None)
    note_variance(exposure, VarianceConfig(empirical_read_noise=True), None)
    assert exposure.noise["A"].read_noise == 0, "its overscan is constant"
    assert exposure.noise["B"].read_noise == 4.0


def test_variance_in_electrons_needs_no_gain(two_amplifiers) -> None:
    exposure = assemble(two_amplifiers(gain=1.6, read_noise=5.0), NoConfig(), None)
    exposure.unit = "electron"
    note_variance(exposure, VarianceConfig(), None)
    assert np.allclose(exposure.variance_plane(), 10 + 25)
    assert exposure.measurements[-1].unit == "electron"


def test_variance_is_added_to_a_plane_that_was_started(two_amplifiers) -> None:
    exposure = assemble(two_amplifiers(gain=2.0, read_noise=1.0), NoConfig(), None)
    start_variance(exposure, NoConfig(), None)
    assert not exposure.variance.any()
    exposure.variance += np.float32(7)
    start_variance(exposure, NoConfig(), None)
    note_variance(exposure, VarianceConfig(), None)
    assert np.allclose(exposure.variance, 7 + 10 / 2 + 0.25)
