"""Edges: mark the pixels next to the border of the detector, or of every amplifier.

There the electric field is bent and the pixels are not of the size of the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from cpplug.api import Box, Detector

EdgeLevel = Literal["DETECTOR", "AMP"]


def edge_pixels(detector: Detector, width: int, level: EdgeLevel) -> npt.NDArray[np.bool_]:
    """Tell which pixels lie within ``width`` pixels of the border; (rows, columns)."""
    inner = np.zeros(detector.shape, dtype=bool)
    whole = Box(0, 0, detector.width, detector.height)
    for box in [whole] if level == "DETECTOR" else [amp.bbox for amp in detector.amplifiers]:
        rows, columns = box.slices
        inner[rows, columns][
            width : max(box.height - width, 0), width : max(box.width - width, 0)
        ] = True
    return ~inner
