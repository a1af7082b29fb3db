"""Collapses a stack of frames into one image, a block of rows at a time.

Each frame is opened once and read in row blocks, all frames by as many rows as the memory budget
allows; threads combine different blocks. The combiner is a plugin; this module scales the inputs,
keeps the books (how many were rejected), repairs pixels without any input, and clears the masks.
Semantics: ``docs/explanation/combine.md``; the budget changes speed, never a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cpplug.api.camera import Detector
from cpplug.api.errors import DataError
from cpplug.api.exposure import mask_bits
from cpplug.api.stack import Block, Combined, Plane
from cpplug.engine.settings import StackConfig

Rows = npt.NDArray[np.float32]


class FrameRows(Protocol):
    """A frame that can be read a few rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole frame."""

    def image_into(self, first: int, last: int, out: Rows) -> None:
        """Read rows ``first`` to ``last`` (excluded) of the image into ``out``."""

    def mask_rows(self, first: int, last: int) -> npt.NDArray[np.uint16] | None:
        """Return the same rows of the mask, None when the frame has no masked pixel."""

    def variance_rows(self, first: int, last: int) -> Rows:
        """Return the same rows of the variance."""


Scale = float | Mapping[str, float]


def rows_per_block(n: int, columns: int, budget_mb: float, workers: int) -> int:
    """Return how many rows of ``n`` frames fit one worker's share of the budget; at least 1.

    A pixel of a block costs at most 10 bytes: its float32 value, its variance and its mask.
    """
    share = budget_mb * 1e6 / max(workers, 1)
    return max(1, int(share // (n * columns * 10)))


def stack(
    frames: Sequence[FrameRows],
    combine: Callable[[Block], Plane],
    config: StackConfig,
    detector: Detector,
    *,
    scales: Sequence[Scale] | None = None,
    halves: bool = False,
    workers: int = 1,
) -> Combined:
    """Combine frames of one detector.

    Parameters
    ----------
    frames
        At least one; all of the same shape.
    combine
        The combiner with its options bound.
    config
        Masks to exclude, memory budget.
    detector
        Its geometry, for scales by amplifier.
    scales
        What each frame is divided by: one number, or one per amplifier name. Variance is divided by
        the square.
    halves
        Also compute the mean of the odd frames minus the mean of the even frames.
    workers
        Threads.

    Returns
    -------
    Combined
        Image, variance, mask and book-keeping.

    Raises
    ------
    DataError
        When there are no frames, shapes differ, a scale is zero or not finite, or the result still
        has pixels without data.
    """
    if not frames:
        raise DataError("There is no frame to combine.")
    shape = frames[0].shape
    if any(frame.shape != shape for frame in frames):
        sizes = sorted({frame.shape for frame in frames})
        raise DataError(f"The frames to combine differ in size: {sizes} (rows, columns).")
    divisors = _divisors(scales, len(frames), detector)
    image = np.empty(shape, np.float32)
    variance = np.empty(shape, np.float32)
    mask = np.empty(shape, np.uint16)
    used = np.empty(shape, np.uint16)
    split = np.empty(shape, np.float32) if halves else None
    exclude = mask_bits(*config.mask)
    no_good = mask_bits(config.no_good_pixels_mask)
    from_inputs = len(frames) < config.max_inputs_for_input_variance

    def do_rows(first: int, last: int) -> int:
        block = _read_block(frames, first, last, divisors, from_inputs, exclude, no_good)
        plane = combine(block)
        rows = slice(first, last)
        image[rows], variance[rows] = plane.image, plane.variance
        mask[rows], used[rows] = plane.mask, plane.used
        if split is not None:
            split[rows] = _halves(block)
        return _usable(block) if plane.usable is None else plane.usable

    # The result is in memory all the while; the blocks share what it leaves, if anything.
    planes = (16 if halves else 12) * shape[0] * shape[1] / 1e6
    budget = max(config.memory - planes, config.memory / 4)
    step = rows_per_block(len(frames), shape[1], budget, workers)
    starts = range(0, shape[0], step)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            counts = list(pool.map(lambda r: do_rows(r, min(r + step, shape[0])), starts))
    else:
        counts = [do_rows(r, min(r + step, shape[0])) for r in starts]
    usable = sum(counts)
    if np.any(mask & np.uint16(mask_bits("NO_DATA") & ~no_good)):
        n = int(np.count_nonzero(mask & np.uint16(mask_bits("NO_DATA"))))
        raise DataError(f"{n} pixels of the combined image carry NO_DATA.")
    if config.censor_mask_planes:
        mask &= np.uint16(no_good)
    repaired = _repair(image, variance, mask)
    return Combined(
        image=image,
        variance=variance,
        mask=mask,
        used=used,
        n_inputs=len(frames),
        rejected_fraction=1 - int(used.sum(dtype=np.int64)) / usable if usable else 0.0,
        n_repaired=repaired,
        halves=split,
    )


def _divisors(
    scales: Sequence[Scale] | None, n: int, detector: Detector
) -> list[npt.NDArray[np.float32] | None]:
    """Return, per frame, None (no scaling) or the divisor: a 0-d array, or a full image."""
    if scales is None:
        return [None] * n
    divisors: list[npt.NDArray[np.float32] | None] = []
    for scale in scales:
        numbers = list(scale.values()) if isinstance(scale, Mapping) else [scale]
        if not all(np.isfinite(number) and number != 0 for number in numbers):
            raise DataError(f"A frame cannot be scaled by {scale}.")
        if isinstance(scale, Mapping):
            plane = np.empty(detector.shape, np.float32)
            for amplifier in detector.amplifiers:
                plane[amplifier.bbox.slices] = scale[amplifier.name]
            divisors.append(plane)
        else:
            divisors.append(np.asarray(scale, np.float32))
    return divisors


def _read_block(
    frames: Sequence[FrameRows],
    first: int,
    last: int,
    divisors: Sequence[npt.NDArray[np.float32] | None],
    from_inputs: bool,
    exclude: int,
    no_good: int,
) -> Block:
    shape = (len(frames), last - first, frames[0].shape[1])
    images = np.empty(shape, np.float32)
    variances = np.empty(shape, np.float32) if from_inputs else None
    masks: npt.NDArray[np.uint16] | None = None
    for i, (frame, divisor) in enumerate(zip(frames, divisors, strict=True)):
        frame.image_into(first, last, images[i])
        if variances is not None:
            variances[i] = frame.variance_rows(first, last)
        rows = frame.mask_rows(first, last)
        if rows is not None and rows.any():
            if masks is None:
                masks = np.zeros(shape, np.uint16)
            masks[i] = rows
        if divisor is not None:
            part = divisor[first:last] if divisor.ndim else divisor
            images[i] /= part
            if variances is not None:
                variances[i] /= part * part
    return Block(
        images=images, masks=masks, variances=variances, exclude=exclude, no_good_bits=no_good
    )


def _good(images: Rows, masks: npt.NDArray[np.uint16] | None, exclude: int) -> Any:
    """Return where inputs are finite and not excluded by their mask."""
    good = np.isfinite(images)
    if masks is not None:
        good &= (masks & np.uint16(exclude)) == 0
    return good


def _usable(block: Block) -> int:
    return int(np.count_nonzero(_good(block.images, block.masks, block.exclude)))


def _halves(block: Block) -> Rows:
    """Return the mean of odd frames minus the mean of even frames; NaN where one is empty."""
    means = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        values = block.images[part]
        masks = None if block.masks is None else block.masks[part]
        good = _good(values, masks, block.exclude)
        count = good.sum(axis=0)
        total = np.where(good, values, 0).sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(total / count)
    return np.asarray(means[0] - means[1], np.float32)


def _repair(image: Rows, variance: Rows, mask: npt.NDArray[np.uint16]) -> int:
    """Give pixels without a value the median of the others, mark them BAD; return how many."""
    empty = ~(np.isfinite(image) & np.isfinite(variance))
    n = int(np.count_nonzero(empty))
    if n == image.size:
        raise DataError("No pixel of the combined image has any usable input.")
    if n:
        image[empty] = np.median(image[~empty])
        variance[empty] = np.median(variance[~empty])
        mask[empty] |= np.uint16(mask_bits("BAD"))
    return n
