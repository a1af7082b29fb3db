"""Variance: say how noisy every pixel is.

The noise of a pixel has two parts: the photon (shot) noise of its charge and the read noise of its
amplifier, V = I / g + R^2 with g the gain (electron/ADU), I the signal and R the read noise (both
ADU). The step notes g and R of every amplifier; the plane itself is computed when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Calibs,
    Config,
    DataError,
    Exposure,
    IsrStep,
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


def note_variance(exposure: Exposure, config: VarianceConfig, calibs: Calibs) -> Exposure:
    """Note gain and read noise of every amplifier; algorithms A.7.

    The read noise is the camera's (electron) over the gain, or the clipped standard deviation of
    the corrected overscan (ADU). A gain that is not a positive number counts as 1
    (``invalid_gain`` = 1 is recorded), a read noise that is not finite and >= 0 as 1 electron
    (``invalid_read_noise`` = 1). An amplifier whose overscan could not be read falls back on the
    camera's value. Records ``gain`` (electron/ADU) and ``read_noise`` (ADU).

    Raises
    ------
    DataError
        When the noise of the frame itself is asked for and the overscan step has not run, or when
        the image is not in ADU.
    """
    if exposure.unit != "adu":
        raise DataError(
            f"The variance of detector {exposure.detector.name} is noted in adu, not "
            f"{exposure.unit}.",
            "Put the variance step before the one that changes the unit.",
        )
    for amp in exposure.detector.amplifiers:
        gain = amp.gain
        if not (math.isfinite(gain) and gain > 0):
            exposure.record("invalid_gain", 1, "1", amp.name)
            gain = 1.0
        noise = _read_noise(exposure, amp, gain, config)
        exposure.record("gain", gain, "electron/adu", amp.name)
        exposure.record("read_noise", noise, "adu", amp.name)
        exposure.noise[amp.name] = AmplifierNoise(gain, noise)
    if config.materialise:
        exposure.variance_plane()
    return exposure


def _read_noise(exposure: Exposure, amp: Amplifier, gain: float, config: VarianceConfig) -> float:
    """Return the read noise in ADU."""
    if config.empirical_read_noise:
        found = exposure.measured("overscan_residual_sigma", amp.name)
        if found is not None and math.isfinite(found):
            return found
        if found is None and exposure.measured("overscan_skipped", amp.name) is None:
            raise DataError(
                f"The read noise of amplifier {amp.name} of detector {exposure.detector.name} "
                "cannot be taken from its overscan: the overscan step has not run.",
                "Switch the step on with -c isr:do_overscan=True, or give up empirical_read_noise.",
            )
    if not (math.isfinite(amp.read_noise) and amp.read_noise >= 0):
        exposure.record("invalid_read_noise", 1, "1", amp.name)
        return 1.0 / gain
    return amp.read_noise / gain


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the variance step."""
    yield IsrStep(
        name="variance",
        summary="Note gain and read noise, from which the variance of every pixel follows",
        level="detector",
        apply=note_variance,
        config=VarianceConfig,
        after=("assemble",),
    )
