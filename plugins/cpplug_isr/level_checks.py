"""Level checks: amplifiers whose electronics were not in their usual state become BAD.

After the overscan has been read, its level is compared with the usual one, and its noise with a
limit. An amplifier that fails is marked as a whole, so that nothing of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from cpplug.api import (
    MASK_DTYPE,
    Amplifier,
    Calibs,
    Config,
    DataError,
    IsrStep,
    RawExposure,
    doc,
    hookimpl,
    mask_bits,
    positive,
)


class LevelChecksConfig(Config, frozen=True):
    """What is usual."""

    overscan_levels: Annotated[
        tuple[tuple[str, float, float], ...],
        doc("amplifier, usual median of its serial overscan and its scatter, both ADU"),
    ] = ()
    serial_overscan_median_shift_sigma_threshold: Annotated[
        Annotated[float, positive] | None,
        doc("largest shift of the overscan median, in that scatter; None: not checked"),
    ] = None
    amp_noise_threshold: Annotated[
        float, positive, doc("largest read noise of the corrected serial overscan, electron")
    ] = 25.0
    check_unprocessable_data: Annotated[
        bool, doc("fail when every amplifier of the detector is bad")
    ] = True


def check_levels(frame: RawExposure, config: LevelChecksConfig, calibs: Calibs) -> RawExposure:
    """Set BAD on amplifiers whose overscan level or noise is out of range; algorithms A.2.

    The shift is (median - usual median) / scatter. Records per amplifier ``overscan_shift`` (pull)
    and ``overscan_noise`` (electron) where they can be measured, ``level_failed`` and
    ``noise_failed`` = 1 where they are too large. An amplifier whose overscan was not corrected is
    not judged.

    Raises
    ------
    DataError
        When no overscan has been corrected, the usual level of an amplifier is asked for and not
        given, or every amplifier is bad.
    """
    name = frame.detector.name
    measured = [amp for amp in frame.detector.amplifiers if _read(frame, amp)]
    skipped = [
        amp for amp in frame.detector.amplifiers if frame.measured("overscan_skipped", amp.name)
    ]
    if not measured and not skipped:
        raise DataError(
            f"The serial overscan of detector {name} has not been corrected.",
            "Put the overscan step before this one.",
        )
    for amp in measured:
        _check_level(frame, amp, config)
        _check_noise(frame, amp, config)
    bad = MASK_DTYPE(mask_bits("BAD"))
    dead = [amp for amp, _, mask in frame.amplifiers() if (mask & bad).all()]
    if config.check_unprocessable_data and len(dead) == len(frame.detector.amplifiers):
        raise DataError(
            f"Every amplifier of detector {name} in exposure {frame.info.exposure} is bad.",
            "Leave the exposure out, or look at its overscan levels and noise.",
        )
    return frame


def _read(frame: RawExposure, amp: Amplifier) -> bool:
    return frame.measured("overscan_median", amp.name) is not None


def _in(frame: RawExposure, amp: Amplifier, name: str, unit: str) -> float:
    """Return the last number of this name in the unit asked for, adu or electron."""
    gain = frame.gain(amp.name)
    found = [m for m in frame.measurements if m.name == name and m.scope == amp.name]
    value, has = (found[-1].value, found[-1].unit) if found else (math.nan, unit)
    if has == unit:
        return value
    return value * gain if unit == "electron" else value / gain


def _check_level(frame: RawExposure, amp: Amplifier, config: LevelChecksConfig) -> None:
    limit = config.serial_overscan_median_shift_sigma_threshold
    if limit is None:
        return
    usual = {name: (level, scatter) for name, level, scatter in config.overscan_levels}
    if amp.name not in usual:
        raise DataError(
            f"The usual overscan level of amplifier {amp.name} of detector {frame.detector.name} "
            "is not given.",
            "Add it to level_checks:overscan_levels.",
        )
    level, scatter = usual[amp.name]
    shift = (_in(frame, amp, "overscan_median", "adu") - level) / scatter
    frame.record("overscan_shift", shift, "1", amp.name)
    if abs(shift) > limit:
        _fail(frame, amp, "level_failed")


def _check_noise(frame: RawExposure, amp: Amplifier, config: LevelChecksConfig) -> None:
    noise = _in(frame, amp, "overscan_residual_sigma", "electron")
    frame.record("overscan_noise", noise, "electron", amp.name)
    if noise > config.amp_noise_threshold:
        _fail(frame, amp, "noise_failed")


def _fail(frame: RawExposure, amp: Amplifier, name: str) -> None:
    frame.masks[amp.name] |= MASK_DTYPE(mask_bits("BAD"))
    frame.record(name, 1, "1", amp.name)


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the level checks."""
    yield IsrStep(
        name="level_checks",
        summary="Mark amplifiers whose overscan level or noise is out of range",
        level="amplifier",
        apply=check_levels,
        config=LevelChecksConfig,
        after=("overscan",),
    )
