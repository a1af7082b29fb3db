"""Dither: spread whole numbers evenly over the step of the converter.

The converter cuts the signal to whole ADU. Medians and percentiles of whole numbers move in steps;
after adding random fractions they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np

from cpplug.api import Calibs, Config, IsrStep, RawExposure, doc, hookimpl

RANGES = {"POSITIVE": (0.0, 1.0), "NEGATIVE": (-1.0, 0.0), "SYMMETRIC": (-0.5, 0.5)}


class DitherConfig(Config, frozen=True):
    """Where the random fractions lie."""

    integer_dither_mode: Annotated[
        Literal["POSITIVE", "NEGATIVE", "SYMMETRIC", "NONE"],
        doc("add 0 to 1 (POSITIVE), -1 to 0 (NEGATIVE), -0.5 to 0.5 (SYMMETRIC) ADU, or nothing"),
    ] = "SYMMETRIC"


def dither(frame: RawExposure, config: DitherConfig, calibs: Calibs) -> RawExposure:
    """Add an even random fraction of an ADU to frames of whole numbers; algorithms A.19.

    The numbers follow from exposure and detector, so a repeated run gives the same pixels. An
    amplifier with pixels that are not whole is left as it is. Records ``dithered`` (1 or 0) per
    amplifier.
    """
    random = np.random.default_rng([frame.info.exposure & 0xFFFFFFFF, frame.detector.id])
    for amp, image, _ in frame.amplifiers():
        shift = random.random(image.shape, dtype=np.float32)
        finite = np.isfinite(image)
        whole = np.array_equal(image[finite], np.rint(image[finite]))
        wanted = whole and config.integer_dither_mode != "NONE"
        if wanted:
            shift += np.float32(RANGES[config.integer_dither_mode][0])
            image += shift
        frame.record("dithered", int(wanted), "1", amp.name)
    return frame


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the dither step."""
    yield IsrStep(
        name="dither",
        summary="Spread whole numbers evenly over the step of the converter",
        level="amplifier",
        apply=dither,
        config=DitherConfig,
    )
