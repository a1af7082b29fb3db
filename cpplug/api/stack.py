"""What a combiner works on: a block of rows of every frame, and the plane it makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api.exposure import Image, Mask


@dataclass(kw_only=True)
class Block:
    """The same rows of n frames.

    Attributes
    ----------
    images
        float32, (n, rows, columns), already scaled.
    masks
        uint16, (n, rows, columns), or None when no frame has a masked pixel in these rows.
    variances
        float32, (n, rows, columns), or None. Given only when the output variance is to come from
        the inputs (fewer frames than the spread can be trusted for).
    exclude
        Mask bits that take a pixel out of the stack.
    no_good_bits
        Mask bits that an output pixel gets when no input was usable.
    """

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.uint16] | None
    variances: npt.NDArray[np.float32] | None
    exclude: int
    no_good_bits: int


@dataclass(kw_only=True)
class Plane:
    """A combined block: image, variance of the combined value, mask, and how many inputs were used.

    All (rows, columns). ``used`` counts the inputs that entered the value of each pixel, after
    masks and clipping. Pixels without usable input are NaN in image and variance.
    """

    image: Image
    variance: Image
    mask: Mask
    used: npt.NDArray[np.uint16]
    usable: int | None = None
    """How many input values were good before the clip; None when the combiner did not count."""


@dataclass(kw_only=True)
class Combined:
    """A whole combined image, as ``context.combine`` returns it.

    Attributes
    ----------
    image, variance, mask
        (rows, columns); NaN pixels are already repaired (median value, BAD).
    used
        Number of inputs used per pixel.
    n_inputs
        Number of frames in the stack.
    rejected_fraction
        Fraction of unmasked input pixels that the clip rejected.
    n_repaired
        Pixels without any usable input.
    halves
        Mean of the odd frames minus mean of the even frames, (rows, columns), or None if not asked.
    """

    image: Image
    variance: Image
    mask: Mask
    used: npt.NDArray[np.uint16]
    n_inputs: int
    rejected_fraction: float
    n_repaired: int
    halves: Image | None = None
