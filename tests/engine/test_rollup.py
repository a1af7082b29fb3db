"""Roll-ups: nothing is lost, nothing is better than its worst part, rows follow their schema."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api.camera import Detector
from cpplug.api.context import Evidence, ProductFacts
from cpplug.api.records import Check, Threshold, Verifier
from cpplug.engine import rollup
from cpplug.engine.profiles import load_profile

PROFILE = load_profile("strict")
SCHEMA_FILE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "verify-row.schema.json"


def product(number: int = 0) -> ProductFacts:
    return ProductFacts(
        dataset=f"dataset-{number}", sha256=f"{number:064x}", dataset_type="bias", unit="adu",
        n_inputs=2, members=(1, 2), metadata={},
    )  # fmt: skip


def rows_of(checks: list[Check], number: int = 0) -> list[rollup.Row]:
    return rollup.make_rows(
        checks, run_id="u/me/verify/1", profile=PROFILE, product=product(number),
        built="2099-01-01T22:00:00Z", mjd={n: 60000.0 + n for n in range(100)},
    )  # fmt: skip


def check(verdict: str = "PASS", **fields: object) -> Check:
    base = {"test": "t.one", "detector": "D0", "amplifier": "A", "exposure": 7,
            "membership": "independent"}  # fmt: skip
    return Check(**{**base, **fields, "verdict": verdict})


checks = st.builds(
    check,
    st.sampled_from(rollup.VERDICTS),
    test=st.sampled_from(["t.one", "t.two", "t.three"]),
    detector=st.sampled_from(["D0", "D1"]),
    amplifier=st.sampled_from(["", "A", "B"]),
    exposure=st.sampled_from([None, 1, 2, 3]),
    severity=st.sampled_from(["required", "advisory"]),
    membership=st.sampled_from(["member", "independent"]),
)


# ---- conservation -------------------------------------------------------------------------------
@given(st.lists(checks, max_size=40), st.randoms())
@settings(max_examples=80, deadline=None)
def test_counts_add_up_at_every_level(found: list[Check], random: object) -> None:
    rows = rows_of(found)
    content = rollup.summary(rows)
    expected = Counter(one.verdict for one in found)
    assert content["counts"] == {v: expected[v] for v in rollup.VERDICTS}
    for view in ("tests", "detectors", "exposures"):
        total = Counter()
        for entry in content[view].values():
            total.update(entry["counts"])
        assert {v: total[v] for v in rollup.VERDICTS} == content["counts"]
    assert len(content["rows"]) == sum(expected[v] for v in ("WARN", "FAIL", "INCONCLUSIVE"))
    assert sum(o["FAIL"] for o in content["offenders"]) == expected["FAIL"]
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = rollup.summary(shuffled)
    assert (again["verdict"], again["counts"], again["detectors"]) == (
        content["verdict"], content["counts"], content["detectors"]
    )  # fmt: skip


@given(st.lists(checks, max_size=30))
@settings(max_examples=80, deadline=None)
def test_parent_is_as_bad_as_its_worst_required_child(found: list[Check]) -> None:
    required = {one.verdict for one in found if one.severity == "required"}
    verdict = rollup.verdict_of(found)
    if "FAIL" in required:
        assert verdict == "FAIL"
    elif "INCONCLUSIVE" in required or not required - {"NOT_APPLICABLE"}:
        assert verdict == "INCONCLUSIVE"
    elif "WARN" in required:
        assert verdict == "WARN"
    else:
        advised = any(one.verdict == "FAIL" for one in found)
        assert verdict == ("WARN" if advised else "PASS")


def test_lost_rows_are_noticed() -> None:
    counts = rollup.counts_of([check("FAIL"), check()])
    with pytest.raises(RuntimeError, match="FAIL by tests do not add up"):
        rollup.conserve(counts, {"tests": [{"counts": rollup.counts_of([check()])}]})


def test_one_bad_detector_of_two_is_seen_whatever_the_order() -> None:
    """The last detector must not hide the first, nor a good product a bad one."""
    bad, good = [check("FAIL", detector="D0")], [check("PASS", detector="D1")]
    for first, second in itertools.permutations([(bad, 0), (good, 1)]):
        content = rollup.summary(rows_of(*first) + rows_of(*second))
        assert content["verdict"] == "FAIL"
        assert content["detectors"]["D0"]["verdict"] == "FAIL"
        assert content["detectors"]["D1"]["verdict"] == "PASS"
        assert {p["detector"]: p["verdict"] for p in content["products"]} == {
            "D0": "FAIL", "D1": "PASS"
        }  # fmt: skip


def test_failures_of_a_whole_detector_and_of_amplifiers_both_count() -> None:
    content = rollup.summary(
        rows_of([check("FAIL", amplifier="", exposure=None), check("FAIL"), check("PASS")])
    )
    assert content["exposures"]["all"]["counts"]["FAIL"] == 1
    assert content["exposures"]["7"]["counts"]["FAIL"] == 1
    assert content["counts"]["FAIL"] == 2


def test_an_advisory_failure_is_not_invisible() -> None:
    content = rollup.summary(rows_of([check(), check("FAIL", severity="advisory")]))
    assert content["verdict"] == "WARN"
    assert content["offenders"][0]["required"] is False
    assert "1 advisory checks fail" in rollup.banner(content)


def test_nothing_is_inconclusive() -> None:
    content = rollup.summary([])
    assert content["verdict"] == "INCONCLUSIVE"
    assert rollup.banner(content).startswith("INCONCLUSIVE: nothing was checked")
    advisory_only = rollup.summary(rows_of([check(severity="advisory")]))
    assert advisory_only["verdict"] == "INCONCLUSIVE"


def test_offenders_are_ranked_by_failures() -> None:
    found = [check("FAIL", amplifier="B", reason="worse")] * 2 + [check("WARN", amplifier="B")]
    found += [check("FAIL", amplifier="A", reason="bad"), check("INCONCLUSIVE", test="t.two")]
    ranked = rollup.offenders(rows_of(found))
    assert [(o["test"], o["amplifier"], o["FAIL"]) for o in ranked] == [
        ("t.one", "B", 2), ("t.one", "A", 1), ("t.two", "A", 0)
    ]  # fmt: skip
    assert ranked[0]["reason"] == "worse"


def test_reason_shown_is_that_of_the_worst_row() -> None:
    found = [check("WARN", reason="so so"), check("FAIL", reason="broken"), check("WARN")]
    assert rollup.offenders(rows_of(found))[0]["reason"] == "broken"


def test_independent_exposures_are_counted_apart() -> None:
    found = [check(exposure=1, membership="member"), check(exposure=2), check(exposure=3)]
    (entry,) = rollup.summary(rows_of(found))["products"]
    assert (entry["exposures"], entry["independent_exposures"]) == (3, 2)


# ---- running a test -----------------------------------------------------------------------------
def evidence() -> Evidence:
    return Evidence(
        test="t.one", product=product(),
        detector=Detector(id=0, name="D0", amplifiers=(), width=1, height=1),
        frames=(), threshold=Threshold(unit="electron"), n_comparisons=1, min_independent=3,
        min_good_fraction=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "verdict", "said"),
    [
        (lambda e: [e.check(verdict="PASS", value=1.0)], "PASS", ""),
        (lambda e: [], "INCONCLUSIVE", "said nothing"),
        (lambda e: [e.check(verdict="PASS", value=math.nan)], "INCONCLUSIVE", "not a number"),
        (lambda e: [e.check(verdict="WARN", error=math.inf)], "INCONCLUSIVE", "not a number"),
        (lambda e: [e.check(verdict="FAIL", value=math.nan)], "FAIL", ""),
        (lambda e: 1 / 0, "INCONCLUSIVE", "ZeroDivisionError"),
    ],
)
def test_a_test_that_does_not_answer_is_inconclusive(
    answer: object, verdict: str, said: str
) -> None:
    verifier = Verifier(name="t.one", summary="", applies_to="x", scope="amplifier", check=answer)
    (found,) = rollup.evaluate(verifier, evidence())
    assert found.verdict == verdict
    assert said in found.reason


# ---- rows on disk -------------------------------------------------------------------------------
def full_check() -> Check:
    return check(
        "WARN", value=np.float32(7.5), error=np.float64(0.25), n_good=np.int64(20), z=math.nan,
        expected=math.inf, inputs={"R": np.float64(6), "bad": math.nan}, masked={"BAD": 0.5},
        tolerance=0.05, requirements=("DMTN-101:4.3",), unit="electron", reason="so so",
    )  # fmt: skip


def test_rows_follow_the_published_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema == json.loads(msgspec.json.encode(rollup.row_schema())), (
        "the schema file is out of date: write rollup.row_schema() to it"
    )
    validator = jsonschema.Draft202012Validator(schema)
    for row in rows_of([full_check(), check(), check("FAIL", exposure=None, amplifier="")]):
        validator.validate(json.loads(msgspec.json.encode(row)))
    broken = rollup.row_dict(rows_of([check()])[0]) | {"verdict": "MAYBE"}
    assert not validator.is_valid(broken)


def test_rows_state_profile_product_and_time() -> None:
    (row,) = rows_of([full_check()])
    stored = rollup.row_dict(row)
    assert stored["schema"] == "cpplug.verify/1"
    assert stored["profile"] == {"name": "strict", "sha256": PROFILE.sha256}
    assert stored["calib"] == {
        "type": "bias", "id": "dataset-0", "members": [1, 2], "built": "2099-01-01T22:00:00Z"
    }  # fmt: skip
    assert stored["product_sha256"] == product().sha256
    assert stored["mjd"] == 60007.0


def test_no_numpy_number_and_no_nan_gets_out(tmp_path: Path) -> None:
    (row,) = rows_of([full_check()])
    assert type(row.value) is float
    assert type(row.error) is float
    assert type(row.n_good) is int
    assert (row.z, row.expected, row.inputs) == (None, None, {"R": 6.0})
    rollup.write_rows(tmp_path / "rows.jsonl", [row, row])
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 2
    back = msgspec.json.decode(lines[0], type=rollup.Row)
    assert back == row


def test_summary_is_the_same_from_records_and_from_what_was_stored(tmp_path: Path) -> None:
    rows = rows_of([full_check(), check(), check("FAIL", detector="D1")])
    content = rollup.summary(rows)
    stored = json.loads(json.dumps([rollup.row_dict(row) for row in rows]))
    assert rollup.summary(stored) == content
    path = tmp_path / "run" / "summary.json"
    rollup.write_summary(path, content)
    first = path.read_bytes()
    assert json.loads(first) == content
    rollup.write_summary(path, rollup.summary(rows))
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


# ---- what an operator sees ----------------------------------------------------------------------
def test_table_has_a_line_per_test_and_the_worst_that_was_said() -> None:
    found = [check(), check("FAIL", amplifier="B", reason="noise is 11 % up"), check(test="t.two")]
    table, columns = rollup.terminal_table(rollup.summary(rows_of(found)))
    assert columns == ["test", "verdict", "severity", "PASS", "FAIL", "worst"]
    assert [list(line.values()) for line in table] == [
        ["t.one", "FAIL", "required", 1, 1, "D0/B: noise is 11 % up"],
        ["t.two", "PASS", "required", 1, 0, ""],
    ]


def test_an_advisory_test_speaks_for_itself_but_not_for_the_product() -> None:
    advisory = {"test": "t.two", "severity": "advisory"}
    for verdicts, expected in ((["PASS"], "PASS"), (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE")):
        found = [check(), *(check(verdict, **advisory) for verdict in verdicts)]
        content = rollup.summary(rows_of(found))
        assert content["tests"]["t.two"]["verdict"] == expected
        assert content["tests"]["t.two"]["severity"] == "advisory"
        assert content["verdict"] == "PASS"


@pytest.mark.parametrize(
    ("found", "start", "end"),
    [
        ([check()], "PASS: 1 of 1 required checks pass, 1 independent", "May be certified."),
        ([check("WARN"), check()], "WARN: 1 required checks warn", "read the warnings first."),
        ([check("FAIL"), check()], "FAIL: 1 required checks fail", "without waivers."),
        ([check("INCONCLUSIVE")], "INCONCLUSIVE: 0 required checks fail, 1", "without waivers."),
    ],
)
def test_banner_says_whether_it_may_be_certified(found: list[Check], start: str, end: str) -> None:
    said = rollup.banner(rollup.summary(rows_of(found)))
    assert said.startswith(start)
    assert said.endswith(end)
    assert "\n" not in said
