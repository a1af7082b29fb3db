"""Variance: say how noisy every pixel is.

The noise of a pixel has two parts: the photon (shot) noise of its charge and the read noise of its
amplifier, V = I / g + R^2 with g the gain (electron/ADU), I the signal and R the read noise (both
ADU). The step notes g and R of every amplifier; the plane itself is computed when it is needed.
Where calibrations are subtracted before this step, a plane started earlier gathers their variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Calibs,
    Config,
    DataError,
    Exposure,
    IsrStep,
    NoConfig,
    doc,
    hookimpl,
)


class VarianceConfig(Config, frozen=True):
    """Where the read noise comes from."""

    empirical_read_noise: Annotated[
        bool,
        doc("take the read noise from the corrected serial overscan of the frame itself"),
    ] = False
    materialise: Annotated[
        bool, doc("compute the variance plane at once, as steps that change the image need")
    ] = False


def start_variance(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Start a variance plane at zero, if there is none.

    Calibrations that are subtracted from now on add their variance to it, and the variance step
    adds photon and read noise: for chains in which that step follows the subtractions.
    """
    if exposure.variance is None:
        exposure.variance = np.zeros_like(exposure.image)
    return exposure


def note_variance(exposure: Exposure, config: VarianceConfig, calibs: Calibs) -> Exposure:
    """Note gain and read noise of every amplifier; algorithms A.7.

    The gain is the one recorded last, else the camera's. The read noise is the camera's (electron)
    over the gain, or the clipped standard deviation of the corrected overscan. In an image that is
    in electrons already, V = I + R^2, both in electrons. Where there is a variance plane already,
    photon and read noise are added to it.

    A gain that is not a positive number counts as 1 (``invalid_gain`` = 1 is recorded), a read
    noise that is not finite and >= 0 as 1 electron (``invalid_read_noise`` = 1). An amplifier whose
    overscan could not be read falls back on the camera's value. Records ``gain`` (electron/adu) and
    ``read_noise`` (unit of the image).

    Raises
    ------
    DataError
        When the noise of the frame itself is asked for and the overscan step has not run.
    """
    for amp in exposure.detector.amplifiers:
        gain = exposure.gain(amp.name)
        if not (math.isfinite(gain) and gain > 0):
            exposure.record("invalid_gain", 1, "1", amp.name)
            gain = 1.0
        scale = _electrons_per_unit(exposure, amp, gain)
        noise = _read_noise(exposure, amp, gain, scale, config)
        exposure.record("gain", gain, "electron/adu", amp.name)
        exposure.record("read_noise", noise, exposure.unit, amp.name)
        exposure.noise[amp.name] = AmplifierNoise(scale, noise)
    if exposure.variance is not None:
        before, exposure.variance = exposure.variance, None
        before += exposure.variance_plane()
        exposure.variance = before
    elif config.materialise:
        exposure.variance_plane()
    return exposure


def _electrons_per_unit(exposure: Exposure, amp: Amplifier, gain: float) -> float:
    """Return how many electrons one unit of the image is."""
    if exposure.unit == "adu":
        return gain
    normalised = exposure.measured("gain_normalization", amp.name)
    return 1.0 if normalised is None else 1.0 / normalised


def _read_noise(
    exposure: Exposure, amp: Amplifier, gain: float, scale: float, config: VarianceConfig
) -> float:
    """Return the read noise in the unit of the image, of which ``scale`` electrons make one."""
    if config.empirical_read_noise:
        found = [
            item
            for item in exposure.measurements
            if item.name == "overscan_residual_sigma" and item.scope == amp.name
        ]
        if found and math.isfinite(found[-1].value):
            return found[-1].value * (1.0 if found[-1].unit == exposure.unit else gain)
        if not found and exposure.measured("overscan_skipped", amp.name) is None:
            raise DataError(
                f"The read noise of amplifier {amp.name} of detector {exposure.detector.name} "
                "cannot be taken from its overscan: the overscan step has not run.",
                "Switch the step on with -c isr:do_overscan=True, or give up empirical_read_noise.",
            )
    if not (math.isfinite(amp.read_noise) and amp.read_noise >= 0):
        exposure.record("invalid_read_noise", 1, "1", amp.name)
        return 1.0 / scale
    return amp.read_noise / scale


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the variance step, and the start of a plane before it."""
    yield IsrStep(
        name="start_variance",
        summary="Start a variance plane for what is subtracted before the variance step",
        level="detector",
        apply=start_variance,
        after=("assemble",),
    )
    yield IsrStep(
        name="variance",
        summary="Note gain and read noise, from which the variance of every pixel follows",
        level="detector",
        apply=note_variance,
        config=VarianceConfig,
        after=("assemble",),
    )
