"""Linearity: the reference's curves, and what happens off them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from cpplug.api import (
    AmplifierNoise,
    CalibrationMissing,
    DataError,
    Exposure,
    TableProduct,
    UnknownNameError,
    mask_bits,
)
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_info, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug.engine import fits
from cpplug_linearity import (
    Curve,
    LinearizeConfig,
    correct,
    cpplug_isr_steps,
    linearize,
    make_linearity,
)

NONE = np.zeros((0, 0), np.float32)
DETECTOR = make_camera().detector(0)
NODES, VALUES = np.arange(0.0, 5001.0, 1000.0), np.array([0.0, 1, 4, 9, 16, 25])
BAD, SUSPECT = mask_bits("BAD"), mask_bits("SUSPECT")


def curve(kind: str, *numbers: float, lookup=None) -> Curve:
    table = None if lookup is None else np.asarray(lookup, np.float32)
    return Curve(kind, np.array(numbers, np.float64), table)


SQUARED = curve("Squared", 2e-6)
DOUBLE = curve(
    "DoubleSpline",
    5,
    6,
    0,
    2000,
    3000,
    4000,
    5000,
    0,
    0.01,
    0.02,
    0.03,
    0.04,
    *NODES,
    *VALUES,
    0,
    0,
)


def calibs(a: Curve, b: Curve | None = None, **cards) -> FakeCalibs:
    return FakeCalibs(tables={"linearity": make_linearity({"A": a, "B": b or a}, **cards)})


def corrected(values, shape: Curve, gain: float = 1.0) -> np.ndarray:
    image = np.atleast_2d(np.asarray(values, np.float32)).copy()
    correct(image, np.zeros(image.shape, np.uint16), NONE, shape, gain)
    return image.ravel()


class TestStep(IsrStepContract):
    step = next(iter(cpplug_isr_steps()))
    tables = {"linearity": make_linearity({"A": SQUARED, "B": curve("Spline", *NODES, *VALUES)})}


# ---- known answers -------------------------------------------------------------------------------
@pytest.mark.parametrize("gain", [1.0, 1.4])
@pytest.mark.parametrize("kind", ["spline", "doublespline"])
def test_splines_of_the_reference(reference_case, kind, gain) -> None:
    inputs, expected, _ = reference_case("linearizer_apply")
    nodes, values = inputs["spline_nodes"], inputs["spline_values"]
    second = (inputs["ds_nodes2"], inputs["ds_values2"])
    shape = curve("Spline", *nodes, *values)
    if kind == "doublespline":
        counts = nodes.size, second[0].size
        shape = curve("DoubleSpline", *counts, *nodes, *values, *second[0], *second[1])
    tag = kind if gain == 1.0 else f"{kind}_gain"
    found = corrected(inputs["image"], shape, gain).reshape(inputs["image"].shape)
    np.testing.assert_allclose(found, expected[tag], rtol=2e-7, atol=1e-3)


def test_other_curves_of_the_reference(reference_case) -> None:
    inputs, expected, _ = reference_case("linearizer_apply")
    table = (-1e-7 * np.arange(140_000.0) ** 2).astype(np.float32)
    np.testing.assert_array_equal(table[::1000], inputs["table_row1"])
    nodes, values = inputs["spline_nodes"][1:], inputs["spline_values"][1:]
    for tag, shape, off in (
        ("squared", curve("Squared", -3.1e-7), 0),
        ("squared_zero", curve("Squared", 0.0), 0),
        ("polynomial", curve("Polynomial", -2e-7, 1.5e-12, -3e-18), 0),
        ("spline_no_zero", curve("Spline", *nodes, *values), 696),
        ("lookup", curve("LookupTable", 10.0, lookup=table), 3),
        ("proportional", curve("Proportional"), 0),
        ("none", curve("None"), 0),
    ):
        image = inputs["image"].copy()
        outside = correct(image, np.zeros(image.shape, np.uint16), NONE, shape)
        np.testing.assert_allclose(image, expected[tag], rtol=2e-7, atol=1e-3, err_msg=tag)
        assert outside == off, tag


def test_probes_of_both_splines() -> None:
    single = corrected([100, 1500, 2499], curve("Spline", *NODES, *VALUES))
    np.testing.assert_allclose(single, [99.99, 1497.75, 2492.754999], rtol=1e-7)
    np.testing.assert_allclose(
        corrected([100, 500, 1500, 2400], DOUBLE),
        [99.98974942512493, 499.74867320312325, 1497.7441582030906, 2394.2260671998038],
        rtol=1e-7,
    )


def test_small_lookup_tables() -> None:
    shapes = [
        curve("LookupTable", offset, lookup=row)
        for offset, row in ((0, [0] * 4), (0, [5, 4, 3, 2]), (1, [1] * 4), (1, [7, 6, 5, 4]))
    ]
    found = [corrected([-1, 0, 1, 2], shape).tolist() for shape in shapes]
    assert found == [[-1, 0, 1, 2], [4, 5, 5, 5], [0, 1, 2, 3], [6, 6, 6, 6]]
    image = np.array([[-1, 0, 1, 2]], np.float32)
    mask = np.zeros(image.shape, np.uint16)
    off = [correct(image.copy(), mask, NONE, shape, bit=4) for shape in shapes]
    assert off == [1, 1, 0, 0]
    assert not mask.any(), "below the table is noise, not light that it does not cover"


# ---- the step ------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [SQUARED, DOUBLE, curve("Polynomial", -3e-6, 1e-10)])
def test_adu_and_electrons_agree(shape) -> None:
    adu = make_exposure(1800.0, noise=30.0)
    electron = make_exposure(1800.0, noise=30.0)
    electron.image *= np.float32(1.5)
    electron.unit = "electron"
    for frame in (adu, electron):
        frame.noise.clear()
        linearize(frame, LinearizeConfig(), calibs(shape))
    np.testing.assert_allclose(electron.image / 1.5, adu.image, rtol=3e-7)
    assert not np.array_equal(adu.image, make_exposure(1800.0, noise=30.0).image)


def test_raw_frames_are_corrected_whole() -> None:
    frame = make_raw(level=3000.0, pedestal=0.0)
    expected = corrected(frame.segments["B"], SQUARED).reshape(frame.segments["B"].shape)
    linearize(frame, LinearizeConfig(), calibs(curve("None"), SQUARED))
    np.testing.assert_array_equal(frame.segments["B"], expected)
    np.testing.assert_array_equal(frame.segments["A"], make_raw(3000.0, pedestal=0.0).segments["A"])
    assert frame.measured("linearity_applied", "A") == 0
    assert frame.measured("linearity_applied", "B") == 1


def test_light_beyond_the_curve_is_marked_and_counted() -> None:
    frame = make_exposure(0.0, noise=1.0)
    frame.image[3, 5], frame.image[4, 30], frame.image[5, 31] = 5001, 9000, 4999
    linearize(frame, LinearizeConfig(), calibs(curve("Spline", *NODES, *VALUES)))
    assert np.argwhere(frame.mask).tolist() == [[3, 5], [4, 30]]
    assert frame.mask[3, 5] == SUSPECT
    assert frame.image[4, 30] == 9000 - 25, "the curve keeps the value of its end"
    assert [frame.measured("linearity_out_of_range", amp) for amp in "AB"] == [1, 1]
    frame.mask[:] = 0
    linearize(frame, LinearizeConfig(out_of_range_plane=""), calibs(DOUBLE))
    assert not frame.mask.any()
    with pytest.raises(UnknownNameError, match="SUSPECTED"):
        linearize(frame, LinearizeConfig(out_of_range_plane="SUSPECTED"), calibs(DOUBLE))


@pytest.mark.parametrize(
    "shape",
    [
        curve("Spline", *NODES[:2], 0, math.nan),
        curve("Polynomial", math.nan, 1e-9),
        curve("LookupTable", 0, lookup=[0, math.nan]),
    ],
)
def test_an_amplifier_without_a_usable_curve_is_bad(shape) -> None:
    frame, before = make_exposure(1000.0), make_exposure(1000.0)
    good = curve("LookupTable", 0, lookup=[0, 0]) if shape.lookup is not None else SQUARED
    linearize(frame, LinearizeConfig(out_of_range_plane=""), calibs(good, shape))
    assert (frame.amp("B")[1] == BAD).all() and not frame.amp("A")[1].any()
    np.testing.assert_array_equal(frame.amp("B")[0], before.amp("B")[0])
    assert frame.measured("linearity_applied", "B") == 0


@pytest.mark.parametrize("gain", [-1.5, 0.0, math.nan])
def test_an_amplifier_without_a_gain_is_bad_in_electrons_only(gain) -> None:
    for unit, mask in (("electron", BAD), ("adu", 0)):
        frame = make_exposure(1000.0)
        frame.unit = unit
        frame.record("gain", gain, "electron/adu", "A")
        linearize(frame, LinearizeConfig(), calibs(SQUARED))
        assert (frame.amp("A")[1] == mask).all()
        assert not frame.amp("B")[1].any()
        assert frame.measured("invalid_gain", "A") == (1 if unit == "electron" else None)


def test_pixels_that_are_no_numbers_stay_alone() -> None:
    for shape in (SQUARED, DOUBLE, curve("LookupTable", 0, lookup=np.ones(3000))):
        values = corrected([math.nan, math.inf, -math.inf, 100.0], shape)
        assert np.isnan(values[0]) and np.isinf(values[1:3]).all() and np.isfinite(values[3])


# ---- variance ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "shape",
    [
        curve("Squared", 5e-5),
        curve("Polynomial", -4e-5, 3e-9),
        curve("Spline", 0, 1500, 2500, 5000, 0, 0, 400, 400),
        curve("DoubleSpline", 0, 2, 0, 5000, 0, -900),
        curve("LookupTable", 0, lookup=np.arange(6000) ** 2 * 6e-5),
    ],
)
def test_variance_is_what_the_scatter_says(shape) -> None:
    noise, level = 10.0, 2000.0
    random = np.random.default_rng(5)
    image = random.normal(level, noise, (400, 500)).astype(np.float32)
    variance = np.full(image.shape, noise**2, np.float32)
    before = image.copy()
    correct(image, np.zeros(image.shape, np.uint16), variance, shape)
    assert abs(image.var() / before.var() - 1) > 0.03, "the curve changes the noise"
    assert variance.mean() == pytest.approx(image.var(), rel=0.01)


def test_variance_is_made_before_the_image_changes() -> None:
    frame = make_exposure(1000.0, noise=5.0)
    linearize(frame, LinearizeConfig(), calibs(SQUARED))
    plain = make_exposure(1000.0, noise=5.0)
    slope = 1 + 2 * 2e-6 * plain.image
    np.testing.assert_allclose(frame.variance, plain.variance_plane() * slope**2, rtol=1e-5)
    idle = make_exposure(1000.0)
    idle.noise["A"] = AmplifierNoise(1.5, 4.0)
    linearize(idle, LinearizeConfig(), calibs(curve("None")))
    assert idle.variance is None, "nothing changed, so the plane still follows from the image"


# ---- properties ----------------------------------------------------------------------------------
@given(st.lists(st.floats(-100, 60_000, width=32), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_null_curves_change_nothing(values) -> None:
    for shape in (
        curve("None"), curve("Proportional"), curve("Squared", 0.0), curve("Polynomial", 0.0, 0.0),
        curve("Spline", *NODES, *np.zeros(6)), curve("LookupTable", 0, lookup=[0.0]),
    ):  # fmt: skip
        assert corrected(values, shape).tolist() == np.float32(values).tolist()


@given(st.floats(-2e-6, 2e-6), st.floats(-1e-11, 1e-11), st.floats(0, 60_000))
@settings(max_examples=60, deadline=None)
def test_what_the_camera_bends_is_straightened(c2, c3, truth) -> None:
    bent = brentq(lambda x: x + c2 * x**2 + c3 * x**3 - truth, -1.0, 80_000.0)
    found = corrected([bent], curve("Polynomial", c2, c3))[0]
    assert found == pytest.approx(truth, rel=3e-7, abs=1e-3)


# ---- broken tables -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (curve("Cubic", 1.0), "type 'Cubic', which is unknown"),
        (curve("Spline", 0, 1000, 0), "nodes and values differ in number"),
        (curve("Spline", 0, 2000, 1000, 0, 1, 2), "nodes do not rise"),
        (curve("Spline", 0, 0), "needs two nodes"),
        (curve("DoubleSpline", 2, 2, 0, 1, 0, 1), "announces 2 and 2 nodes and has 6"),
        (curve("DoubleSpline", 1.5, 2, 0, 1), "two numbers of nodes"),
        (curve("Polynomial"), "no coefficients"),
        (curve("LookupTable", 0.0), "column lookup is missing"),
    ],
)
def test_impossible_curves_are_refused(shape, message) -> None:
    frame, before = make_exposure(100.0), make_exposure(100.0)
    with pytest.raises(DataError, match=f"amplifier B of detector FAKE_0.*{message}"):
        linearize(frame, LinearizeConfig(), calibs(SQUARED, shape))
    np.testing.assert_array_equal(frame.image, before.image)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (calibs(SQUARED, DETECTOR=7).tables, "of detector 7, the exposure of 0"),
        (calibs(SQUARED, DETNAME="R22").tables, "of detector R22, the exposure of FAKE_0"),
        (
            {"linearity": make_linearity({"A": SQUARED, "C": SQUARED})},
            "of amplifiers A, C; detector FAKE_0 has A, B",
        ),
        ({"linearity": make_linearity({"A": SQUARED})}, "of amplifiers A; "),
        ({"linearity": TableProduct(columns={"amplifier": np.array(["A"])})}, "no column type"),
    ],
)
def test_a_linearity_of_another_detector_is_refused(tables, message) -> None:
    with pytest.raises(DataError, match=message):
        linearize(make_exposure(), LinearizeConfig(), FakeCalibs(tables=tables))


def test_a_missing_linearity_and_a_strange_unit_are_refused() -> None:
    with pytest.raises(CalibrationMissing):
        linearize(make_exposure(), LinearizeConfig(), FakeCalibs())
    frame = Exposure(make_info(), DETECTOR, np.ones(DETECTOR.shape, np.float32))
    frame.unit = "adu/s"
    with pytest.raises(DataError, match="linearised in adu/s"):
        linearize(frame, LinearizeConfig(), calibs(SQUARED))


def test_lookup_tables_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="differ in length"):
        calibs(curve("LookupTable", 0, lookup=[1]), curve("LookupTable", 0, lookup=[1, 2]))


def test_a_table_read_from_disk_corrects_the_same(tmp_path) -> None:
    table = make_linearity({"A": DOUBLE, "B": curve("LookupTable", 2, lookup=np.arange(3000) / 10)})
    fits.write_table_product(tmp_path / "linearity.fits", table, {"DETECTOR": 0})
    read = fits.read_table_product(tmp_path / "linearity.fits")
    frames = []
    for product in (table, read):
        frame = make_exposure(2000.0)
        linearize(frame, LinearizeConfig(), FakeCalibs(tables={"linearity": product}))
        frames.append(frame.image)
    np.testing.assert_array_equal(*frames)
