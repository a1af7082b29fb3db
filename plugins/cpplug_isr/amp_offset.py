"""Amplifier offsets: make the levels of neighbouring amplifiers meet.

The electronics of an amplifier may leave its part of the image a little higher or lower than the
next one, which shows as a step at their border. The step compares the pixels on both sides of every
border, finds the level of each amplifier that explains all steps together, records it, and
subtracts it where it is told to.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Calibs,
    Config,
    DataError,
    Detector,
    Exposure,
    IsrStep,
    at_least,
    clipped,
    doc,
    fraction,
    hookimpl,
    mask_bits,
    positive,
)
from cpplug_isr.sky_model import sky_model, sources

Reals = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.float32]
Fraction = Annotated[float, fraction]


class AmpOffsetConfig(Config, frozen=True):
    """How the steps between amplifiers are measured."""

    ampedge_inset: Annotated[int, at_least(0), doc("pixels next to a border that are not used")] = 5
    ampedge_width: Annotated[int, at_least(1), doc("pixels across the strip beside a border")] = 64
    ampedge_min_frac: Annotated[
        Fraction, doc("a border counts when this fraction of its length can be measured")
    ] = 0.5
    ampedge_max_offset: Annotated[
        float, positive, doc("a border with a larger step is left out, unit of the image")
    ] = 5.0
    ampedge_window_frac: Annotated[
        Fraction, doc("length of the running mean along a border, fraction of its length")
    ] = 512 / 4176
    do_window_smoothing: Annotated[bool, doc("take a running mean along a border first")] = True
    do_background: Annotated[bool, doc("subtract a smooth model of the sky first")] = True
    background_fraction_sample: Annotated[
        float, positive, doc("cell of the sky model, in shorter sides of an amplifier")
    ] = 1.0
    do_detection: Annotated[bool, doc("leave out pixels of sources")] = True
    detection_sigma: Annotated[float, positive, doc("smoothing that finds sources, pixels")] = 2.0
    detection_threshold: Annotated[
        float, positive, doc("how far sources stand above the sky, sigma of the smoothed image")
    ] = 5.0
    mask_planes: Annotated[tuple[str, ...], doc("mask planes whose pixels are not used")] = (
        "BAD", "SAT", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA",
    )  # fmt: skip
    apply_weights: Annotated[bool, doc("weight a border by its length")] = True
    apply_amp_offset: Annotated[
        bool, doc("subtract the levels from the image, not only record them")
    ] = False


def amp_offset(exposure: Exposure, config: AmpOffsetConfig, calibs: Calibs) -> Exposure:
    """Measure the level of every amplifier relative to the others; algorithms A.16.

    Records ``amp_offset_pedestal`` per amplifier (unit of the image; they add up to zero wherever
    amplifiers hang together), and ``amp_offset_interface`` per border, scope ``A-B``: level beside
    it in A less that in B, NaN where the border is left out. A border that cannot be measured has
    no weight in the solution; the reference sets its step to zero instead, which drags its
    amplifiers together.

    Raises
    ------
    DataError
        When amplifiers differ in size, or are too narrow for the strips.
    """
    detector = exposure.detector
    _check(detector, config)
    image = _clean_image(exposure, config)
    names = [amp.name for amp in detector.amplifiers]
    matrix, target = np.zeros((len(names), len(names))), np.zeros(len(names))
    for one, two, vertical in borders(detector):
        step = _step(image, one, two, vertical, config)
        exposure.record("amp_offset_interface", step, exposure.unit, f"{one.name}-{two.name}")
        if not np.isfinite(step):
            continue
        length = one.bbox.height if vertical else one.bbox.width
        weight = float(length) if config.apply_weights else 1.0
        i, j = names.index(one.name), names.index(two.name)
        matrix[[i, j], [j, i]] -= weight
        matrix[[i, j], [i, j]] += weight
        target[i] += weight * step
        target[j] -= weight * step
    pedestals = np.linalg.lstsq(matrix, target, rcond=None)[0]
    if config.apply_amp_offset and (exposure.variance is not None or exposure.noise):
        exposure.variance_plane()  # from the image as it was
    for amp, pedestal in zip(detector.amplifiers, pedestals, strict=True):
        exposure.record("amp_offset_pedestal", pedestal, exposure.unit, amp.name)
        if config.apply_amp_offset:
            exposure.image[amp.bbox.slices] -= np.float32(pedestal)
    return exposure


def borders(detector: Detector) -> Iterator[tuple[Amplifier, Amplifier, bool]]:
    """Yield pairs of neighbours: left and right of a vertical border, or below and above."""
    at = {(amp.bbox.x, amp.bbox.y): amp for amp in detector.amplifiers}
    for amp in detector.amplifiers:
        box = amp.bbox
        right, above = at.get((box.x + box.width, box.y)), at.get((box.x, box.y + box.height))
        if right is not None:
            yield amp, right, True
        if above is not None:
            yield amp, above, False


def _check(detector: Detector, config: AmpOffsetConfig) -> None:
    shapes = {amp.bbox.shape for amp in detector.amplifiers}
    if len(shapes) > 1:
        raise DataError(
            f"The amplifiers of detector {detector.name} differ in size; their borders cannot be "
            "compared.",
            "Switch the step off with -c isr:do_amp_offset=False.",
        )
    short = min(shapes.pop())
    if config.ampedge_width >= short - 2 * config.ampedge_inset:
        raise DataError(
            f"Strips of {config.ampedge_width} pixels, {config.ampedge_inset} from the border, do "
            f"not fit in amplifiers {short} pixels wide of detector {detector.name}.",
            "Lower ampedge_width or ampedge_inset.",
        )


def _clean_image(exposure: Exposure, config: AmpOffsetConfig) -> Pixels:
    """Return the image less its sky, NaN where it cannot be used."""
    image = exposure.image.copy()
    good = np.isfinite(image)
    good &= (exposure.mask & MASK_DTYPE(mask_bits(*config.mask_planes))) == 0
    short = min(exposure.detector.amplifiers[0].bbox.shape)
    cell = max(int(short * config.background_fraction_sample), 1)
    cells = (image.shape[0] // cell + 1, image.shape[1] // cell + 1)
    if config.do_background:
        image -= sky_model(image, good, cells)
    if config.do_detection:
        residual = image if config.do_background else image - sky_model(image, good, cells)
        good &= ~sources(residual, good, config.detection_sigma, config.detection_threshold)
    image[~good] = np.nan
    return image


def _step(
    image: Pixels, one: Amplifier, two: Amplifier, vertical: bool, config: AmpOffsetConfig
) -> float:
    """Return the level beside the border in ``one`` less that in ``two``; NaN if left out."""
    inset, width = config.ampedge_inset, config.ampedge_width
    first, second = image[one.bbox.slices], image[two.bbox.slices]
    if not vertical:
        first, second = first.T, second.T
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        before = np.nanmedian(first[:, first.shape[1] - inset - width : first.shape[1] - inset], 1)
        after = np.nanmedian(second[:, inset : inset + width], 1)
    along = (before - after).astype(np.float64)
    known = np.isfinite(along)
    if known.mean() < config.ampedge_min_frac or not known.any():
        return float("nan")
    window = int(config.ampedge_window_frac * along.size)
    if config.do_window_smoothing and window > 1:
        box = np.ones(window)
        count = np.convolve(known, box, "same")
        total = np.convolve(np.where(known, along, 0.0), box, "same")
        along = np.where(known, total / np.maximum(count, 1), np.nan)
    step = clipped(along).mean
    return step if abs(step) <= config.ampedge_max_offset else float("nan")


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the amplifier offsets."""
    yield IsrStep(
        name="amp_offset",
        summary="Measure the steps between amplifiers, and level them if asked to",
        level="detector",
        apply=amp_offset,
        config=AmpOffsetConfig,
        after=("assemble",),
    )
