"""Artefacts of saturated stars: mark edge bleeds, sagging columns and dips.

What a very bright star does depends on who made the detector; the camera file says so (``vendor``).
Detectors of other makers are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Calibs,
    Config,
    Exposure,
    IsrStep,
    at_least,
    doc,
    fraction,
    good_pixels,
    hookimpl,
    mask_bits,
    median,
    not_negative,
    positive,
)
from cpplug_isr.bleeds import (
    BleedModel,
    dip_columns,
    e2v_edge_bleeds,
    itl_edge_bleeds,
    sag_columns,
)
from cpplug_isr.gains import units_per_adu
from cpplug_isr.shapes import Flags

SATURATION_FRACTION = 0.45


class SaturationArtifactsConfig(Config, frozen=True):
    """Which artefacts are looked for, and their numbers."""

    e2v_edge_bleed: Annotated[bool, doc("mark edge bleeds of E2V detectors")] = True
    itl_edge_bleed: Annotated[bool, doc("mark edge bleeds of ITL detectors")] = True
    itl_sat_sag: Annotated[bool, doc("mark columns of ITL detectors that sag")] = True
    itl_dip: Annotated[
        bool, doc("mark dips of ITL detectors; needs itl_dip_background_fraction")
    ] = True
    min_area: Annotated[int, at_least(1), doc("smallest saturated area that bleeds, pixels")] = (
        10_000
    )
    max_area: Annotated[int, at_least(1), doc("areas from here on are left alone, pixels")] = (
        100_000
    )
    itl_edge_bleed_threshold: Annotated[
        float, positive, doc("signal above the background that shows a bleed, unit of the image")
    ] = 5000.0
    itl_edge_bleed_model_constant: Annotated[
        float, positive, doc("how fast a bleed narrows away from the edge, 1/row")
    ] = 0.02
    itl_dip_background_fraction: Annotated[
        float, fraction, doc("part of the background that a dip takes; 0: no dips are looked for")
    ] = 0.0
    itl_dip_min_height: Annotated[int, at_least(1), doc("least height of the area, rows")] = 50
    itl_dip_min_width: Annotated[int, at_least(1), doc("least width of the area, columns")] = 15
    itl_dip_max_width: Annotated[int, at_least(1), doc("largest width of the area, columns")] = 50
    itl_dip_width_scale: Annotated[float, positive, doc("width of a dip over that of the area")] = (
        1.5
    )
    itl_dip_min_background_noise_fraction: Annotated[
        float, not_negative, doc("least loss that counts, in photon noise of the background")
    ] = 0.5
    itl_dip_max_cols_per_image: Annotated[
        int, at_least(0), doc("with more dip columns than this none is marked")
    ] = 500


def mask_artifacts(
    exposure: Exposure, config: SaturationArtifactsConfig, calibs: Calibs
) -> Exposure:
    """Set SAT on edge bleeds and sagging columns, SUSPECT and ITL_DIP on dips; algorithms A.17.

    Dips are found from the saturated areas as they are before bleeds and sags are added. Records
    ``edge_bleed_pixels``, ``sag_columns`` and ``dip_columns`` of what was looked for;
    ``dips_given_up`` = 1 where there were too many dip columns.
    """
    vendor = exposure.detector.vendor.upper()
    sat = MASK_DTYPE(mask_bits("SAT"))
    saturated = exposure.mask & sat != 0
    if vendor == "E2V" and config.e2v_edge_bleed:
        found = e2v_edge_bleeds(saturated, exposure.detector, config.min_area, config.max_area)
        _add_bleeds(exposure, found, saturated)
    if vendor != "ITL":
        return exposure
    if config.itl_dip and config.itl_dip_background_fraction:
        _mark_dips(exposure, config, saturated)
    if config.itl_edge_bleed:
        level = saturation_level(exposure)
        model = BleedModel(
            config.min_area,
            config.max_area,
            config.itl_edge_bleed_threshold,
            config.itl_edge_bleed_model_constant,
            level,
            SATURATION_FRACTION,
        )
        if math.isfinite(level):
            found, _ = itl_edge_bleeds(exposure.image, saturated, exposure.detector, model)
            _add_bleeds(exposure, found, saturated)
    if config.itl_sat_sag:
        columns = sag_columns(exposure.mask & sat != 0, config.min_area, config.max_area)
        exposure.mask[:, columns] |= sat
        exposure.record("sag_columns", int(np.count_nonzero(columns)), "pixel")
    return exposure


def _add_bleeds(exposure: Exposure, found: Flags, saturated: Flags) -> None:
    exposure.mask[found] |= MASK_DTYPE(mask_bits("SAT"))
    new = int(np.count_nonzero(found & ~saturated))
    exposure.record("edge_bleed_pixels", new, "pixel")


def _mark_dips(exposure: Exposure, config: SaturationArtifactsConfig, saturated: Flags) -> None:
    bits = mask_bits("BAD", "SAT", "NO_DATA", "SUSPECT", "UNMASKEDNAN")
    background = math.nan
    if saturated.any():
        background = median(exposure.image, good_pixels(exposure.image, exposure.mask, bits))
        if exposure.unit == "adu":
            gains = [exposure.gain(amp.name) for amp in exposure.detector.amplifiers]
            background *= median(np.array(gains))
    columns = dip_columns(
        saturated,
        background,
        fraction=config.itl_dip_background_fraction,
        min_height=config.itl_dip_min_height,
        min_width=config.itl_dip_min_width,
        max_width=config.itl_dip_max_width,
        width_scale=config.itl_dip_width_scale,
        min_noise_fraction=config.itl_dip_min_background_noise_fraction,
    )
    count = int(np.count_nonzero(columns))
    if count > config.itl_dip_max_cols_per_image:
        exposure.record("dips_given_up", 1, "1")
        count, columns[:] = 0, False
    exposure.mask[:, columns] |= MASK_DTYPE(mask_bits("SUSPECT", "ITL_DIP"))
    exposure.record("dip_columns", count, "pixel")


def saturation_level(exposure: Exposure) -> float:
    """Return the median saturation level of the good amplifiers above the bias, unit of the image.

    A level noted before the overscan was subtracted includes the bias, and so does the camera's,
    which stands in where none was noted. Infinite when no level is known.
    """
    bad = MASK_DTYPE(mask_bits("BAD"))
    levels = [
        _level(exposure, amp) * units_per_adu(exposure, amp)
        for amp in exposure.detector.amplifiers
        if not (exposure.amp(amp.name)[1] & bad).all()
    ]
    finite = [level for level in levels if math.isfinite(level)]
    return median(np.array(finite)) if finite else math.inf


def _level(exposure: Exposure, amp: Amplifier) -> float:
    level, bias = amp.saturation, 0.0
    for item in exposure.measurements:
        if item.scope == amp.name and item.name == "saturation_level":
            level, bias = item.value, 0.0
        elif item.scope == amp.name and item.name == "overscan_level":
            bias = item.value
    return level - bias


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the step for artefacts of saturated stars."""
    yield IsrStep(
        name="saturation_artifacts",
        summary="Mark edge bleeds, sagging columns and dips of saturated stars",
        level="detector",
        apply=mask_artifacts,
        config=SaturationArtifactsConfig,
        after=("assemble", "saturation"),
        aliases=("saturation_artefacts",),
    )
