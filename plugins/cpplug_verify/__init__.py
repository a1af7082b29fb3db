"""Tests that say whether a calibration may be used.

A calibration is applied to raw exposures, what is left over is measured, and each number is held
against what the noise of the camera predicts. Two families live here: the *strict* tests, which
ask for proof that a deviation is small, and the *compat* tests, which repeat the rules of the
reference pipeline as they stood in 2021 and 2026. The limits are not here: they are in the
verification profile.

``statistics`` measures an amplifier once for all tests, ``cosmic_rays`` finds hits, ``structure``
measures bands, lines, steps and correlations, ``noise_model`` predicts, ``decide`` turns a
deviation and its error into a verdict, ``rows`` turns measurements into verdicts frame by frame and
over all frames together.
"""
