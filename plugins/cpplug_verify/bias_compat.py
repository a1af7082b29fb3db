"""The bias tests of the reference pipeline, rule by rule.

They exist to compare: what would the reference have said of this bias? In the 2021 rules images are
in ADU and are held against a read noise in electrons, in the 2026 rules everything is in electrons
and only too much noise fails. Members count like any other exposure. A number that is not finite
fails, as a comparison with it is false. Rules and their edges: verification 2.4, 2.6 and 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from cpplug.api import (
    Amplifier,
    Check,
    Evidence,
    FrameEvidence,
    Residual,
    Verifier,
    hookimpl,
    mask_bits,
    mean_variance,
)
from cpplug_verify.cosmic_rays import Settings, find_cosmic_rays
from cpplug_verify.reading import option
from cpplug_verify.statistics import AmpView, Numbers, amp_view, gain_of

EXCLUDED = mask_bits("DETECTED", "BAD", "NO_DATA")
"""The reference's mask: saturated, suspect, interpolated and cosmic-ray pixels count as data."""
STAR = 3.0 / 2.3548
"""Width of the star that the reference's cosmic-ray search assumes: 3 pixels FWHM."""
MAX_CR_PIXELS = {2021: 10_000, 2026: 1_000_000}
LIMIT = 0.05


def measure_compat(residual: Residual) -> Mapping[str, Numbers]:
    """Measure MEAN, NOISE (5 sigma, three passes), CR_NOISE and the overscan noise, all in ADU."""
    found: dict[str, Numbers] = {}
    for amplifier in residual.detector.amplifiers:
        view = amp_view(residual, amplifier, EXCLUDED)
        hits, cleaned = _without_hits(residual, amplifier, view)
        overscan = residual.exposure.measured("overscan_residual_sigma", amplifier.name)
        found[amplifier.name] = {
            "compat_gain": gain_of(residual.exposure, amplifier),
            "compat_mean": mean_variance(view.image, view.good)[0],
            "compat_noise": view.sigma,
            "compat_cr_noise": math.sqrt(cleaned) if cleaned >= 0 else math.nan,
            "compat_cr_pixels": hits,
            "compat_overscan_noise": math.nan if overscan is None else overscan,
        }
    return found


def _without_hits(residual: Residual, amplifier: Amplifier, view: AmpView) -> tuple[float, float]:
    """Return cosmic-ray pixels, and the variance after each took the mean of its neighbours."""
    noise = residual.exposure.noise.get(amplifier.name)
    sigma = noise.read_noise if noise else amplifier.read_noise / view.gain
    settings = Settings(psf_sigma=STAR, max_fraction=1.0)
    hits = find_cosmic_rays(view.image, view.good, view.mean, sigma, settings)
    rows, columns = np.nonzero(hits.pixels)
    if not rows.size:
        return float(hits.n_pixels), mean_variance(view.image, view.good)[1]
    image = view.image.copy()
    usable = view.good & ~hits.pixels
    for y, x in zip(rows, columns, strict=True):
        near = (slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
        around = view.image[near][usable[near]]
        image[y, x] = around.mean() if around.size else view.mean
    return float(hits.n_pixels), mean_variance(image, view.good)[1]


def era(evidence: Evidence) -> int:
    """Return whose rules hold: 2021 or 2026."""
    return 2021 if float(option(evidence, "era", 2021)) < 2026 else 2026


def passes(test: str, year: int, numbers: Mapping[str, float], read_noise: float) -> bool:
    """Apply one rule of the reference.

    Parameters
    ----------
    test
        ``MEAN``, ``NOISE``, ``CR_NOISE`` or ``READ_NOISE_CONSISTENT``.
    year
        2021 or 2026.
    numbers
        ``MEAN``, ``NOISE``, ``CR_NOISE``, ``READ_NOISE``, in the unit of that year.
    read_noise
        The nominal one, electron.
    """
    noise = numbers["NOISE"]
    if test == "MEAN":
        return abs(numbers["MEAN"]) < noise
    if test == "NOISE":
        excess = _ratio(noise - read_noise, read_noise)
        return (abs(excess) if year == 2021 else excess) <= LIMIT
    if test == "CR_NOISE":
        return abs(_ratio(noise - numbers["CR_NOISE"], numbers["CR_NOISE"])) <= LIMIT
    excess = _ratio(numbers["READ_NOISE"] - read_noise, read_noise)
    return math.isfinite(excess) and not excess > LIMIT


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def numbers_of(frame: FrameEvidence, amplifier: Amplifier, year: int) -> dict[str, float]:
    """Return the statistics of one amplifier: ADU in 2021, electron in 2026."""
    found = frame.values.get(amplifier.name, {})
    scale = 1.0 if year == 2021 else found.get("compat_gain", math.nan)
    return {
        key: scale * found.get(f"compat_{name}", math.nan)
        for key, name in (
            ("MEAN", "mean"),
            ("NOISE", "noise"),
            ("CR_NOISE", "cr_noise"),
            ("READ_NOISE", "overscan_noise"),
        )
    }


def check_rule(evidence: Evidence) -> Iterator[Check]:
    """Apply the rule named by the last part of the test's name to every amplifier and exposure."""
    test, year = evidence.test.rpartition(".")[2], era(evidence)
    subject = "READ_NOISE" if test == "READ_NOISE_CONSISTENT" else test
    for frame in evidence.frames:
        for amplifier in evidence.detector.amplifiers:
            row = {
                "amplifier": amplifier.name,
                "exposure": frame.exposure,
                "membership": frame.membership,
                "unit": "adu" if year == 2021 else "electron",
            }
            if frame.error:
                yield evidence.check(**row, verdict="INCONCLUSIVE", reason=frame.error)
                continue
            numbers = numbers_of(frame, amplifier, year)
            good = passes(test, year, numbers, amplifier.read_noise)
            yield evidence.check(
                **row,
                value=numbers[subject],
                expected=_expected(test, numbers, amplifier.read_noise),
                model=f"rule of {year}",
                inputs=numbers,
                n_good=frame.n_good.get(amplifier.name),
                verdict="PASS" if good else "FAIL",
                reason="" if good else f"{subject} {numbers[subject]:.4g} breaks the rule",
            )


def _expected(test: str, numbers: Mapping[str, float], read_noise: float) -> float:
    if test == "MEAN":
        return 0.0
    return numbers["CR_NOISE"] if test == "CR_NOISE" else read_noise


def check_processing(evidence: Evidence) -> Iterator[Check]:
    """Tell for every exposure whether the search for cosmic rays found more than it may."""
    limit = MAX_CR_PIXELS[era(evidence)]
    for frame in evidence.frames:
        row = {"exposure": frame.exposure, "membership": frame.membership, "unit": "pixel"}
        if frame.error:
            yield evidence.check(**row, verdict="INCONCLUSIVE", reason=frame.error)
            continue
        pixels = sum(one.get("compat_cr_pixels", 0.0) for one in frame.values.values())
        yield evidence.check(
            **row,
            value=pixels,
            tolerance=float(limit),
            verdict="FAIL" if pixels > limit else "PASS",
            reason=f"{pixels:.0f} cosmic-ray pixels" if pixels > limit else "",
        )


@hookimpl
def cpplug_verifiers() -> Iterator[Verifier]:
    """Offer the reference's tests."""
    for test, summary in (
        ("MEAN", "Mean of the residual is below its noise"),
        ("NOISE", "Noise of the residual is within 5 % of the camera's read noise"),
        ("CR_NOISE", "Noise is the same with and without cosmic rays, within 5 %"),
        ("READ_NOISE_CONSISTENT", "Overscan is at most 5 % noisier than the camera says"),
    ):
        yield Verifier(
            name=f"bias.compat.{test}",
            summary=summary,
            applies_to="bias",
            scope="amplifier",
            measure=measure_compat,
            check=check_rule,
        )
    yield Verifier(
        name="bias.compat.PROCESSING",
        summary="The search for cosmic rays did not find too many",
        applies_to="bias",
        scope="exposure",
        measure=measure_compat,
        check=check_processing,
    )
