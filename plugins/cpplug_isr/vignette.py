"""Vignetting: mark what lies outside the circle that the telescope illuminates.

The circle is given in the focal plane, in millimetres. Pixels whose centre lies outside become
NO_DATA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    Exposure,
    IsrStep,
    doc,
    hookimpl,
    mask_bits,
    positive,
)


class VignetteConfig(Config, frozen=True):
    """The circle, and where the detectors lie."""

    radius: Annotated[float, positive, doc("radius of the illuminated circle, mm")] = 100.0
    x_center: Annotated[float, doc("x of its centre in the focal plane, mm")] = 0.0
    y_center: Annotated[float, doc("y of its centre in the focal plane, mm")] = 0.0
    detector_places: Annotated[
        tuple[tuple[str, float, float, float], ...],
        doc(
            "detector name, x and y of its centre in the focal plane (mm), rotation from detector "
            "to focal plane (degree, counter-clockwise); not needed by a camera with one detector "
            "at (0, 0)"
        ),
    ] = ()
    do_mask_vignette_polygon: Annotated[bool, doc("set NO_DATA outside the circle")] = True
    vignette_value: Annotated[
        float | None, doc("value given to the pixels outside, unit of the image; None: unchanged")
    ] = None


def radii(exposure: Exposure, config: VignetteConfig) -> np.ndarray[tuple[int, int], np.dtype]:
    """Return how far each pixel centre is from the centre of the circle: mm, float64.

    Raises
    ------
    DataError
        When places are given and that of this detector is missing.
    """
    detector = exposure.detector
    places = {name: rest for name, *rest in config.detector_places}
    if places and detector.name not in places:
        raise DataError(
            f"The place of detector {detector.name} in the focal plane is not given.",
            "Add it to vignette:detector_places.",
        )
    x_place, y_place, angle = places.get(detector.name, (0.0, 0.0, 0.0))
    pitch = detector.pixel_size / 1000.0
    x = (np.arange(detector.width) - (detector.width - 1) / 2) * pitch
    y = (np.arange(detector.height)[:, None] - (detector.height - 1) / 2) * pitch
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.hypot(
        cos * x - sin * y + x_place - config.x_center,
        sin * x + cos * y + y_place - config.y_center,
    )


def mask_vignetted(exposure: Exposure, config: VignetteConfig, calibs: Calibs) -> Exposure:
    """Set NO_DATA on pixels outside the circle; algorithms A.13.

    Records ``vignetted_pixels``.

    Raises
    ------
    DataError
        When the place of this detector is missing.
    """
    outside = radii(exposure, config) > config.radius
    if config.do_mask_vignette_polygon:
        exposure.mask[outside] |= MASK_DTYPE(mask_bits("NO_DATA"))
    if config.vignette_value is not None:
        if exposure.noise:
            exposure.variance_plane()
        exposure.image[outside] = config.vignette_value
    exposure.record("vignetted_pixels", int(np.count_nonzero(outside)), "pixel")
    return exposure


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the vignetting step."""
    yield IsrStep(
        name="vignette",
        summary="Mark pixels that the telescope does not illuminate",
        level="detector",
        apply=mask_vignetted,
        config=VignetteConfig,
        after=("assemble",),
    )
