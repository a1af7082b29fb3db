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
    """The correction of one frame, in the frame's own unit."""

    linear: Reals
    quadratic: Reals
    scale: Reals
    """Unit of the coefficients per unit of the frame, by amplifier."""
    background: Image
    limit: Image
    """Sources at or above are bright."""


def subtract(
    amps: Amplifiers, plan: Plan, levels: Reals | None, threshold: float, bit: np.uint16
) -> int:
    """Correct the frame, block of rows by block; return the number of pixels marked.

    Marked are targets of bright sources or, with ``levels``, pixels of which something was
    subtracted that is ``threshold`` or more from its level in that amplifier.
    """
    from cpplug_crosstalk.kernels import spread_variance

    height = amps.images[0].shape[0]
    links = (plan.linear != 0) | (plan.quadratic != 0)
    marked = 0
    step = amps.rows_per_block()
    for start in range(0, height, step):
        rows = slice(start, start + step)
        source, leak, lost = received(amps, rows, plan)
        if levels is None:
            loud = source >= (plan.limit - plan.background)[:, None, None]
            flags = _linked(loud | lost, links)
        else:
            excess = np.abs(leak - levels[:, None, None]) * plan.scale[:, None, None]
            flags = (excess >= threshold) | _linked(lost, links)
        if amps.variances:
            variance = np.stack([plane[rows] for plane in amps.variances])
            flat = variance.reshape(len(variance), -1)
            out = np.empty_like(flat)
            spread_variance(source.reshape(flat.shape), flat, plan.linear, plan.quadratic, out)
            for plane, new in zip(amps.variances, out.reshape(variance.shape), strict=True):
                plane[rows] = new
        for image, mask, part, flag in zip(amps.images, amps.masks, leak, flags, strict=True):
            image[rows] -= part
            mask[rows][flag] |= bit
        marked += int(np.count_nonzero(flags))
    return marked


def received(amps: Amplifiers, rows: slice, plan: Plan) -> tuple[Image, Image, Flags]:
    """Return sources above background, what targets received, and sources that are no number.

    All of shape (amplifiers, rows, columns), in the unit of the frame.
    """
    from cpplug_crosstalk.kernels import subtrahend

    source = np.stack([image[rows] for image in amps.images])
    source -= plan.background[:, None, None]
    lost = ~np.isfinite(source)
    source[lost] = 0.0
    leak = np.empty_like(source)
    shape = (len(source), -1)
    subtrahend(source.reshape(shape), plan.linear, plan.quadratic, leak.reshape(shape))
    return source, leak, lost


def _linked(flags: Flags, links: Flags) -> Flags:
    """Carry flags of sources to the targets that they are linked with, ``[source, target]``."""
    carried = np.zeros_like(flags)
    for source in np.flatnonzero(flags.any(axis=(1, 2))):
        carried[links[source]] |= flags[source]
    return carried
