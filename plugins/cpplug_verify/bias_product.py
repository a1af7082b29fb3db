"""Strict tests of a bias: deep enough, rightly described, and made of halves that agree.

These look at the product itself: whether enough exposures went in that it adds no noise worth
speaking of, whether the camera file's read noise is what the overscan shows, and whether the odd
and the even inputs, each combined alone, give the same image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from cpplug.api import Amplifier, Check, Evidence, Verifier, hookimpl
from cpplug_verify.decide import decide
from cpplug_verify.noise_model import (
    combiner_kind,
    level_variance,
    mean_error,
    noise_error,
    overscan_kind,
    product_noise,
)
from cpplug_verify.reading import Reading, Unusable, bootstrap, empirical, option, z_limit
from cpplug_verify.rows import Estimate, judge, readings
from cpplug_verify.statistics import basics, clip_correction


def check_depth(evidence: Evidence) -> Iterator[Check]:
    """Noise of the product over that of a frame: small enough not to be felt.

    Subtracting a product of noise c raises the read noise R by sqrt(1 + (c/R)^2); at most 2.5 % is
    allowed, c/R <= 0.225: 20 inputs for a mean.
    """
    product = evidence.product
    inflation = float(option(evidence, "max_noise_inflation", 0.025))
    tolerance = math.sqrt((1 + inflation) ** 2 - 1)
    n = product.n_inputs
    if n < 1:
        yield evidence.check(verdict="INCONCLUSIVE", reason="the number of inputs is not known")
        return
    kind = combiner_kind(product)
    ratio = math.sqrt(product_noise(n, kind))
    deep = ratio <= tolerance
    yield evidence.check(
        value=ratio,
        unit="1",
        tolerance=tolerance,
        deviation=ratio,
        model=f"sigma of a {kind} of N over sigma of one",
        inputs={"N": float(n), "noise_inflation": math.sqrt(1 + ratio**2) - 1},
        verdict="PASS" if deep else "FAIL",
        reason="" if deep else f"{n} inputs raise the noise by {math.hypot(1, ratio) - 1:.1%}",
    )


def check_rn_consistent(evidence: Evidence) -> Iterator[Check]:
    """Read noise in the overscan over that of the camera file: 1."""

    def skip(evidence: Evidence, amplifier: Amplifier) -> str:
        if bootstrap(evidence):
            return "the camera's read noises are not relied on in this run"
        return "no serial overscan" if amplifier.serial_overscan.empty else ""

    def estimate(reading: Reading) -> list[Estimate]:
        nominal = reading.amplifier.read_noise
        if not nominal > 0:
            raise Unusable("the camera file gives no read noise for this amplifier")
        found = reading.overscan_noise
        return [
            Estimate(
                value=found,
                error=1 / math.sqrt(2 * reading["overscan_pixels"]),
                expected=nominal,
                deviation=found / nominal - 1,
                model="camera file; deviation is the ratio minus 1",
                inputs={"n_os": reading.overscan_columns},
            )
        ]

    return judge(evidence, estimate, skip)


def check_split(evidence: Evidence) -> Iterator[Check]:
    """Mean of odd inputs minus mean of even ones: 0, with the noise of two half stacks."""
    for amplifier in evidence.detector.amplifiers:
        try:
            yield from _split_rows(evidence, amplifier)
        except Unusable as problem:
            yield evidence.check(
                amplifier=amplifier.name, verdict="INCONCLUSIVE", reason=str(problem)
            )


def _split_rows(evidence: Evidence, amplifier: Amplifier) -> Iterator[Check]:
    product = evidence.product
    if product.n_inputs < 2:
        raise Unusable("fewer than two inputs cannot be split")
    gain = 1.0 if product.unit == "electron" else amplifier.gain
    mean = gain * _card(evidence, amplifier, "MEAN")
    sigma = gain * _card(evidence, amplifier, "SIGMA") * clip_correction()
    odd = (product.n_inputs + 1) // 2
    halves = 1 / odd + 1 / (product.n_inputs - odd)
    noise = read_noise(evidence, amplifier) * math.sqrt(halves)
    rows = _overscan_share(evidence, amplifier)
    height, pixels = amplifier.data.height, amplifier.data.width * amplifier.data.height
    model = noise * math.sqrt(1 + rows)
    for quantity, unit, value, expected, deviation, error, tolerance in (
        (
            "mean", "electron", mean, 0.0, mean,
            mean_error(noise, pixels, rows / height), evidence.threshold.tolerance,
        ),
        (
            "noise", "1", sigma, model, sigma / model - 1,
            noise_error(pixels, height, rows), float(option(evidence, "tolerance_noise", 0.05)),
        ),
    ):  # fmt: skip
        if tolerance is None:
            raise Unusable("the profile gives no tolerance")
        verdict, reason = decide(deviation, error, tolerance, z=z_limit(evidence))
        yield evidence.check(
            amplifier=amplifier.name,
            quantity=quantity,
            value=value,
            error=error,
            unit=unit,
            expected=expected,
            model="odd minus even inputs: R*sqrt((1 + v_row)*(1/N_odd + 1/N_even))",
            inputs={"N": float(product.n_inputs), "R": noise / math.sqrt(halves)},
            deviation=deviation,
            tolerance=tolerance,
            z=deviation / error,
            verdict=verdict,
            reason=reason,
        )


def _overscan_share(evidence: Evidence, amplifier: Amplifier) -> float:
    """Return the variance of a row's overscan level over that of a pixel, as exposures show it."""
    found = [
        rows
        for _, rows in readings(evidence, amplifier, lambda one: one.rows)
        if not isinstance(rows, Unusable)
    ]
    product = evidence.product
    return (
        fmean(found) if found else level_variance(product.overscan_columns, overscan_kind(product))
    )


def _card(evidence: Evidence, amplifier: Amplifier, what: str) -> float:
    """Return a number from the product's header."""
    keyword = f"SPLIT {amplifier.name} {what}"
    value = evidence.product.metadata.get(keyword)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Unusable(f"the product's header has no number {keyword!r}")
    return float(value)


def read_noise(evidence: Evidence, amplifier: Amplifier) -> float:
    """Return the read noise (electron) to expect: the camera's, or what the overscans show."""
    if not empirical(evidence):
        if not amplifier.read_noise > 0:
            raise Unusable("the camera file gives no read noise for this amplifier")
        return amplifier.read_noise
    found = [
        noise
        for _, noise in readings(evidence, amplifier, lambda one: one.overscan_noise)
        if not isinstance(noise, Unusable)
    ]
    if not found:
        raise Unusable("no exposure's overscan gives a read noise")
    return fmean(found)


@hookimpl
def cpplug_verifiers() -> Iterator[Verifier]:
    """Offer the tests of the product itself."""
    yield Verifier(
        name="bias.depth",
        summary="Enough inputs that the product adds no noise worth speaking of",
        applies_to="bias",
        scope="product",
        check=check_depth,
    )
    yield Verifier(
        name="bias.rn_consistent",
        summary="Read noise of the camera file is what the overscan shows",
        applies_to="bias",
        scope="amplifier",
        measure=basics,
        check=check_rn_consistent,
    )
    yield Verifier(
        name="bias.split",
        summary="Odd and even inputs agree",
        applies_to="bias",
        scope="product",
        check=check_split,
    )
