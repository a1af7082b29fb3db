"""The shared statistics: definitions, known answers, and rows against single calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats

from cpplug.api import (
    clipped,
    clipped_rows,
    good_pixels,
    integer_median,
    integer_median_rows,
    mad_sigma,
    mean_rows,
    mean_variance,
    median,
    median_rows,
    quantile_rows,
    quantiles,
    quartile_range,
    running_median,
    truncation_correction,
)

rows_and_flags = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int32, shape, elements=st.integers(-50, 50)), hnp.arrays(bool, shape)
    )
)


def test_good_means_finite_and_free_of_the_excluded_bits() -> None:
    values = np.array([1, np.nan, np.inf, 4, 5], np.float32)
    mask = np.array([0, 0, 0, 1, 2], np.uint16)
    assert good_pixels(values, mask, 2).tolist() == [True, False, False, True, False]
    assert good_pixels(values).tolist() == [True, False, False, True, True]


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e5, 1e5, width=32)))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_linear_between_neighbours(values) -> None:
    expected = np.quantile(values.astype(np.float64), [0, 0.25, 0.5, 0.9, 1])
    assert np.allclose(quantiles(values, (0, 0.25, 0.5, 0.9, 1)), expected, rtol=1e-12, atol=1e-9)
    assert median(values) == pytest.approx(np.median(values.astype(np.float64)), abs=1e-9)
    assert quartile_range(values) == pytest.approx(stats.iqr(values.astype(np.float64)), abs=1e-9)


def test_the_clip_restarts_from_all_values() -> None:
    """The crude first pass (IQR 0) keeps four equal values, the second finds sigma 0."""
    few = clipped(np.array([1.0, 1, 1, 1, 9]))
    assert (few.mean, few.variance, few.n, few.n_good) == (1, 0, 4, 5)
    # Here the first pass loses the 10 (half width 1.5 * 0.7413 * IQR 4 = 4.4), later ones take it
    # back: no value is gone for good.
    values = np.array([0.0, 2, 4, 6, 10.3])
    first = clipped(values, clip=1.5, n_iter=1)
    later = clipped(values, clip=3.2, n_iter=2)
    assert first.n == 4
    assert later.n == 5


def test_the_clip_by_hand() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
    half = 2.0 * 0.741301109252802 * (high - low)
    for _ in range(3):
        kept = values[np.abs(values - centre) <= half]
        centre, half = kept.mean(), 2.0 * kept.std(ddof=1)
    result = clipped(values, clip=2.0, n_iter=3)
    assert result.mean == pytest.approx(kept.mean())
    assert result.sigma == pytest.approx(kept.std(ddof=1))
    assert result.n == kept.size
    assert result.error == pytest.approx(kept.std(ddof=1) / np.sqrt(kept.size))


def test_fewer_than_two_survivors_leave_the_estimate() -> None:
    values = np.array([0.0, 1.0, 10.0, 11.0])
    result = clipped(values, clip=1e-3)
    assert result == (values.mean(), values.var(ddof=1), 4, 4)


def test_degenerate_input() -> None:
    assert np.isnan(clipped(np.array([np.nan])).mean)
    assert clipped(np.array([np.nan])).n == 0
    assert np.isnan(clipped(np.array([])).error)
    one = clipped(np.array([3.0, np.nan]))
    assert (one.mean, one.n) == (3, 1)
    assert np.isnan(one.sigma)
    assert np.isnan(median(np.array([])))
    assert np.isnan(mad_sigma(np.array([np.nan])))
    assert mean_variance(np.array([4.0]))[0] == 4


def test_float32_pixels_are_summed_in_float64() -> None:
    values = np.full(2_000_000, 16_777.217, np.float32)
    assert clipped(values).mean == pytest.approx(float(values[0]), rel=1e-12)


@given(rows_and_flags)
@settings(max_examples=80, deadline=None)
def test_rows_are_the_single_statistics(case) -> None:
    values, good = case
    whole = values.astype(np.float64)
    many = clipped_rows(whole, good, clip=2.03)
    for i in range(values.shape[0]):
        one = clipped(whole[i], good[i], clip=2.03)
        assert many.n[i] == one.n
        assert many.mean[i] == pytest.approx(one.mean, nan_ok=True)
        assert many.variance[i] == pytest.approx(one.variance, nan_ok=True, abs=1e-12)
        assert median_rows(whole, good)[i] == pytest.approx(median(whole[i], good[i]), nan_ok=True)
        assert mean_rows(whole, good)[i] == pytest.approx(
            mean_variance(whole[i], good[i])[0], nan_ok=True
        )
        assert integer_median_rows(values, good)[i] == pytest.approx(
            integer_median(values[i], good[i]), nan_ok=True
        )
        for found, single in zip(
            quantile_rows(whole, (0.25, 0.9), good)[:, i],
            quantiles(whole[i], (0.25, 0.9), good[i]),
            strict=True,
        ):
            assert found == pytest.approx(single, nan_ok=True)


@given(hnp.arrays(np.int16, st.integers(1, 40), elements=st.integers(-9, 9)))
@settings(max_examples=80, deadline=None)
def test_the_integer_median_splits_the_spread_out_counts_in_half(values) -> None:
    """Half of the counts, each spread over [v - 0.5, v + 0.5], lie below the result."""
    result = integer_median(values)
    below = np.clip(result - (values - 0.5), 0, 1).sum()
    assert below == pytest.approx(values.size / 2)
    assert abs(result - np.median(values)) <= 9.5


def test_integer_median_within_a_tie() -> None:
    assert integer_median(np.array([1, 2, 2, 2, 3])) == pytest.approx(1.5 + 1.5 / 3)
    assert integer_median(np.array([7])) == 7


def test_widths_of_a_gaussian() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400_000)
    assert mad_sigma(values) == pytest.approx(2, rel=5e-3)
    once = clipped(values, clip=3, n_iter=1)  # the first window is three true sigma wide
    assert once.sigma * truncation_correction(3) == pytest.approx(2, rel=5e-3)


@pytest.mark.parametrize(("clip", "factor"), [(2.0, 1.136847), (3.0, 1.013604)])
def test_truncation_correction(clip, factor) -> None:
    assert truncation_correction(clip) == pytest.approx(factor, abs=1e-6)
    assert truncation_correction(5.5) ** 2 == pytest.approx(1.0000012, abs=1e-7)
    assert truncation_correction(clip) == pytest.approx(1 / stats.truncnorm.std(-clip, clip))


def test_truncation_needs_a_width() -> None:
    with pytest.raises(ValueError, match="larger than zero"):
        truncation_correction(0)


@given(hnp.arrays(np.float64, st.integers(6, 40), elements=st.floats(-9, 9)), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_running_median(values, half) -> None:
    width = 2 * half + 1
    expected = ndimage.median_filter(values, width, mode="reflect")
    assert np.allclose(running_median(values, width), expected)


@pytest.mark.parametrize("width", [0, 4, -1])
def test_running_median_needs_an_odd_width(width) -> None:
    with pytest.raises(ValueError, match="odd"):
        running_median(np.arange(9.0), width)
