"""Crosstalk between detectors: the step with given frames, and the table that names them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from cpplug.api import Box, DataError, Exposure, TableProduct, mask_bits
from cpplug.api.fakes import FakeCalibs, make_camera, make_exposure, make_raw
from cpplug.api.testing import IsrStepContract
from cpplug.engine import fits
from cpplug_crosstalk import (
    CrosstalkConfig,
    add_source,
    cpplug_isr_steps,
    make_crosstalk,
    subtract_crosstalk,
)

BAD, CROSSTALK = mask_bits("BAD"), mask_bits("CROSSTALK")
PAIR = np.array([[0.0, 2e-3], [-1e-3, 0.0]])
"""What the amplifiers of the detector leak into each other, ``[source, target]``."""
LEAK = np.array([[3e-3, 0.0], [1e-3, -2e-3]])


def apply(frame, calibrations, **options):
    return subtract_crosstalk(frame, CrosstalkConfig(**options), calibrations)


def calibs(matrix) -> FakeCalibs:
    return FakeCalibs(tables={"crosstalk": make_crosstalk("AB", matrix, "adu")})


def neighbour(level=20_000.0, gains=(1.5, 1.5), seed=9) -> Exposure:
    """A frame of another detector of the fake camera's kind."""
    own = make_camera().detector(0)
    amps = tuple(
        msgspec.structs.replace(amp, gain=gain)
        for amp, gain in zip(own.amplifiers, gains, strict=True)
    )
    detector = msgspec.structs.replace(own, id=1, name="FAKE_1", amplifiers=amps)
    return make_exposure(level, noise=100.0, seed=seed, detector=detector)


def beside(siblings, leak=LEAK, unit="adu", own=PAIR, **parts) -> FakeCalibs:
    part = make_crosstalk("AB", leak, unit, **parts)
    product = add_source(make_crosstalk("AB", own, unit, **parts), "FAKE_1", part)
    return FakeCalibs(tables={"crosstalk": product}, siblings=siblings)


class TestStepBesideAnother(IsrStepContract):
    step = next(iter(cpplug_isr_steps()))
    siblings = {"FAKE_1": neighbour()}
    tables = beside({}).tables


def read_out(frame) -> np.ndarray:
    return np.array([frame.amp("A")[0], frame.amp("B")[0][:, ::-1]], np.float64)


@pytest.mark.parametrize("options", [{}, {"crosstalk_background_method": "AMP"}])
@pytest.mark.parametrize("quadratic", [False, True])
def test_another_detector_is_a_source_like_the_own(options, quadratic) -> None:
    other, frame = neighbour(), make_exposure(1000.0)
    raw, source = read_out(frame), read_out(other)
    calibrations = beside({"FAKE_1": other}, quadratic=1e-7 * np.ones((2, 2)))
    apply(frame, calibrations, do_quadratic_crosstalk_correction=quadratic, **options)
    if options:
        raw_signal = raw - np.median(raw, axis=(1, 2), keepdims=True)
        source = source - np.median(source, axis=(1, 2), keepdims=True)
    else:
        raw_signal = raw
    expected = raw - np.einsum("st,srx->trx", PAIR, raw_signal)
    expected -= np.einsum("st,srx->trx", LEAK, source)
    if quadratic:
        expected -= 1e-7 * (raw_signal**2 + source**2).sum(axis=0)
    np.testing.assert_allclose(read_out(frame), expected, atol=0.01)
    np.testing.assert_array_equal(other.image, neighbour().image)


def test_units_and_gains_of_both_detectors_count() -> None:
    """Coefficients in electron: an ADU of the source is its own gain's worth of electrons."""
    other, frame = neighbour(gains=(3.0, 0.5)), make_exposure(1000.0)
    before = read_out(frame)
    apply(frame, beside({"FAKE_1": other}, unit="electron", own=0 * PAIR))
    source = read_out(other) * np.array([3.0, 0.5])[:, None, None]
    expected = before - np.einsum("st,srx->trx", LEAK, source) / 1.5
    np.testing.assert_allclose(read_out(frame), expected, atol=0.01)


def test_a_gain_that_the_source_lacks_is_replaced_and_recorded_with_both_names() -> None:
    other, frame = neighbour(), make_exposure(1000.0)
    other.record("gain", math.nan, "electron/adu", "A")
    before, stored = read_out(frame), np.array([4.0, 9.0])
    calibrations = beside({"FAKE_1": other}, unit="electron", own=0 * PAIR, gains=stored)
    apply(frame, calibrations)
    source = read_out(other) * np.array([4.0, 1.5])[:, None, None]
    expected = before - np.einsum("st,srx->trx", LEAK, source) / 1.5
    np.testing.assert_allclose(read_out(frame), expected, atol=0.01)
    assert frame.measured("invalid_gain", "FAKE_1 A") == 1
    assert frame.measured("invalid_gain", "A") is None


def test_variance_of_the_source_is_added() -> None:
    other, frame, plain = neighbour(), make_exposure(1000.0), make_exposure(1000.0)
    apply(frame, beside({"FAKE_1": other}))
    apply(plain, calibs(PAIR))
    given = other.variance_plane()
    source = np.array([given[:, :24], given[:, 24:][:, ::-1]])
    added = np.einsum("st,srx->trx", LEAK**2, source)
    np.testing.assert_allclose(frame.variance[:, :24], plain.variance[:, :24] + added[0], rtol=1e-5)


def test_raw_frames_are_paired_with_raw_frames() -> None:
    detector = neighbour().detector
    other, frame = make_raw(9000.0, detector=detector, seed=3), make_raw(100.0)
    before = frame.segments["B"].copy()
    apply(frame, beside({"FAKE_1": other}, own=0 * PAIR))
    np.testing.assert_allclose(frame.segments["B"], before + 2e-3 * other.segments["B"], atol=1e-3)


def test_a_bad_amplifier_of_the_source_gives_nothing_and_a_mark_counts_once() -> None:
    other, frame, plain = neighbour(60_000.0), make_exposure(60_000.0), make_exposure(60_000.0)
    other.amp("B")[1][:] = BAD
    for one, product in ((frame, beside({"FAKE_1": other})), (plain, calibs(PAIR))):
        apply(one, product, min_pixel_to_mask=0.0)
    np.testing.assert_array_equal(frame.amp("B")[0], plain.amp("B")[0])
    marked = np.count_nonzero(frame.mask & CROSSTALK)
    assert frame.measured("crosstalk_pixels") == marked
    assert marked > np.count_nonzero(plain.mask & CROSSTALK)


def test_masking_by_what_was_subtracted_looks_at_each_source() -> None:
    other, frame = neighbour(0.0), make_exposure(0.0)
    other.amp("A")[0][5, 6] = 50_000.0
    apply(frame, beside({"FAKE_1": other}), do_subtrahend_masking=True, min_pixel_to_mask=100.0)
    assert np.argwhere(frame.mask & CROSSTALK).tolist() == [[5, 6]]


def test_a_missing_source_is_recorded_and_the_rest_corrected() -> None:
    frame, plain = make_exposure(9000.0), make_exposure(9000.0)
    given = beside({})
    apply(frame, given)
    apply(plain, calibs(PAIR))
    np.testing.assert_array_equal(frame.image, plain.image)
    assert frame.measured("crosstalk_source_missing", "FAKE_1") == 1
    assert given.asked == ["FAKE_1"]


def test_a_source_without_a_usable_coefficient_is_not_asked_for() -> None:
    for calibrations in (
        beside({}, leak=0 * LEAK),
        beside({}, leak=np.full((2, 2), math.nan)),
        beside({}, valid=np.zeros((2, 2), bool)),
    ):
        apply(make_exposure(), calibrations)
        assert calibrations.asked == []


def make_low():
    """Return a detector like the fake one, two rows lower, with amplifiers of other names."""
    own = make_camera().detector(0)
    amps = tuple(
        msgspec.structs.replace(
            amp,
            name=f"{amp.name}0",
            data=Box(2, 0, 24, 30),
            bbox=Box(amp.bbox.x, 0, 24, 30),
        )
        for amp in own.amplifiers
    )
    return msgspec.structs.replace(own, id=1, name="FAKE_1", amplifiers=amps, height=30)


def test_sources_of_other_sizes_and_names_are_refused() -> None:
    pair = make_low()
    with pytest.raises(DataError, match="of amplifiers A, B; detector FAKE_1 has A0, B0"):
        apply(make_exposure(), beside({"FAKE_1": make_exposure(detector=pair)}))
    part = make_crosstalk(("A0", "B0"), LEAK, "adu")
    product = add_source(make_crosstalk("AB", PAIR, "adu"), "FAKE_1", part)
    given = FakeCalibs(
        tables={"crosstalk": product}, siblings={"FAKE_1": make_exposure(detector=pair)}
    )
    with pytest.raises(DataError, match="FAKE_1 are not of the size of those of FAKE_0"):
        apply(make_exposure(), given)


def test_a_source_may_have_another_number_of_amplifiers() -> None:
    own = make_camera().detector(0)
    half = msgspec.structs.replace(
        own, id=1, name="FAKE_1", amplifiers=own.amplifiers[:1], width=24
    )
    other, frame = make_exposure(9000.0, detector=half, seed=4), make_exposure(1000.0)
    before = read_out(frame)
    part = make_crosstalk("A", np.array([[0.0, 2e-3]]), "adu")
    product = add_source(make_crosstalk("AB", 0 * PAIR, "adu"), "FAKE_1", part)
    apply(frame, FakeCalibs(tables={"crosstalk": product}, siblings={"FAKE_1": other}))
    np.testing.assert_array_equal(frame.amp("A")[0], before[0])
    np.testing.assert_allclose(read_out(frame)[1], before[1] - 2e-3 * other.image, atol=0.01)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (make_crosstalk("AB", LEAK, "electron"), "is in electron, the one it is added to in adu"),
        (make_crosstalk("AB", LEAK, "adu", quadratic=LEAK), "differ in quadratic"),
        (
            make_crosstalk("AB", np.zeros((2, 3)), "adu"),
            "another number of targets .* coefficients",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(part, message) -> None:
    with pytest.raises(DataError, match=message):
        add_source(make_crosstalk("AB", PAIR, "adu"), "FAKE_1", part)
    once = beside({}).tables["crosstalk"]
    with pytest.raises(DataError, match="from detector FAKE_1 already"):
        add_source(once, "FAKE_1", make_crosstalk("AB", LEAK, "adu"))


def test_rows_of_several_detectors_may_stand_in_any_order_and_go_to_disk(tmp_path) -> None:
    second = np.array([[0.0, 1e-3], [4e-3, 0.0]])
    table = add_source(
        make_crosstalk("AB", PAIR, "adu", DETNAME="FAKE_0"), "FAKE_1",
        make_crosstalk("AB", LEAK, "adu"),
    )  # fmt: skip
    table = add_source(table, "FAKE_2", make_crosstalk("AB", second, "adu"))
    order = np.array([4, 1, 3, 0, 5, 2])
    mixed = TableProduct(
        columns={name: column[order] for name, column in table.columns.items()},
        metadata=table.metadata,
    )
    # Arrays run over the targets in the order of their own rows, which is now B, A.
    mixed.columns["coefficients"] = mixed.columns["coefficients"][:, ::-1]
    fits.write_table_product(tmp_path / "crosstalk.fits", mixed, {})
    read = fits.read_table_product(tmp_path / "crosstalk.fits")
    third = make_exposure(
        7000.0, detector=msgspec.structs.replace(neighbour().detector, id=2, name="FAKE_2")
    )
    frames = [make_exposure(2000.0), make_exposure(2000.0)]
    for frame, product in zip(frames, (table, read), strict=True):
        given = {"FAKE_1": neighbour(), "FAKE_2": third}
        apply(frame, FakeCalibs(tables={"crosstalk": product}, siblings=given))
    np.testing.assert_allclose(frames[0].image, frames[1].image, rtol=1e-6)
    assert np.abs(frames[0].image - make_exposure(2000.0).image).min() > 10
