"""Charge correlations, full wells and the serial register against independent calculations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpplug_simulate import charge, correlation, readout
from cpplug_simulate.effects import BrighterFatter, Cti

KERNEL = correlation.pixel_area_kernel(BrighterFatter())


def dice(seed: int = 7) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def full(kernel: np.ndarray) -> np.ndarray:
    """The kernel with its mirror images."""
    half = np.concatenate([kernel[:0:-1], kernel])
    return np.concatenate([half[:, :0:-1], half], axis=1)


# ---- the brighter-fatter effect --------------------------------------------------------------
@given(
    a00=st.floats(-1e-5, 0),
    reach=st.integers(1, 5),
    decay=st.floats(1, 5),
    anisotropy=st.floats(0.2, 5),
)
def test_the_kernel_takes_nothing_away(a00, reach, decay, anisotropy):
    options = BrighterFatter(a00=a00, reach=reach, decay=decay, anisotropy=anisotropy)
    kernel = correlation.pixel_area_kernel(options)
    assert kernel[0, 0] == a00
    assert abs(full(kernel).sum()) <= 1e-12 * max(abs(a00), 1e-12) + 1e-20
    assert (kernel.ravel()[1:] >= 0).all()


def test_neighbours_across_rows_feel_more_than_along_them():
    assert KERNEL[1, 0] == pytest.approx(2 * KERNEL[0, 1])
    assert KERNEL[0, 1] > KERNEL[0, 2] > KERNEL[0, 3]


def test_the_model_is_the_series_of_astier_and_others_2019():
    from scipy.signal import convolve2d

    a = full(KERNEL)
    middle = np.zeros_like(a)
    middle[a.shape[0] // 2, a.shape[1] // 2] = 1
    aa = convolve2d(a, a, "full")
    aaa = convolve2d(aa, a, "full")

    def centre(field: np.ndarray) -> np.ndarray:
        cut = (field.shape[0] - a.shape[0]) // 2
        return field[cut : field.shape[0] - cut, cut : field.shape[1] - cut]

    for mean in (1e3, 2e4, 6e4):
        series = mean * (
            middle + mean * a + 2 / 3 * mean**2 * centre(aa) + 1 / 3 * mean**3 * centre(aaa)
        )
        series = series[4:, 4:]
        exact = correlation.covariance_model(KERNEL, mean)
        fourth = mean * (2 * abs(KERNEL[0, 0]) * mean) ** 4 / 15
        assert np.allclose(exact, series, atol=fourth)
    assert exact.shape == (5, 5)


def test_without_a_kernel_the_model_is_poisson():
    flat = correlation.covariance_model(np.zeros((3, 3)), 5e4)
    assert flat[0, 0] == pytest.approx(5e4)
    assert abs(flat.ravel()[1:]).max() < 1e-6


def test_borders_hand_on_what_the_area_kernel_says():
    from scipy.ndimage import convolve

    image = dice().normal(1e4, 1e3, (40, 31)).astype(np.float32)
    expected = convolve(image.astype(float), full(KERNEL), mode="reflect")
    ones = np.ones_like(image)
    assert correlation.diverted(image, ones, KERNEL) == pytest.approx(expected, abs=2e-7)
    flat = np.full((12, 14), 5e4, np.float32)
    assert not correlation.diverted(flat, image[:12, :14], KERNEL).any()


@given(seed=st.integers(0, 10_000))
def test_borders_create_no_charge(seed):
    charge_, light = (dice(seed).exponential(1e4, (2, 11, 13))).astype(np.float32)
    moved = correlation.diverted(charge_, light, KERNEL)
    assert abs(moved.sum(dtype=float)) < 1e-5 * abs(moved).sum()


@pytest.mark.parametrize("mean", [8_000.0, 60_000.0])
def test_flat_pairs_have_the_variance_and_covariances_of_the_model(mean):
    light = np.full((400, 500), mean, np.float32)
    model = correlation.covariance_model(KERNEL, mean)
    measured = dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], 0.0)
    pairs, generator = 6, dice()
    for _ in range(pairs):
        one, two = (
            correlation.collect(generator, light, KERNEL, 10_000.0, 1.5e5) for _ in range(2)
        )
        assert one.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / light.size))
        difference = (one - two).astype(float)
        difference -= difference.mean()
        for lag in measured:
            j, i = lag
            shifted = difference[j:, i:] * difference[: 400 - j, : 500 - i]
            measured[lag] += shifted.mean() / 2 / pairs
    for lag, value in measured.items():
        error = model[0, 0] * np.sqrt((2 if lag == (0, 0) else 1) / (pairs * light.size))
        assert abs(value - model[lag]) < 4 * error, lag
    lost = abs(model[0, 0] - mean)
    assert lost > 5 * model[0, 0] * np.sqrt(2 / (pairs * light.size))  # the test can see it


def test_bright_spots_spread():
    y, x = np.mgrid[-15:16, -15:16]
    spot = (1.2e5 * np.exp(-(x**2 + y**2) / (2 * 2.0**2))).astype(np.float32)
    wide = correlation.collect(dice(), spot, KERNEL, 5_000.0, 2e5)
    plain = correlation.collect(dice(), spot, None, 5_000.0, 2e5)

    def size(image: np.ndarray) -> float:
        return float((image * (x**2 + y**2)).sum() / image.sum())

    assert wide.sum() == pytest.approx(plain.sum(), rel=0.003)
    assert size(wide) > 1.01 * size(plain)


@pytest.mark.parametrize("mean", [0.01, 0.5, 30.0, 950.0, 5_000.0])
def test_counts_are_poisson_at_every_level(mean):
    image = correlation.poisson_image(dice(), np.full((500, 400), mean, np.float32))
    assert (image == np.rint(image)).all()
    assert image.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / image.size))
    expected = 5 * np.sqrt((2 * mean**2 + mean) / image.size)
    assert image.astype(float).var() == pytest.approx(mean, abs=expected)


def test_few_counts_fall_where_they_should():
    mean = np.zeros((300, 300), np.float32)
    mean[:, 150:] = 0.02
    image = correlation.poisson_image(dice(), mean)
    assert not image[:, :150].any()
    assert image[:, 150:].sum() == pytest.approx(900, abs=150)


# ---- full wells ------------------------------------------------------------------------------
def slow_bleed(charge_in: np.ndarray, well: float) -> tuple[np.ndarray, float]:
    """The same rule, written pixel by pixel."""
    out, lost = charge_in.astype(float).copy(), 0.0
    for x in range(out.shape[1]):
        for y in range(out.shape[0]):
            excess = max(out[y, x] - well, 0.0)
            out[y, x] -= excess
            share = excess / 2
            for place in range(y + 1, out.shape[0]):
                taken = min(max(well - out[place, x], 0.0), share)
                out[place, x] += taken
                share -= taken
            share += excess / 2
            for place in range(y - 1, -1, -1):
                taken = min(max(well - out[place, x], 0.0), share)
                out[place, x] += taken
                share -= taken
            lost += share
    return out, lost


@given(seed=st.integers(0, 10_000), level=st.floats(0.1, 3.0))
def test_wells_bleed_along_columns_and_lose_no_charge(seed, level):
    image = dice(seed).exponential(level * 1000, (17, 4)).astype(np.float32)
    held = image.copy()
    lost = charge.saturate(held, 1500.0, bleed=True)
    expected, expected_lost = slow_bleed(image, 1500.0)
    assert np.allclose(held, expected, atol=0.05)
    assert lost == pytest.approx(expected_lost, abs=0.5)
    assert held.max() <= 1500.0
    assert held.sum(axis=0).sum() + lost == pytest.approx(image.sum(), rel=1e-5)


def test_a_saturated_star_makes_a_trail_in_its_column_only():
    image = np.full((60, 9), 10.0, np.float32)
    image[30, 4] = 10 * 1000.0
    lost = charge.saturate(image, 1000.0, bleed=True)
    assert lost == 0
    assert (image[:, [0, 1, 2, 3, 5, 6, 7, 8]] == 10).all()
    full_rows = np.flatnonzero(image[:, 4] >= 999.9)
    assert full_rows.min() == pytest.approx(30 - 4, abs=1)
    assert full_rows.max() == pytest.approx(30 + 4, abs=1)


def test_without_bleeding_the_excess_is_gone():
    image = np.array([[5.0, 20.0]], np.float32)
    assert charge.saturate(image, 12.0, bleed=False) == 8.0
    assert image.tolist() == [[5.0, 12.0]]


def test_whole_saturated_frames_are_quick_enough_to_finish():
    image = np.full((2000, 50), 2e5, np.float32)
    lost = charge.saturate(image, 1.5e5, bleed=True)
    assert (image == 1.5e5).all()
    assert lost == pytest.approx(2000 * 50 * 5e4)


# ---- the serial register ---------------------------------------------------------------------
def clock_out(row: np.ndarray, cti: float) -> np.ndarray:
    """Clock a row through the register, transfer by transfer."""
    register, out = row.astype(float).copy(), []
    for _ in range(row.size):
        moving = register * (1 - cti)
        stay = register - moving
        out.append(moving[0])
        register = np.append(moving[1:], 0.0) + stay
    return np.array(out)


@pytest.mark.parametrize("cti", [1e-6, 1e-3, 2e-2])
def test_the_register_is_exact(cti):
    row = np.zeros(40)
    row[3:30] = dice().uniform(100, 1000, 27)
    quick = readout.transfer(row[None, :].astype(np.float32), cti)[0]
    assert quick == pytest.approx(clock_out(row, cti), rel=1e-5, abs=1e-4)


def test_extended_edges_give_the_cti_back():
    flat = np.zeros((50, 540), np.float32)
    flat[:, 3:512] = 50_000.0
    options = Cti(cti=5e-6, drift_scale=0.0)
    out = readout.deferred(flat, options).astype(float)
    assert out[:, 512].mean() / (512 * out[:, 511].mean()) == pytest.approx(5e-6, rel=0.01)


def test_the_output_remembers_and_forgets():
    flat = np.zeros((3, 60), np.float32)
    flat[:, 3:40] = 30_000.0
    options = Cti(cti=0.0, drift_scale=2e-3, decay_time=2.4)
    out = readout.deferred(flat, options)[0].astype(float)
    assert out[39] == pytest.approx(30_000 * 1.002, rel=1e-6)
    tail = 60 * np.exp(-np.arange(1, 12) / 2.4)
    assert out[40:51] == pytest.approx(tail, rel=1e-3)


def test_a_trap_holds_charge_back_and_frees_it():
    flat = np.zeros((1, 60), np.float32)
    flat[:, 3:40] = 1000.0
    options = Cti(cti=0.0, drift_scale=0.0, trap_size=50.0, trap_scaling=0.1, trap_time=2.0)
    out = readout.deferred(flat, options)[0].astype(float)
    assert out[3] == pytest.approx(950)
    assert out[10:40] == pytest.approx(1000, abs=1e-3)
    assert out[40:50] == pytest.approx(50 * (1 - np.exp(-0.5)) * np.exp(-np.arange(10) / 2))
    assert out.sum() == pytest.approx(flat.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "largest"), [("int32", 262_143), ("uint16", 65_535), ("int16", 32_767)]
)
def test_the_range_of_the_converter_follows_the_pixel_type(dtype, largest):
    assert readout.adc_maximum(dtype) == largest
