"""Bridge pixels without a usable value, so that the charge around them can be summed up.

Only the push of a pixel on its surroundings is computed with bridged values; they never reach the
image itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from cpplug_bfk.compiled import fill_rows

Flags = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]


def fill_holes(image: Pixels, holes: Flags) -> Pixels:
    """Return a copy in which holes are bridged linearly along their row.

    At the end of a row the nearest good value goes on. Rows without a good pixel are bridged along
    the columns; an image without any becomes zero, and so does what is not finite and no hole.

    Parameters
    ----------
    image
        (rows, columns).
    holes
        Which pixels to bridge, same shape.
    """
    whole = np.ascontiguousarray(image, dtype=np.float32).copy()
    unknown = ~np.isfinite(whole)
    whole[unknown] = 0.0
    bad = holes.copy()
    if bad.any():
        fill_rows(whole, bad)
    if bad.any():
        turned, rest = np.ascontiguousarray(whole.T), np.ascontiguousarray(bad.T)
        fill_rows(turned, rest)
        whole = np.ascontiguousarray(turned.T)
        whole[np.ascontiguousarray(rest.T)] = 0.0
    return whole


def grow(flags: Flags, radius: int) -> Flags:
    """Return the pixels within ``radius`` steps (up, down, left, right) of a flagged one."""
    grown: Flags = binary_dilation(flags, iterations=radius)
    return grown
