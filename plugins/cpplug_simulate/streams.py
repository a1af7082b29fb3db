"""Random numbers that do not depend on what else happens.

Every effect has its own stream for every detector and exposure, so that switching one effect does
not change the dice of another, and the order in which frames are made does not matter.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cpplug_simulate.settings import EFFECTS

STATIC: Final = 0
"""Stands for the exposure in streams that belong to the detector."""

_NUMBER: Final = {
    "bias_level": 1, "bias_structure": 2, "row_drift": 3, "read_noise": 4, "dark_current": 5,
    "hot_pixels": 6, "bad_columns": 7, "qe_gradient": 8, "prnu": 9, "donuts": 10, "lamp": 11,
    "sky": 12, "fringes": 13, "stars": 14, "cosmic_rays": 15, "photon_noise": 16,
    "nonlinearity": 17, "crosstalk": 18, "shutter": 19,
}  # fmt: skip
assert set(_NUMBER) - {"shutter"} <= set(EFFECTS)


def stream(seed: int, detector: int, exposure: int, effect: str, *more: int) -> np.random.Generator:
    """Return the generator of one effect in one exposure of one detector.

    Parameters
    ----------
    seed, detector, exposure
        Non-negative integers; ``exposure`` is :data:`STATIC` for what belongs to the detector.
    effect
        Name of the effect.
    more
        Further numbers that tell streams of the same effect apart.
    """
    words = [seed, detector, exposure, _NUMBER[effect], *more]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words)))
