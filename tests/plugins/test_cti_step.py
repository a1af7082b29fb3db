"""Deferred charge: the reference's inverse operators, and what the step touches."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import EMPTY, CalibrationMissing, DataError, TableProduct, mask_bits
from cpplug.api.fakes import FakeCalibs, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug.engine import fits
from cpplug_cti import (
    DeferredChargeConfig,
    Transfer,
    Trap,
    correct_deferred_charge,
    cpplug_isr_steps,
    make_cti,
    restore,
    trap_capture,
)

NO_TRAP = Trap("linear", 0.0, 1.0, 1, np.zeros(1))
NOTHING = Transfer(0.0, 1.0, 0.0, NO_TRAP)
DRIFT = Transfer(2e-4, 2.3, 0.0, NO_TRAP)
LINEAR = Trap("linear", 20.0, 0.6, 1, np.array([0.08]))
BOTH = Transfer(2e-4, 2.3, 1e-6, LINEAR)


def calibs(a: Transfer, b: Transfer | None = None, **cards) -> FakeCalibs:
    return FakeCalibs(tables={"cti": make_cti({"A": a, "B": b or a}, **cards)})


def apply(frame, calibrations, **options):
    return correct_deferred_charge(frame, DeferredChargeConfig(**options), calibrations)


def restored(image, transfer: Transfer, **options) -> np.ndarray:
    work = np.array(image, np.float64)
    restore(work, transfer, **options)
    return work


class TestStep(IsrStepContract):
    step = next(iter(cpplug_isr_steps()))
    tables = {"cti": make_cti({"A": BOTH, "B": DRIFT})}


# ---- known answers -------------------------------------------------------------------------------
def case_traps(folder) -> dict[str, Trap]:
    facts = json.loads((folder / "meta.json").read_text())["traps"]
    return {
        kind: Trap(kind, t["size"], t["emission_time"], t["pixel"], np.array(t["coeffs"]))
        for kind, t in facts.items()
    }


@pytest.mark.parametrize("kind", ["linear", "logistic", "spline"])
def test_traps_of_the_reference(reference_case, kind) -> None:
    inputs, expected, folder = reference_case("cti")
    trap = case_traps(folder)[kind]
    found = trap_capture(inputs["capture_in"], trap)
    np.testing.assert_allclose(found, expected[f"capture_{kind}"], rtol=1e-9)
    back = restored(expected["offset_inverse"], Transfer(0.0, 2.3, 2e-6, trap))
    np.testing.assert_allclose(back, expected[f"trap_inverse_{kind}"], rtol=1e-9, atol=1e-9)


def test_drift_of_the_reference(reference_case) -> None:
    _, expected, _ = reference_case("cti")
    found = restored(expected["readout_image"][:60], Transfer(1.9e-4, 2.3, 0.0, NO_TRAP))
    np.testing.assert_allclose(found, expected["offset_inverse"], rtol=1e-9, atol=1e-9)


def test_simulated_read_out_is_undone(reference_case) -> None:
    """The reference's read-out simulation, drift and linear trap: what is left of the trails."""
    inputs, expected, folder = reference_case("cti")
    data = slice(6, 6 + inputs["image"].shape[1])
    read = expected["readout_image"][:60]
    whole = Transfer(1.9e-4, 2.3, 2e-6, case_traps(folder)["linear"])
    before, after = (
        np.abs(image[:, data] - inputs["image"]).mean() for image in (read, restored(read, whole))
    )
    assert after < 0.25 * before


def test_sums_of_the_toy() -> None:
    """Algorithms D.5.16."""
    image = np.full((128, 88), 100.0)
    image[:, :8], image[:, -16:] = 0, 1
    settled = restored(image, Transfer(1.8e-4, 3.1, 0.0, NO_TRAP))
    assert settled.sum() == pytest.approx(821094.5118501, abs=1e-5)
    trap = Trap("linear", 10.0, 3.0, 40, np.array([5.0, 1e-3]))
    whole = restored(settled, Transfer(0.0, 3.1, 1.4e-7, trap))
    assert whole.sum() == pytest.approx(821734.3965605417, abs=1e-5)
    held = trap_capture(np.full(128, 100.0), trap)
    assert held.sum() == pytest.approx(1280)
    assert held.sum() * (1 - math.exp(-1 / 3.0)) == pytest.approx(362.839922, abs=1e-5)
    logistic = Trap("logistic", 10.0, 3.0, 40, np.array([5.0, 1e-3]))
    assert trap_capture(np.array([100.0]), logistic)[0] == pytest.approx(5.23732154, abs=1e-8)


# ---- what the step touches -----------------------------------------------------------------------
def test_only_data_and_the_overscan_beside_them_change() -> None:
    frame, before = make_raw(20_000.0, pedestal=0.0), make_raw(20_000.0, pedestal=0.0)
    apply(frame, calibs(NOTHING, BOTH))
    changed = frame.segments["B"] != before.segments["B"]
    assert not changed[:, :2].any() and not changed[32:].any(), "prescan, parallel overscan"
    assert changed[:32, 2:27].all()
    np.testing.assert_array_equal(frame.segments["A"], before.segments["A"])
    assert frame.measured("deferred_charge", "A") == 0
    assert 0.5 < frame.measured("deferred_charge", "B") < 10


def test_prescan_counts_as_empty_unless_it_is_asked_for() -> None:
    def first(**options) -> float:
        frame = make_raw(0.0, pedestal=0.0, noise=0.0)
        frame.segments["A"][:, :2] = 50_000
        apply(frame, calibs(DRIFT), **options)
        return float(frame.segments["A"][0, 2])

    assert first() == 0
    drift = -2e-4 * 50_000 * math.exp(-1 / 2.3)
    assert first(zero_unused_pixels=False) == pytest.approx(drift, rel=1e-6)


def test_columns_that_no_box_describes_count_as_empty() -> None:
    """The reference empties the prescan box alone; what lies before it drifts into the data."""
    frame = make_raw(100.0, pedestal=0.0, noise=0.0)
    amps = [msgspec.structs.replace(a, prescan=EMPTY) for a in frame.detector.amplifiers]
    frame.detector = msgspec.structs.replace(frame.detector, amplifiers=tuple(amps))
    frame.segments["A"][:, :2] = 50_000
    apply(frame, calibs(DRIFT))
    assert (frame.segments["A"][:, :2] == 50_000).all()
    np.testing.assert_allclose(frame.segments["A"][0, 2:5], 100 - 2e-4 * 100, rtol=1e-6)


def test_adu_and_electrons_agree() -> None:
    adu, electron = make_raw(9000.0, pedestal=0.0), make_raw(9000.0, pedestal=0.0)
    electron.unit = "electron"
    for segment in electron.segments.values():
        segment *= np.float32(1.5)
    for frame in (adu, electron):
        apply(frame, calibs(BOTH))
    np.testing.assert_allclose(
        electron.segments["B"] / 1.5, adu.segments["B"], rtol=1e-6, atol=1e-4
    )


@pytest.mark.parametrize("gain", [-1.0, 0.0, math.nan])
def test_an_amplifier_without_a_gain_is_bad(gain) -> None:
    frame, before = make_raw(9000.0, pedestal=0.0), make_raw(9000.0, pedestal=0.0)
    frame.record("gain", gain, "electron/adu", "B")
    apply(frame, calibs(BOTH))
    assert (frame.masks["B"] == mask_bits("BAD")).all() and not frame.masks["A"].any()
    np.testing.assert_array_equal(frame.segments["B"], before.segments["B"])
    assert frame.measured("invalid_gain", "B") == 1


def test_a_pixel_that_is_no_number_does_not_spread() -> None:
    frame = make_raw(9000.0, pedestal=0.0)
    frame.segments["A"][4, 9] = math.nan
    apply(frame, calibs(BOTH))
    assert np.argwhere(np.isnan(frame.segments["A"])).tolist() == [[4, 9]]
    assert math.isfinite(frame.measured("deferred_charge", "A"))


def test_noise_stays_what_it_was() -> None:
    """The correction moves 0.1 % of the charge at most, and so much of the noise."""
    random = np.random.default_rng(8)
    image = random.normal(20_000, 150, (300, 400))
    spread = restored(image, BOTH)[:, 30:].std()
    assert spread == pytest.approx(image[:, 30:].std(), rel=2e-3)


# ---- properties ----------------------------------------------------------------------------------
@given(st.integers(0, 1000), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_nothing_held_back_is_nothing_changed(seed, start) -> None:
    image = np.random.default_rng(seed).normal(1000, 300, (4, 30))
    np.testing.assert_array_equal(restored(image, NOTHING, start=start), image)


@given(st.floats(1e-5, 1e-3), st.floats(0.5, 4.0), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_drift_put_on_is_taken_off(scale, decay, seed) -> None:
    """A read-out with drift, pixel after pixel, is undone to second order in the drift."""
    truth = np.random.default_rng(seed).uniform(0, 1e5, (3, 40))
    read, offset = np.empty_like(truth), np.zeros(3)
    for x in range(truth.shape[1]):
        offset = np.maximum(scale * truth[:, x], offset * math.exp(-1 / decay))
        read[:, x] = truth[:, x] + offset
    found = restored(read, Transfer(scale, decay, 0.0, NO_TRAP), offset_pixels=40)
    np.testing.assert_allclose(found, truth, atol=2 * scale**2 * 1e5)


@given(st.integers(1, 20), st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_rows_are_independent_and_pixels_limit_the_reach(offset, trap) -> None:
    image = np.zeros((2, 60))
    image[0, 10] = 50_000
    found = restored(image, BOTH, offset_pixels=offset, trap_pixels=trap)
    assert not found[1].any()
    reached = np.flatnonzero(found[0] != image[0])
    assert reached[0] == 10 and reached[-1] <= 10 + offset - 1 + trap


# ---- what does not fit ---------------------------------------------------------------------------
def trap(**changes) -> Transfer:
    facts = {"kind": "linear", "size": 5.0, "emission_time": 1.0, "pixel": 1}
    facts["coefficients"] = np.array([0.1])
    return Transfer(1e-4, 2.0, 1e-6, Trap(**{**facts, **changes}))


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        (trap(kind="cubic"), "trap of type 'cubic'"),
        (trap(size=-1.0), "a trap of -1.0 electron"),
        (trap(size=math.nan), "a trap of nan electron"),
        (trap(size=math.inf), "an infinite trap"),
        (trap(emission_time=0.0), "emission time of 0.0 pixel"),
        (trap(emission_time=math.nan), "emission time of nan pixel"),
        (trap(coefficients=np.array([math.nan])), "not numbers"),
        (trap(kind="logistic"), "a logistic trap of 1 coefficients"),
        (trap(kind="spline", coefficients=np.arange(3.0)), "a spline trap of 3 coefficients"),
        (trap(kind="spline", coefficients=np.array([2.0, 1, 0, 0])), "a spline trap of 4"),
        (Transfer(-1e-4, 2.0, 0.0, NO_TRAP), "drift scale of -0.0001"),
        (Transfer(1e-4, 0.0, 0.0, NO_TRAP), "decay time of 0.0 pixel"),
        (Transfer(0.0, 0.0, 1.0, NO_TRAP), "loss per transfer of 1.0"),
        (Transfer(0.0, 0.0, math.nan, NO_TRAP), "loss per transfer of nan"),
    ],
)
def test_what_no_register_can_do_is_refused(transfer, message) -> None:
    frame, before = make_raw(100.0), make_raw(100.0)
    with pytest.raises(DataError, match=f"amplifier B of detector FAKE_0 has .*{message}"):
        apply(frame, calibs(BOTH, transfer))
    np.testing.assert_array_equal(frame.segments["A"], before.segments["A"])


def test_a_trap_between_pixels_is_refused() -> None:
    product = make_cti({"A": BOTH, "B": BOTH})
    product.columns["trap_pixel"] = np.array([1.0, 1.5])
    with pytest.raises(DataError, match=r"trap at 1\.5, which is not a pixel"):
        apply(make_raw(), FakeCalibs(tables={"cti": product}))
    product.columns["n_trap_coefficients"] = np.array([9, 9])
    with pytest.raises(DataError, match="announces 9 trap coefficients and has 1"):
        apply(make_raw(), FakeCalibs(tables={"cti": product}))


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (make_cti({"A": BOTH, "B": BOTH}, DETNAME="R22"), "of detector R22, the exposure of FAKE_"),
        (make_cti({"A": BOTH}), "of amplifiers A; detector FAKE_0 has A, B"),
        (TableProduct(columns={"amplifier": np.array(["A", "B"])}), "no column drift_scale"),
    ],
)
def test_a_cti_of_another_detector_is_refused(product, message) -> None:
    with pytest.raises(DataError, match=message):
        apply(make_raw(), FakeCalibs(tables={"cti": product}))


def test_a_missing_product_and_a_strange_unit_are_refused() -> None:
    with pytest.raises(CalibrationMissing):
        apply(make_raw(), FakeCalibs())
    frame = make_raw()
    frame.unit = "adu/s"
    with pytest.raises(DataError, match="in adu/s"):
        apply(frame, calibs(BOTH))


def test_a_table_read_from_disk_corrects_the_same(tmp_path) -> None:
    spline = Trap("spline", 2e4, 0.4, 1, np.array([0.0, 1e4, 1e5, 0, 2.5, 28.9]))
    table = make_cti({"A": BOTH, "B": Transfer(1.2e-4, 2.2, 5e-7, spline)})
    fits.write_table_product(tmp_path / "cti.fits", table, {"DETECTOR": 0})
    read = fits.read_table_product(tmp_path / "cti.fits")
    frames = [make_raw(30_000.0), make_raw(30_000.0)]
    for frame, product in zip(frames, (table, read), strict=True):
        apply(frame, FakeCalibs(tables={"cti": product}))
    for name in "AB":
        np.testing.assert_array_equal(frames[0].segments[name], frames[1].segments[name])
        assert not np.array_equal(frames[0].segments[name], make_raw(30_000.0).segments[name])
