"""The passes of the brighter-fatter correction: field of the charge, charge moved, again.

Every pass sums up the field that the corrected image makes (a convolution with the kernel, by
Fourier transforms of blocks of rows), moves charge accordingly, and starts the next from the
original image plus what was moved. The border-shift method needs one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from cpplug.api import Box
from cpplug_bfk.compiled import add_divergence, add_flow, add_shift
from cpplug_bfk.product import Push

Pixels = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]

BLOCK_ROWS = 512


class Settled(NamedTuple):
    """What the passes came to: change of every pixel, number of passes, last change, verdict."""

    correction: Pixels
    passes: int
    change: float
    converged: bool


def field_blocks(source: Pixels, box: Box, kernel: Reals) -> Iterator[tuple[int, int, Reals]]:
    """Convolve a part of an image with a kernel, a block of rows at a time.

    Parameters
    ----------
    source
        The image with a margin of half the kernel plus one pixel on all sides.
    box
        The part, in pixels of the image without margin.
    kernel
        (k, k), k odd.

    Yields
    ------
    tuple
        First row and end row of the block, and the field of rows first - 1 to end and columns
        box.x - 1 to box.x + box.width, float64.
    """
    k = kernel.shape[0]
    margin = k // 2 + 1
    rows = min(BLOCK_ROWS, box.height)
    size = (rows + 2 * margin, box.width + 2 * margin)
    shape = tuple(fft.next_fast_len(n, real=True) for n in size)
    spectrum = fft.rfft2(kernel, shape)
    for first in range(box.y, box.y + box.height, rows):
        end = min(first + rows, box.y + box.height)
        block = source[first : end + 2 * margin, box.x : box.x + box.width + 2 * margin]
        waves = fft.rfft2(block.astype(np.float64), shape)
        waves *= spectrum
        field = fft.irfft2(waves, shape, overwrite_x=True)
        yield first, end, field[k - 1 : block.shape[0], k - 1 : block.shape[1]]


def one_pass(source: Pixels, working: Pixels, push: Push, total: Pixels, end: Box) -> None:
    """Sum into ``total`` what every pixel gains when ``source`` pushes the charge of ``working``.

    Both carry the margin of the kernels; ``end`` is the part of the image whose pixels exchange
    charge.
    """
    total[:] = 0.0
    margin = push.reach + 1
    last_y, last_x = end.y + end.height, end.x + end.width
    for box, kernels in push.parts:
        part = _common(box, end)
        for turn, kernel in enumerate(kernels if not part.empty else ()):
            for first, stop, field in field_blocks(source, part, kernel):
                near = working[
                    first + margin - 1 : stop + margin + 1,
                    part.x + margin - 1 : part.x + part.width + margin + 1,
                ]
                if push.method == "COULTON18":
                    add_divergence(near, field, total, first, part.x)
                elif push.method == "FLUX_CONSERVING":
                    add_flow(near, field, total, first, part.x, last_y, last_x)
                else:
                    up = turn == 0
                    limit = last_y if up else last_x
                    add_shift(near, field, total, first, part.x, limit, int(up), int(not up))


def settle(
    image: Pixels,
    push: Push,
    max_iter: int,
    threshold: float,
    known_to_reference: npt.NDArray[np.bool_] | None = None,
) -> Settled:
    """Repeat the passes until they change nothing any more; algorithms A.11.

    Parameters
    ----------
    image
        (rows, columns), all finite, in the unit that the kernels count in.
    push
        Kernels and method.
    max_iter
        Largest number of passes.
    threshold
        A pass that changes all pixels together by less ends it.
    known_to_reference
        Which pixels had a value. When given, edges, first comparison and mean are treated as the
        reference does.
    """
    if known_to_reference is not None and push.method != "ELECTROSTATIC":
        return _settle_as_reference(image, push, max_iter, threshold, known_to_reference)
    margin = push.reach + 1
    whole = Box(0, 0, image.shape[1], image.shape[0])
    old, new = np.zeros_like(image), np.zeros_like(image)
    change, passes = np.inf, 0
    while passes < (1 if push.method == "ELECTROSTATIC" else max_iter):
        around = np.pad(image + old, margin, mode="edge")
        one_pass(around, around, push, new, whole)
        passes += 1
        change = _distance(old, new)
        old, new = new, old
        if change < threshold or not np.isfinite(change):
            break
    done = push.method == "ELECTROSTATIC" or change < threshold
    return Settled(old, passes, change, done)


def _settle_as_reference(
    image: Pixels,
    push: Push,
    max_iter: int,
    threshold: float,
    known: npt.NDArray[np.bool_],
) -> Settled:
    """Do what the reference does at the edges, with the mean, and with the first comparison.

    No charge lies outside. The scalar method leaves half a kernel plus one pixel alone (two at the
    high ends); the flux-conserving one half a kernel at the low ends, moves the charge of the image
    less its mean, lets it flow out at the high ends, and keeps the field of the first pass.
    """
    rows, columns = image.shape
    half, margin = push.reach, push.reach + 1
    flows = push.method == "FLUX_CONSERVING"
    if flows:
        pad = 2 * (half + 1)
        level = image[known].mean(dtype=np.float64) if known.any() else 0.0
        less = np.where(known, image - level, 0.0).astype(np.float32)
        base = np.pad(less, ((0, pad), (0, pad)))
        part = Box(half, half, columns + pad - 2 * half, rows + pad - 2 * half)
        push = push.grown_to(base.shape)
    else:
        base = image
        part = Box(half + 1, half + 1, columns - 2 * half - 3, rows - 2 * half - 3)
    old, new = np.zeros_like(base), np.zeros_like(base)
    first = np.pad(base, margin)
    change, converged, passes = np.inf, False, 0
    compared = -base
    while passes < max_iter and not converged:
        around = np.pad(base + old, margin)
        one_pass(first if flows else around, around, push, new, part)
        if passes > 0:
            change = _distance(compared, new)
            converged = change < threshold
            compared = new.copy()
        old, new = new, old
        passes += 1
    return Settled(old[:rows, :columns].copy(), passes, change, converged)


def _distance(one: Pixels, two: Pixels) -> float:
    return float(np.abs(two - one).sum(dtype=np.float64))


def _common(one: Box, two: Box) -> Box:
    x, y = max(one.x, two.x), max(one.y, two.y)
    width = min(one.x + one.width, two.x + two.width) - x
    height = min(one.y + one.height, two.y + two.height) - y
    return Box(x, y, max(width, 0), max(height, 0))
