"""From measurements to verdicts: one row per exposure and amplifier, one over all exposures.

Only exposures that the product was not made of can prove anything. Rows of member exposures are
reported, but the worst they can say is "look at this input". Over all independent exposures
together each amplifier gets one more row: that is where a deviation too small for a single frame of
few pixels is decided, and where too few independent exposures make the answer INCONCLUSIVE.
Missing, non-finite or mostly masked data are INCONCLUSIVE, never PASS (verification 3.1, 3.4, 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cpplug.api import Amplifier, Check, Evidence, Verdict
from cpplug_verify.decide import can_prove, decide
from cpplug_verify.reading import Reading, Unusable, z_limit

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """A number, what it should be, and how far off it is.

    ``common`` is the share of the squared error that all frames have in common, so that it does not
    shrink when frames are averaged. ``looks`` says of how many deviations this is the largest.
    """

    value: float
    error: float
    expected: float
    deviation: float
    model: str
    quantity: str = ""
    unit: str = ""
    common: float = 0.0
    looks: int = 1
    inputs: dict[str, float] = field(default_factory=dict)


Estimator = Callable[[Reading], Sequence[Estimate]]
Conclusion = tuple[Verdict, str, dict[str, Any]]
"""A verdict, its reason, and the fields of the row that it came from."""


def judge(
    evidence: Evidence,
    estimate: Estimator,
    skip: Callable[[Evidence, Amplifier], str] | None = None,
) -> Iterator[Check]:
    """Yield a row per exposure and amplifier, and one per amplifier over all exposures.

    Parameters
    ----------
    evidence
        All measurements of one product and detector; its threshold gives tolerance and goal.
    estimate
        Turns one reading into estimates, one per quantity; may raise Unusable.
    skip
        Returns why the question makes no sense for an amplifier; nothing when it does.
    """
    for amplifier in evidence.detector.amplifiers:
        reason = skip(evidence, amplifier) if skip else ""
        if reason:
            yield evidence.check(amplifier=amplifier.name, verdict="NOT_APPLICABLE", reason=reason)
            continue
        independent: dict[str, list[Estimate]] = {}
        for reading, found in readings(evidence, amplifier, estimate):
            if isinstance(found, Unusable):
                yield frame_row(reading, "INCONCLUSIVE", str(found))
                continue
            for one in found:
                yield single(reading, one)
                if reading.frame.membership != "member":
                    independent.setdefault(one.quantity, []).append(one)
        for ones in independent.values() or [[]]:
            yield together(evidence, amplifier, _mean(ones) if ones else None, len(ones))


def tally(
    evidence: Evidence,
    measure: Callable[[Reading], T],
    conclude: Callable[[Amplifier, T], Conclusion],
    merge: Callable[[Sequence[T]], T],
) -> Iterator[Check]:
    """Yield the same rows as :func:`judge`, for tests that are not a deviation with an error.

    Parameters
    ----------
    evidence
        All measurements of one product and detector.
    measure
        What counts of one reading; may raise Unusable.
    conclude
        The verdict on it.
    merge
        Puts together what the independent exposures gave.
    """
    for amplifier in evidence.detector.amplifiers:
        independent: list[T] = []
        for reading, found in readings(evidence, amplifier, measure):
            if isinstance(found, Unusable):
                yield frame_row(reading, "INCONCLUSIVE", str(found))
                continue
            if reading.frame.membership != "member":
                independent.append(found)
            verdict, reason, fields = conclude(amplifier, found)
            yield frame_row(reading, verdict, reason, **fields)
        verdict, reason, fields = "INCONCLUSIVE", "", {}
        if independent:
            verdict, reason, fields = conclude(amplifier, merge(independent))
        problem = too_few(evidence, len(independent))
        yield evidence.check(
            amplifier=amplifier.name,
            membership="independent",
            model=f"{len(independent)} exposures together",
            verdict="INCONCLUSIVE" if problem else verdict,
            reason=problem or reason,
            **fields,
        )


def readings(
    evidence: Evidence, amplifier: Amplifier, estimate: Callable[[Reading], T]
) -> Iterator[tuple[Reading, T | Unusable]]:
    """Yield each exposure's reading of an amplifier, and its estimate or why there is none."""
    for frame in evidence.frames:
        reading = Reading(evidence, frame, amplifier)
        try:
            reading.check_usable()
            yield reading, estimate(reading)
        except Unusable as problem:
            yield reading, problem


def frame_row(reading: Reading, verdict: Verdict, reason: str = "", **fields: Any) -> Check:
    """Return the row of one amplifier and exposure; a member's is advisory and cannot FAIL."""
    frame, name = reading.frame, reading.amplifier.name
    if frame.membership == "member":
        fields["severity"] = "advisory"
        if verdict == "FAIL":
            verdict, reason = "WARN", f"bad input? {reason}"
    return reading.evidence.check(
        amplifier=name,
        exposure=frame.exposure,
        membership=frame.membership,
        n_good=reading.n_good,
        masked=dict(frame.masked.get(name, {})),
        verdict=verdict,
        reason=reason,
        **fields,
    )


def single(reading: Reading, one: Estimate) -> Check:
    """Judge one exposure, as far as its pixels can answer alone."""
    evidence = reading.evidence
    verdict, reason = _verdict(evidence, one)
    tolerance, goal = evidence.threshold.tolerance, evidence.threshold.goal
    if tolerance is not None and not can_prove(one.error, tolerance, one.looks):
        size = abs(one.deviation) if evidence.threshold.two_sided else one.deviation
        if not size - z_limit(evidence, one.looks) * one.error > (
            tolerance if goal is None else goal
        ):
            verdict, reason = (
                "NOT_APPLICABLE",
                (
                    f"the error {one.error:.2g} of a single exposure cannot prove {tolerance:g}: "
                    "decided over all exposures"
                ),
            )
    return frame_row(reading, verdict, reason, **_numbers(evidence, one))


def together(evidence: Evidence, amplifier: Amplifier, mean: Estimate | None, n: int) -> Check:
    """Judge what ``n`` independent exposures say together; ``mean`` is None when there are none."""
    row: dict[str, Any] = {"amplifier": amplifier.name, "membership": "independent"}
    verdict: Verdict = "INCONCLUSIVE"
    reason = too_few(evidence, n)
    if mean is not None:
        row |= _numbers(evidence, mean)
        if not reason:
            verdict, reason = _verdict(evidence, mean)
    return evidence.check(**row, verdict=verdict, reason=reason)


def too_few(evidence: Evidence, n: int) -> str:
    """Return what is missing when n usable independent exposures are not enough, else nothing."""
    if n >= evidence.min_independent:
        return ""
    return f"{n} usable independent exposures, {evidence.min_independent} are needed"


def _mean(ones: Sequence[Estimate]) -> Estimate:
    n = len(ones)
    variance = sum(one.error**2 for one in ones) / n
    common = sum(one.common for one in ones) / n
    return Estimate(
        value=sum(one.value for one in ones) / n,
        error=math.sqrt(variance * (common + (1 - common) / n)),
        expected=sum(one.expected for one in ones) / n,
        deviation=sum(one.deviation for one in ones) / n,
        model=f"mean of {n} exposures: {ones[0].model}",
        quantity=ones[0].quantity,
        unit=ones[0].unit,
        looks=ones[0].looks,
        inputs={"exposures": float(n)},
    )


def _numbers(evidence: Evidence, one: Estimate) -> dict[str, Any]:
    return {
        "quantity": one.quantity,
        "value": one.value,
        "error": one.error,
        "expected": one.expected,
        "deviation": one.deviation,
        "model": one.model,
        "inputs": one.inputs,
        "unit": one.unit or evidence.threshold.unit,
        "z": one.deviation / one.error if one.error > 0 else None,
    }


def _verdict(evidence: Evidence, one: Estimate) -> tuple[Verdict, str]:
    threshold = evidence.threshold
    if threshold.tolerance is None:
        return "INCONCLUSIVE", "the profile gives no tolerance"
    return decide(
        one.deviation,
        one.error,
        threshold.tolerance,
        threshold.goal,
        z=z_limit(evidence, one.looks),
        two_sided=threshold.two_sided,
    )
