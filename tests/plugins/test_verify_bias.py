"""The strict bias tests on a synthetic camera: 2 CCDs of 4 amplifiers of 200 x 100 pixels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from scipy.stats import kstest

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
    Threshold,
    Verifier,
    clipped,
    mask_bits,
)
from cpplug.engine.profiles import load_profile
from cpplug.engine.rollup import verdict_of
from cpplug_verify import bias_compat, bias_product, bias_strict, bias_structure

ROWS, COLUMNS, OVERSCAN = 200, 100, 32
N_INPUTS, N_CHECKED = 20, 24
NOISE = (5.0, 6.0, 7.0, 8.0)
GAIN = (1.2, 1.4, 1.6, 1.8)
EXCLUDE = mask_bits("BAD", "SAT", "SUSPECT", "NO_DATA", "CR", "EDGE", "INTRP")
VERIFIERS: dict[str, Verifier] = {
    one.name: one
    for module in (bias_strict, bias_structure, bias_product, bias_compat)
    for one in module.cpplug_verifiers()
}
STRICT, COMPAT = load_profile("strict"), load_profile("upstream-compat")
Fault = Callable[[Exposure, int], None]


def toy_detector(ccd: int) -> Detector:
    """Four amplifiers in a 2 x 2 grid, each read out from its own corner."""
    amplifiers = tuple(
        Amplifier(
            name=f"A{k}",
            source=(Box(0, 0, COLUMNS + OVERSCAN, ROWS),),
            data=Box(0, 0, COLUMNS, ROWS),
            serial_overscan=Box(COLUMNS, 0, OVERSCAN, ROWS),
            flip_x=k % 2 == 1,
            flip_y=k >= 2,
            bbox=Box(COLUMNS * (k % 2), ROWS * (k // 2), COLUMNS, ROWS),
            gain=GAIN[k],
            read_noise=NOISE[k],
        )
        for k in range(4)
    )
    return Detector(id=ccd, name=f"D{ccd}", amplifiers=amplifiers, width=200, height=400)


class Toy:
    """Noise-only raw frames of one CCD, overscan-corrected row by row, and their master."""

    def __init__(self, ccd: int, seed: int) -> None:
        self.rng = np.random.default_rng([seed, ccd])
        self.detector = toy_detector(ccd)
        self.inputs = [self.frame(i + 1) for i in range(N_INPUTS)]
        stack = np.stack([frame.image for frame in self.inputs]).astype(np.float64)
        self.master = stack.mean(axis=0).astype(np.float32)
        self.halves = (stack[::2].mean(axis=0) - stack[1::2].mean(axis=0)).astype(np.float32)

    def frame(self, number: int) -> Exposure:
        image = np.empty(self.detector.shape, np.float32)
        info = ExposureInfo(
            instrument="toy", exposure=number, obs_id=str(number), day_obs=20210120,
            seq_num=number, observation_type="bias", exposure_time=0.0, dark_time=0.0,
            begin=number * 10**9, end=number * 10**9,
        )  # fmt: skip
        exposure = Exposure(info, self.detector, image)
        for amp in self.detector.amplifiers:
            raw = self.rng.normal(0, amp.read_noise / amp.gain, (ROWS, COLUMNS + OVERSCAN))
            strip = raw[:, COLUMNS:]
            level = np.median(strip, axis=1)
            data = raw[:, :COLUMNS] - level[:, None]
            turn = (slice(None, None, -1 if amp.flip_y else 1),
                    slice(None, None, -1 if amp.flip_x else 1))  # fmt: skip
            exposure.amp(amp.name)[0][...] = data[turn]
            rest = clipped(strip - level[:, None])
            exposure.record("overscan_columns", OVERSCAN, "pixel", amp.name)
            exposure.record("overscan_residual_sigma", rest.sigma, "adu", amp.name)
            exposure.series["overscan_level", amp.name] = level
            exposure.series["overscan_rows", amp.name] = strip.mean(axis=1)
            exposure.noise[amp.name] = AmplifierNoise(amp.gain, amp.read_noise / amp.gain)
        return exposure

    def residual(self, frame: Exposure, membership: str, fault: Fault | None = None) -> Residual:
        rest = Exposure(frame.info, self.detector, frame.image - self.master)
        rest.notes_from(frame)
        if fault:
            fault(rest, self.detector.id)
        return Residual(
            exposure=rest, detector=self.detector, membership=membership, exclude=EXCLUDE
        )

    def facts(self) -> ProductFacts:
        cards: dict[str, str | int | float | bool] = {"COMBINER": "mean"}
        for amp in self.detector.amplifiers:
            found = clipped(self.halves[amp.bbox.slices])
            cards[f"SPLIT {amp.name} MEAN"] = found.mean
            cards[f"SPLIT {amp.name} SIGMA"] = found.sigma
        return ProductFacts(
            dataset=f"ds{self.detector.id}", sha256="ab" * 32, dataset_type="bias", unit="adu",
            n_inputs=N_INPUTS, members=tuple(range(1, N_INPUTS + 1)), metadata=cards,
        )  # fmt: skip


def evidence_of(residual: Residual, names: Iterable[str]) -> FrameEvidence:
    values: dict[str, dict[str, float]] = {}
    for name in names:
        measure = VERIFIERS[name].measure
        for scope, numbers in (measure(residual) if measure else {}).items():
            values.setdefault(scope, {}).update(numbers)
    number = residual.exposure.info.exposure
    return FrameEvidence(
        exposure=number, mjd=59234.0 + number, membership=residual.membership, values=values
    )


def judge(
    toy: Toy,
    frames: Iterable[FrameEvidence],
    profile: object = STRICT,
    names: Iterable[str] | None = None,
    **options: object,
) -> list[Check]:
    found = tuple(frames)
    checks = []
    for name in names or profile.tests:
        evidence = Evidence(
            test=name, product=toy.facts(), detector=toy.detector, frames=found,
            threshold=profile.tests[name], n_comparisons=2 * 4 * max(len(found), 1),
            min_independent=profile.min_independent,
            min_good_fraction=profile.min_good_fraction, options=dict(options),
        )  # fmt: skip
        checks += VERIFIERS[name].check(evidence)
    return checks


@pytest.fixture(scope="module")
def toys() -> list[Toy]:
    return [Toy(ccd, seed=20210120) for ccd in (0, 1)]


@pytest.fixture(scope="module")
def fresh(toys: list[Toy]) -> list[list[Exposure]]:
    """Frames that no master was made of, for each CCD."""
    return [[toy.frame(1000 + i) for i in range(N_CHECKED)] for toy in toys]


@pytest.fixture(scope="module")
def null_frames(toys: list[Toy], fresh: list[list[Exposure]]) -> list[list[FrameEvidence]]:
    return [
        [evidence_of(toy.residual(f, "independent"), STRICT.tests) for f in frames]
        for toy, frames in zip(toys, fresh, strict=True)
    ]


@pytest.fixture(scope="module")
def null_rows(toys: list[Toy], null_frames: list[list[FrameEvidence]]) -> list[Check]:
    return [
        check for toy, frames in zip(toys, null_frames, strict=True) for check in judge(toy, frames)
    ]


def with_fault(
    toys: list[Toy], fresh: list[list[Exposure]], fault: Fault, names: list[str], profile=STRICT
) -> list[Check]:
    """Verdicts on CCD 0 with a fault in every residual; four exposures are enough to see it."""
    toy = toys[0]
    frames = [evidence_of(toy.residual(f, "independent", fault), names) for f in fresh[0][:4]]
    return judge(toy, frames, profile, names)


def verdicts(checks: Iterable[Check], amplifier: str | None = None) -> set[str]:
    return {c.verdict for c in checks if amplifier is None or c.amplifier == amplifier}


# ---- null run -----------------------------------------------------------------------------------
def test_null_run_gives_no_fail_and_hardly_a_warning(null_rows: list[Check]) -> None:
    counts = Counter(check.verdict for check in null_rows)
    warned = [(c.test, c.amplifier, c.quantity, c.reason) for c in null_rows if c.verdict == "WARN"]
    assert counts["FAIL"] == 0
    open_questions = {(c.test, c.severity) for c in null_rows if c.verdict == "INCONCLUSIVE"}
    assert open_questions <= {("bias.split", "advisory")}
    assert len(warned) <= 0.01 * len(null_rows), warned
    assert verdict_of(null_rows) in ("PASS", "WARN")
    assert {check.test for check in null_rows} == set(STRICT.tests)


@pytest.mark.parametrize("test", ["bias.mean", "bias.noise", "bias.corner", "bias.rn_consistent"])
def test_null_run_errors_are_right(null_rows: list[Check], test: str) -> None:
    """Deviations in units of their error follow a unit Gaussian (the master's share is common)."""
    z = [c.z for c in null_rows if c.test == test and c.exposure is not None]
    assert len(z) == 2 * 4 * N_CHECKED
    assert kstest(np.array(z) - np.mean(z), "norm").pvalue > 0.01
    assert abs(np.mean(z)) < 0.5
    assert np.std(z) == pytest.approx(1, abs=0.15)


def test_null_run_profiles_scatter_as_predicted(null_rows: list[Check]) -> None:
    for quantity in ("rows", "columns"):
        ratios = [
            c.value for c in null_rows
            if c.test == "bias.rowcol" and c.quantity == quantity and c.exposure is not None
        ]  # fmt: skip
        assert np.mean(ratios) == pytest.approx(1, abs=0.03)


def test_every_row_states_its_unit_and_scope(null_rows: list[Check]) -> None:
    assert all(check.unit for check in null_rows)
    assert all(check.amplifier for check in null_rows if check.test != "bias.depth")


# ---- membership ---------------------------------------------------------------------------------
def test_members_alone_prove_nothing(toys: list[Toy]) -> None:
    toy = toys[0]
    frames = [evidence_of(toy.residual(f, "member"), STRICT.tests) for f in toy.inputs[:5]]
    checks = judge(toy, frames)
    assert verdict_of(checks) == "INCONCLUSIVE"
    for name, limits in STRICT.tests.items():
        if limits.severity == "required" and name != "bias.depth":
            mine = [c for c in checks if c.test == name]
            assert verdict_of(mine) == "INCONCLUSIVE", name
            assert any("independent exposures" in c.reason for c in mine)
    assert all(c.severity == "advisory" for c in checks if c.membership == "member")


def test_a_bad_member_is_pointed_out_but_fails_nothing(
    toys: list[Toy], null_frames: list[list[FrameEvidence]]
) -> None:
    toy = toys[0]

    def spoil(exposure: Exposure, ccd: int) -> None:
        exposure.image += np.float32(5)

    bad = evidence_of(toy.residual(toy.inputs[3], "member", spoil), ["bias.mean"])
    checks = judge(toy, [bad, *null_frames[0]], names=["bias.mean"])
    pointed = [c for c in checks if c.exposure == bad.exposure]
    assert {(c.verdict, c.severity) for c in pointed} == {("WARN", "advisory")}
    assert all("bad input?" in c.reason for c in pointed)
    without = judge(toy, null_frames[0], names=["bias.mean"])
    assert verdict_of(checks) == verdict_of(without)
    assert verdict_of(without) in ("PASS", "WARN")


def test_membership_factor_of_the_mean(toys: list[Toy]) -> None:
    """Residual noise over frame noise is sqrt(1 -+ 1/N) to 0.3 %."""
    toy = toys[1]
    own = np.mean([f.image.astype(np.float64) ** 2 for f in toy.inputs], axis=0)
    member = np.mean([(f.image - toy.master).astype(np.float64) ** 2 for f in toy.inputs], axis=0)
    others = [toy.frame(5000 + i) for i in range(N_INPUTS)]
    outside = np.mean([(f.image - toy.master).astype(np.float64) ** 2 for f in others], axis=0)
    theirs = np.mean([f.image.astype(np.float64) ** 2 for f in others], axis=0)
    assert np.sqrt(member.mean() / own.mean()) == pytest.approx(np.sqrt(1 - 1 / 20), rel=3e-3)
    assert np.sqrt(outside.mean() / theirs.mean()) == pytest.approx(np.sqrt(1 + 1 / 20), rel=3e-3)


def test_member_noise_is_held_against_the_smaller_expectation(
    toys: list[Toy], null_rows: list[Check]
) -> None:
    toy = toys[0]
    frames = [evidence_of(toy.residual(f, "member"), ["bias.noise"]) for f in toy.inputs]
    members = [c for c in judge(toy, frames, names=["bias.noise"]) if c.exposure is not None]
    inside = np.mean([c.deviation for c in members])
    outside = np.mean([c.deviation for c in null_rows
                       if c.test == "bias.noise" and c.exposure is not None])  # fmt: skip
    assert inside == pytest.approx(0, abs=0.003)
    assert outside == pytest.approx(0, abs=0.003)


# ---- faults -------------------------------------------------------------------------------------
def test_offset_fails_strict_and_passes_compat(
    toys: list[Toy], fresh: list[list[Exposure]]
) -> None:
    """A bias that is 1.5 electron off is invisible to the reference's rule."""

    def offset(exposure: Exposure, ccd: int) -> None:
        image, _ = exposure.amp("A1")
        image += np.float32(1.5 / GAIN[1])

    checks = with_fault(toys, fresh, offset, ["bias.mean"])
    assert {c.amplifier for c in checks if c.verdict == "FAIL"} == {"A1"}
    compat = with_fault(toys, fresh, offset, ["bias.compat.MEAN"], COMPAT)
    assert verdicts(compat) == {"PASS"}


@pytest.mark.parametrize(("offset", "verdict"), [(0.6, "FAIL"), (0.3, "WARN"), (0.0, "PASS")])
def test_offset_of_full_size_amplifiers(toys: list[Toy], offset: float, verdict: str) -> None:
    """2000 x 509 pixels and 61 overscan columns: one exposure knows its mean to 0.02 electron."""
    rng = np.random.default_rng(6)
    common = rng.normal(0, 0.022 / np.sqrt(20))
    frames = []
    for number in range(10):
        numbers = {
            "n_good": 1_018_000.0, "n_total": 1_018_000.0, "n_rows": 2000.0, "n_columns": 509.0,
            "gain": 1.1, "sigma": 6.226, "overscan_columns": 61.0, "row_levels": 1.0,
            "mean": offset + common + rng.normal(0, 0.022),
        }  # fmt: skip
        frames.append(
            FrameEvidence(
                exposure=number, mjd=0.0, membership="independent", values={"A1": numbers}
            )
        )
    mine = [c for c in judge(toys[0], frames, names=["bias.mean"]) if c.amplifier == "A1"]
    assert verdict_of(mine) == verdict
    assert mine[0].error == pytest.approx(0.022, rel=0.05)


def test_noise_eight_per_cent_up(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def noisy(exposure: Exposure, ccd: int) -> None:
        image, _ = exposure.amp("A2")
        image *= np.float32(1.08)

    checks = with_fault(toys, fresh, noisy, ["bias.noise"])
    assert "FAIL" in verdicts(checks, "A2")
    assert verdicts(checks, "A0") | verdicts(checks, "A1") | verdicts(checks, "A3") == {"PASS"}


def test_dead_amplifier(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def dead(exposure: Exposure, ccd: int) -> None:
        image, _ = exposure.amp("A3")
        image *= np.float32(0.1 * GAIN[3] / NOISE[3])

    checks = with_fault(toys, fresh, dead, ["bias.noise_floor", "bias.noise"])
    assert verdicts(checks, "A3") == {"FAIL"}
    assert "dead" in next(c.reason for c in checks if c.amplifier == "A3")
    assert verdicts(checks, "A0") == {"PASS"}
    compat = with_fault(
        toys, fresh, dead, ["bias.compat.NOISE"], load_profile("upstream-compat-2026")
    )
    assert verdicts(compat, "A3") == {"PASS"}


def test_far_too_noisy_amplifier(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def noisy(exposure: Exposure, ccd: int) -> None:
        exposure.amp("A3")[0][...] *= np.float32(3)

    checks = with_fault(toys, fresh, noisy, ["bias.noise_floor"])
    assert verdicts(checks, "A3") == {"FAIL"}


def test_unmasked_hot_pixels(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    places = np.random.default_rng(3).choice(ROWS * COLUMNS, 50, replace=False)

    def hot(exposure: Exposure, ccd: int) -> None:
        exposure.amp("A0")[0].flat[places] += 500

    checks = with_fault(toys, fresh, hot, ["bias.cr_rate", "bias.cr_consistency"])
    rate = [c for c in checks if c.test == "bias.cr_rate"]
    assert verdicts(rate, "A0") == {"FAIL"}
    assert verdicts(rate, "A1") == {"PASS"}


def test_masked_hot_pixels_are_no_matter(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def hot(exposure: Exposure, ccd: int) -> None:
        image, mask = exposure.amp("A0")
        image[::10, ::10] += 500
        mask[::10, ::10] |= mask.dtype.type(mask_bits("BAD"))

    names = ["bias.cr_rate", "bias.mean", "bias.noise"]
    assert "FAIL" not in verdicts(with_fault(toys, fresh, hot, names))


def test_nan_frame_is_inconclusive(
    toys: list[Toy], fresh: list[list[Exposure]], null_frames: list[list[FrameEvidence]]
) -> None:
    toy = toys[0]

    def blank(exposure: Exposure, ccd: int) -> None:
        exposure.image[...] = np.nan

    bad = evidence_of(toy.residual(toy.frame(9999), "independent", blank), STRICT.tests)
    checks = judge(toy, [bad, *null_frames[0]])
    mine = [c for c in checks if c.exposure == 9999]
    assert verdicts(mine) == {"INCONCLUSIVE"}
    assert {c.reason for c in mine} == {"no good pixel"}
    assert verdict_of(checks) == "INCONCLUSIVE"


def test_half_masked_amplifier_is_inconclusive(
    toys: list[Toy], fresh: list[list[Exposure]]
) -> None:
    def masked(exposure: Exposure, ccd: int) -> None:
        exposure.amp("A2")[1][:, :51] |= np.uint16(mask_bits("BAD"))

    checks = with_fault(toys, fresh, masked, ["bias.mean"])
    assert verdicts(checks, "A2") == {"INCONCLUSIVE"}
    assert "49%" in next(c.reason for c in checks if c.amplifier == "A2")


def test_failed_exposure_is_inconclusive(toys: list[Toy]) -> None:
    frames = [
        FrameEvidence(exposure=7, mjd=0.0, membership="independent", values={}, error="file is cut")
    ]
    checks = judge(toys[0], frames, names=["bias.mean", "bias.cr_rate", "bias.ampcorr"])
    assert verdicts(checks) == {"INCONCLUSIVE"}
    assert any(c.reason == "file is cut" for c in checks)


def test_flood_of_hits_is_inconclusive_not_an_error(
    toys: list[Toy], fresh: list[list[Exposure]]
) -> None:
    def flood(exposure: Exposure, ccd: int) -> None:
        exposure.amp("A0")[0][::5, ::5] += 300

    checks = with_fault(toys, fresh, flood, ["bias.cr_rate"])
    assert verdicts(checks, "A0") == {"INCONCLUSIVE"}
    assert any("cr_overflow" in c.reason for c in checks)


@pytest.mark.parametrize("amplifier", [0, 1, 2, 3])
def test_transient_in_the_read_out_corner(
    toys: list[Toy], fresh: list[list[Exposure]], amplifier: int
) -> None:
    """The corner is where this amplifier is read out, whichever way its image is turned."""
    name = f"A{amplifier}"

    def transient(exposure: Exposure, ccd: int) -> None:
        image, _ = exposure.amp(name)
        rows = slice(-100, None) if amplifier >= 2 else slice(0, 100)
        columns = slice(-50, None) if amplifier % 2 else slice(0, 50)
        image[rows, columns] += np.float32(4 / GAIN[amplifier])

    checks = with_fault(toys, fresh, transient, ["bias.corner"])
    assert verdicts(checks, name) == {"FAIL"}
    together = next(c for c in checks if c.amplifier == name and c.exposure is None)
    assert together.value == pytest.approx(3.0, abs=5 * together.error)
    assert verdicts(checks, f"A{(amplifier + 1) % 4}") == {"PASS"}


def test_bands_fail_in_their_direction(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def bands(exposure: Exposure, ccd: int) -> None:
        wave = np.random.default_rng(5).normal(0, 3, COLUMNS)
        exposure.amp("A1")[0][...] += wave.astype(np.float32)

    checks = with_fault(toys, fresh, bands, ["bias.rowcol"])
    assert {(c.amplifier, c.quantity) for c in checks if c.verdict == "FAIL"} == {("A1", "columns")}


def test_pick_up_line(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def pick_up(exposure: Exposure, ccd: int) -> None:
        wave = 2.5 / GAIN[2] * np.sin(2 * np.pi * np.arange(ROWS) / 8)
        exposure.amp("A2")[0][...] += wave[:, None].astype(np.float32)

    checks = with_fault(toys, fresh, pick_up, ["bias.lines"])
    failed = [c for c in checks if c.verdict == "FAIL"]
    assert {(c.amplifier, c.quantity) for c in failed} == {("A2", "rows")}
    assert failed[0].value == pytest.approx(2.5, abs=0.5)
    assert failed[0].inputs["period"] == pytest.approx(8)


def test_jumping_overscan_level(toys: list[Toy], fresh: list[list[Exposure]]) -> None:
    def jump(exposure: Exposure, ccd: int) -> None:
        levels = exposure.series["overscan_rows", "A0"].copy()
        levels[90:] += 6.0
        drift = exposure.series["overscan_rows", "A1"] + np.linspace(0, 20, ROWS)
        exposure.series = {("overscan_rows", "A0"): levels, ("overscan_rows", "A1"): drift}

    checks = with_fault(toys, fresh, jump, ["bias.shifts"])
    found = {c.amplifier: c.verdict for c in checks}
    assert found == {"A0": "WARN", "A1": "PASS", "A2": "INCONCLUSIVE", "A3": "INCONCLUSIVE"}
    assert next(c for c in checks if c.amplifier == "A0").inputs["steps"] == 4


def test_amplifiers_that_waver_together_in_time(
    toys: list[Toy], fresh: list[list[Exposure]]
) -> None:
    """The same noise at the same moment of the read-out, so turned on the detector."""
    rng = np.random.default_rng(8)

    def waver(exposure: Exposure, ccd: int) -> None:
        shared = rng.normal(0, 3, (ROWS, COLUMNS)).astype(np.float32)
        exposure.amp("A0")[0][...] += shared / np.float32(GAIN[0])
        exposure.amp("A3")[0][...] += shared[::-1, ::-1] / np.float32(GAIN[3])

    checks = with_fault(toys, fresh, waver, ["bias.ampcorr"])
    failed = [c for c in checks if c.verdict == "FAIL"]
    assert {c.amplifier for c in failed} == {"A0", "A3"}
    expected = 9 / np.sqrt((25 * 1.05 + 9) * (64 * 1.05 + 9))
    assert failed[0].value == pytest.approx(expected, abs=0.04)


def test_wrong_nominal_read_noise(toys: list[Toy], null_frames: list[list[FrameEvidence]]) -> None:
    """A camera file that is wrong is told so; a bootstrap run measures against the overscan."""
    toy = Toy.__new__(Toy)
    toy.__dict__.update(toys[0].__dict__)
    wrong = [
        Amplifier(**{f: getattr(a, f) for f in a.__struct_fields__} | {"read_noise": 4.5})
        if a.name == "A1" else a
        for a in toys[0].detector.amplifiers
    ]  # fmt: skip
    toy.detector = Detector(id=0, name="D0", amplifiers=tuple(wrong), width=200, height=400)
    names = ["bias.noise", "bias.rn_consistent"]
    checks = judge(toy, null_frames[0], names=names)
    assert {c.amplifier for c in checks if c.verdict == "FAIL"} == {"A1"}
    assert {c.test for c in checks if c.verdict == "FAIL"} == set(names)
    trusted = judge(toy, null_frames[0], names=names, bootstrap=True)
    assert {c.verdict for c in trusted if c.test == "bias.rn_consistent"} == {"NOT_APPLICABLE"}
    assert {c.verdict for c in trusted if c.test == "bias.noise"} == {"PASS"}
    empirical = judge(toy, null_frames[0], names=names, empirical_read_noise=True)
    assert {(c.test, c.amplifier) for c in empirical if c.verdict == "FAIL"} == {
        ("bias.rn_consistent", "A1")
    }


# ---- the product itself -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "combiner", "verdict"),
    [(20, "clipped_mean", "PASS"), (19, "mean", "FAIL"), (31, "median", "PASS"),
     (29, "median", "FAIL"), (3, "mean", "FAIL")],
)  # fmt: skip
def test_depth(toys: list[Toy], n: int, combiner: str, verdict: str) -> None:
    facts = toys[0].facts()
    product = ProductFacts(
        **{f: getattr(facts, f) for f in facts.__struct_fields__}
        | {"n_inputs": n, "metadata": {"COMBINER": combiner}}
    )
    evidence = Evidence(
        test="bias.depth", product=product, detector=toys[0].detector, frames=(),
        threshold=STRICT.tests["bias.depth"], n_comparisons=8, min_independent=3,
        min_good_fraction=0.5,
    )  # fmt: skip
    (check,) = VERIFIERS["bias.depth"].check(evidence)
    assert check.verdict == verdict
    assert check.tolerance == pytest.approx(0.225)


def test_split_of_a_good_stack(null_rows: list[Check]) -> None:
    noise = [c for c in null_rows if c.test == "bias.split" and c.quantity == "noise"]
    assert len(noise) == 8
    assert verdicts(noise) == {"PASS"}
    assert all(c.severity == "advisory" for c in noise)
    mean = [c for c in null_rows if c.test == "bias.split" and c.quantity == "mean"]
    assert all(abs(c.z) < 4 for c in mean)


def test_split_finds_a_level_that_differs(toys: list[Toy]) -> None:
    toy = toys[0]
    facts = toy.facts()
    cards = dict(facts.metadata) | {"SPLIT A0 MEAN": 2.0, "SPLIT A1 SIGMA": 9.0}
    del cards["SPLIT A2 MEAN"]
    product = ProductFacts(
        **{f: getattr(facts, f) for f in facts.__struct_fields__} | {"metadata": cards}
    )
    evidence = Evidence(
        test="bias.split", product=product, detector=toy.detector, frames=(),
        threshold=STRICT.tests["bias.split"], n_comparisons=8, min_independent=3,
        min_good_fraction=0.5,
    )  # fmt: skip
    found = {(c.amplifier, c.quantity): c.verdict for c in VERIFIERS["bias.split"].check(evidence)}
    assert found["A0", "mean"] == "FAIL"
    assert found["A1", "noise"] == "FAIL"
    assert found["A2", ""] == "INCONCLUSIVE"


# ---- purity -------------------------------------------------------------------------------------
def _digest(residual: Residual) -> str:
    exposure = residual.exposure
    parts = [exposure.image.tobytes(), exposure.mask.tobytes()]
    parts += [exposure.series[key].tobytes() for key in sorted(exposure.series)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_measuring_changes_nothing_and_repeats(
    toys: list[Toy], fresh: list[list[Exposure]]
) -> None:
    names = [name for name, one in VERIFIERS.items() if one.measure]
    frame = fresh[1][0]
    first, second = (toys[1].residual(frame, "independent") for _ in range(2))
    before = _digest(first)
    found = evidence_of(first, names)
    assert _digest(first) == before
    assert evidence_of(second, reversed(names)).values == found.values


def test_order_of_exposures_is_irrelevant(
    toys: list[Toy], null_frames: list[list[FrameEvidence]]
) -> None:
    def table(frames: Iterable[FrameEvidence]) -> dict[tuple, tuple]:
        return {
            (c.test, c.amplifier, c.quantity, c.exposure): (
                c.verdict, None if c.value is None else round(c.value, 9)
            )
            for c in judge(toys[0], frames)
        }  # fmt: skip

    assert table(null_frames[0]) == table(null_frames[0][::-1])


def test_profile_without_tolerance_proves_nothing(
    toys: list[Toy], null_frames: list[list[FrameEvidence]]
) -> None:
    evidence = Evidence(
        test="bias.mean", product=toys[0].facts(), detector=toys[0].detector,
        frames=tuple(null_frames[0]), threshold=Threshold(), n_comparisons=1, min_independent=3,
        min_good_fraction=0.5,
    )  # fmt: skip
    assert verdicts(VERIFIERS["bias.mean"].check(evidence)) == {"INCONCLUSIVE"}
