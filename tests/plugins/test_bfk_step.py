"""Brighter-fatter: agreement with the reference, physics, conservation, and broken input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import Amplifier, AmplifierNoise, Box, DataError, Detector, Exposure, mask_bits
from cpplug.api.fakes import FakeCalibs, make_exposure, make_info
from cpplug.api.testing import IsrStepContract
from cpplug.engine.products import read_product, write_product
from cpplug_bfk import BrighterFatterConfig, correct_brighter_fatter, cpplug_isr_steps
from cpplug_bfk.holes import fill_holes
from cpplug_bfk.product import kernel_table, shift_kernels, shift_table

(STEP,) = cpplug_isr_steps()
KERNEL = -4e-7 * np.array(
    [
        [0.05, 0.1, 0.15, 0.1, 0.05],
        [0.1, 0.3, 0.6, 0.3, 0.1],
        [0.15, 0.6, 2.0, 0.6, 0.15],
        [0.1, 0.3, 0.6, 0.3, 0.1],
        [0.05, 0.1, 0.15, 0.1, 0.05],
    ]
)
NORTH = np.array([[-9.6e-7, -1.8e-7, -6.8e-8], [-3e-7, -1e-7, -4e-8], [-8e-8, -5e-8, -2e-8]])
EAST = np.array([[-6.7e-7, -3e-7, -5e-8], [-1.5e-7, -9e-8, -4e-8], [-5e-8, -4e-8, -1e-8]])
EDGE = mask_bits("EDGE")


def detector(width: int = 40, height: int = 30, gains: tuple[float, ...] = (1.0,)) -> Detector:
    part = width // len(gains)
    amplifiers = tuple(
        Amplifier(
            name=f"B{n}",
            source=(Box(0, 0, part, height),),
            data=Box(0, 0, part, height),
            bbox=Box(n * part, 0, part, height),
            gain=gain,
        )
        for n, gain in enumerate(gains)
    )
    return Detector(id=7, name="toy", amplifiers=amplifiers, width=width, height=height)


def exposure_of(image: np.ndarray, unit: str = "electron", gains=(1.0,), **facts) -> Exposure:
    one = detector(image.shape[1], image.shape[0], gains)
    exposure = Exposure(make_info(**facts), one, image.astype(np.float32).copy())
    exposure.unit = unit
    return exposure


def corrected(exposure: Exposure, table=None, **options) -> Exposure:
    table = kernel_table({"detector": KERNEL}) if table is None else table
    calibs = FakeCalibs(tables={"bfk": table})
    return correct_brighter_fatter(exposure, BrighterFatterConfig(**options), calibs)


def stars(seed: int = 1, shape=(30, 40), sky: float = 1000.0, peak: float = 60000.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, sky)
    for _ in range(4):
        cy, cx = random.uniform(4, shape[0] - 4), random.uniform(4, shape[1] - 4)
        size = random.uniform(0.2, 1) * peak
        image += size * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 5)
    return image


class TestContract(IsrStepContract):
    step = STEP
    tables = {"bfk": kernel_table({"detector": KERNEL})}


# -- the reference ------------------------------------------------------------------------------
# Largest deviation (ADU) of the default from the reference on this case, stars up to 31 000 ADU:
# COULTON18 within 30 pixels of the edges only (elsewhere 0.014, beside a pixel that is NaN);
# FLUX_CONSERVING also in stars, because the reference keeps the push of the uncorrected image and
# moves charge less the mean.
DEFAULT_DIFFERS = {
    "classic_gain0": 5,
    "classic_gain1": 8,
    "fluxcons_gain0": 90,
    "fluxcons_gain1": 265,
}


@pytest.mark.parametrize("passes", ["iter10", "iter3"])
@pytest.mark.parametrize("gain", [0, 1])
@pytest.mark.parametrize("name", ["classic", "fluxcons"])
def test_agrees_with_the_reference(reference_case, name, gain, passes) -> None:
    inputs, expected, folder = reference_case("bf_apply")
    key = f"{name}_gain{gain}"
    run = json.loads((folder / "meta.json").read_text())["runs"][f"{key}_{passes}"]
    table = kernel_table({"detector": inputs["kernel"]}, "electron" if gain else "adu")
    options = {
        "method": "COULTON18" if name == "classic" else "FLUX_CONSERVING",
        "max_iter": 10 if passes == "iter10" else 3,
        "threshold": 10.0 if passes == "iter10" else 1e-9,
        "apply_gain": bool(gain),
    }
    want = expected[f"{key}_{passes}"]
    one = corrected(
        exposure_of(inputs["image"], "adu", (1.55, 1.72)), table, reference_quirks=True, **options
    )
    np.testing.assert_allclose(one.image, want, atol=1e-3, rtol=1e-6)
    assert one.measured("brighter_fatter_passes") == run["iteration"] + 1
    assert one.measured("brighter_fatter_change") == pytest.approx(run["diff"], rel=2e-3)
    assert one.measured("brighter_fatter_converged") == (passes == "iter10")

    default = corrected(exposure_of(inputs["image"], "adu", (1.55, 1.72)), table, **options)
    difference = np.abs(default.image - want)
    assert 1 < np.nanmax(difference) < DEFAULT_DIFFERS[key]
    if name == "classic":
        assert np.nanmax(difference[30:-30, 30:-30]) < 0.02


def mock_detector(geometry: dict) -> Detector:
    amplifiers = tuple(
        Amplifier(
            name=name,
            source=(Box(0, 0, *one["bbox"][2:]),),
            data=Box(0, 0, *one["bbox"][2:]),
            bbox=Box(*one["bbox"]),
        )
        for name, one in geometry.items()
    )
    return Detector(id=0, name="mock", amplifiers=amplifiers, width=200, height=204)


def test_classic_chain(reference_case) -> None:
    inputs, expected, folder = reference_case("isr_classic")
    meta = json.loads((folder / "meta.json").read_text())
    image = expected["bias_image"].copy()
    exposure = Exposure(make_info(), mock_detector(meta["geometry"]), image)
    corrected(exposure, kernel_table({"detector": inputs["bf_kernel"]}), reference_quirks=True)
    dark = 5 * inputs["dark"]
    flat = inputs["flat"]
    np.testing.assert_allclose((exposure.image - dark) / flat, expected["bf_image"], atol=2e-4)
    np.testing.assert_array_equal(exposure.mask, expected["bf_mask"])


def test_modern_chain(reference_case) -> None:
    inputs, expected, folder = reference_case("isr_lsst")
    meta = json.loads((folder / "meta.json").read_text())
    flat = inputs["flat"]
    mask = expected["dark_flat_mask"].astype(np.uint16)
    for x, y, width, height in inputs["defects"]:
        mask[y : y + height, x : x + width] |= mask_bits("BAD")
    image = (expected["dark_flat_image"] * flat).astype(np.float32)
    exposure = Exposure(make_info(), mock_detector(meta["geometry"]), image, mask)
    exposure.unit = "electron"
    corrected(
        exposure,
        kernel_table({"detector": inputs["bf_kernel"]}),
        reference_quirks=True,
        mask_grow_size=2,
    )
    final = expected["all_bf_mask"]
    for plane in ("BAD", "EDGE", "SAT"):
        bit = mask_bits(plane)
        np.testing.assert_array_equal(exposure.mask & bit, final & bit)
    good = (final & mask_bits("BAD")) == 0  # what is interpolated later is another step's business
    difference = np.abs(exposure.image / flat - expected["all_bf_image"])[good]
    assert difference.max() < 0.02


# -- physics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [True, False])
def test_variance_is_that_of_the_light(prepared) -> None:
    """Poisson light, spread by its own charge, read with noise: the plane says what is seen."""
    random = np.random.default_rng(5)
    truth = stars(3, (24, 24), 20000.0, 40000.0)
    noise, shape = 5.0, (500, 24, 24)
    frames, planes, raw = np.empty(shape), np.empty(shape), np.empty(shape)
    forward = kernel_table({"detector": -KERNEL})
    for n in range(shape[0]):
        light = exposure_of(random.poisson(truth))
        frame = corrected(light, forward, max_iter=1)  # light = frame + correction(light)
        frame.image += random.normal(0, noise, frame.image.shape).astype(np.float32)
        raw[n] = frame.image
        frame.noise["B0"] = AmplifierNoise(1.0, noise)
        if prepared:
            frame.variance_plane()
        corrected(frame, threshold=1.0)
        frames[n], planes[n] = frame.image, frame.variance_plane()
    inside = np.s_[4:-4, 4:-4]
    expected = planes.mean(axis=0)[inside]
    seen = (frames.var(axis=0, ddof=1)[inside] / expected).mean()
    before = (raw.var(axis=0, ddof=1)[inside] / expected).mean()
    assert before < 0.95, "the effect must be there to be corrected"
    assert seen == pytest.approx(1.0, abs=0.02)


def test_what_was_spread_comes_back() -> None:
    light = stars(2)
    spread = corrected(exposure_of(light), kernel_table({"detector": -KERNEL}), max_iter=1)
    worst = np.abs(spread.image - light).max()
    back = corrected(spread, max_iter=30, threshold=1e-2)
    assert back.measured("brighter_fatter_converged") == 1
    assert worst > 500
    np.testing.assert_allclose(back.image, light, atol=0.02)


def test_the_scalar_and_the_conserving_form_agree_on_smooth_stars() -> None:
    light = stars(2, peak=20000.0)
    one, two = (
        corrected(exposure_of(light), method=method).image - light
        for method in ("COULTON18", "FLUX_CONSERVING")
    )
    assert np.abs(one - two).max() < 0.2 * np.abs(one).max()
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.97


def test_border_shifts_are_summed_charge_by_charge() -> None:
    image = stars(4, (9, 11))
    total = np.zeros(image.shape)
    rows, columns = image.shape
    around = np.pad(image, 4, mode="edge")

    def shift(y: int, x: int, along_y: bool) -> float:
        """Shift of the border above (or right of) pixel (y, x): every charge on its own."""
        result = 0.0
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                charge = around[y + dy + 4, x + dx + 4]
                ahead, beside = (dy, abs(dx)) if along_y else (dx, abs(dy))
                away, sign = (-ahead, 1) if ahead <= 0 else (ahead - 1, -1)
                if away < 3 and beside < 3:
                    table = NORTH[away, beside] if along_y else EAST[beside, away]
                    result += sign * table * charge
        return result

    for y in range(rows):
        for x in range(columns):
            for dy, dx in ((1, 0), (0, 1)):
                if y + dy < rows and x + dx < columns:
                    swept = (image[y, x] + image[y + dy, x + dx]) / 2
                    moved = 0.5 * shift(y, x, dy == 1) * swept
                    total[y, x] -= moved
                    total[y + dy, x + dx] += moved
    found = corrected(
        exposure_of(image), shift_table({("detector", ""): (NORTH, EAST)}), method="ELECTROSTATIC"
    )
    assert np.abs(total).max() > 100
    np.testing.assert_allclose(found.image, image + total, atol=0.05)
    assert found.measured("brighter_fatter_passes") == 1


def test_shifts_of_a_flat_image_cancel_and_bright_pixels_gain() -> None:
    up, right = shift_kernels(NORTH, EAST)
    assert up.sum() == pytest.approx(0, abs=1e-20)
    assert right.sum() == pytest.approx(0, abs=1e-20)
    image = np.full((20, 20), 1000.0)
    image[10, 10] = 50000.0
    table = shift_table({("detector", ""): (NORTH, EAST)})
    after = corrected(exposure_of(image), table, method="ELECTROSTATIC").image
    assert after[10, 10] > 50000
    assert (after[[9, 11, 10, 10], [10, 10, 9, 11]] < 1000).all()


METHODS = ("COULTON18", "FLUX_CONSERVING", "ELECTROSTATIC")


def table_for(method: str, scale: float = 1.0):
    if method == "ELECTROSTATIC":
        return shift_table({("detector", ""): (scale * NORTH, scale * EAST)})
    return kernel_table({"detector": scale * KERNEL})


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_image_stays_flat_up_to_its_edges(method) -> None:
    image = np.full((30, 40), 50000.0)
    exposure = corrected(exposure_of(image), table_for(method), method=method)
    np.testing.assert_allclose(exposure.image, image, atol=0.01)
    rim = np.ones(image.shape, bool)
    reach = 3 if method == "ELECTROSTATIC" else 2
    rim[reach:-reach, reach:-reach] = False
    np.testing.assert_array_equal(exposure.mask == EDGE, rim)


@given(st.integers(0, 10**6), st.sampled_from(METHODS), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_calibration_of_zero_changes_nothing(seed, method, quirks) -> None:
    image = stars(seed).astype(np.float32)
    exposure = corrected(
        exposure_of(image), table_for(method, 0.0), method=method, reference_quirks=quirks
    )
    np.testing.assert_array_equal(exposure.image, image)


@given(st.integers(0, 10**6), st.sampled_from(METHODS[1:]))
@settings(max_examples=20, deadline=None)
def test_charge_only_changes_places(seed, method) -> None:
    image = stars(seed)
    exposure = corrected(exposure_of(image), table_for(method), method=method)
    moved = exposure.measured("brighter_fatter_moved")
    assert moved > 100
    assert abs(exposure.image.sum(dtype=np.float64) - image.sum()) < 1e-3 * moved + 1


def test_blocks_of_rows_leave_no_seam(monkeypatch) -> None:
    image = stars(6)
    whole = corrected(exposure_of(image)).image
    monkeypatch.setattr("cpplug_bfk.passes.BLOCK_ROWS", 7)
    np.testing.assert_allclose(corrected(exposure_of(image)).image, whole, atol=1e-3)


def test_amplifiers_with_the_same_kernel_are_one_detector() -> None:
    image = stars(7)
    both = kernel_table({"B0": KERNEL, "B1": KERNEL, "detector": KERNEL})
    for method in METHODS[:2]:
        one = corrected(exposure_of(image, gains=(1.0, 1.0)), both, method=method)
        two = corrected(exposure_of(image, gains=(1.0, 1.0)), both, method=method, level="AMP")
        np.testing.assert_allclose(one.image, two.image, atol=0.01)


def test_every_amplifier_uses_its_own_kernel() -> None:
    image = stars(7)
    table = kernel_table({"B0": KERNEL, "B1": 0 * KERNEL})
    exposure = corrected(exposure_of(image, gains=(1.0, 1.0)), table, level="AMP")
    assert np.abs(exposure.image[:, :20] - image[:, :20]).max() > 100
    np.testing.assert_array_equal(exposure.image[:, 20:], image[:, 20:].astype(np.float32))


def test_gains_bring_adu_to_electrons() -> None:
    gains = np.repeat([1.55, 1.72], 20).astype(np.float32)
    electrons = stars(8).astype(np.float32)
    want = corrected(exposure_of(electrons)).image / gains
    noted = exposure_of(electrons / gains, "adu", (9.0, 9.0))
    for name, gain in (("B0", 1.55), ("B1", 1.72)):
        noted.noise[name] = AmplifierNoise(gain, 3.0)
    recorded = exposure_of(electrons / gains, "adu", (9.0, 9.0))
    recorded.noise = dict.fromkeys(noted.noise, AmplifierNoise(8.0, 3.0))
    for name, gain in (("B0", 1.55), ("B1", 1.72)):
        recorded.record("gain", gain, "electron/adu", name)
    for exposure in (exposure_of(electrons / gains, "adu", (1.55, 1.72)), noted, recorded):
        np.testing.assert_allclose(corrected(exposure).image, want, rtol=1e-5)
        assert exposure.unit == "adu"


# -- holes and masks ----------------------------------------------------------------------------


def test_what_lies_under_a_mask_moves_nothing() -> None:
    image = stars(9)
    results = []
    for value in (0.0, 65000.0, np.nan):
        exposure = exposure_of(image)
        exposure.image[12:14, 15:18] = value
        exposure.mask[12:14, 15:18] = mask_bits("SAT")
        results.append(corrected(exposure).image - exposure_of(image).image)
    hole = np.zeros(image.shape, bool)
    hole[12:14, 15:18] = True
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][~hole], other[~hole])


def test_nan_without_a_mask_is_bridged_too() -> None:
    exposure = exposure_of(np.full((30, 40), 30000.0))
    exposure.image[10, 10] = np.nan
    corrected(exposure)
    assert np.isnan(exposure.image[10, 10])
    assert np.abs(np.nan_to_num(exposure.image, nan=30000.0) - 30000).max() < 0.01


def test_masks_grow_by_steps() -> None:
    exposure = exposure_of(stars(9))
    exposure.mask[10, 20] = mask_bits("SAT", "SUSPECT")
    corrected(exposure, mask_grow_size=2)
    grown = np.argwhere(exposure.mask & mask_bits("SAT"))
    assert len(grown) == 13 and (np.abs(grown - [10, 20]).sum(axis=1) <= 2).all()
    assert np.count_nonzero(exposure.mask & mask_bits("SUSPECT")) == 1


def test_holes_are_bridged_along_rows_then_columns() -> None:
    image = np.arange(20, dtype=np.float32).reshape(4, 5) ** 2
    holes = np.zeros(image.shape, bool)
    holes[0, 2:4] = holes[1, :2] = holes[2] = True
    filled = fill_holes(image, holes)
    np.testing.assert_allclose(filled[0], [0, 1, 6, 11, 16])
    np.testing.assert_allclose(filled[1], [49, 49, 49, 64, 81])
    np.testing.assert_allclose(filled[2], (filled[1] + filled[3]) / 2)
    np.testing.assert_array_equal(filled[3], image[3])
    assert not fill_holes(image, np.ones(image.shape, bool)).any()


# -- the calibration ----------------------------------------------------------------------------


def test_products_survive_the_file(tmp_path) -> None:
    image = stars(3)
    for method, table in (
        ("COULTON18", kernel_table({"detector": KERNEL, "B0": KERNEL})),
        ("ELECTROSTATIC", shift_table({("detector", ""): (NORTH, EAST)})),
    ):
        path = tmp_path / f"{method}.fits"
        write_product(path, table, {"DETECTOR": 7})
        one = corrected(exposure_of(image), read_product(path), method=method)
        two = corrected(exposure_of(image), table, method=method)
        np.testing.assert_array_equal(one.image, two.image)


def test_shifts_of_the_filter_come_first() -> None:
    image = stars(3)
    table = shift_table({("detector", ""): (0 * NORTH, 0 * EAST), ("detector", "r"): (NORTH, EAST)})
    options = {"method": "ELECTROSTATIC"}
    own = corrected(exposure_of(image, physical_filter="r"), table, **options)
    other = corrected(exposure_of(image, physical_filter="g"), table, **options)
    assert np.abs(own.image - image).max() > 100
    np.testing.assert_array_equal(other.image, image.astype(np.float32))


def another(**changes):
    table = kernel_table({"detector": KERNEL})
    for name, value in changes.items():
        setattr(table, name, value)
    return table


NAN = KERNEL.copy()
NAN[0, 0] = np.nan


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (another(metadata={"DETECTOR": 3}), {}, "of detector 3, the image of detector 7"),
        (another(columns={"amplifier": np.array(["detector"])}), {}, "no column kernel"),
        (another(), {"method": "ELECTROSTATIC"}, "no column a_north, a_east"),
        (another(), {"level": "AMP"}, "no row for B0"),
        (another(units={}), {}, "per adu but nothing"),
        (another(units={"kernel": "1/s"}), {}, "per adu but 1/s"),
        (kernel_table({"detector": KERNEL}, "adu"), {}, "per adu, the image in electron"),
        (kernel_table({"detector": KERNEL[:4, :4]}), {}, "odd side .shape .4, 4"),
        (kernel_table({"detector": KERNEL[:4]}), {}, "not a square"),
        (kernel_table({"detector": NAN}), {}, "finite numbers"),
        (kernel_table({"detector": np.zeros((31, 31))}), {}, "spans 31 pixels.* 40 x 30"),
        (kernel_table({"detector": KERNEL * 1e12}), {"max_iter": 30}, "runs away"),
    ],
)
def test_unfit_calibrations_are_refused(table, options, message) -> None:
    exposure = exposure_of(stars())
    before = exposure.image.copy()
    with pytest.raises(DataError, match=message), np.errstate(all="ignore"):
        corrected(exposure, table, **options)
    np.testing.assert_array_equal(exposure.image, before)
    assert not exposure.mask.any()


@pytest.mark.parametrize("gain", [-1.0, 0.0, np.nan])
def test_gains_that_count_nothing_are_refused(gain) -> None:
    exposure = make_exposure()
    exposure.noise["A"] = AmplifierNoise(gain, 1.0)
    with pytest.raises(DataError, match="gain of amplifier A"):
        corrected(exposure)


def test_adu_need_a_gain_or_a_kernel_per_adu() -> None:
    with pytest.raises(DataError, match="per electron, the image in adu"):
        corrected(make_exposure(), apply_gain=False)
