"""Strict tests of a bias: corners, bands, lines, steps and amplifiers in step.

Noise that is independent from pixel to pixel has no shape. These tests look for shapes in what a
master bias leaves: a transient where the read-out starts, rows or columns that stand together, a
regular pick-up, a level that jumps, and amplifiers that waver at the same moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from cpplug.api import Check, Evidence, Residual, Verifier, hookimpl
from cpplug_verify.decide import ALPHA
from cpplug_verify.noise_model import Box, correlation_error, difference_error
from cpplug_verify.reading import Reading, Unusable, option
from cpplug_verify.rows import Conclusion, Estimate, frame_row, judge, readings, single, together
from cpplug_verify.statistics import Numbers, basics, gain_of
from cpplug_verify.structure import MIN_WINDOW, bands_and_lines, correlations, steps

MIN_STEP = 1.0
"""Smallest step of the overscan level that counts, electron."""


def measure_structure(residual: Residual) -> Mapping[str, Numbers]:
    """Measure corner, bands and lines of every amplifier (electron)."""
    return _join(basics(residual), bands_and_lines(residual))


def measure_shifts(residual: Residual) -> Mapping[str, Numbers]:
    """Count steps of the overscan level of every amplifier."""
    found: dict[str, Numbers] = {}
    for amplifier in residual.detector.amplifiers:
        levels = residual.exposure.series.get(("overscan_rows", amplifier.name))
        gain = gain_of(residual.exposure, amplifier)
        found[amplifier.name] = {} if levels is None else steps(levels, gain, MIN_STEP)
    return _join(basics(residual), found)


def measure_correlations(residual: Residual) -> Mapping[str, Numbers]:
    """Measure the correlation of every two amplifiers."""
    return _join(basics(residual), correlations(residual))


def _join(first: Mapping[str, Numbers], second: Mapping[str, Numbers]) -> dict[str, Numbers]:
    return {name: {**numbers, **second.get(name, {})} for name, numbers in first.items()}


def check_corner(evidence: Evidence) -> Iterator[Check]:
    """Mean of the read-out corner minus that of the amplifier: 0 electron."""

    def estimate(reading: Reading) -> list[Estimate]:
        part = Box(reading["corner_pixels"], reading["corner_rows"], reading["corner_columns"])
        whole = Box(reading["n_good"], reading["n_rows"], reading["n_columns"])
        if part.pixels < 0.5 * part.rows * part.columns:
            raise Unusable("less than half of the corner is usable")
        error = difference_error(reading.pixel_noise, part, whole, reading.rows, reading.columns)
        return [
            Estimate(
                value=reading["corner"],
                error=error,
                expected=0.0,
                deviation=reading["corner"],
                model="0; error sigma*sqrt(1/n - 1/N + v_row*(1/rows - 1/ROWS))",
                common=reading.common,
                inputs={"corner_rows": part.rows, "corner_columns": part.columns},
            )
        ]

    return judge(evidence, estimate)


def check_rowcol(evidence: Evidence) -> Iterator[Check]:
    """Scatter of row means and of column means over the predicted one: 1."""

    def estimate(reading: Reading) -> list[Estimate]:
        bands = reading["rows_rms"] ** 2 + reading["columns_rms"] ** 2
        variance = reading["sigma"] ** 2 - bands
        variance /= 1 - 1 / reading["n_rows"] - 1 / reading["n_columns"]
        if variance <= 0:
            raise Unusable("rows or columns scatter more than pixels do")
        found = []
        for quantity, level in (("rows", reading.rows), ("columns", reading.columns)):
            rms = reading[f"{quantity}_rms"]
            model = math.sqrt(variance * (1 / reading[f"{quantity}_pixels"] + level))
            found.append(
                Estimate(
                    quantity=quantity,
                    value=rms / model,
                    error=1 / math.sqrt(2 * reading[f"{quantity}_used"]),
                    expected=1.0,
                    deviation=rms / model - 1,
                    model="rms / (sigma*sqrt(1/n + v_level))",
                    common=reading.common**2,
                    inputs={"rms": rms, "model_rms": model, "v_level": level},
                )
            )
        return found

    return judge(evidence, estimate)


def check_lines(evidence: Evidence) -> Iterator[Check]:
    """Strongest wave in the profiles of rows and columns: none that is certain and large."""
    certain = min(1e-6, ALPHA / max(evidence.n_comparisons, 1))
    limit = evidence.threshold.tolerance

    def look(reading: Reading, quantity: str) -> Conclusion:
        amplitude, log_chance = (
            reading[f"{quantity}_{name}"] for name in ("amplitude", "log_chance")
        )
        period = reading[f"{quantity}_period"]
        fields: dict[str, Any] = {
            "quantity": quantity,
            "value": amplitude,
            "error": reading[f"{quantity}_noise"],
            "expected": 0.0,
            "deviation": amplitude,
            "model": "amplitude; chance by exponential tail over the median power",
            "inputs": {"period": period, "log10_chance": log_chance},
        }
        said = f"wave of {amplitude:.2g} electron, period {period:.3g} {quantity}"
        if limit is None:
            return "INCONCLUSIVE", "the profile gives no tolerance", fields
        if log_chance > math.log10(certain):
            return "PASS", "", fields
        return ("FAIL" if amplitude > limit else "WARN"), said, fields

    for amplifier in evidence.detector.amplifiers:
        for quantity in ("rows", "columns"):
            for reading, found in readings(evidence, amplifier, partial(look, quantity=quantity)):
                if isinstance(found, Unusable):
                    yield frame_row(reading, "INCONCLUSIVE", str(found), quantity=quantity)
                else:
                    verdict, reason, fields = found
                    yield frame_row(reading, verdict, reason, **fields)


def check_shifts(evidence: Evidence) -> Iterator[Check]:
    """Share of exposures in which the overscan level jumps: at most a tenth."""
    limit = float(option(evidence, "max_share", 0.1))
    for amplifier in evidence.detector.amplifiers:
        row = {"amplifier": amplifier.name, "unit": "1", "expected": 0.0}
        if amplifier.serial_overscan.height < 10 * MIN_WINDOW:
            reason = "no serial overscan, or too few rows to see a step"
            yield evidence.check(**row, verdict="NOT_APPLICABLE", reason=reason)
            continue
        counts = [
            count
            for _, count in readings(evidence, amplifier, lambda one: one["shifts"])
            if not isinstance(count, Unusable)
        ]
        if not counts:
            reason = "the overscan of no exposure could be read row by row"
            yield evidence.check(**row, verdict="INCONCLUSIVE", reason=reason)
            continue
        share = float(np.mean([count > 0 for count in counts]))
        yield evidence.check(
            **row,
            value=share,
            deviation=share,
            model=f"share of {len(counts)} exposures with a step above 5 sigma and 1 electron",
            inputs={"steps": float(sum(counts)), "exposures": float(len(counts))},
            verdict="WARN" if share > limit else "PASS",
            reason=f"the level jumps in {share:.0%} of the exposures" if share > limit else "",
        )


def check_ampcorr(evidence: Evidence) -> Iterator[Check]:
    """Largest correlation of an amplifier with any other of its detector: 0."""
    for amplifier in evidence.detector.amplifiers:
        others = [
            other.name
            for other in evidence.detector.amplifiers
            if other.name != amplifier.name
            and (other.data.width, other.data.height)
            == (amplifier.data.width, amplifier.data.height)
        ]
        if not others:
            reason = "no other amplifier of the same size"
            yield evidence.check(amplifier=amplifier.name, verdict="NOT_APPLICABLE", reason=reason)
            continue
        independent: list[dict[str, float]] = []
        errors: list[float] = []
        for reading, found in readings(evidence, amplifier, partial(_partners, names=others)):
            if isinstance(found, Unusable) or not found[0]:
                reason = str(found) if isinstance(found, Unusable) else "no other amplifier usable"
                yield frame_row(reading, "INCONCLUSIVE", reason)
                continue
            if reading.frame.membership != "member":
                independent.append(found[0])
                errors.append(found[1])
            yield single(reading, _largest([found[0]], found[1]))
        error = float(np.mean(errors)) / math.sqrt(len(errors)) if errors else math.nan
        mean = _largest(independent, error) if independent else None
        yield together(evidence, amplifier, mean, len(independent))


def _partners(reading: Reading, names: list[str]) -> tuple[dict[str, float], float]:
    """Return r with each of the named amplifiers, and its standard error."""
    found = {name: reading.get(f"r:{name}", math.nan) for name in names}
    error = correlation_error(reading["n_good"], reading["n_rows"], reading.rows)
    return {name: r for name, r in found.items() if math.isfinite(r)}, error


def _largest(found: list[dict[str, float]], error: float) -> Estimate:
    """Average the correlations with each partner and return the largest."""
    names = sorted({name for one in found for name in one})
    means = {name: float(np.mean([one[name] for one in found if name in one])) for name in names}
    partner = max(names, key=lambda name: abs(means[name]))
    return Estimate(
        value=means[partner],
        error=error,
        expected=0.0,
        deviation=means[partner],
        model=f"0; largest of {len(names)}, with amplifier {partner}",
        looks=len(names),
        inputs={"exposures": float(len(found)), "partners": float(len(names))},
    )


@hookimpl
def cpplug_verifiers() -> Iterator[Verifier]:
    """Offer the tests of structure."""
    for name, summary, measure, check in (
        ("corner", "Nothing happens where the read-out starts", measure_structure, check_corner),
        ("rowcol", "Rows and columns do not stand together", measure_structure, check_rowcol),
        ("lines", "No regular pick-up in rows or columns", measure_structure, check_lines),
        ("shifts", "The level of the electronics does not jump", measure_shifts, check_shifts),
        (
            "ampcorr",
            "Amplifiers do not waver together",
            measure_correlations,
            check_ampcorr,
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
