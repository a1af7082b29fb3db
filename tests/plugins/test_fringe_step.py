"""Fringes: agreement with the reference, known answers, variance, and broken input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Box,
    CalibrationMissing,
    DataError,
    Detector,
    Exposure,
    clipped,
    mask_bits,
)
from cpplug.api.fakes import FakeCalibs, make_camera, make_info
from cpplug.api.testing import IsrStepContract
from cpplug.engine.products import read_product, write_product
from cpplug_fringe import FringeConfig, cpplug_isr_steps, subtract_fringe
from cpplug_fringe.compiled import box_levels
from cpplug_fringe.product import fringe_product

(STEP,) = cpplug_isr_steps()
BAD, SAT = mask_bits("BAD"), mask_bits("SAT")
SMALL = {"num": 800, "small": 2, "large": 12}


def exposure_of(image: np.ndarray, exposure: int = 1234, mask=None, **facts) -> Exposure:
    height, width = image.shape
    amplifier = Amplifier(
        name="A",
        source=(Box(0, 0, width, height),),
        data=Box(0, 0, width, height),
        bbox=Box(0, 0, width, height),
    )
    detector = Detector(id=7, name="toy", amplifiers=(amplifier,), width=width, height=height)
    info = make_info(exposure, **{"physical_filter": "i", **facts})
    copy = np.array(image, dtype=np.float32)
    return Exposure(info, detector, copy, None if mask is None else mask.astype(np.uint16))


def subtracted(exposure: Exposure, product, **options) -> Exposure:
    one = hasattr(product, "image")
    calibs = FakeCalibs({"fringe": product} if one else {}, {} if one else {"fringe": product})
    return subtract_fringe(exposure, FringeConfig(**options), calibs)


def waves(shape, xf: float, xo: float, yf: float, yo: float) -> np.ndarray:
    i, j = np.mgrid[: shape[0], : shape[1]]
    return (np.sin(xf * i + xo) + np.sin(yf * j + yo)).astype(np.float32)


PATTERN = waves((80, 90), 0.5, 1.0, 0.4, 0.5)


class TestContract(IsrStepContract):
    step = STEP

    def calibs(self):
        shape = make_camera().detector(0).shape
        return FakeCalibs({"fringe": fringe_product([waves(shape, 1.1, 0, 0.9, 0)], "unknown")})

    def options(self):
        return FringeConfig(large=8)


# -- the reference ------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["one", "two", "two_pedestal"])
def test_agrees_with_the_reference(reference_case, tag) -> None:
    inputs, expected, folder = reference_case("fringe")
    meta = json.loads((folder / "meta.json").read_text())[tag]
    images = [inputs[f"fringe{n + 1}"] for n in range(len(meta["solution"]))]
    product = fringe_product(images, "i")
    exposure = subtracted(
        exposure_of(inputs["science"], mask=inputs["mask"]),
        product,
        num=2000,
        small=2,
        large=20,
        pedestal=meta["pedestal"],
    )
    np.testing.assert_allclose(exposure.image, expected[f"{tag}_image"], atol=2e-3)
    for number, scale in enumerate(meta["solution"]):
        assert exposure.measured(f"fringe_scale_{number}") == pytest.approx(scale, rel=1e-8)
    assert exposure.measured("fringe_rms") == pytest.approx(meta["rms"], rel=1e-8)


def test_classic_chain(reference_case) -> None:
    inputs, expected, _ = reference_case("isr_classic")
    exposure = exposure_of(expected["flat_image"], mask=expected["flat_mask"])
    exposure.variance = expected["flat_variance"].copy()
    product = fringe_product([inputs["fringe"]], "i")
    subtracted(exposure, product, num=3000, small=2, large=15)
    np.testing.assert_allclose(exposure.image, expected["fringe_image"], atol=0.05)
    np.testing.assert_array_equal(exposure.mask, expected["fringe_mask"])
    np.testing.assert_allclose(exposure.variance, expected["fringe_variance"], rtol=1e-5)


# A tenth of the positions of the recipe: the patterns are free of noise.
KNOWN = {"num": 500, "small": 1, "large": 128, "iterations": 10}


@pytest.mark.parametrize(("offset", "limit"), [(0.0, 1e-4), (10000.0, 1e-3)])
def test_known_answer_of_one_pattern(offset, limit) -> None:
    pattern = waves((512, 512), np.pi / 10, 1, np.pi / 15, 0.5)
    product = fringe_product([pattern + np.float32(offset)], "i")
    exposure = subtracted(exposure_of(pattern), product, pedestal=offset > 0, **KNOWN)
    assert exposure.image.std() < limit


@pytest.mark.parametrize("pedestal", [True, False])
def test_known_answer_of_three_patterns(pedestal) -> None:
    patterns = [
        waves((512, 512), *numbers)
        for numbers in ((0.1, 0, 0.09, 0.3), (0.13, 0.1, 0.12, 0.2), (0.06, 0.2, 0.07, 0.1))
    ]
    science = 0.33 * sum(patterns)
    product = fringe_product(patterns, "i")
    exposure = subtracted(exposure_of(science), product, pedestal=pedestal, **KNOWN)
    assert exposure.image.std() < 1e-2


# -- properties ---------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.floats(-50, 50), st.floats(0, 5000))
@settings(max_examples=15, deadline=None)
def test_the_strength_is_found_whatever_the_sky(seed, scale, sky) -> None:
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 20, 90)
    image = sky + slope + scale * PATTERN + random.normal(0, 2, PATTERN.shape)
    exposure = subtracted(exposure_of(image, seed), fringe_product([PATTERN], "i"), **SMALL)
    assert exposure.measured("fringe_scale_0") == pytest.approx(scale, abs=0.5)
    assert (exposure.image - sky - slope).std() < 2.3


def test_a_pattern_of_zeros_changes_nothing() -> None:
    image = np.random.default_rng(1).normal(100, 5, PATTERN.shape).astype(np.float32)
    exposure = subtracted(exposure_of(image), fringe_product([0 * PATTERN], "i"), **SMALL)
    np.testing.assert_array_equal(exposure.image, image)
    assert exposure.measured("fringe_positions") == 0


def test_an_image_without_a_good_pixel_is_left_alone() -> None:
    mask = np.full(PATTERN.shape, BAD)
    exposure = exposure_of(PATTERN, mask=mask)
    subtracted(exposure, fringe_product([PATTERN], "i"), bad_mask_planes=("BAD",), **SMALL)
    np.testing.assert_array_equal(exposure.image, PATTERN)
    assert exposure.measured("fringe_positions") == 0


def test_masked_pixels_do_not_count() -> None:
    random = np.random.default_rng(3)
    image = 500 + 20 * PATTERN + random.normal(0, 1, PATTERN.shape)
    mask = np.where(random.random(PATTERN.shape) < 0.2, SAT, 0)
    image[mask > 0] += 40000 * PATTERN[mask > 0]
    exposure = exposure_of(image, mask=mask)
    subtracted(exposure, fringe_product([PATTERN], "i"), **SMALL)
    assert exposure.measured("fringe_scale_0") == pytest.approx(20, abs=0.3)


def test_only_the_filters_asked_for() -> None:
    product = fringe_product([PATTERN], "i")
    one = subtracted(exposure_of(10 * PATTERN), product, filters=("z", "i"), **SMALL)
    assert one.measured("fringe_scale_0") == pytest.approx(10, rel=1e-3)
    other = exposure_of(10 * PATTERN, physical_filter="g")
    subtracted(other, product, filters=("z", "i"), **SMALL)
    np.testing.assert_array_equal(other.image, 10 * PATTERN)
    assert not other.measurements


def test_where_the_pattern_is_unknown_the_image_stays() -> None:
    pattern = PATTERN.copy()
    pattern[20:22, 30] = np.nan
    exposure = subtracted(exposure_of(10 * PATTERN + 7), fringe_product([pattern], "i"), **SMALL)
    np.testing.assert_array_equal(exposure.image[20:22, 30], (10 * PATTERN + 7)[20:22, 30])
    assert np.argwhere(exposure.mask == BAD).tolist() == [[20, 30], [21, 30]]
    assert exposure.measured("fringe_unknown_pixels") == 2


def test_the_calibration_is_not_touched() -> None:
    product = fringe_product([PATTERN + 5, PATTERN.T[:80, :80].repeat(2, 1)[:, :90]], "i")
    before = {name: column.copy() for name, column in product.columns.items()}
    subtracted(exposure_of(10 * PATTERN), product, pedestal=True, **SMALL)
    for name, column in product.columns.items():
        np.testing.assert_array_equal(column, before[name])


def test_the_seed_moves_the_positions() -> None:
    random = np.random.default_rng(4)
    image = 20 * PATTERN + random.normal(0, 5, PATTERN.shape)
    product = fringe_product([PATTERN], "i")
    scales = [
        subtracted(exposure_of(image, number), product, rng_seed_offset=offset, **SMALL).measured(
            "fringe_scale_0"
        )
        for number, offset in ((10, 0), (10, 0), (9, 1), (10, 2**32), (11, 0))
    ]
    assert scales[0] == scales[1] == scales[2] == scales[3] != scales[4]


@pytest.mark.parametrize("stat", ["MEDIAN", "MEAN", "MEANCLIP"])
def test_levels_are_the_statistics_of_the_boxes(stat) -> None:
    random = np.random.default_rng(6)
    image = random.normal(100, 5, (30, 30)).astype(np.float32)
    image[random.random(image.shape) < 0.1] += 300
    bad = random.random(image.shape) < 0.2
    image[4, 4] = np.nan
    positions = np.array([[8, 9], [20, 15], [10, 22]])
    kind = ("MEDIAN", "MEAN", "MEANCLIP").index(stat)
    found = box_levels(image, bad, positions, 6, kind, 2.5, 4)
    for level, (x, y) in zip(found, positions, strict=True):
        box = np.s_[y - 6 : y + 6, x - 6 : x + 6]
        values = image[box][~bad[box] & np.isfinite(image[box])].astype(np.float64)
        want = {
            "MEDIAN": np.median(values),
            "MEAN": values.mean(),
            "MEANCLIP": clipped(values, clip=2.5, n_iter=4).mean,
        }[stat]
        assert level == pytest.approx(want, rel=1e-12)
    assert np.isnan(box_levels(image, np.ones_like(bad), positions, 6, kind, 3.0, 3)).all()


@pytest.mark.parametrize("stat", ["MEAN", "MEANCLIP"])
def test_other_levels_find_the_strength_too(stat) -> None:
    image = 30 + 12 * PATTERN + np.random.default_rng(2).normal(0, 1, PATTERN.shape)
    exposure = exposure_of(image)
    subtracted(exposure, fringe_product([PATTERN], "i"), stat=stat, **SMALL)
    assert exposure.measured("fringe_scale_0") == pytest.approx(12, abs=0.3)


def test_variance_is_what_repeated_calibrations_show() -> None:
    random = np.random.default_rng(7)
    sigma, scale, shape = 0.05, 40.0, (250, *PATTERN.shape)
    images, planes = np.empty(shape), np.empty(shape)
    for n in range(shape[0]):
        light = random.poisson(400 + scale * PATTERN) + random.normal(0, 3, PATTERN.shape)
        exposure = exposure_of(light, n)
        exposure.noise["A"] = AmplifierNoise(1.0, 3.0)
        noisy = PATTERN + random.normal(0, sigma, PATTERN.shape)
        product = fringe_product([noisy], "i", [np.full(PATTERN.shape, sigma**2)])
        subtracted(exposure, product, num=300, small=3, large=12)
        images[n], planes[n] = exposure.image, exposure.variance
    ratio = (images.var(axis=0, ddof=1) / planes.mean(axis=0)).mean()
    assert planes.mean() > 412, "the pattern adds 4 to 409"
    assert ratio == pytest.approx(1.0, abs=0.01)


# -- the calibration ----------------------------------------------------------------------------


def test_products_survive_the_file(tmp_path) -> None:
    patterns = [PATTERN, waves(PATTERN.shape, 0.3, 0, 0.7, 0)]
    image = 5 * patterns[0] + 8 * patterns[1]
    for count in (1, 2):
        product = fringe_product(patterns[:count], "i", masks=[PATTERN > 1.9] * count)
        path = tmp_path / f"{count}.fits"
        write_product(path, product, {"DETECTOR": 7})
        one = subtracted(exposure_of(image), read_product(path), **SMALL)
        two = subtracted(exposure_of(image), product, **SMALL)
        np.testing.assert_array_equal(one.image, two.image)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (fringe_product([PATTERN], "z"), "of filter 'z', exposure 1234 of 'i'"),
        (fringe_product([PATTERN, PATTERN], "z"), "of filter 'z', exposure 1234 of 'i'"),
        (fringe_product([PATTERN[:70], PATTERN[:70]], "i"), "70, 90. rows and columns"),
        (fringe_product([PATTERN[:70]], "i"), "not of the size"),
        (fringe_product([PATTERN], "i", unit="electron"), "in electron, the image in adu"),
        (fringe_product([PATTERN, PATTERN], "i", unit="electron"), "in electron, the image in adu"),
    ],
)
def test_unfit_calibrations_are_refused(product, message) -> None:
    exposure = exposure_of(PATTERN)
    with pytest.raises(DataError, match=message):
        subtracted(exposure, product, **SMALL)
    np.testing.assert_array_equal(exposure.image, PATTERN)


def test_another_detector_is_refused() -> None:
    product = fringe_product([PATTERN], "i")
    product.metadata["DETECTOR"] = 3
    with pytest.raises(DataError, match="of detector 3, the image of detector 7"):
        subtracted(exposure_of(PATTERN), product, **SMALL)


def test_a_table_without_its_columns_is_refused() -> None:
    product = fringe_product([PATTERN, PATTERN], "i")
    del product.columns["variance"]
    with pytest.raises(DataError, match="no column variance"):
        subtracted(exposure_of(PATTERN), product, **SMALL)


def test_a_missing_calibration_is_said() -> None:
    with pytest.raises(CalibrationMissing):
        subtract_fringe(exposure_of(PATTERN), FringeConfig(), FakeCalibs())


def test_a_box_larger_than_the_image_is_refused() -> None:
    with pytest.raises(DataError, match="box of 80 pixels does not fit in the 90 x 80 pixels"):
        subtracted(exposure_of(PATTERN), fringe_product([PATTERN], "i"), large=40)
