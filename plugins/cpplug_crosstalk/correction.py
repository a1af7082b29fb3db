"""The subtraction itself: amplifiers side by side, in read-out order, block of rows by block.

Pixel (row, column) of all amplifiers was read at the same moment; what the step has to decide
(which coefficients, in which unit, above which background) is in a :class:`Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api import MASK_DTYPE, Image, Mask, mask_bits

Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
BLOCK_PIXELS = 32_768
"""Pixels of one amplifier worked on at once."""
SAMPLE_PIXELS = 250_000
"""Pixels of one amplifier that its median is taken of, in whole rows, at least."""


@dataclass
class Amplifiers:
    """The amplifiers of a frame in read-out order, as views; lists run over amplifiers."""

    images: list[Image]
    masks: list[Mask]
    variances: list[Image]

    def rows_per_block(self) -> int:
        """Return how many rows are worked on at once."""
        return max(1, BLOCK_PIXELS // int(self.images[0].shape[1]))

    def sample(self) -> slice:
        """Return the rows that medians are taken of."""
        return slice(None, None, max(1, self.images[0].size // SAMPLE_PIXELS))

    def levels(self) -> list[Image]:
        """Return pixels of each amplifier to take a median of: finite, and not BAD."""
        rows, bad = self.sample(), MASK_DTYPE(mask_bits("BAD"))
        return [
            image[rows][np.isfinite(image[rows]) & ((mask[rows] & bad) == 0)]
            for image, mask in zip(self.images, self.masks, strict=True)
        ]


@dataclass(frozen=True)
class Plan:
    """What one detector's amplifiers leak into the target's; matrices are ``[source, target]``."""

    linear: Reals
    """Unit of the target per unit of the source."""
    quadratic: Reals
    scale: Reals
    """Unit of the coefficients per unit of the target, by target amplifier."""
    background: Image
    """Taken off the sources first, in their unit."""
    limit: Image
    """Sources at or above are bright."""


def subtract(
    source: Amplifiers,
    target: Amplifiers,
    plan: Plan,
    levels: Reals | None,
    threshold: float,
    bit: np.uint16,
) -> int:
    """Correct the target, block of rows by block; return the number of pixels newly marked.

    Marked are targets of bright sources or, with ``levels``, pixels of which something was
    subtracted that is ``threshold`` or more from its level in that amplifier. Source and target
    are one object within a detector.
    """
    height = target.images[0].shape[0]
    links = (plan.linear != 0) | (plan.quadratic != 0)
    marked = 0
    step = target.rows_per_block()
    for start in range(0, height, step):
        rows = slice(start, start + step)
        signal, leak, lost = received(source, rows, plan)
        if levels is None:
            loud = signal >= (plan.limit - plan.background)[:, None, None]
            flags = _linked(loud | lost, links)
        else:
            excess = np.abs(leak - levels[:, None, None]) * plan.scale[:, None, None]
            flags = (excess >= threshold) | _linked(lost, links)
        if target.variances and source.variances:
            _pass_on_variance(source, target, rows, signal, plan)
        for image, mask, part, flag in zip(target.images, target.masks, leak, flags, strict=True):
            image[rows] -= part
            before = mask[rows][flag]
            marked += int(np.count_nonzero((before & bit) == 0))
            mask[rows][flag] = before | bit
    return marked


def _pass_on_variance(
    source: Amplifiers, target: Amplifiers, rows: slice, signal: Image, plan: Plan
) -> None:
    from cpplug_crosstalk.kernels import spread_variance

    kept = 1.0 if source is target else 0.0
    variance = np.stack([plane[rows] for plane in source.variances])
    shape = (len(variance), -1)
    out = np.empty((len(target.images), *signal.shape[1:]), np.float32)
    spread_variance(
        signal.reshape(shape),
        variance.reshape(shape),
        plan.linear,
        plan.quadratic,
        kept,
        out.reshape(len(out), -1),
    )
    for plane, new in zip(target.variances, out, strict=True):
        if source is target:
            plane[rows] = new
        else:
            plane[rows] += new


def received(source: Amplifiers, rows: slice, plan: Plan) -> tuple[Image, Image, Flags]:
    """Return sources above background, what targets received, and sources that are no number.

    All of shape (amplifiers, rows, columns): the first and the last by source amplifier and in the
    unit of the source, the second by target amplifier and in the unit of the target.
    """
    from cpplug_crosstalk.kernels import subtrahend

    signal = np.stack([image[rows] for image in source.images])
    signal -= plan.background[:, None, None]
    lost = ~np.isfinite(signal)
    signal[lost] = 0.0
    leak = np.empty((plan.linear.shape[1], *signal.shape[1:]), np.float32)
    subtrahend(
        signal.reshape(len(signal), -1),
        plan.linear,
        plan.quadratic,
        leak.reshape(len(leak), -1),
    )
    return signal, leak, lost


def _linked(flags: Flags, links: Flags) -> Flags:
    """Carry flags of sources to the targets that they are linked with, ``[source, target]``."""
    carried = np.zeros((links.shape[1], *flags.shape[1:]), bool)
    for source in np.flatnonzero(flags.any(axis=(1, 2))):
        carried[links[source]] |= flags[source]
    return carried
