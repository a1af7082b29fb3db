"""From the detector as light sees it to the segments as the electronics read them, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cpplug.api import Amplifier, Detector

Floats = npt.NDArray[np.float32]


def data_of(amplifier: Amplifier, image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return a view of an amplifier's part of a detector image, in read-out order."""
    part = image[amplifier.bbox.slices]
    return part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def assemble(detector: Detector, parts: Mapping[str, Floats]) -> Floats:
    """Join data boxes (read-out order, by amplifier name) into a detector image."""
    image = np.empty(detector.shape, np.float32)
    for amplifier in detector.amplifiers:
        data_of(amplifier, image)[...] = parts[amplifier.name]
    return image


def centred(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return y (rows, 1) and x (1, columns), running over the image from -0.5 to 0.5."""
    rows, columns = shape
    y = ((np.arange(rows) + 0.5) / rows - 0.5).astype(np.float32)
    x = ((np.arange(columns) + 0.5) / columns - 0.5).astype(np.float32)
    return y[:, None], x[None, :]
