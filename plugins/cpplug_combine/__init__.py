"""Combiners: collapse a stack of frames into one image.

A clipped mean leaves out what strays too far from the other frames at the same pixel (cosmic rays,
a bad read); a median is sturdier and a little noisier; a plain mean is the least noisy and trusts
everything. Masked and NaN pixels never count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Block,
    Combiner,
    Config,
    DataError,
    NoConfig,
    Plane,
    at_least,
    doc,
    hookimpl,
    positive,
)
from cpplug_combine.kernel import (
    CLIPPED_MEAN,
    MEAN,
    MEDIAN,
    kernel,
    quartile_network,
    sorting_network,
)


class ClippedMeanConfig(Config, frozen=True):
    """How the clip works."""

    clip: Annotated[float, positive, doc("half width of the clip, sigma")] = 3.0
    n_iter: Annotated[int, at_least(0), doc("number of passes")] = 3


def clipped_mean(block: Block, config: ClippedMeanConfig) -> Plane:
    """Return the clipped mean of every pixel (algorithms 0.3).

    The first pass keeps what lies within ``clip`` times 0.7413 IQR of the median, the next ones
    what lies within ``clip`` sigma of the mean of the pass before, always testing all inputs. A
    pass that keeps fewer than two changes nothing. Variance is v / n of the kept inputs, or
    sum(var_i) / n^2 of them where the block brings variances.
    """
    return _combine(block, CLIPPED_MEAN, config.clip, config.n_iter)


def mean(block: Block, config: NoConfig) -> Plane:
    """Return the mean of every pixel; variance is v / n, or sum(var_i) / n^2 of the inputs'."""
    return _combine(block, MEAN)


def median(block: Block, config: NoConfig) -> Plane:
    """Return the median of every pixel; variance is pi/2 v / n, also where inputs bring theirs."""
    return _combine(block, MEDIAN)


def _combine(block: Block, statistic: int, clip: float = 3.0, n_iter: int = 0) -> Plane:
    """Run the kernel; the mask is the union of all inputs that are not excluded."""
    n, rows, columns = block.images.shape
    if not 1 <= n <= np.iinfo(np.uint16).max:
        raise DataError(f"A stack of {n} frames cannot be combined.", "Give 1 to 65535 frames.")
    plane = Plane(
        image=np.empty((rows, columns), np.float32),
        variance=np.empty((rows, columns), np.float32),
        mask=np.empty((rows, columns), MASK_DTYPE),
        used=np.empty((rows, columns), np.uint16),
    )
    masks = np.empty((0, 0), np.uint16) if block.masks is None else block.masks.reshape(n, -1)
    variances = (
        np.empty((0, 0), np.float32) if block.variances is None else block.variances.reshape(n, -1)
    )
    plane.usable = kernel()(
        np.ascontiguousarray(block.images).reshape(n, -1),
        np.ascontiguousarray(masks),
        np.ascontiguousarray(variances),
        block.exclude,
        block.no_good_bits,
        statistic,
        clip,
        n_iter,
        sorting_network(n),
        quartile_network(n),
        plane.image.reshape(-1),
        plane.variance.reshape(-1),
        plane.mask.reshape(-1),
        plane.used.reshape(-1),
    )
    return plane


@hookimpl
def cpplug_combiners() -> Iterator[Combiner]:
    """Offer the clipped mean, the mean and the median."""
    yield Combiner(
        name="clipped_mean",
        summary="Mean of what is left after a sigma clip per pixel",
        combine=clipped_mean,
        config=ClippedMeanConfig,
    )
    yield Combiner(name="mean", summary="Mean per pixel", combine=mean)
    yield Combiner(name="median", summary="Median per pixel", combine=median)
