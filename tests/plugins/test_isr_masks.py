"""Masks made from the image, bad regions, vignetting, dither, checks and saturation levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Box,
    DataError,
    Detector,
    Exposure,
    NoConfig,
    RawExposure,
    TableProduct,
    UnknownNameError,
    mask_bits,
)
from cpplug.api.fakes import make_exposure, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug_defects import (
    BadAmplifiersConfig,
    DefectsConfig,
    cpplug_isr_steps,
    make_table,
    mask_bad_amplifiers,
    mask_defects,
)
from cpplug_defects.edges import edge_pixels
from cpplug_isr import bad_regions, dither, level_checks, masks, saturation, vignette
from cpplug_isr.bad_regions import BadRegionsConfig, set_bad_regions
from cpplug_isr.dither import DitherConfig
from cpplug_isr.level_checks import LevelChecksConfig, check_levels
from cpplug_isr.masks import (
    GrowMaskConfig,
    NegativeVarianceConfig,
    WidenTrailsConfig,
    grow_mask,
    mask_nan,
    mask_negative_variance,
    widen_trails,
)
from cpplug_isr.options import OverscanConfig
from cpplug_isr.overscan import subtract_overscan
from cpplug_isr.saturation import SaturationConfig, mark_saturation
from cpplug_isr.vignette import VignetteConfig, mask_vignetted

BAD, SAT, INTRP, SUSPECT, NO_DATA, NO_NUMBER = (
    mask_bits(p) for p in ("BAD", "SAT", "INTRP", "SUSPECT", "NO_DATA", "UNMASKEDNAN")
)
NO_DEFECTS = make_table([])
STEPS = {
    step.name: step
    for offered in (
        masks.cpplug_isr_steps, bad_regions.cpplug_isr_steps, vignette.cpplug_isr_steps,
        dither.cpplug_isr_steps, saturation.cpplug_isr_steps, cpplug_isr_steps,
    )
    for step in offered()
}  # fmt: skip


class _Contract(IsrStepContract):
    tables = {"defects": NO_DEFECTS}


for name in STEPS:
    globals()[f"Test_{name}"] = type(f"Test_{name}", (_Contract,), {"step": STEPS[name]})


class TestLevelChecks(IsrStepContract):
    (step,) = level_checks.cpplug_isr_steps()

    def frame(self):
        return subtract_overscan(make_raw(level=200.0), OverscanConfig(), None)


class Found:
    """Calibrations with a list of defects."""

    def __init__(self, *boxes) -> None:
        self.product = make_table([Box(*box) for box in boxes])

    def table(self, dataset_type) -> TableProduct:
        return self.product


def flat_frame(detector_of, level=100.0, shape=(20, 30)) -> Exposure:
    box = Box(0, 0, shape[1], shape[0])
    detector = detector_of(shape, box, Box(0, 0, 0, 0))
    return Exposure(None, detector, np.full(shape, level, np.float32))


def mock_detector() -> Detector:
    """The detector of algorithms D.5.1, trimmed: 2 x 4 amplifiers of 100 x 51 pixels."""
    amplifiers = tuple(
        Amplifier(
            name=f"C:{c},{r}",
            source=(Box(0, 0, 100, 51),),
            data=Box(0, 0, 100, 51),
            bbox=Box(100 * c, 51 * r, 100, 51),
            gain=1.0,
            read_noise=10.0,
        )
        for c in (0, 1)
        for r in range(4)
    )
    return Detector(id=20, name="R:0,0 S:1,0", amplifiers=amplifiers, width=200, height=204)


def mock_frame() -> Exposure:
    """The trimmed raw mock frame of algorithms D.5.1."""
    detector, random = mock_detector(), np.random.RandomState(20000913)
    image = np.zeros(detector.shape, np.float32)
    for number, amp in enumerate(detector.amplifiers):
        box, view = amp.bbox, image[amp.bbox.slices]
        y, x = np.mgrid[: box.height, : box.width]
        view += random.normal(1000, math.sqrt(1000), (box.width, box.height)).T
        if number == 0:
            view += 45000 * np.exp(-((x - 50) ** 2 + (y - 25) ** 2) / 18)
        u, v = y + box.y, x + box.x
        view += 200 * np.sinc(((u + 100) / 50) ** 2 + (v / 50) ** 2)
        width = 200 / math.sqrt(-2 * math.log(0.1))
        view *= np.exp(-((u - 200) ** 2 + (v - 204) ** 2) / (2 * width**2))
        view += random.normal(25, 5, (box.width, box.height)).T
    for amp in detector.amplifiers:
        box = amp.bbox
        image[box.slices] += random.normal(8000, 5, (box.width, box.height)).T
    return Exposure(None, detector, image)


# ---- known answers -------------------------------------------------------------------------------
def test_known_counts_of_the_mock_frame(info) -> None:
    frame = mock_frame()
    amp0 = frame.amp("C:0,0")[0]
    assert np.median(amp0) == pytest.approx(8070.0195, abs=1e-3)
    assert amp0.std() == pytest.approx(147.55304, rel=1e-4)
    for level, expected in ((9000, 43), (8250, 136)):
        segments = {amp.name: frame.amp(amp.name)[0].copy() for amp in frame.detector.amplifiers}
        raw = RawExposure(info(), frame.detector, segments)
        mark_saturation(raw, SaturationConfig(saturation=level), None)
        assert np.count_nonzero(raw.masks["C:0,0"] & SAT) == expected
    detector = frame.detector
    assert np.count_nonzero(edge_pixels(detector, 5, "DETECTOR")) == 3940
    assert np.count_nonzero(edge_pixels(detector, 5, "AMP")) == 11280
    mask_defects(
        frame, DefectsConfig(num_edge_suspect=5, edge_mask_level="AMP"), Found((0, 0, 40, 50))
    )
    assert np.count_nonzero(frame.mask & BAD) == 2000
    assert np.count_nonzero(frame.mask & SUSPECT) == 11280 == frame.measured("edge_pixels")
    frame.mask[:] = 0
    frame.variance = np.full(frame.image.shape, -1, np.float32)
    mask_negative_variance(frame, NegativeVarianceConfig(), None)
    assert np.count_nonzero(frame.mask & BAD) == 40800


@given(st.integers(0, 12), st.sampled_from(["DETECTOR", "AMP"]))
@settings(max_examples=25, deadline=None)
def test_edges_are_counted_like_a_frame(width, level) -> None:
    amps = tuple(
        Amplifier(
            name=str(n),
            source=(Box(0, 0, 9, 14),),
            data=Box(0, 0, 9, 14),
            bbox=Box(9 * n, 0, 9, 14),
        )
        for n in range(3)
    )
    detector = Detector(id=0, name="D", amplifiers=amps, width=27, height=14)
    count = np.count_nonzero(edge_pixels(detector, width, level))
    w, h, number = (27, 14, 1) if level == "DETECTOR" else (9, 14, 3)
    inner = max(w - 2 * width, 0) * max(h - 2 * width, 0)
    assert count == number * (w * h - inner)


# ---- masks ---------------------------------------------------------------------------------------
def test_nan_of_image_and_variance_are_marked(detector_of) -> None:
    frame = flat_frame(detector_of)
    frame.image[3, 4], frame.image[5, 6] = np.nan, np.inf
    frame.mask[3, 4] = BAD
    frame.variance = np.ones_like(frame.image)
    frame.variance[7, 8] = np.nan
    mask_nan(frame, NoConfig(), None)
    assert np.argwhere(frame.mask & NO_NUMBER).tolist() == [[3, 4], [5, 6], [7, 8]]
    assert frame.mask[3, 4] == BAD | NO_NUMBER
    assert frame.measured("nan_pixels") == 3


def test_negative_variance_follows_from_the_image() -> None:
    frame = make_exposure(0.0, noise=4.0)  # gain 1.5: V <= 0 at -24 ADU
    frame.image[2, 3], frame.image[4, 5], frame.image[6, 7] = -24.0, -23.9, -100
    expected = np.argwhere(frame.image / np.float32(1.5) + np.float32(16) <= 0).tolist()
    mask_negative_variance(
        frame, NegativeVarianceConfig(negative_variance_mask_name="SUSPECT"), None
    )
    assert [2, 3] in expected
    assert np.argwhere(frame.mask & SUSPECT).tolist() == expected == [[2, 3], [6, 7]]
    assert frame.measured("negative_variance_pixels") == 2


def test_negative_variance_needs_a_variance(detector_of) -> None:
    with pytest.raises(DataError, match="variance of detector toy is not known"):
        mask_negative_variance(flat_frame(detector_of), NegativeVarianceConfig(), None)


@pytest.mark.parametrize(
    ("length", "extra"),
    [(1, 0), (5, 0), (6, 1), (7, 1), (8, 3), (9, 3), (10, 4), (11, 4), (20, 4)],
)
def test_trails_are_widened_by_their_length(detector_of, length, extra) -> None:
    frame = flat_frame(detector_of, shape=(5, 60))
    frame.mask[2, 20 : 20 + length] = SAT | SUSPECT
    widen_trails(frame, WidenTrailsConfig(), None)
    expected = np.zeros((5, 60), bool)
    expected[2, 20 - extra : 20 + length + extra] = True
    assert np.array_equal(frame.mask & SAT > 0, expected)
    assert np.count_nonzero(frame.mask & SUSPECT) == length
    assert frame.measured("widened_pixels") == 2 * extra


def test_trails_are_clipped_at_the_edge_and_rows_are_apart(detector_of) -> None:
    frame = flat_frame(detector_of, shape=(4, 30))
    frame.mask[0, :12] = frame.mask[3, 18:] = SAT
    widen_trails(frame, WidenTrailsConfig(), None)
    assert np.flatnonzero(frame.mask[0]).tolist() == [*range(16)]
    assert np.flatnonzero(frame.mask[3]).tolist() == [*range(14, 30)]
    assert not frame.mask[1:3].any()


def test_a_plane_grows_into_another(detector_of) -> None:
    frame = flat_frame(detector_of)
    frame.mask[10, 10] = BAD
    config = GrowMaskConfig(radius=2, mask_name_list=("BAD", "SAT"), mask_value="SUSPECT")
    grow_mask(frame, config, None)
    y, x = np.mgrid[:20, :30]
    assert np.array_equal(frame.mask & SUSPECT > 0, abs(y - 10) + abs(x - 10) <= 2)
    assert np.count_nonzero(frame.mask & BAD) == 1


def test_an_unknown_plane_is_named(detector_of) -> None:
    with pytest.raises(UnknownNameError, match="SATT"):
        grow_mask(flat_frame(detector_of), GrowMaskConfig(mask_value="SATT"), None)


# ---- bad regions ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("statistic", "value"), [("MEDIAN", 3.0), ("MEANCLIP", 2.0)])
def test_bad_regions_get_the_typical_value(detector_of, statistic, value) -> None:
    frame = flat_frame(detector_of, shape=(2, 5))
    frame.image[:] = [[0, 3, 3, 1e6, np.nan], [0, 3, 3, 1e6, 1e6]]
    frame.mask[:, 3], frame.mask[1, 4] = BAD, BAD | INTRP
    frame.noise["A"] = AmplifierNoise(1.0, 2.0)
    with np.errstate(invalid="ignore"):
        set_bad_regions(frame, BadRegionsConfig(bad_statistic=statistic), None)
    assert frame.image[:, 3].tolist() == [value, value]
    assert frame.image[1, 4] == 1e6
    assert frame.measured("bad_region_pixels") == 2
    assert frame.measured("bad_region_value") == value
    assert frame.variance[0, 3] == 1e6 + 4, "the variance is that of the pixel as it was"


def test_a_detector_that_is_all_bad_is_left_alone(detector_of) -> None:
    frame = flat_frame(detector_of)
    frame.mask[:] = BAD
    set_bad_regions(frame, BadRegionsConfig(), None)
    assert (frame.image == 100).all()
    assert frame.measured("bad_region_pixels") == 0


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_good_pixels_are_untouched(seed) -> None:
    rng = np.random.default_rng(seed)
    frame = make_exposure(100.0)
    frame.mask[:] = rng.choice(np.array([0, BAD, BAD | INTRP, SAT], np.uint16), frame.mask.shape)
    before, bad = frame.image.copy(), frame.mask == BAD
    set_bad_regions(frame, BadRegionsConfig(), None)
    assert np.array_equal(frame.image[~bad], before[~bad])
    assert len(np.unique(frame.image[bad])) <= 1


# ---- vignetting ----------------------------------------------------------------------------------
def test_vignetting_is_a_circle_in_the_focal_plane(detector_of) -> None:
    frame = flat_frame(detector_of, shape=(21, 31))  # 10 um pixels: 0.31 mm wide
    mask_vignetted(frame, VignetteConfig(radius=0.1, vignette_value=0.0), None)
    y, x = np.mgrid[:21, :31]
    outside = (x - 15) ** 2 + (y - 10) ** 2 > 100
    assert np.array_equal(frame.mask & NO_DATA > 0, outside)
    assert np.array_equal(frame.image == 0, outside)
    assert frame.measured("vignetted_pixels") == np.count_nonzero(outside)


def test_a_detector_has_its_place_and_turn(detector_of) -> None:
    frame = flat_frame(detector_of, shape=(20, 40))
    # Turned by 90 degrees, its +x side points to +y; the circle's centre is 0.2 mm that way.
    config = VignetteConfig(radius=0.1, y_center=0.2, detector_places=(("toy", 0.0, 0.0, 90.0),))
    mask_vignetted(frame, config, None)
    inside = frame.mask == 0
    assert inside[:, 35:].any()
    assert not inside[:, :29].any()
    with pytest.raises(DataError, match="place of detector toy"):
        mask_vignetted(frame, VignetteConfig(detector_places=(("other", 0.0, 0.0, 0.0),)), None)


def test_a_wide_circle_marks_nothing(detector_of) -> None:
    frame = flat_frame(detector_of)
    mask_vignetted(frame, VignetteConfig(), None)
    assert not frame.mask.any()
    mask_vignetted(
        frame,
        VignetteConfig(x_center=500.0, do_mask_vignette_polygon=False, vignette_value=7.0),
        None,
    )
    assert not frame.mask.any()
    assert (frame.image == 7).all()


# ---- dither --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [("POSITIVE", 0, 1), ("NEGATIVE", -1, 0), ("SYMMETRIC", -0.5, 0.5), ("NONE", 0, 0)],
)
def test_dither_is_even_within_its_range(two_amplifiers, mode, low, high) -> None:
    frame = two_amplifiers(source=(Box(0, 0, 90, 90),))
    for name in "AB":
        frame.segments[name] = np.full((90, 90), 1000, np.float32)
    dither.dither(frame, DitherConfig(integer_dither_mode=mode), None)
    shift = np.concatenate([frame.segments[name].ravel() for name in "AB"]) - 1000.0
    assert (shift >= low).all()
    assert (shift <= high).all()
    assert shift.mean() == pytest.approx((low + high) / 2, abs=0.02)
    assert shift.var() == pytest.approx((high - low) ** 2 / 12, rel=0.05, abs=1e-9)
    assert frame.measured("dithered", "A") == (mode != "NONE")


def test_dither_follows_from_the_exposure_and_spares_fractions(two_amplifiers) -> None:
    frames = [two_amplifiers() for _ in range(3)]
    frames[2].segments["A"][3, 3] = 0.5
    for frame in frames:
        dither.dither(frame, DitherConfig(), None)
    for name in "AB":
        assert np.array_equal(frames[0].segments[name], frames[1].segments[name])
    assert frames[2].measured("dithered", "A") == 0
    assert frames[2].segments["A"][0, 1] == 10
    assert np.array_equal(frames[2].segments["B"], frames[0].segments["B"])


# ---- saturation after the overscan ---------------------------------------------------------------
def saturated(two_amplifiers, **options):
    frame = two_amplifiers(level=52.0, saturation=50.0, suspect=45.0)
    frame.segments["A"][0, 1:4] = 49, 50, 44
    subtract_overscan(frame, OverscanConfig(), None)  # level 2
    mark_saturation(frame, SaturationConfig(after_overscan=True, **options), None)
    return frame


def test_camera_levels_include_the_bias(two_amplifiers) -> None:
    frame = saturated(two_amplifiers)
    assert frame.segments["A"][0, 1:4].tolist() == [47, 48, 42]
    assert [bool(frame.masks["A"][0, x] & SAT) for x in (1, 2, 3)] == [False, True, False]
    assert [bool(frame.masks["A"][0, x] & SUSPECT) for x in (1, 2, 3)] == [True, True, False]
    assert frame.measured("saturation_level", "A") == 48


def test_levels_given_are_as_compared(two_amplifiers) -> None:
    frame = saturated(
        two_amplifiers, saturation=48.5, suspect=math.inf, amplifier_levels=(("B", 60.0, 42.5),)
    )
    assert [bool(frame.masks["A"][0, x] & SAT) for x in (1, 2, 3)] == [False, False, False]
    assert not (frame.masks["A"] & SUSPECT).any()
    assert not (frame.masks["B"] & SAT).any()
    assert (frame.masks["B"][0:7, 1:6] & SUSPECT > 0).all()
    with pytest.raises(UnknownNameError, match="no amplifier 'Z'"):
        saturated(two_amplifiers, amplifier_levels=(("Z", 1.0, 1.0),))


def test_the_order_must_be_what_the_option_says(two_amplifiers) -> None:
    with pytest.raises(DataError, match="has not been subtracted"):
        mark_saturation(two_amplifiers(), SaturationConfig(after_overscan=True), None)
    frame = subtract_overscan(two_amplifiers(), OverscanConfig(), None)
    with pytest.raises(DataError, match="has been subtracted"):
        mark_saturation(frame, SaturationConfig(), None)


# ---- level checks --------------------------------------------------------------------------------
def checked(noise=4.0, **options):
    frame = subtract_overscan(make_raw(pedestal=1000.0, noise=noise), OverscanConfig(), None)
    return check_levels(frame, LevelChecksConfig(**options), None)


def test_a_noisy_amplifier_is_bad() -> None:
    frame = checked()  # 4 ADU at 1.5 electron/ADU
    assert frame.measured("overscan_noise", "A") == pytest.approx(6, rel=0.2)
    assert not any(mask.any() for mask in frame.masks.values())
    frame = checked(amp_noise_threshold=3.0, check_unprocessable_data=False)
    assert all((mask & BAD).all() for mask in frame.masks.values())
    assert frame.measured("noise_failed", "A") == 1
    with pytest.raises(DataError, match="Every amplifier of detector FAKE_0"):
        checked(amp_noise_threshold=3.0)


def test_a_shifted_level_is_bad() -> None:
    levels = (("A", 1000.0, 2.0), ("B", 1100.0, 2.0))
    frame = checked(overscan_levels=levels, serial_overscan_median_shift_sigma_threshold=10.0)
    assert not frame.masks["A"].any()
    assert (frame.masks["B"] & BAD).all()
    assert frame.measured("overscan_shift", "B") == pytest.approx(-50, abs=1)
    assert frame.measured("level_failed", "B") == 1
    with pytest.raises(DataError, match="usual overscan level of amplifier B"):
        checked(overscan_levels=levels[:1], serial_overscan_median_shift_sigma_threshold=10.0)


def test_levels_are_checked_after_the_overscan() -> None:
    with pytest.raises(DataError, match="overscan of detector FAKE_0 has not been corrected"):
        check_levels(make_raw(), LevelChecksConfig(), None)


# ---- dead amplifiers -----------------------------------------------------------------------------
def test_an_amplifier_in_a_defect_is_dead_before_its_overscan_is_read(two_amplifiers) -> None:
    frame = two_amplifiers()
    mask_bad_amplifiers(frame, BadAmplifiersConfig(), Found((5, 0, 5, 7), (0, 0, 5, 6)))
    assert (frame.masks["B"] & BAD).all()
    assert not frame.masks["A"].any()
    assert frame.measured("dead_amplifier", "B") == 1
    subtract_overscan(frame, OverscanConfig(), None)
    assert frame.measured("overscan_skipped", "B") == 1
    assert frame.segments["B"][0, 1] == 10
    assert frame.segments["A"][0, 1] == 8


def test_a_detector_without_a_living_amplifier_is_given_up(two_amplifiers) -> None:
    everything = Found((0, 0, 10, 7))
    with pytest.raises(DataError, match="Every amplifier of detector twin"):
        mask_bad_amplifiers(two_amplifiers(), BadAmplifiersConfig(), everything)
    frame = two_amplifiers()
    mask_bad_amplifiers(frame, BadAmplifiersConfig(check_unprocessable_data=False), everything)
    assert all((mask & BAD).all() for mask in frame.masks.values())


@pytest.mark.parametrize("name", ["B", "FAKE_0_B"])
def test_listed_amplifiers_are_bad(name) -> None:
    frame = make_exposure()
    mask_defects(frame, DefectsConfig(bad_amps=(name, "OTHER_A")), Found())
    assert np.array_equal(frame.mask & BAD > 0, np.arange(48)[None, :].repeat(32, 0) >= 24)


@pytest.mark.parametrize("name", ["Z", "FAKE_0_Z"])
def test_a_listed_amplifier_must_exist(name) -> None:
    with pytest.raises(DataError, match="no amplifier 'Z'"):
        mask_defects(make_exposure(), DefectsConfig(bad_amps=(name,)), Found())
