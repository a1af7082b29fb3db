"""The reference's bias rules: verdicts for given statistics, edges included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Box,
    Check,
    Detector,
    Evidence,
    Exposure,
    ExposureInfo,
    FrameEvidence,
    ProductFacts,
    Residual,
    mask_bits,
)
from cpplug.engine.profiles import load_profile
from cpplug.engine.rollup import verdict_of
from cpplug_verify import bias_compat

VERIFIERS = {one.name: one for one in bias_compat.cpplug_verifiers()}
PROFILES = {2021: load_profile("upstream-compat"), 2026: load_profile("upstream-compat-2026")}
READ_NOISE = 8.0
AMPLIFIER = Amplifier(
    name="A", source=(Box(0, 0, 60, 50),), data=Box(0, 0, 60, 50), bbox=Box(0, 0, 60, 50),
    gain=2.0, read_noise=READ_NOISE,
)  # fmt: skip
DETECTOR = Detector(id=0, name="D", amplifiers=(AMPLIFIER,), width=60, height=50)
NAN = math.nan


def verdict(test: str, year: int, **numbers: float) -> Check:
    """Judge statistics given in the unit of that year (ADU in 2021, electron in 2026)."""
    scale = 1.0 if year == 2021 else 2.0
    values = {f"compat_{key}": value / scale for key, value in numbers.items()}
    frame = FrameEvidence(
        exposure=1, mjd=0.0, membership="member", values={"A": {**values, "compat_gain": 2.0}}
    )
    return check(test, year, frame)


def check(test: str, year: int, *frames: FrameEvidence) -> Check:
    profile = PROFILES[year]
    evidence = Evidence(
        test=f"bias.compat.{test}",
        product=ProductFacts(
            dataset="d", sha256="s", dataset_type="bias", unit="adu", n_inputs=20,
            members=(1,), metadata={},
        ),
        detector=DETECTOR, frames=frames, threshold=profile.tests[f"bias.compat.{test}"],
        n_comparisons=1, min_independent=profile.min_independent,
        min_good_fraction=profile.min_good_fraction,
    )  # fmt: skip
    (row,) = VERIFIERS[evidence.test].check(evidence)
    return row


TRUTH = [
    # |MEAN| < NOISE, strictly
    ("MEAN", {"mean": 7.9, "noise": 8.0}, "PASS", "PASS"),
    ("MEAN", {"mean": -7.9, "noise": 8.0}, "PASS", "PASS"),
    ("MEAN", {"mean": 8.0, "noise": 8.0}, "FAIL", "FAIL"),
    ("MEAN", {"mean": 0.0, "noise": 0.0}, "FAIL", "FAIL"),
    ("MEAN", {"mean": NAN, "noise": 8.0}, "FAIL", "FAIL"),
    ("MEAN", {"mean": 0.0, "noise": NAN}, "FAIL", "FAIL"),
    # |NOISE - RN| / RN <= 0.05 in 2021, one-sided in 2026; RN = 8: 8.4 is on the edge
    ("NOISE", {"noise": 8.0}, "PASS", "PASS"),
    ("NOISE", {"noise": 8.399}, "PASS", "PASS"),
    ("NOISE", {"noise": 8.41}, "FAIL", "FAIL"),
    ("NOISE", {"noise": 7.61}, "PASS", "PASS"),
    ("NOISE", {"noise": 7.59}, "FAIL", "PASS"),
    ("NOISE", {"noise": 0.0}, "FAIL", "PASS"),
    ("NOISE", {"noise": NAN}, "FAIL", "FAIL"),
    # |NOISE - CR_NOISE| / CR_NOISE <= 0.05, two-sided, equality passes: 21 to 20
    ("CR_NOISE", {"noise": 21.0, "cr_noise": 20.0}, "PASS", "PASS"),
    ("CR_NOISE", {"noise": 21.02, "cr_noise": 20.0}, "FAIL", "FAIL"),
    ("CR_NOISE", {"noise": 19.0, "cr_noise": 20.0}, "PASS", "PASS"),
    ("CR_NOISE", {"noise": 18.9, "cr_noise": 20.0}, "FAIL", "FAIL"),
    ("CR_NOISE", {"noise": 8.0, "cr_noise": 0.0}, "FAIL", "FAIL"),
    ("CR_NOISE", {"noise": 8.0, "cr_noise": NAN}, "FAIL", "FAIL"),
    # overscan - RN > 5 % or not finite is False, less noise never
    ("READ_NOISE_CONSISTENT", {"overscan_noise": 8.39}, "PASS", "PASS"),
    ("READ_NOISE_CONSISTENT", {"overscan_noise": 8.41}, "FAIL", "FAIL"),
    ("READ_NOISE_CONSISTENT", {"overscan_noise": 1.0}, "PASS", "PASS"),
    ("READ_NOISE_CONSISTENT", {"overscan_noise": NAN}, "FAIL", "FAIL"),
]


@pytest.mark.parametrize(("test", "numbers", "in_2021", "in_2026"), TRUTH)
def test_truth_table(test: str, numbers: dict[str, float], in_2021: str, in_2026: str) -> None:
    assert verdict(test, 2021, **numbers).verdict == in_2021
    assert verdict(test, 2026, **numbers).verdict == in_2026


@pytest.mark.parametrize("year", [2021, 2026])
def test_equality_with_the_limit_passes(year: int) -> None:
    """5 % of 20 electrons is exact in binary: 21 passes, the next number above does not."""
    for noise, good in ((21.0, True), (float(np.nextafter(21.0, 22)), False)):
        numbers = {"MEAN": 0.0, "NOISE": noise, "CR_NOISE": 20.0, "READ_NOISE": noise}
        assert bias_compat.passes("NOISE", year, numbers, 20.0) is good
        assert bias_compat.passes("CR_NOISE", year, numbers, 20.0) is good
        assert bias_compat.passes("READ_NOISE_CONSISTENT", year, numbers, 20.0) is good


def test_units_are_those_of_the_year() -> None:
    """4.2 ADU at gain 2 is 8.4 electrons: far below 8 for 2021, within 5 % of it for 2026."""
    frame = FrameEvidence(
        exposure=1, mjd=0.0, membership="independent",
        values={"A": {"compat_noise": 4.1, "compat_gain": 2.0}},
    )  # fmt: skip
    old, new = check("NOISE", 2021, frame), check("NOISE", 2026, frame)
    assert (old.verdict, old.unit, old.value) == ("FAIL", "adu", 4.1)
    assert (new.verdict, new.unit, new.value) == ("PASS", "electron", 8.2)


@pytest.mark.parametrize("year", [2021, 2026])
def test_read_noise_consistent_only_advises(year: int) -> None:
    advice = verdict("READ_NOISE_CONSISTENT", year, overscan_noise=20.0)
    good = verdict("NOISE", year, noise=8.0)
    assert (advice.verdict, advice.severity) == ("FAIL", "advisory")
    assert verdict_of([advice, good]) == "WARN"
    assert verdict_of([advice]) == "INCONCLUSIVE"


@pytest.mark.parametrize(("year", "limit"), [(2021, 10_000), (2026, 1_000_000)])
def test_processing_fails_above_the_limit(year: int, limit: int) -> None:
    for pixels, expected in ((limit, "PASS"), (limit + 1, "FAIL")):
        frame = FrameEvidence(
            exposure=1, mjd=0.0, membership="member",
            values={"A": {"compat_cr_pixels": float(pixels)}},
        )  # fmt: skip
        assert check("PROCESSING", year, frame).verdict == expected


def test_an_exposure_that_could_not_be_read_is_inconclusive() -> None:
    frame = FrameEvidence(exposure=1, mjd=0.0, membership="member", values={}, error="cut short")
    for test in ("MEAN", "PROCESSING"):
        row = check(test, 2021, frame)
        assert (row.verdict, row.reason) == ("INCONCLUSIVE", "cut short")


def test_statistics_are_the_references() -> None:
    """Unclipped mean, clipped noise; saturated pixels count, masked hits are painted over."""
    rng = np.random.default_rng(3)
    image = rng.normal(0.5, 4.0, (50, 60)).astype(np.float32)
    image[10, 10] = 4000
    image[20, 20] = 900
    image[30, 30] = 5000
    info = ExposureInfo(
        instrument="toy", exposure=1, obs_id="1", day_obs=20210120, seq_num=1,
        observation_type="bias", exposure_time=0.0, dark_time=0.0, begin=0, end=0,
    )  # fmt: skip
    exposure = Exposure(info, DETECTOR, image.copy())
    exposure.mask[10, 10] |= mask_bits("BAD")
    exposure.mask[20, 20] |= mask_bits("SAT")
    exposure.noise["A"] = AmplifierNoise(2.0, 4.0)
    exposure.record("overscan_residual_sigma", 3.9, "adu", "A")
    residual = Residual(
        exposure=exposure, detector=DETECTOR, membership="member",
        exclude=mask_bits("BAD", "SAT", "CR"),
    )  # fmt: skip
    found = bias_compat.measure_compat(residual)["A"]
    good = np.ones(image.shape, bool)
    good[10, 10] = False
    assert found["compat_mean"] == pytest.approx(image[good].mean(dtype=np.float64), rel=1e-6)
    assert found["compat_noise"] == pytest.approx(4.0, rel=0.05)
    assert found["compat_cr_noise"] == pytest.approx(4.0, rel=0.05)
    assert found["compat_cr_pixels"] == 2
    assert found["compat_overscan_noise"] == 3.9
    assert np.std(image[good]) > 30
