"""The combiners against the reference case, their definition, and properties."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cpplug.api import Block, DataError, NoConfig, mask_bits
from cpplug.api import clipped as clipped_values
from cpplug_combine import ClippedMeanConfig, clipped_mean, mean, median
from cpplug_combine.kernel import kernel, quartile_network, sorting_network, stack_numpy

EXCLUDE = mask_bits("SAT", "DETECTED", "INTRP")
BAD, SAT = mask_bits("BAD"), mask_bits("SAT")
COMBINERS = {
    "clipped_mean": lambda block: clipped_mean(block, ClippedMeanConfig()),
    "mean": lambda block: mean(block, NoConfig()),
    "median": lambda block: median(block, NoConfig()),
}


def block_of(images, masks=None, variances=None) -> Block:
    images = np.asarray(images, np.float32)
    shape = (images.shape[0], 1, -1) if images.ndim == 2 else images.shape
    return Block(
        images=images.reshape(shape),
        masks=None if masks is None else np.asarray(masks, np.uint16).reshape(shape),
        variances=None if variances is None else np.asarray(variances, np.float32).reshape(shape),
        exclude=EXCLUDE,
        no_good_bits=BAD,
    )


def planes(plane) -> list[np.ndarray]:
    return [plane.image, plane.variance, plane.mask, plane.used]


@pytest.fixture(params=["compiled", "numpy"])
def either_kernel(request, monkeypatch):
    kernel.cache_clear()
    if request.param == "numpy":
        monkeypatch.setenv("CPPLUG_NO_NUMBA", "1")
    else:
        monkeypatch.delenv("CPPLUG_NO_NUMBA", raising=False)
    assert (kernel() is stack_numpy) == (request.param == "numpy")
    yield request.param
    kernel.cache_clear()


# ---- the reference case --------------------------------------------------------------------------
CASES = {
    "unity_MEANCLIP": "none", "unity_MEAN": "none", "unity_MEDIAN": "none",
    "exptime": "exposure", "darktime": "dark", "meanstats": "mean", "inputlist": "list",
    "inputlist_clip2_iter1": "list", "inputlist_keepmask": "list", "inputlist_few": "list",
    "inputlist_median_few": "list",
}  # fmt: skip


def scales_of(kind: str, inputs: dict, meta: dict) -> np.ndarray:
    scales = np.ones((9, 60, 80), np.float32)
    numbers = {
        "none": np.ones(9),
        "exposure": inputs["expTimes"],
        "dark": inputs["expTimes"] + 0.5,
        "mean": np.array(meta["meanstats_scales"]),
        "list": inputs["levels"],
    }[kind]
    scales *= numbers.astype(np.float32)[:, None, None]
    if kind == "list":
        for amp, columns in enumerate((slice(0, 40), slice(40, 80))):
            scales[:, :, columns] = (numbers * inputs["ampr"][amp])[:, None, None]
    return scales


@pytest.mark.parametrize("tag", CASES)
def test_combiners_agree_with_the_reference(
    reference_case, either_kernel, tag, record_property
) -> None:
    """Scaling, repair of empty pixels and clearing of masks are done here as the engine does."""
    inputs, expected, folder = reference_case("combine")
    meta = json.loads((folder / "meta.json").read_text())
    n, config = meta[tag]["n"], meta[tag]["config"]
    scales = scales_of(CASES[tag], inputs, meta)[:n]
    block = block_of(
        inputs["images"][:n] / scales,
        inputs["masks"][:n],
        inputs["variances"][:n] / scales**2 if n < 5 else None,
    )
    plane = {
        "MEANCLIP": lambda: clipped_mean(
            block, ClippedMeanConfig(clip=config.get("clip", 3.0), n_iter=config.get("nIter", 3))
        ),
        "MEAN": lambda: mean(block, NoConfig()),
        "MEDIAN": lambda: median(block, NoConfig()),
    }[config["combine"]]()
    if tag != "inputlist_keepmask":
        plane.mask &= np.uint16(BAD)
    empty = ~(np.isfinite(plane.image) & np.isfinite(plane.variance))
    plane.image[empty] = np.median(plane.image[~empty])
    plane.variance[empty] = np.median(plane.variance[~empty])
    plane.mask[empty] |= np.uint16(BAD)
    worst = {
        name: np.abs(getattr(plane, name) / expected[f"{tag}_{name}"] - 1).max()
        for name in ("image", "variance")
    }
    record_property("worst", {key: f"{value:.1e}" for key, value in worst.items()})
    assert np.array_equal(plane.mask, expected[f"{tag}_mask"])
    assert worst["image"] <= 1e-6
    assert worst["variance"] <= 1e-4


# ---- both kernels --------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 20, 33])
@pytest.mark.parametrize("name", COMBINERS)
@pytest.mark.parametrize("with_variances", [False, True])
def test_compiled_and_numpy_agree_to_the_last_bit(monkeypatch, n, name, with_variances) -> None:
    rng = np.random.default_rng(n)
    images = rng.normal(1000, 10, (n, 5, 67)).astype(np.float32)
    images[rng.random(images.shape) < 0.05] += 300
    images[rng.random(images.shape) < 0.02] = np.nan
    masks = (rng.random(images.shape) < 0.1) * SAT + (rng.random(images.shape) < 0.1) * BAD
    masks[:, 0, 0] = SAT
    variances = rng.uniform(1, 2, images.shape) if with_variances else None
    results = []
    for disabled in ("0", "1"):
        monkeypatch.setenv("CPPLUG_NO_NUMBA", disabled)
        kernel.cache_clear()
        results.append(COMBINERS[name](block_of(images, masks, variances)))
    kernel.cache_clear()
    for compiled, plain in zip(*map(planes, results), strict=True):
        assert np.array_equal(compiled, plain, equal_nan=True)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 50, 100])
def test_networks_sort(n) -> None:
    rng = np.random.default_rng(n)
    values = rng.integers(0, 20, (n, 40))
    for network, positions in (
        (sorting_network(n), range(n)),
        (quartile_network(n), {int(f * (n - 1)) + d for f in (0.25, 0.5, 0.75) for d in (0, 1)}),
    ):
        lanes = values.copy()
        for i, j in network:
            lanes[[i, j]] = np.sort(lanes[[i, j]], axis=0)
        expected = np.sort(values, axis=0)
        for position in positions:
            if position < n:
                assert np.array_equal(lanes[position], expected[position])


def test_blocks_may_be_combined_in_threads() -> None:
    rng = np.random.default_rng(5)
    blocks = [block_of(rng.normal(size=(9, 3, 200))) for _ in range(12)]
    alone = [COMBINERS["clipped_mean"](block).image for block in blocks]
    with ThreadPoolExecutor(4) as pool:
        together = [plane.image for plane in pool.map(COMBINERS["clipped_mean"], blocks)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


# ---- definition ----------------------------------------------------------------------------------
stacks = hnp.arrays(
    np.int16, st.tuples(st.integers(2, 9), st.integers(1, 6)), elements=st.integers(-500, 500)
)


@given(values=stacks, clip=st.sampled_from([0.71, 1.37, 2.03, 2.97]), n_iter=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_the_clip_is_that_of_the_statistics(values, clip, n_iter) -> None:
    plane = clipped_mean(block_of(values), ClippedMeanConfig(clip=clip, n_iter=n_iter))
    for pixel in range(values.shape[1]):
        stats = clipped_values(values[:, pixel].astype(np.float64), clip=clip, n_iter=n_iter)
        assert plane.used[0, pixel] == stats.n
        assert plane.image[0, pixel] == pytest.approx(stats.mean, rel=1e-6, abs=1e-6)
        assert plane.variance[0, pixel] == pytest.approx(stats.variance / stats.n, rel=1e-5)


def test_one_input_and_two(either_kernel) -> None:
    for name, combine in COMBINERS.items():
        one = combine(block_of([[3.0, np.nan]], variances=[[2.0, 1.0]]))
        assert one.image[0, 0] == 3
        assert np.isnan(one.image[0, 1])
        assert np.isnan(one.variance[0, 1])
        assert one.mask.tolist() == [[0, BAD]]
        assert one.used.tolist() == [[1, 0]]
        if name != "median":
            assert one.variance[0, 0] == 2
        two = combine(block_of([[1.0], [3.0]]))
        assert two.image[0, 0] == 2
        assert two.used[0, 0] == 2
        factor = np.pi / 2 if name == "median" else 1
        assert two.variance[0, 0] == pytest.approx(factor * 1.0)


def test_a_cosmic_ray_is_rejected_and_counted(either_kernel) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (10, 50)).astype(np.float32)
    values[4, 7] = 1000
    plane = COMBINERS["clipped_mean"](block_of(values))
    assert abs(plane.image[0, 7]) < 1.5
    assert plane.used[0, 7] <= 9
    assert plane.variance[0, 7] < 1


def test_variance_from_the_inputs_counts_only_used_ones(either_kernel) -> None:
    values = np.array([[1.0], [1.1], [0.9], [1.0], [1.05], [500.0]])
    variances = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [1e6]])
    plane = COMBINERS["clipped_mean"](block_of(values, variances=variances))
    assert plane.used[0, 0] == 5
    assert plane.variance[0, 0] == pytest.approx(15 / 25)


def test_masks_of_inputs_that_are_not_excluded_are_joined(either_kernel) -> None:
    masks = [[BAD, SAT], [0, SAT | BAD], [mask_bits("CR"), SAT]]
    plane = COMBINERS["mean"](block_of([[1, 1], [2, 2], [3, 3]], masks))
    assert plane.mask.tolist() == [[BAD | mask_bits("CR"), BAD]]
    assert plane.used.tolist() == [[3, 0]]
    assert np.isnan(plane.image[0, 1])


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(DataError, match="0 frames"):
        COMBINERS["mean"](block_of(np.empty((0, 2, 2))))


# ---- properties ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", COMBINERS)
@given(values=stacks, data=st.data())
@settings(max_examples=40, deadline=None)
def test_order_shift_and_scale_of_the_inputs(name, values, data) -> None:
    base = COMBINERS[name](block_of(values))
    order = data.draw(st.permutations(range(values.shape[0])))
    shift = data.draw(st.integers(-100, 100))
    scale = data.draw(st.sampled_from([0.25, 0.5, 2, 4]))
    permuted = COMBINERS[name](block_of(values[list(order)]))
    scaled = COMBINERS[name](block_of(values * scale))
    assert np.array_equal(permuted.used, base.used)
    assert np.allclose(permuted.image, base.image, rtol=1e-6, atol=1e-4)
    assert np.array_equal(scaled.used, base.used)
    assert np.allclose(scaled.image, scale * base.image, rtol=1e-6, atol=1e-4)
    assert np.allclose(scaled.variance, scale**2 * base.variance, rtol=1e-5, atol=1e-4)
    if name != "clipped_mean":  # rounding may move a value over the edge of the clip
        shifted = COMBINERS[name](block_of(values + shift))
        assert np.allclose(shifted.image, base.image + shift, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", COMBINERS)
@given(values=stacks, junk=st.floats(-1e6, 1e6, width=32), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_excluded_pixels_do_not_count(name, values, junk, seed) -> None:
    drop = np.random.default_rng(seed).random(values.shape) < 0.3
    filled = np.where(drop, np.float32(junk), values)
    blanked = np.where(drop, np.float32(np.nan), values)
    masked = COMBINERS[name](block_of(filled, drop * SAT))
    absent = COMBINERS[name](block_of(blanked))
    for a, b in zip(planes(masked), planes(absent), strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("name", COMBINERS)
@given(value=st.floats(-1e5, 1e5, width=32), n=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_equal_inputs_give_themselves(name, value, n) -> None:
    plane = COMBINERS[name](block_of(np.full((n, 2, 3), value)))
    assert np.array_equal(plane.image, np.full((2, 3), np.float32(value)))
    assert np.array_equal(plane.variance, np.zeros((2, 3)))
    assert (plane.used == n).all()
