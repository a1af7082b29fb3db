"""Crosstalk: take out the ghosts that bright pixels leave in the other amplifiers.

All amplifiers of a detector are read at the same moment, and a little of the signal of each leaks
into the others. The product ``crosstalk`` says how much goes from each source amplifier to each
target; the step subtracts it and marks pixels that received a lot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    Image,
    IsrStep,
    Mask,
    RawExposure,
    doc,
    hookimpl,
    mask_bits,
    median,
    not_negative,
)
from cpplug_crosstalk.table import Coefficients, make_crosstalk, read_crosstalk

__all__ = ["CrosstalkConfig", "make_crosstalk", "subtract_crosstalk"]
Reals = npt.NDArray[np.float64]
Pixel = TypeVar("Pixel", np.float32, np.uint16)
BLOCK_PIXELS = 32_768
"""Pixels of one amplifier worked on at once."""
SAMPLE_PIXELS = 250_000
"""Pixels of one amplifier that its median is taken of, in whole rows, at least."""


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


@dataclass
class _Amplifiers:
    """The amplifiers of a frame in read-out order, as views; lists run over amplifiers."""

    images: list[Image]
    masks: list[Mask]
    variances: list[Image]

    def rows_per_block(self) -> int:
        return max(1, BLOCK_PIXELS // int(self.images[0].shape[1]))

    def sample(self) -> slice:
        """Return the rows that medians are taken of."""
        return slice(None, None, max(1, self.images[0].size // SAMPLE_PIXELS))

    def levels(self) -> list[Image]:
        """Return pixels of each amplifier to take a median of: finite, and not BAD."""
        rows, bad = self.sample(), MASK_DTYPE(mask_bits("BAD"))
        return [
            image[rows][np.isfinite(image[rows]) & ((mask[rows] & bad) == 0)]
            for image, mask in zip(self.images, self.masks, strict=True)
        ]


@dataclass(frozen=True)
class _Plan:
    """The correction of one frame, in the frame's own unit."""

    linear: Reals
    quadratic: Reals
    scale: Reals
    """Unit of the coefficients per unit of the frame, by amplifier."""
    background: Image
    limit: Image
    """Sources at or above are bright."""


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
            leak = _leak(data, data.sample(), plan)[1]
            levels = np.median(leak.reshape(len(leak), -1), axis=1).astype(np.float64)
        marked = _subtract(amps, plan, levels, config.min_pixel_to_mask, bit)
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


def _amplifiers(frame: RawExposure | Exposure) -> _Amplifiers:
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
    return _Amplifiers(images, masks, [])


def _data(frame: RawExposure, amps: _Amplifiers) -> _Amplifiers:
    """Return the data pixels alone: levels are theirs, not those of prescan and overscan."""
    boxes = [amp.data.slices for amp in frame.detector.amplifiers]
    return _Amplifiers(
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
    data: _Amplifiers,
) -> _Plan:
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
    return _Plan(
        linear=linear * to_target,
        quadratic=quadratic * to_target * scale[:, None],
        scale=scale,
        background=background.astype(np.float32),
        limit=((config.min_pixel_to_mask + centre) / scale).astype(np.float32),
    )


def _subtract(
    amps: _Amplifiers, plan: _Plan, levels: Reals | None, threshold: float, bit: np.uint16
) -> int:
    """Correct the frame, block of rows by block; return the number of pixels marked.

    Marked are targets of bright sources or, with ``levels``, pixels of which something was
    subtracted that is ``threshold`` or more from its level in that amplifier.
    """
    from cpplug_crosstalk.kernels import spread_variance

    height = amps.images[0].shape[0]
    links = (plan.linear != 0) | (plan.quadratic != 0)
    marked = 0
    step = amps.rows_per_block()
    for start in range(0, height, step):
        rows = slice(start, start + step)
        source, leak, lost = _leak(amps, rows, plan)
        if levels is None:
            loud = source >= (plan.limit - plan.background)[:, None, None]
            flags = _linked(loud | lost, links)
        else:
            excess = np.abs(leak - levels[:, None, None]) * plan.scale[:, None, None]
            flags = (excess >= threshold) | _linked(lost, links)
        if amps.variances:
            variance = np.stack([plane[rows] for plane in amps.variances])
            flat = variance.reshape(len(variance), -1)
            out = np.empty_like(flat)
            spread_variance(source.reshape(flat.shape), flat, plan.linear, plan.quadratic, out)
            for plane, new in zip(amps.variances, out.reshape(variance.shape), strict=True):
                plane[rows] = new
        for image, mask, part, flag in zip(amps.images, amps.masks, leak, flags, strict=True):
            image[rows] -= part
            mask[rows][flag] |= bit
        marked += int(np.count_nonzero(flags))
    return marked


def _leak(
    amps: _Amplifiers, rows: slice, plan: _Plan
) -> tuple[Image, Image, npt.NDArray[np.bool_]]:
    """Return sources above background, what targets received, and sources that are no number.

    All of shape (amplifiers, rows, columns), in the unit of the frame.
    """
    from cpplug_crosstalk.kernels import subtrahend

    source = np.stack([image[rows] for image in amps.images])
    source -= plan.background[:, None, None]
    lost = ~np.isfinite(source)
    source[lost] = 0.0
    leak = np.empty_like(source)
    shape = (len(source), -1)
    subtrahend(source.reshape(shape), plan.linear, plan.quadratic, leak.reshape(shape))
    return source, leak, lost


def _linked(flags: npt.NDArray[np.bool_], links: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Carry flags of sources to the targets that they are linked with, ``[source, target]``."""
    carried = np.zeros_like(flags)
    for source in np.flatnonzero(flags.any(axis=(1, 2))):
        carried[links[source]] |= flags[source]
    return carried


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
