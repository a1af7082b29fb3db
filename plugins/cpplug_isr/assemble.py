"""Assembly: put the amplifiers together to the image of the detector.

From every amplifier the light-sensitive pixels are cut out, turned the way the camera file says,
and laid at their place. Overscan and prescan stay behind.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    DataError,
    Exposure,
    IsrStep,
    NoConfig,
    RawExposure,
    hookimpl,
)


def assemble(frame: RawExposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Return the trimmed image of the whole detector, float32, with its mask; algorithms A.5.

    Raises
    ------
    DataError
        When an amplifier is missing or its segment has another shape than the camera file says.
    """
    image = np.empty(frame.detector.shape, np.float32)
    mask = np.empty(frame.detector.shape, MASK_DTYPE)
    for amp in frame.detector.amplifiers:
        segment = frame.segments.get(amp.name)
        found = "missing" if segment is None else f"{segment.shape[1]} x {segment.shape[0]} pixels"
        if segment is None or segment.shape != amp.shape:
            raise DataError(
                f"Amplifier {amp.name} of detector {frame.detector.name} in exposure "
                f"{frame.info.exposure} is {found}, not {amp.shape[1]} x {amp.shape[0]} pixels.",
                "Check the raw file against the camera file.",
            )
        rows, columns = amp.data.slices
        turn = tuple(slice(None, None, -1 if flip else 1) for flip in (amp.flip_y, amp.flip_x))
        to_rows, to_columns = amp.bbox.slices
        image[to_rows, to_columns] = segment[rows, columns][turn]
        mask[to_rows, to_columns] = frame.masks[amp.name][rows, columns][turn]
    exposure = Exposure(frame.info, frame.detector, image, mask)
    exposure.notes_from(frame)
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the assembly step."""
    yield IsrStep(
        name="assemble",
        summary="Put the amplifiers together to the image of the detector",
        level="amplifier",
        apply=assemble,
        assembles=True,
    )
