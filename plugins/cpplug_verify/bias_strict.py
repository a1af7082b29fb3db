"""Strict tests of a bias: level, noise and cosmic rays of every amplifier.

A bias frame minus a good master bias is empty but for noise that can be predicted. Its mean must be
zero within 0.5 electron, its width that of the read noise with the little that overscan and master
add, and it must hold no more hits than the sky sends in the time of a read-out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.special import pdtrc

from cpplug.api import (
    Amplifier,
    Check,
    Evidence,
    Residual,
    Verdict,
    Verifier,
    hookimpl,
    mean_variance,
)
from cpplug_verify.cosmic_rays import CosmicRays, Settings, find_cosmic_rays
from cpplug_verify.decide import ALPHA
from cpplug_verify.noise_model import expected_noise, mean_error, noise_error
from cpplug_verify.reading import Reading, Unusable, bootstrap, empirical, option
from cpplug_verify.rows import Conclusion, Estimate, judge, tally
from cpplug_verify.statistics import Numbers, amp_view, basics

CM_PER_UM = 1e-4
RARE = 1e-3
"""A count this improbable (or less) is worth a look, even if chance explains it in a long run."""


def measure_cosmic_rays(residual: Residual) -> Mapping[str, Numbers]:
    """Measure, per amplifier, hits and the width that is left when they are out (electron)."""
    found = {name: dict(numbers) for name, numbers in basics(residual).items()}
    for amplifier in residual.detector.amplifiers:
        view = amp_view(residual, amplifier)
        hits = cosmic_rays(residual, amplifier)
        variance = mean_variance(view.image, view.good & ~hits.pixels)[1]
        found[amplifier.name] |= {
            "cr_events": hits.n_events,
            "cr_pixels": hits.n_pixels,
            "cr_overflow": float(hits.overflow),
            "cr_sigma": math.sqrt(variance) * view.gain,
            "dark_time": residual.exposure.info.dark_time,
        }
    return found


def cosmic_rays(residual: Residual, amplifier: Amplifier) -> CosmicRays:
    """Find the hits of an amplifier; the noise is the one measured, the charge is in electrons."""
    key = f"cpplug_verify.cosmic_rays/{amplifier.name}"
    if key not in residual.cache:
        view = amp_view(residual, amplifier)
        settings = Settings(min_sum=Settings.min_sum / view.gain)
        residual.cache[key] = find_cosmic_rays(
            view.image, view.good, view.mean, view.sigma, settings
        )
    hits: CosmicRays = residual.cache[key]
    return hits


def check_mean(evidence: Evidence) -> Iterator[Check]:
    """Mean of the residual: 0 electron."""

    def estimate(reading: Reading) -> list[Estimate]:
        error = mean_error(reading.pixel_noise, reading["n_good"], reading.level)
        mean = reading["mean"]
        return [
            Estimate(
                value=mean,
                error=error,
                expected=0.0,
                deviation=mean,
                model="0; error sigma*sqrt(1/n + v_level)",
                common=reading.common,
                inputs={"sigma": reading["sigma"], "overscan_columns": reading.overscan_columns},
            )
        ]

    return judge(evidence, estimate)


def check_noise(evidence: Evidence) -> Iterator[Check]:
    """Width of the residual over the predicted one: 1."""

    def estimate(reading: Reading) -> list[Estimate]:
        rows = reading.rows + reading.columns
        model = expected_noise(reading.read_noise, rows, reading.factor)
        sigma = reading["sigma"]
        error = noise_error(reading["n_good"], reading["n_rows"], rows)
        if empirical(evidence):
            error = math.hypot(error, 1 / math.sqrt(2 * reading["overscan_pixels"]))
        return [
            Estimate(
                value=sigma,
                error=error,
                expected=model,
                deviation=sigma / model - 1,
                model="R*sqrt(f*(1 + v_row)); deviation is the ratio minus 1",
                inputs={
                    "R": reading.read_noise,
                    "f": reading.factor,
                    "N": float(evidence.product.n_inputs),
                    "n_os": reading.overscan_columns,
                },
            )
        ]

    return judge(evidence, estimate)


def noise_limits(evidence: Evidence, amplifier: Amplifier) -> tuple[float, float]:
    """Return below and above which noise (electron) an amplifier is dead or far too noisy.

    The absolute limits hold where the camera's own read noise lies between them; a camera that is
    quieter or noisier than that by design is held against its own read noise.
    """
    nominal = 0.0 if bootstrap(evidence) else amplifier.read_noise
    floor, ceiling = float(option(evidence, "floor", 4.0)), float(option(evidence, "ceiling", 18.0))
    low = float(option(evidence, "floor_fraction", 0.65)) * nominal
    high = float(option(evidence, "ceiling_fraction", 3.0)) * nominal
    low = max(low, floor) if amplifier.read_noise >= floor else low
    return low, ceiling if amplifier.read_noise <= ceiling else high


def check_noise_floor(evidence: Evidence) -> Iterator[Check]:
    """Width of the residual: neither dead nor far too noisy."""

    def conclude(amplifier: Amplifier, sigma: float) -> Conclusion:
        low, high = noise_limits(evidence, amplifier)
        verdict, reason = _within(sigma, low, high)
        inputs = {"low": low, "high": high, "R": amplifier.read_noise}
        return verdict, reason, {"value": sigma, "unit": "electron", "inputs": inputs}

    return tally(evidence, lambda reading: reading["sigma"], conclude, statistics.fmean)


def _within(sigma: float, low: float, high: float) -> tuple[Verdict, str]:
    if sigma < low:
        return "FAIL", f"dead: noise {sigma:.3g} electron is below {low:.3g}"
    if sigma > high:
        return "FAIL", f"high noise: {sigma:.3g} electron is above {high:.3g}"
    return "PASS", ""


def check_cr_consistency(evidence: Evidence) -> Iterator[Check]:
    """Width without cosmic rays over the clipped width: 1."""

    def estimate(reading: Reading) -> list[Estimate]:
        if reading["cr_overflow"]:
            raise Unusable(f"cr_overflow: {reading['cr_pixels']:.0f} pixels look like cosmic rays")
        sigma, hits_out = reading["sigma"], reading["cr_sigma"]
        return [
            Estimate(
                value=hits_out,
                error=1 / math.sqrt(2 * reading["n_good"]),
                expected=sigma,
                deviation=hits_out / sigma - 1 if sigma else math.inf,
                model="clipped width; deviation is the ratio minus 1",
                inputs={"cr_pixels": reading["cr_pixels"], "cr_events": reading["cr_events"]},
            )
        ]

    return judge(evidence, estimate)


def check_cr_rate(evidence: Evidence) -> Iterator[Check]:
    """Hits per square centimetre and second: not more than the sky sends."""

    def merge(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return sum(events for events, _ in found), sum(exposed for _, exposed in found)

    return tally(
        evidence,
        lambda reading: _events(evidence, reading),
        lambda _, found: _rate(evidence, *found),
        merge,
    )


def _events(evidence: Evidence, reading: Reading) -> tuple[float, float]:
    """Return events and what they were collected on: area times time (cm2 s)."""
    if reading["cr_overflow"]:
        raise Unusable(f"cr_overflow: {reading['cr_pixels']:.0f} pixels look like cosmic rays")
    area = reading["n_good"] * (evidence.detector.pixel_size * CM_PER_UM) ** 2
    seconds = reading["dark_time"] + float(option(evidence, "readout_time", 2.0))
    return reading["cr_events"], area * max(seconds, 0.0)


def _rate(evidence: Evidence, events: float, exposed: float) -> Conclusion:
    limit = evidence.threshold.tolerance
    if limit is None or not exposed > 0:
        return "INCONCLUSIVE", "the profile gives no tolerance, or no time passed", {}
    expected = limit * exposed
    chance = float(pdtrc(events - 1, expected)) if events else 1.0
    fields: dict[str, Any] = {
        "value": events / exposed,
        "error": math.sqrt(max(events, 1.0)) / exposed,
        "expected": limit,
        "deviation": events / exposed - limit,
        "inputs": {"events": events, "events_at_limit": expected, "chance": chance},
    }
    said = f"{events:.0f} hits where the limit rate gives {expected:.2g}"
    if chance < ALPHA / max(evidence.n_comparisons, 1):
        return "FAIL", said, fields
    return ("WARN", said, fields) if chance < RARE else ("PASS", "", fields)


@hookimpl
def cpplug_verifiers() -> Iterator[Verifier]:
    """Offer the tests of level, noise and cosmic rays."""
    for name, summary, measure, check in (
        ("mean", "Mean of the residual is zero", basics, check_mean),
        ("noise", "Noise of the residual is the predicted one", basics, check_noise),
        ("noise_floor", "Amplifier is neither dead nor far too noisy", basics, check_noise_floor),
        (
            "cr_consistency",
            "Without cosmic rays nothing but noise is left",
            measure_cosmic_rays,
            check_cr_consistency,
        ),
        (
            "cr_rate",
            "No more hits than cosmic rays explain: defects do not leak",
            measure_cosmic_rays,
            check_cr_rate,
        ),
    ):
        yield Verifier(
            name=f"bias.{name}",
            summary=summary,
            applies_to="bias",
            scope="amplifier",
            measure=measure,
            check=check,
        )
