"""Crosstalk: the reference's answers, units, variance, and products that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    Box,
    CalibrationMissing,
    ConfigError,
    DataError,
    Detector,
    Exposure,
    NoConfig,
    RawExposure,
    TableProduct,
    UnknownNameError,
    mask_bits,
)
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_info, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug.engine import fits
from cpplug_crosstalk import (
    CrosstalkConfig,
    cpplug_isr_steps,
    make_crosstalk,
    subtract_crosstalk,
)
from cpplug_isr.assemble import assemble

BAD, SAT, CROSSTALK = (mask_bits(plane) for plane in ("BAD", "SAT", "CROSSTALK"))
CORNERS = ((False, False), (True, False), (False, True), (True, True))
"""Flips in x and y of the amplifiers LL, LR, UL, UR."""
PAIR = np.array([[0.0, 2e-3], [-1e-3, 0.0]])


def four_corners(width: int, height: int, gains=(1.0,) * 4, x0: int = 0, y0: int = 0) -> Detector:
    amps = []
    for number, (right, upper) in enumerate(CORNERS):
        bbox = Box(width * right, height * upper, width, height)
        amps.append(
            Amplifier(
                name=f"A{number}", source=(Box(0, 0, width + 2 * x0, height + 2 * y0),),
                data=Box(x0, y0, width, height), bbox=bbox, flip_x=right, flip_y=upper,
                gain=gains[number],
            )
        )  # fmt: skip
    return Detector(id=4, name="four", amplifiers=tuple(amps), width=2 * width, height=2 * height)


def calibs(matrix, unit="adu", names=("A", "B"), **parts) -> FakeCalibs:
    return FakeCalibs(tables={"crosstalk": make_crosstalk(names, np.array(matrix), unit, **parts)})


def apply(frame, calibrations, **options):
    return subtract_crosstalk(frame, CrosstalkConfig(**options), calibrations)


class TestStep(IsrStepContract):
    step = next(iter(cpplug_isr_steps()))
    tables = {"crosstalk": make_crosstalk(["A", "B"], PAIR, "adu")}


# ---- known answers -------------------------------------------------------------------------------
OPTIONS = {
    "plain": {},
    "amp_bg": {"crosstalk_background_method": "AMP"},
    "det_bg": {"crosstalk_background_method": "DETECTOR"},
    "quad": {"do_quadratic_crosstalk_correction": True},
    "subtrahend": {"do_subtrahend_masking": True, "min_pixel_to_mask": 5.0},
    "lowmask": {"min_pixel_to_mask": 20000.0},
    "badamp": {},
}


@pytest.mark.parametrize("tag", OPTIONS)
def test_case_of_the_reference(reference_case, tag) -> None:
    inputs, expected, _ = reference_case("crosstalk")
    detector = four_corners(40, 50)
    mask = inputs["mask"].astype(np.uint16)
    if tag == "badamp":
        mask[0:50, 40:80] |= BAD
    frame = Exposure(make_info(), detector, inputs["image"].copy(), mask, inputs["variance"].copy())
    names = [amp.name for amp in detector.amplifiers]
    product = calibs(inputs["coeffs"], names=names, quadratic=inputs["coeffsSqr"])
    apply(frame, product, **OPTIONS[tag])
    np.testing.assert_allclose(frame.image, expected[f"{tag}_image"], rtol=1e-7, atol=2e-3)
    marked = (frame.mask & CROSSTALK) != 0
    np.testing.assert_array_equal(marked, expected[f"{tag}_ctmask"])
    assert frame.measured("crosstalk_pixels") == marked.sum()
    # The reference takes the two factors of x^2 as independent and leaves out that the linear and
    # the quadratic term go up and down together; where it matters the variance differs by 1.1e-4.
    rtol = 1.2e-4 if tag == "quad" else 1e-5
    np.testing.assert_allclose(frame.variance, expected[f"{tag}_variance"], rtol=rtol)
    if tag == "quad":
        assert np.abs(frame.variance / expected["quad_variance"] - 1).max() > 1e-4


@pytest.mark.parametrize("quadratic", [False, True])
def test_toy_of_four_amplifiers(quadratic) -> None:
    """Algorithms D.5.5: 1000 bright pixels in each of four corners."""
    given = np.array([[0, 1, 2, 3], [3, 0, 2, 1], [4, 5, 0, 6], [7, 8, 9, 0]]) * 1e-4
    random = np.random.RandomState(12345)
    noise = random.normal(0.0, 0.1, (1000, 500))
    clean = np.zeros((4, 500, 250))
    for amp in clean:
        columns, rows = random.randint(0, 250, 1000), random.randint(0, 500, 1000)
        amp[rows, columns] = 12345
    assert [np.count_nonzero(amp) for amp in clean] == [997, 995, 998, 997]
    leaked = clean + np.einsum("ts,src->trc", given, clean)
    if quadratic:
        leaked += 1e-6 * np.einsum("ts,src->trc", given, clean**2)
    detector = four_corners(250, 500)
    mosaics = []
    for amps in (clean, leaked):
        mosaic = np.zeros((1000, 500))
        for amp, pixels in zip(detector.amplifiers, amps, strict=True):
            turn = tuple(slice(None, None, -1 if f else 1) for f in (amp.flip_y, amp.flip_x))
            mosaic[amp.bbox.slices] = pixels[turn]
        mosaics.append((mosaic + noise).astype(np.float32))
    mask = np.zeros((1000, 500), np.uint16)
    mask[:5, :5] = SAT
    frame = Exposure(make_info(), detector, mosaics[1], mask)
    product = calibs(given.T, names=("A0", "A1", "A2", "A3"), quadratic=1e-6 * given.T)
    apply(frame, product, min_pixel_to_mask=12344, do_quadratic_crosstalk_correction=quadratic)
    worst = np.abs(frame.image - mosaics[0]).max()
    assert worst == pytest.approx(0.0186 if quadratic else 0.0176, abs=2e-4)
    assert np.count_nonzero(frame.mask & CROSSTALK) == 11869
    assert np.count_nonzero(frame.mask & SAT) == 25


def test_raw_and_assembled_frames_agree() -> None:
    """Data pixels without overscan: pairing amplifiers as read is flipping by read-out corner."""
    detector = four_corners(6, 5, x0=2, y0=1)
    random = np.random.default_rng(3)
    segments = {
        amp.name: random.uniform(0, 60_000, amp.shape).astype(np.float32)
        for amp in detector.amplifiers
    }
    product = calibs(random.normal(0, 1e-3, (4, 4)), names=list(segments))
    raw = RawExposure(make_info(), detector, {n: s.copy() for n, s in segments.items()})
    late = assemble(RawExposure(make_info(), detector, segments), NoConfig(), None)
    apply(late, product, min_pixel_to_mask=2e4)
    early = assemble(apply(raw, product, min_pixel_to_mask=2e4), NoConfig(), None)
    np.testing.assert_allclose(early.image, late.image, rtol=1e-6)
    np.testing.assert_array_equal(early.mask, late.mask)
    assert (early.mask & CROSSTALK).any()


def test_raw_frames_are_corrected_with_their_overscan() -> None:
    frame, before = make_raw(pedestal=0.0), make_raw(pedestal=0.0)
    frame.segments["A"][30, 33] = before.segments["A"][30, 33] = 50_000
    apply(frame, calibs(PAIR))
    expected = before.segments["B"] - 2e-3 * before.segments["A"]
    np.testing.assert_allclose(frame.segments["B"], expected, atol=1e-4)
    assert np.argwhere(frame.masks["B"]).tolist() == [[30, 33]]
    assert not frame.masks["A"].any(), "a bright source is not marked for its own sake"


# ---- units ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"crosstalk_background_method": "DETECTOR"}])
@pytest.mark.parametrize("masking", [False, True])
def test_coefficients_in_electrons_serve_a_frame_in_adu(options, masking) -> None:
    detector = four_corners(8, 6, gains=(1.0, 2.0, 1.5, 0.8))
    random = np.random.default_rng(2)
    matrix = random.normal(0, 1e-3, (4, 4))
    product = calibs(matrix, "electron", [a.name for a in detector.amplifiers], quadratic=matrix**2)
    limit = {"do_subtrahend_masking": masking, "min_pixel_to_mask": 30 if masking else 20_000}
    image = random.uniform(0, 60_000, detector.shape).astype(np.float32)
    electron = Exposure(make_info(), detector, image.copy(), None, image + 9)
    electron.unit = "electron"
    adu = Exposure(make_info(), detector, image.copy(), None, image + 9)
    for amp in detector.amplifiers:
        adu.image[amp.bbox.slices] /= np.float32(amp.gain)
        adu.variance[amp.bbox.slices] /= np.float32(amp.gain) ** 2
    for frame in (electron, adu):
        apply(frame, product, do_quadratic_crosstalk_correction=True, **options, **limit)
    for amp in detector.amplifiers:
        box, gain = amp.bbox.slices, amp.gain
        np.testing.assert_allclose(adu.image[box] * gain, electron.image[box], rtol=1e-6, atol=1e-2)
        np.testing.assert_allclose(adu.variance[box] * gain**2, electron.variance[box], rtol=1e-5)
    np.testing.assert_array_equal(adu.mask, electron.mask)
    assert 0 < np.count_nonzero(adu.mask) < adu.mask.size


@pytest.mark.parametrize("gain", [-2.0, 0.0, math.nan])
@pytest.mark.parametrize("stored", [None, np.array([3.0, 9.0])])
def test_an_unusable_gain_is_replaced(gain, stored) -> None:
    frame, before = make_exposure(1000.0), make_exposure(1000.0)
    frame.record("gain", gain, "electron/adu", "A")
    apply(frame, calibs(PAIR, "electron", gains=stored))
    other = 3.0 if stored is not None else 1.5
    turned = before.amp("A")[0][:, ::-1]
    expected = before.amp("B")[0] - 2e-3 * other / 1.5 * turned
    np.testing.assert_allclose(frame.amp("B")[0], expected, rtol=1e-6)
    assert frame.measured("invalid_gain", "A") == 1
    assert frame.measured("invalid_gain", "B") is None


def test_without_any_gain_units_cannot_be_changed() -> None:
    frame = make_exposure(1000.0)
    for name in "AB":
        frame.record("gain", math.nan, "electron/adu", name)
    with pytest.raises(DataError, match="no amplifier has a gain"):
        apply(frame, calibs(PAIR, "electron"))
    apply(frame, calibs(PAIR, "adu"))
    assert frame.measured("invalid_gain", "A") is None, "none was needed"


# ---- variance ------------------------------------------------------------------------------------
def test_variance_is_what_the_scatter_says() -> None:
    """Also where an amplifier leaks into itself and the quadratic term is large."""
    matrix = np.array([[0.1, 0.3], [-0.2, 0.0]])
    square = np.array([[0.0, 2e-4], [1e-4, 0.0]])
    detector = four_corners(300, 300)
    amps = (detector.amplifiers[0], detector.amplifiers[1])
    pair = Detector(id=0, name="pair", amplifiers=amps, width=600, height=300)
    image = np.random.default_rng(4).normal(1000, 10, pair.shape).astype(np.float32)
    frame = Exposure(make_info(), pair, image, None, np.full(pair.shape, 100, np.float32))
    product = calibs(matrix, names=("A0", "A1"), quadratic=square)
    apply(frame, product, do_quadratic_crosstalk_correction=True)
    for amp in amps:
        box = amp.bbox.slices
        assert frame.variance[box].mean() == pytest.approx(frame.image[box].var(), rel=0.01)
        assert abs(frame.image[box].var() / 100 - 1) > 0.03


def test_variance_is_made_before_the_image_changes() -> None:
    frame, plain = make_exposure(1000.0), make_exposure(1000.0)
    apply(frame, calibs(PAIR))
    plain.variance_plane()
    own, other = plain.variance[:, :24], plain.variance[:, 24:]
    np.testing.assert_allclose(frame.variance[:, :24], own + 1e-6 * other[:, ::-1], rtol=1e-6)
    idle = make_exposure(1000.0)
    apply(idle, calibs(np.zeros((2, 2))))
    assert idle.variance is None
    np.testing.assert_array_equal(idle.image, make_exposure(1000.0).image)


# ---- coefficients that do not count --------------------------------------------------------------
def test_coefficients_that_are_not_trusted_do_nothing() -> None:
    matrix = np.array([[math.nan, 2e-3], [math.inf, 0.0]])
    square = np.full((2, 2), 1e-6)
    valid = np.array([[True, False], [True, True]])
    frame, before = make_exposure(1000.0), make_exposure(1000.0)
    product = calibs(matrix, valid=valid, quadratic=square)
    apply(frame, product, do_quadratic_crosstalk_correction=True)
    np.testing.assert_array_equal(frame.amp("A")[0], before.amp("A")[0])
    own = before.amp("B")[0].astype(float)
    np.testing.assert_allclose(frame.amp("B")[0], own - 1e-6 * own**2, rtol=1e-6)


def test_a_bad_amplifier_neither_gives_nor_takes() -> None:
    frame, before = make_exposure(50_000.0), make_exposure(50_000.0)
    frame.amp("A")[1][:] = BAD
    apply(frame, calibs(PAIR), min_pixel_to_mask=0.0)
    np.testing.assert_array_equal(frame.image, before.image)
    assert not (frame.mask & CROSSTALK).any()


def test_a_source_that_is_no_number_is_marked_in_its_target() -> None:
    for masking in (False, True):
        frame = make_exposure(100.0)
        frame.amp("A")[0][3, 4] = math.nan
        apply(frame, calibs([[0, 1e-4], [0, 0]]), do_subtrahend_masking=masking)
        assert np.isfinite(frame.amp("B")[0]).all()
        assert np.argwhere(frame.mask).tolist() == [[3, 24 + 23 - 4]]
        assert np.isnan(frame.image).sum() == 1


def test_rows_of_the_table_may_stand_in_any_order() -> None:
    one, two = make_exposure(9000.0), make_exposure(9000.0)
    apply(one, calibs(PAIR))
    apply(two, calibs(PAIR[::-1, ::-1], names=("B", "A")))
    np.testing.assert_array_equal(one.image, two.image)


# ---- properties ----------------------------------------------------------------------------------
@given(st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_exact_leaks_are_taken_back_to_second_order(there, back, seed) -> None:
    truth = make_exposure(5000.0, noise=1000.0, seed=seed)
    frame = make_exposure(5000.0, noise=1000.0, seed=seed)
    frame.amp("B")[0][:] += np.float32(there) * truth.amp("A")[0][:, ::-1]
    frame.amp("A")[0][:] += np.float32(back) * truth.amp("B")[0][:, ::-1]
    apply(frame, calibs([[0, there], [back, 0]]))
    assert np.abs(frame.image - truth.image).max() <= 10_000 * abs(there * back) + 3e-3


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_blocks_of_rows_do_not_matter(seed) -> None:
    """A frame of many blocks agrees with the sum written down."""
    random = np.random.default_rng(seed)
    detector = four_corners(700, 50)
    image = random.uniform(0, 50_000, detector.shape).astype(np.float32)
    matrix = random.normal(0, 1e-3, (4, 4))
    frame = apply(
        Exposure(make_info(), detector, image.copy()),
        calibs(matrix, names=[amp.name for amp in detector.amplifiers]),
    )
    parts = [image[:50, :700], image[:50, 700:][:, ::-1], image[50:, :700][::-1]]
    parts.append(image[50:, 700:][::-1, ::-1])
    expected = parts[2] - np.einsum("s,srx->rx", matrix[:, 2], np.array(parts, np.float64))
    np.testing.assert_allclose(frame.image[50:, :700][::-1], expected, atol=0.01)


# ---- what does not fit ---------------------------------------------------------------------------
def test_quadratic_coefficients_must_be_there() -> None:
    with pytest.raises(DataError, match="no quadratic coefficients"):
        apply(make_exposure(), calibs(PAIR), do_quadratic_crosstalk_correction=True)


def test_backgrounds_need_an_assembled_frame() -> None:
    with pytest.raises(ConfigError, match="needs an assembled frame"):
        apply(make_raw(), calibs(PAIR), crosstalk_background_method="AMP")


def test_amplifiers_must_be_of_one_size() -> None:
    frame = make_raw()
    frame.segments["B"], frame.masks["B"] = frame.segments["B"][:-1], frame.masks["B"][:-1]
    with pytest.raises(DataError, match="differ in size"):
        apply(frame, calibs(PAIR))


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (calibs(PAIR, DETECTOR=3), "of detector 3, the exposure of 0"),
        (calibs(PAIR, names=("A", "C")), "of amplifiers A, C; detector FAKE_0 has A, B"),
        (calibs(np.zeros((2, 3))), r"coefficients .* has shape \(2, 3\)"),
        (calibs(PAIR, quadratic=np.zeros((2, 1))), r"quadratic .* has shape \(2, 1\)"),
        (calibs(PAIR, unit="furlong"), "in furlong"),
        (FakeCalibs(tables={"crosstalk": TableProduct(columns={})}), "no column amplifier"),
    ],
)
def test_a_crosstalk_of_another_detector_is_refused(product, message) -> None:
    frame, before = make_exposure(100.0), make_exposure(100.0)
    with pytest.raises(DataError, match=message):
        apply(frame, product)
    np.testing.assert_array_equal(frame.image, before.image)


def test_a_missing_product_a_strange_unit_and_plane_are_refused() -> None:
    with pytest.raises(CalibrationMissing):
        apply(make_exposure(), FakeCalibs())
    with pytest.raises(UnknownNameError, match="GHOST"):
        apply(make_exposure(), calibs(PAIR), crosstalk_mask_plane="GHOST")
    frame = Exposure(make_info(), make_camera().detector(0), np.ones((32, 48), np.float32))
    frame.unit = "1"
    with pytest.raises(DataError, match="cannot be subtracted in 1"):
        apply(frame, calibs(PAIR))


def test_a_table_read_from_disk_corrects_the_same(tmp_path) -> None:
    table = make_crosstalk(
        ["A", "B"], PAIR, "electron", errors=np.abs(PAIR) / 10, counts=np.full((2, 2), 100),
        valid=PAIR != 0, quadratic=PAIR * 1e-6, quadratic_errors=PAIR * 0, gains=np.array([1.0, 2]),
    )  # fmt: skip
    fits.write_table_product(tmp_path / "crosstalk.fits", table, {"DETECTOR": 0})
    read = fits.read_table_product(tmp_path / "crosstalk.fits")
    assert read.units == {"quadratic": "1/electron", "quadratic_errors": "1/electron",
                          "gain": "electron/adu"}  # fmt: skip
    frames = [make_exposure(2000.0), make_exposure(2000.0)]
    for frame, product in zip(frames, (table, read), strict=True):
        apply(
            frame, FakeCalibs(tables={"crosstalk": product}), do_quadratic_crosstalk_correction=True
        )
    np.testing.assert_array_equal(frames[0].image, frames[1].image)
    assert not np.array_equal(frames[0].image, make_exposure(2000.0).image)
