"""Crosstalk: take out the ghosts that bright pixels leave in the other amplifiers.

All amplifiers of a camera are read at the same moment, and a little of the signal of each leaks
into the others, mostly on its own detector. The product ``crosstalk`` says how much goes from each
source amplifier to each target; the step subtracts it and marks pixels that received a lot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np

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
from cpplug_crosstalk.correction import Amplifiers, Plan, Reals, received, subtract
from cpplug_crosstalk.sides import Side
from cpplug_crosstalk.table import (
    Coefficients,
    add_source,
    make_crosstalk,
    other_sources,
    read_crosstalk,
    read_source,
)

__all__ = ["CrosstalkConfig", "add_source", "make_crosstalk", "subtract_crosstalk"]


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
    """Subtract from every amplifier what others leaked into it; algorithms A.9.

    First come the detector's own amplifiers, then those of other detectors that the product names,
    with their frames of the same exposure. One that the exposure lacks is left out and
    ``crosstalk_source_missing`` = 1 is recorded under its name.

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
        differ in size, the frame is neither in adu nor electron, no gain is usable, or another
        detector's frame cannot be used.
    """
    product = calibs.table("crosstalk")
    found = read_crosstalk(product, frame.detector)
    bit = MASK_DTYPE(mask_bits(config.crosstalk_mask_plane))
    _check(frame, config, found)
    target = Side.of(frame, found, frame)
    marked = _leaked(target, target, config, bit)
    for name in other_sources(product, frame.detector):
        sibling = calibs.sibling(name)
        if sibling is None:
            frame.record("crosstalk_source_missing", 1, "1", name)
            continue
        source = Side.of(sibling, read_source(product, frame.detector, sibling.detector), frame)
        if source.amps.images[0].shape != target.amps.images[0].shape:
            raise DataError(
                f"The amplifiers of detector {name} are not of the size of those of "
                f"{frame.detector.name}, so that their pixels cannot be paired.",
                f"Build the crosstalk of {frame.detector.name} without {name}.",
            )
        marked += _leaked(source, target, config, bit)
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


def _leaked(source: Side, target: Side, config: CrosstalkConfig, bit: np.uint16) -> int:
    """Subtract what one detector leaked into the target; return how many pixels were marked."""
    found = source.found
    linear = found.linear.copy()
    quadratic = np.zeros_like(linear)
    if config.do_quadratic_crosstalk_correction and found.quadratic is not None:
        quadratic = found.quadratic.copy()
    for matrix in (linear, quadratic):
        matrix[source.dead, :] = 0.0
        matrix[:, target.dead] = 0.0
    if not (linear.any() or quadratic.any()):
        return 0
    target.take_up_variance()
    source.take_up_variance()
    data = source.data()
    plan = _plan(source, target, config, linear, quadratic, data)
    levels = None
    if config.do_subtrahend_masking:
        leak = received(data, data.sample(), plan)[1]
        levels = np.median(leak.reshape(len(leak), -1), axis=1).astype(np.float64)
    return subtract(source.amps, target.amps, plan, levels, config.min_pixel_to_mask, bit)


def _plan(
    source: Side,
    target: Side,
    config: CrosstalkConfig,
    linear: Reals,
    quadratic: Reals,
    data: Amplifiers,
) -> Plan:
    scale = source.scale
    levels = data.levels()
    medians = np.array([median(level) for level in levels])
    centre = median(np.concatenate([v * s for v, s in zip(levels, scale, strict=True)]))
    centre = centre if np.isfinite(centre) else 0.0
    background = {
        "NONE": np.zeros(scale.size),
        "AMP": np.nan_to_num(medians),
        "DETECTOR": centre / scale,
    }[config.crosstalk_background_method]
    to_target = scale[:, None] / target.scale[None, :]
    return Plan(
        linear=linear * to_target,
        quadratic=quadratic * to_target * scale[:, None],
        scale=target.scale,
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
        siblings=True,
    )
