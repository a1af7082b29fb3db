"""Deferred charge: put charge that came late back where it belongs.

While a row is shifted out, some of the charge of each pixel is left behind: traps catch and release
it, and the output needs a few pixels to settle after a bright one. Trails to the side away from the
output are what one sees. The product ``cti`` describes this for every amplifier and the step undoes
it, on the frame as it was read, before the amplifiers are assembled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt

from cpplug.api import (
    MASK_DTYPE,
    Calibs,
    Config,
    DataError,
    IsrStep,
    RawExposure,
    at_least,
    doc,
    hookimpl,
    mask_bits,
)
from cpplug_cti.table import TRAPS, Transfer, Trap, make_cti, read_cti

__all__ = [
    "DeferredChargeConfig", "Transfer", "Trap", "correct_deferred_charge", "make_cti", "restore",
    "trap_capture",
]  # fmt: skip
Reals = npt.NDArray[np.float64]


class DeferredChargeConfig(Config, frozen=True):
    """How far back the charge of a pixel is followed."""

    n_pixel_offset_correction: Annotated[
        int, at_least(1), doc("pixels over which the drift of the output is followed, pixel")
    ] = 15
    n_pixel_trap_correction: Annotated[
        int, at_least(1), doc("earlier pixels that may have filled the trap, pixel")
    ] = 6
    zero_unused_pixels: Annotated[
        bool,
        doc("count what is read before the data as empty; leave it and parallel overscan alone"),
    ] = True


def correct_deferred_charge(
    frame: RawExposure, config: DeferredChargeConfig, calibs: Calibs
) -> RawExposure:
    """Undo the drift of the outputs and the trapping in the serial registers; algorithms A.10.

    The level must have been subtracted (overscan). With ``zero_unused_pixels`` the data pixels and
    the serial overscan beside them change, otherwise the whole segment does. A frame in adu is
    taken to electrons with the gains and back; an amplifier whose gain is not a positive number
    keeps its pixels and becomes BAD (``invalid_gain`` = 1 is recorded). Records
    ``deferred_charge``, the mean absolute change of the pixels of an amplifier, in the frame's
    unit.

    Raises
    ------
    CalibrationMissing
        When there is no cti.
    DataError
        When it is of another detector or impossible, or the frame is neither in adu nor electron.
    """
    transfers = read_cti(calibs.table("cti"), frame.detector)
    if frame.unit not in ("adu", "electron"):
        raise DataError(
            f"Deferred charge of detector {frame.detector.name} cannot be corrected in "
            f"{frame.unit}.",
            "Put the deferred_charge step before the one that changes the unit.",
        )
    for amp, image, mask in frame.amplifiers():
        gain = frame.gain(amp.name) if frame.unit == "adu" else 1.0
        if not (math.isfinite(gain) and gain > 0):
            mask |= MASK_DTYPE(mask_bits("BAD"))
            frame.record("invalid_gain", 1, "1", amp.name)
            continue
        rows = amp.data.slices[0] if config.zero_unused_pixels else slice(None)
        moved = restore(
            image[rows],
            transfers[amp.name],
            gain=gain,
            start=amp.data.x if config.zero_unused_pixels else 0,
            offset_pixels=config.n_pixel_offset_correction,
            trap_pixels=config.n_pixel_trap_correction,
        )
        frame.record("deferred_charge", moved, frame.unit, amp.name)
    return frame


def restore(
    image: npt.NDArray[np.floating],
    transfer: Transfer,
    *,
    gain: float = 1.0,
    start: int = 0,
    offset_pixels: int = 15,
    trap_pixels: int = 6,
) -> float:
    """Undo the deferred charge of one amplifier in place.

    Parameters
    ----------
    image
        In read-out order, (rows, columns); times ``gain`` it is electrons.
    transfer
        What the amplifier holds back.
    gain
        electron/ADU for an image in ADU.
    start
        First column; those before count as empty and are not changed.
    offset_pixels, trap_pixels
        How many pixels back drift and trap are followed.

    Returns
    -------
    float
        Mean absolute change of the pixels, in the unit of the image.
    """
    from cpplug_cti import kernels

    trap = transfer.trap
    weights = np.zeros(0)
    if transfer.drift_scale > 0:
        steps = np.arange(offset_pixels)
        weights = transfer.drift_scale * np.exp(-1.0 / transfer.decay_time) ** steps
    return kernels.restore(
        image,
        weights,
        TRAPS.index(trap.kind),
        trap.size,
        trap.coefficients,
        math.exp(-1.0 / trap.emission_time),
        trap_pixels,
        1.0 - transfer.global_cti,
        gain,
        start,
    )


def trap_capture(charge: Reals, trap: Trap) -> Reals:
    """Return what a trap takes of charges passing by, electron, (n,); negative charge counts as 0.

    Formulas: :class:`cpplug_cti.table.Trap`.
    """
    from cpplug_cti import kernels

    taken = np.empty(charge.shape)
    kernels.capture(charge, TRAPS.index(trap.kind), trap.size, trap.coefficients, taken)
    return taken


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the correction of deferred charge."""
    yield IsrStep(
        name="deferred_charge",
        summary="Put charge that traps and the output held back where it belongs",
        level="amplifier",
        apply=correct_deferred_charge,
        config=DeferredChargeConfig,
        needs=("cti",),
        after=("overscan",),
        aliases=("cti",),
    )
