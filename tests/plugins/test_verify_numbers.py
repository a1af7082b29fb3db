"""The parts that verdicts rest on: decision rule, noise model, clipping, cosmic rays, steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from cpplug.api import ProductFacts, clipped, good_pixels
from cpplug_verify.cosmic_rays import Settings, find_cosmic_rays
from cpplug_verify.decide import can_prove, decide, family_limit
from cpplug_verify.noise_model import (
    Box,
    combiner_kind,
    difference_error,
    expected_noise,
    mean_error,
    median_variance,
    membership_factor,
    noise_error,
    overscan_bias,
    overscan_kind,
)
from cpplug_verify.statistics import clip_correction, has_own_levels
from cpplug_verify.structure import band, line, steps

finite = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-6, 1e3)


# ---- clip semantics -----------------------------------------------------------------------------
def test_clip_restarts_from_all_values_and_runs_every_pass() -> None:
    """Six numbers by hand. Median 2.5, IQR 2.5: at k = 2 the first pass keeps |x - 2.5| <= 3.7065,
    so 0 to 5; mean 2.5 and sigma sqrt(3.5) = 1.871: the second keeps |x - 2.5| <= 3.742, again all.
    """
    values = np.array([0.0, 1, 2, 3, 4, 5])
    found = clipped(values, clip=2.0, n_iter=3)
    assert (found.mean, found.variance, found.n, found.n_good) == (2.5, 3.5, 6, 6)


def test_clip_of_an_outlier_and_a_nan_by_hand() -> None:
    """Good: 0, 1, 2, 3, 100; median 2, quartiles 1 and 3. k = 3: half width 4.448, keeps 0 to 3:
    mean 1.5, variance 5/3. Second pass: half width 3.873, the same four. NaN counts as masked.
    """
    values = np.array([0.0, 1, 2, 3, 100, np.nan])
    found = clipped(values, clip=3.0, n_iter=3)
    assert (found.mean, found.n, found.n_good) == (1.5, 4, 5)
    assert found.variance == pytest.approx(5 / 3)
    assert values.size - found.n_good == 1
    assert found.n_good - found.n == 1


def test_clip_gets_back_what_the_first_pass_threw_out() -> None:
    """Half the values equal: IQR 1, half width 0.741 around 0.5 keeps 0 and 1 (k = 1); their
    sigma is wider than the IQR says, so a later pass of larger width may keep more, never fewer
    than the rule says.
    """
    values = np.array([0.0, 0.0, 1.0, 1.0, 1.7, -0.7])
    one, two = (clipped(values, clip=1.6, n_iter=n) for n in (1, 2))
    assert one.n == 6 or one.n == 4
    half = 1.6 * math.sqrt(one.variance)
    assert two.n == np.count_nonzero(np.abs(values - one.mean) <= half)


def test_masked_values_do_not_count() -> None:
    values = np.array([0.0, 1, 2, 3, 100, 4])
    mask = np.array([0, 0, 0, 0, 2, 1], np.uint16)
    found = clipped(values, good_pixels(values, mask, 3), clip=5)
    assert (found.mean, found.n_good) == (1.5, 4)
    assert clipped(values, good_pixels(values, mask, 1), clip=1e3).n_good == 5


def test_five_per_cent_outliers_hardly_move_the_clipped_numbers() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 20_000)
    values[:1000] = 50
    found = clipped(values, clip=5.0)
    assert abs(found.mean) < 0.03
    assert found.sigma == pytest.approx(1, abs=0.02)
    assert found.n_good - found.n == pytest.approx(1000, abs=3)


def test_clip_correction_undoes_three_passes() -> None:
    values = np.random.default_rng(3).normal(0, 1, 1_000_000)
    assert clipped(values).sigma * clip_correction() == pytest.approx(1, abs=0.003)


# ---- decision rule ------------------------------------------------------------------------------
@pytest.mark.parametrize(("m", "z"), [(16, 3.42), (240, 4.10), (3024, 4.65), (45360, 5.18)])
def test_family_limit(m: int, z: float) -> None:
    assert family_limit(m) == pytest.approx(z, abs=0.006)


def test_family_limit_of_an_unknown_run() -> None:
    assert family_limit(0) == 5.2


@pytest.mark.parametrize(
    ("d", "s", "goal", "verdict"),
    [
        (0.0, 0.02, 0.1, "PASS"),
        (-0.09, 0.02, 0.1, "PASS"),
        (0.15, 0.02, 0.1, "PASS"),
        (0.25, 0.02, 0.1, "WARN"),
        (-0.25, 0.02, 0.1, "WARN"),
        (0.25, 0.02, None, "PASS"),
        (0.47, 0.02, None, "WARN"),
        (0.52, 0.02, 0.1, "WARN"),
        (0.61, 0.02, 0.1, "FAIL"),
        (-0.61, 0.02, 0.1, "FAIL"),
        (0.0, 0.51, 0.1, "INCONCLUSIVE"),
        (9.0, 0.51, 0.1, "FAIL"),
        (math.nan, 0.02, 0.1, "INCONCLUSIVE"),
        (math.inf, 0.02, 0.1, "INCONCLUSIVE"),
        (0.0, math.nan, 0.1, "INCONCLUSIVE"),
    ],
)
def test_decision(d: float, s: float, goal: float | None, verdict: str) -> None:
    found, reason = decide(d, s, 0.5, goal, z=5.0)
    assert found == verdict
    assert bool(reason) == (verdict != "PASS")


def test_one_sided_decision_lets_negative_deviations_pass() -> None:
    assert decide(-3.0, 0.1, 0.5, z=5, two_sided=False)[0] == "PASS"
    assert decide(-3.0, 0.1, 0.5, z=5)[0] == "FAIL"


@given(finite, positive, positive, st.floats(2.5, 6))
def test_decisions_are_symmetric_and_proof_is_a_proof(
    d: float, s: float, tolerance: float, z: float
) -> None:
    verdict, _ = decide(d, s, tolerance, z=z)
    assert verdict == decide(-d, s, tolerance, z=z)[0]
    assert (verdict == "PASS") == (abs(d) + 2 * s <= tolerance)
    if verdict == "FAIL":
        assert abs(d) > tolerance


@given(positive, st.integers(1, 20))
@settings(max_examples=50)
def test_data_that_can_prove_do_so_nearly_always(tolerance: float, looks: int) -> None:
    error = tolerance / (2 + family_limit(looks)) * 0.999
    assert can_prove(error, tolerance, looks)
    assert not can_prove(error * 1.01, tolerance, looks)
    worst = family_limit(looks) * error
    assert decide(worst * 0.999, error, tolerance, z=5.2)[0] == "PASS"


# ---- noise model --------------------------------------------------------------------------------
def test_noise_of_the_specification() -> None:
    """N = 20, mean, 61 overscan columns, median per row: +3.7 % and -1.2 %."""
    rows = median_variance(61)
    independent = expected_noise(1, rows, membership_factor(20, "mean", "independent"))
    member = expected_noise(1, rows, membership_factor(20, "mean", "member"))
    assert independent == pytest.approx(1.037, abs=0.001)
    assert member == pytest.approx(0.988, abs=0.0015)


@pytest.mark.parametrize(
    ("kind", "membership", "factor"),
    [("mean", "independent", 1 + 1 / 100), ("mean", "member", 1 - 1 / 100),
     ("median", "independent", 1 + 1.57 / 100), ("median", "member", 1 - 0.43 / 100),
     ("mean", "loo", 1 + 1 / 99)],
)  # fmt: skip
def test_membership_factor(kind: str, membership: str, factor: float) -> None:
    assert membership_factor(100, kind, membership) == pytest.approx(factor, abs=4e-4)


@pytest.mark.parametrize("kind", ["mean", "median"])
@pytest.mark.parametrize("n", [5, 20])
def test_membership_factor_by_simulation(kind: str, n: int) -> None:
    stack = np.random.default_rng(n).normal(0, 1, (n, 120_000))
    product = stack.mean(axis=0) if kind == "mean" else np.median(stack, axis=0)
    other = np.random.default_rng(99).normal(0, 1, product.size)
    for residual, membership in (
        ((stack - product).ravel(), "member"), (other - product, "independent")
    ):  # fmt: skip
        expected = math.sqrt(membership_factor(n, kind, membership))
        assert residual.std() == pytest.approx(expected, rel=0.006)


@pytest.mark.parametrize("n", [3, 4, 16, 31, 61, 64])
def test_variance_of_a_median_by_simulation(n: int) -> None:
    draws = np.random.default_rng(n).normal(0, 1, (60_000, n))
    medians = np.median(draws, axis=1)
    assert medians.var() == pytest.approx(median_variance(n), rel=0.025)
    rest = (draws - medians[:, None]).std()
    assert rest == pytest.approx(math.sqrt(overscan_bias(n, "median")), rel=0.004)


def test_error_of_a_mean_is_that_of_the_specification() -> None:
    level = median_variance(61) / 2000
    assert mean_error(6, 1.02e6, 0) == pytest.approx(0.006, abs=2e-4)
    assert mean_error(6, 1.02e6, level) == pytest.approx(0.022, abs=5e-4)


def test_errors_of_mean_noise_and_difference_by_simulation() -> None:
    rng = np.random.default_rng(4)
    q = 0.05
    frames = rng.normal(0, 1, (3000, 20, 30)) + rng.normal(0, math.sqrt(q), (3000, 20, 1))
    means = frames.mean(axis=(1, 2))
    assert means.std() == pytest.approx(mean_error(1, 600, q / 20), rel=0.05)
    widths = frames.std(axis=(1, 2))
    assert (widths / widths.mean()).std() == pytest.approx(noise_error(600, 20, q), rel=0.06)
    corners = frames[:, :5, :6].mean(axis=(1, 2)) - means
    model = difference_error(1, Box(30, 5, 6), Box(600, 20, 30), q, 0.0)
    assert corners.std() == pytest.approx(model, rel=0.05)


def test_combiner_kind_comes_from_the_header() -> None:
    def facts(card: str) -> ProductFacts:
        return ProductFacts(
            dataset="d", sha256="s", dataset_type="bias", unit="adu", n_inputs=1, members=(),
            metadata={"COMBINER": card},
        )  # fmt: skip

    assert combiner_kind(facts("median")) == "median"
    assert combiner_kind(facts("clipped_mean")) == "mean"


def test_levels_of_a_curve_are_told_from_levels_per_row() -> None:
    rng = np.random.default_rng(5)
    per_row = rng.normal(1000, math.sqrt(1.57 / 32) * 5, 200)
    assert has_own_levels(per_row, 5.0, 32)
    assert not has_own_levels(1000 + np.linspace(0, 30, 200), 5.0, 32)
    assert not has_own_levels(np.full(200, 1000.0), 5.0, 32)


# ---- cosmic rays --------------------------------------------------------------------------------
@pytest.fixture
def sky() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 5, (200, 200)).astype(np.float32)


def test_noise_holds_no_cosmic_ray(sky: np.ndarray) -> None:
    found = find_cosmic_rays(sky, np.ones(sky.shape, bool), 0.0, 5.0)
    assert (found.n_events, found.n_pixels, found.overflow) == (0, 0, False)


def test_hits_are_found_whole_and_stars_are_not(sky: np.ndarray) -> None:
    sky[50, 50] = 300
    sky[100, 80:86] = 400
    sky[101, 86] = 200
    sky[0, 0] = sky[199, 120] = 500
    y, x = np.mgrid[:200, :200]
    for width, at in ((1.3, (150, 30)), (2.0, (30, 150))):
        star = 3000 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * width**2))
        sky += star.astype(np.float32)
    before = sky.copy()
    found = find_cosmic_rays(sky, np.ones(sky.shape, bool), 0.0, 5.0)
    assert found.n_events == 4
    assert found.pixels[50, 50]
    assert found.pixels[100, 80:86].all()
    assert found.pixels[101, 86]
    assert found.pixels[0, 0]
    assert found.n_pixels <= 11
    assert np.array_equal(sky, before)


def test_masked_and_faint_pixels_are_no_events(sky: np.ndarray) -> None:
    good = np.ones(sky.shape, bool)
    sky[50, 50] = 500
    good[50, 50] = False
    sky[90, 90] = 100
    assert find_cosmic_rays(sky, good, 0.0, 5.0).n_events == 0
    assert find_cosmic_rays(sky, good, 0.0, 5.0, Settings(min_sum=50)).n_events == 1


def test_a_flood_is_reported_not_searched(sky: np.ndarray) -> None:
    sky[::3, ::3] = 500
    assert find_cosmic_rays(sky, np.ones(sky.shape, bool), 0.0, 5.0).overflow


def test_zero_noise_finds_nothing() -> None:
    flat = np.zeros((5, 5), np.float32)
    assert find_cosmic_rays(flat, np.ones((5, 5), bool), 0.0, 0.0).n_events == 0


# ---- structure ----------------------------------------------------------------------------------
def test_chance_of_the_strongest_wave_in_noise() -> None:
    """One profile in a hundred looks like chance 1 %, none of 2000 like one in a million."""
    rng = np.random.default_rng(9)
    chances = [line(rng.normal(0, 1, 200), "rows")["rows_log_chance"] for _ in range(2000)]
    assert np.mean(np.array(chances) < -2) == pytest.approx(0.012, abs=0.008)
    assert min(chances) > -6


def test_amplitude_of_a_wave_with_gaps() -> None:
    profile = 3 * np.cos(2 * np.pi * np.arange(240) / 12)
    profile += np.random.default_rng(1).normal(0, 0.3, 240)
    profile[::40] = np.nan
    found = line(profile, "rows")
    assert found["rows_amplitude"] == pytest.approx(3, rel=0.05)
    assert found["rows_period"] == pytest.approx(12)
    assert found["rows_log_chance"] < -12


def test_profiles_too_short_to_judge_say_nothing() -> None:
    assert line(np.zeros(10), "rows") == {}
    assert band(np.array([1.0, np.nan, 2.0]), np.ones(3), "rows") == {}
    assert steps(np.zeros(49), 1.0, 1.0) == {}


@given(st.integers(50, 160), st.sampled_from([-1.0, 1.0]), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_step_is_counted_once(row: int, sign: float, seed: int) -> None:
    levels = np.random.default_rng(seed).normal(500, 0.6, 200)
    levels[row:] += sign * 5
    found = steps(levels, 1.5, 1.0)
    assert found["shifts"] == 1
    assert found["shift_largest"] == pytest.approx(7.5, abs=1.5)


def test_noise_drift_wander_and_settling_are_no_steps() -> None:
    """A level with 1 ADU of noise, a slope, a wander of 1.5 ADU rms over 150 rows, a transient."""
    rng = np.random.default_rng(11)
    keep = np.exp(-1 / 150)
    count = 0
    for slope in range(40):
        kicks = rng.normal(0, 1.5, 2000)
        kicks[1:] *= np.sqrt(1 - keep**2)
        levels = lfilter([1.0], [1.0, -keep], kicks) + rng.normal(0, 1, 2000)
        levels += np.linspace(0, slope, 2000) + 12 * np.exp(-np.arange(2000) / 25)
        count += steps(levels, 1.05, 1.0)["shifts"] > 0
    assert count <= 1
    levels[900:] += 8
    assert steps(levels, 1.05, 1.0)["shifts"] == 1


@pytest.mark.parametrize(
    ("fit_type", "kind"),
    [
        ("MEDIAN_PER_ROW", "median"),
        ("MEDIAN", "median"),
        ("MEAN_PER_ROW", "mean"),
        ("POLY", "mean"),
    ],
)
def test_overscan_kind_comes_from_the_product_options(fit_type: str, kind: str) -> None:
    facts = ProductFacts(
        dataset="d", sha256="s", dataset_type="bias", unit="adu", n_inputs=1, members=(),
        metadata={}, options={"isr.overscan.fit_type": fit_type},
    )  # fmt: skip
    assert overscan_kind(facts) == kind
