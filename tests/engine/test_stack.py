"""The stack engine: any memory budget and any number of threads give the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import Block, DataError, Plane, camera_from, mask_bits
from cpplug.engine.settings import StackConfig
from cpplug.engine.stack import rows_per_block, stack

CASE = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "combine"


class Frame:
    def __init__(self, image, mask=None, variance=None):
        self.image, self.mask = image, mask
        self.variance = np.ones_like(image) if variance is None else variance

    @property
    def shape(self):
        return self.image.shape

    def image_into(self, first, last, out):
        out[:] = self.image[first:last]

    def mask_rows(self, first, last):
        return None if self.mask is None else self.mask[first:last]

    def variance_rows(self, first, last):
        return self.variance[first:last]


def detector(width, height, split=None):
    boxes = [(0, width)] if split is None else [(0, split), (split, width - split)]
    amplifiers = [
        {
            "name": f"A{i}",
            "source": [0, 0, w, height],
            "data": [0, 0, w, height],
            "bbox": [x, 0, w, height],
        }
        for i, (x, w) in enumerate(boxes)
    ]
    document = {"name": "t", "detector": [{"id": 0, "name": "D", "amplifiers": amplifiers}]}
    return camera_from(document).detectors[0]


def plain_mean(block: Block) -> Plane:
    good = np.isfinite(block.images)
    if block.masks is not None:
        good &= (block.masks & np.uint16(block.exclude)) == 0
    n = good.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(good, block.images, 0).sum(axis=0, dtype=float) / n
    mask = np.where(n == 0, block.no_good_bits, 0).astype(np.uint16)
    return Plane(
        image=mean.astype(np.float32),
        variance=np.where(n > 0, 1.0, np.nan).astype(np.float32),
        mask=mask,
        used=n.astype(np.uint16),
    )


def frames(n=7, shape=(23, 11), seed=1):
    rng = np.random.default_rng(seed)
    masks = (rng.random((n, *shape)) < 0.1).astype(np.uint16) * np.uint16(mask_bits("SAT"))
    return [Frame(rng.normal(100, 5, shape).astype(np.float32), mask) for mask in masks]


@settings(max_examples=25, deadline=None)
@given(memory=st.floats(1e-4, 1.0), workers=st.integers(1, 3))
def test_budget_and_threads_change_no_bit(memory: float, workers: int) -> None:
    stacked = frames()
    whole = stack(stacked, plain_mean, StackConfig(), detector(11, 23), halves=True)
    part = stack(
        stacked,
        plain_mean,
        StackConfig(memory=memory),
        detector(11, 23),
        halves=True,
        workers=workers,
    )
    for name in ("image", "variance", "mask", "used", "halves"):
        assert np.array_equal(getattr(whole, name), getattr(part, name), equal_nan=True), name
    assert part.rejected_fraction == 0.0


def test_budget_too_small_for_a_row_still_works() -> None:
    assert rows_per_block(50, 4072, 0.001, 2) == 1
    assert rows_per_block(50, 4072, 512, 2) == 125


def test_halves_is_odd_minus_even() -> None:
    planes = [Frame(np.full((4, 5), value, np.float32)) for value in (1, 10, 3, 20)]
    made = stack(planes, plain_mean, StackConfig(), detector(5, 4), halves=True)
    assert np.all(made.halves == 2 - 15)


def test_scales_divide_by_frame_or_by_amplifier() -> None:
    planes = [Frame(np.full((4, 6), value, np.float32)) for value in (10.0, 20.0)]
    made = stack(planes, plain_mean, StackConfig(), detector(6, 4), scales=[10.0, 20.0])
    assert np.all(made.image == 1)
    by_amp = [{"A0": 10.0, "A1": 5.0}, {"A0": 20.0, "A1": 10.0}]
    made = stack(planes, plain_mean, StackConfig(), detector(6, 4, split=2), scales=by_amp)
    assert np.all(made.image[:, :2] == 1) and np.all(made.image[:, 2:] == 2)
    with pytest.raises(DataError, match="cannot be scaled"):
        stack(planes, plain_mean, StackConfig(), detector(6, 4), scales=[0.0, 1.0])


def test_pixels_without_input_get_the_median_and_bad() -> None:
    stacked = frames(3)
    for frame in stacked:
        frame.image[5, 5] = np.nan
    made = stack(stacked, plain_mean, StackConfig(), detector(11, 23))
    others = np.delete(made.image.ravel(), 5 * 11 + 5)
    assert made.image[5, 5] == np.median(others) and made.n_repaired == 1
    assert made.mask[5, 5] == mask_bits("BAD")


def test_nothing_usable_is_an_error() -> None:
    empty = [Frame(np.full((3, 3), np.nan, np.float32))]
    with pytest.raises(DataError, match="No pixel"):
        stack(empty, plain_mean, StackConfig(), detector(3, 3))
    with pytest.raises(DataError, match="no frame"):
        stack([], plain_mean, StackConfig(), detector(3, 3))
    with pytest.raises(DataError, match="differ in size"):
        stack([*frames(1), *frames(1, (4, 4))], plain_mean, StackConfig(), detector(11, 23))


@pytest.mark.skipif(not CASE.is_dir(), reason="the reference cases are not beside the checkout")
@pytest.mark.parametrize(
    "tag",
    [
        "unity_MEANCLIP", "unity_MEAN", "unity_MEDIAN", "exptime", "darktime", "meanstats",
        "inputlist", "inputlist_clip2_iter1", "inputlist_keepmask", "inputlist_few",
        "inputlist_median_few",
    ],
)  # fmt: skip
def test_case_combine(tag: str) -> None:
    """The reference's combination, through the stack engine and the real combiners."""
    from cpplug.host.catalog import Catalog

    data, expected = np.load(CASE / "inputs.npz"), np.load(CASE / "expected.npz")
    meta = json.loads((CASE / "meta.json").read_text())
    n, config = meta[tag]["n"], meta[tag]["config"]
    times = data["expTimes"][:n]
    scales = {
        "Unity": None,
        "ExposureTime": list(times),
        "DarkTime": list(times + 0.5),
        "MeanStats": meta["meanstats_scales"][:n],
        "InputList": [_by_amplifier(data, i) for i in range(n)],
    }[config["exposureScaling"]]
    stacked = [
        Frame(data["images"][i], data["masks"][i].astype(np.uint16), data["variances"][i])
        for i in range(n)
    ]
    catalog = Catalog()
    names = {"MEANCLIP": "clipped_mean", "MEAN": "mean", "MEDIAN": "median"}
    combiner = catalog.get("combiner", names[config["combine"]])
    options = {
        k: v for k, v in (("clip", config.get("clip")), ("n_iter", config.get("nIter"))) if v
    }
    made = stack(
        stacked,
        lambda block: combiner.combine(block, combiner.config(**options)),
        StackConfig(mask=("SAT", "DETECTED", "INTRP"), censor_mask_planes="keepmask" not in tag),
        detector(80, 60, split=40),
        scales=scales,
    )
    np.testing.assert_allclose(made.image, expected[f"{tag}_image"], rtol=1e-6)
    np.testing.assert_allclose(made.variance, expected[f"{tag}_variance"], rtol=1e-4)
    np.testing.assert_array_equal(made.mask, expected[f"{tag}_mask"])


def _by_amplifier(data, i):
    """Scales of the case's recipe: level of the exposure, second amplifier by its ratio."""
    level, ratio = data["levels"][i], data["ampr"]
    return {"A0": float(level * ratio[0]), "A1": float(level * ratio[1])}
