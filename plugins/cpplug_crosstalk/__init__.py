"""Crosstalk: take out the ghosts that bright pixels leave in the other amplifiers.

All amplifiers of a detector are read at the same moment, and a little of the signal of each leaks
into the others. The product ``crosstalk`` says how much goes from each source amplifier to each
target; the step subtracts it and marks pixels that received a lot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    ConfigError,
    DataError,
    Exposure,
    IsrStep,
    RawExposure,
    doc,
    hookimpl,
    mask_bits,
    median,
    not_negative,
)
from cpplug_crosstalk.correction import Amplifiers, Plan, received, subtract
from cpplug_crosstalk.table import Coefficients, make_crosstalk, read_crosstalk

__all__ = ["CrosstalkConfig", "make_crosstalk", "subtract_crosstalk"]
Reals = npt.NDArray[np.float64]
Pixel = TypeVar("Pixel", np.float32, np.uint16)


class CrosstalkConfig(Config, frozen=True):
    """What is subtracted, and which pixels are marked for it."""

    min_pixel_to_mask: Annotated[
        float,
        not_negative,
        doc("mark targets of pixels this far above the median, in the unit of the coefficients"),
    ] = 45000.0
    crosstalk_mask_plane: Annotated[str, doc("mask plane of marked pixels")] = "CROSSTALK"
    do_subtrahend_masking: Annotated[
        bool, doc("compare what is subtracted, not its source, with min_pixel_to_mask")
    ] = False
    crosstalk_background_method: Annotated[
        Literal["NONE", "AMP", "DETECTOR"],
        doc("median taken off the sources first; NONE for frames before assembly"),
    ] = "NONE"
    do_quadratic_crosstalk_correction: Annotated[
        bool, doc("use the quadratic coefficients as well")
    ] = False


def subtract_crosstalk(
    frame: RawExposure | Exposure, config: CrosstalkConfig, calibs: Calibs
) -> RawExposure | Exposure:
    """Subtract from every amplifier what the others leaked into it; algorithms A.9.

    Pixels are paired as they were read: a raw frame amplifier by amplifier with its overscans, an
    assembled one after turning each amplifier to its read-out corner. Sources are the pixels before
    correction; medians are those of data pixels that are not BAD. A frame in another unit than the
    coefficients is corrected as if it had been taken there and back with the gains; a gain that is
    not a positive number is replaced by the one stored with the coefficients, or the median of the
    others (``invalid_gain`` = 1 is recorded). Amplifiers that are BAD throughout neither give nor
    take. A source that is no number counts as 0 and its targets are marked. Variance is propagated.
    Records ``crosstalk_pixels``, the number of pixels marked.

    Raises
    ------
    CalibrationMissing
        When there is no crosstalk product.
    ConfigError
        When a background is asked for on a frame before assembly.
    DataError
        When the product is of another detector or misses the quadratic coefficients, amplifiers
        differ in size, the frame is neither in adu nor electron, or no gain is usable.
    """
    found = read_crosstalk(calibs.table("crosstalk"), frame.detector)
    bit = MASK_DTYPE(mask_bits(config.crosstalk_mask_plane))
    _check(frame, config, found)
    linear = found.linear.copy()
    quadratic = np.zeros_like(linear)
    if config.do_quadratic_crosstalk_correction and found.quadratic is not None:
        quadratic = found.quadratic.copy()
    amps = _amplifiers(frame)
    whole = mask_bits("BAD")
    dead = [bool((mask & MASK_DTYPE(whole)).all()) for mask in amps.masks]
    for matrix in (linear, quadratic):
        matrix[dead, :] = 0.0
        matrix[:, dead] = 0.0
    marked = 0
    if linear.any() or quadratic.any():
        if isinstance(frame, Exposure) and (frame.variance is not None or frame.noise):
            # The plane must be made before the image changes: it follows from the image as read.
            amps.variances = _views(frame, frame.variance_plane())
        data = amps if isinstance(frame, Exposure) else _data(frame, amps)
        plan = _plan(frame, config, found, linear, quadratic, data)
        levels = None
        if config.do_subtrahend_masking:
            leak = received(data, data.sample(), plan)[1]
            levels = np.median(leak.reshape(len(leak), -1), axis=1).astype(np.float64)
        marked = subtract(amps, plan, levels, config.min_pixel_to_mask, bit)
    frame.record("crosstalk_pixels", marked, "pixel")
    return frame


def _check(frame: RawExposure | Exposure, config: CrosstalkConfig, found: Coefficients) -> None:
    name = frame.detector.name
    if frame.unit not in ("adu", "electron"):
        raise DataError(
            f"Crosstalk of detector {name} cannot be subtracted in {frame.unit}.",
            "Put the crosstalk step before the one that changes the unit.",
        )
    if config.do_quadratic_crosstalk_correction and found.quadratic is None:
        raise DataError(
            f"The crosstalk of detector {name} has no quadratic coefficients.",
            "Switch them off with -c crosstalk:do_quadratic_crosstalk_correction=False.",
        )
    if isinstance(frame, RawExposure) and config.crosstalk_background_method != "NONE":
        raise ConfigError(
            f"crosstalk_background_method = {config.crosstalk_background_method} needs an "
            "assembled frame.",
            "Put the crosstalk step after assembly, or choose NONE.",
        )


def _views(frame: Exposure, plane: npt.NDArray[Pixel]) -> list[npt.NDArray[Pixel]]:
    """Return the amplifiers of an assembled plane, turned to read-out order."""
    turned = []
    for amp in frame.detector.amplifiers:
        turn = tuple(slice(None, None, -1 if flip else 1) for flip in (amp.flip_y, amp.flip_x))
        turned.append(plane[amp.bbox.slices][turn])
    return turned


def _amplifiers(frame: RawExposure | Exposure) -> Amplifiers:
    if isinstance(frame, Exposure):
        images, masks = _views(frame, frame.image), _views(frame, frame.mask)
    else:
        names = [amp.name for amp in frame.detector.amplifiers]
        images = [frame.segments[name] for name in names]
        masks = [frame.masks[name] for name in names]
    if len({image.shape for image in images}) > 1:
        raise DataError(
            f"The amplifiers of detector {frame.detector.name} differ in size, so that their "
            "pixels cannot be paired."
        )
    return Amplifiers(images, masks, [])


def _data(frame: RawExposure, amps: Amplifiers) -> Amplifiers:
    """Return the data pixels alone: levels are theirs, not those of prescan and overscan."""
    boxes = [amp.data.slices for amp in frame.detector.amplifiers]
    return Amplifiers(
        [image[box] for image, box in zip(amps.images, boxes, strict=True)],
        [mask[box] for mask, box in zip(amps.masks, boxes, strict=True)],
        [],
    )


def _scales(frame: RawExposure | Exposure, found: Coefficients) -> Reals:
    """Return unit of the coefficients per unit of the frame for each amplifier."""
    amps = frame.detector.amplifiers
    if frame.unit == found.unit:
        return np.ones(len(amps))
    gains = np.array([frame.gain(amp.name) for amp in amps], np.float64)
    wrong = ~(np.isfinite(gains) & (gains > 0))
    if found.gains is not None:
        gains[wrong] = found.gains[wrong]
    usable = np.isfinite(gains) & (gains > 0)
    if not usable.any():
        raise DataError(
            f"The crosstalk of detector {frame.detector.name} is in {found.unit}, the image in "
            f"{frame.unit}, and no amplifier has a gain.",
            "Give the amplifiers a gain in the camera file.",
        )
    gains[~usable] = np.median(gains[usable])
    for amp, bad in zip(amps, wrong, strict=True):
        if bad:
            frame.record("invalid_gain", 1, "1", amp.name)
    return gains if frame.unit == "adu" else 1.0 / gains


def _plan(
    frame: RawExposure | Exposure,
    config: CrosstalkConfig,
    found: Coefficients,
    linear: Reals,
    quadratic: Reals,
    data: Amplifiers,
) -> Plan:
    scale = _scales(frame, found)
    levels = data.levels()
    medians = np.array([median(level) for level in levels])
    centre = median(np.concatenate([v * s for v, s in zip(levels, scale, strict=True)]))
    centre = centre if np.isfinite(centre) else 0.0
    background = {
        "NONE": np.zeros(scale.size),
        "AMP": np.nan_to_num(medians),
        "DETECTOR": centre / scale,
    }[config.crosstalk_background_method]
    to_target = scale[:, None] / scale[None, :]
    return Plan(
        linear=linear * to_target,
        quadratic=quadratic * to_target * scale[:, None],
        scale=scale,
        background=background.astype(np.float32),
        limit=((config.min_pixel_to_mask + centre) / scale).astype(np.float32),
    )


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the crosstalk correction."""
    yield IsrStep(
        name="crosstalk",
        summary="Subtract what amplifiers leak into each other",
        level="any",
        apply=subtract_crosstalk,
        config=CrosstalkConfig,
        needs=("crosstalk",),
        after=("overscan",),
    )
