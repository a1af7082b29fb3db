"""Runs, checks, verifications and waivers."""

import msgspec
import pytest

from cpplug.api.errors import UnknownNameError, UsageError, WhereSyntaxError
from cpplug.api.records import Check
from cpplug.store.records import RunRecord, VerificationRecord, WaiverRecord


def record(name, started=1, **changes):
    facts = {
        "run": name, "kind": "build", "calibration": "bias", "instrument": "LATISS",
        "started": started, "command": "cpplug run bias", "user": "ada", "host": "here",
        "details": {"plugins": {"bias": "0.1"}},
    }  # fmt: skip
    return RunRecord(**(facts | changes))


def test_runs(repo):
    repo.start_run(record("r1"))
    repo.start_run(record("r2", 2, kind="verify"))
    (row,) = repo.runs(run="r1")
    assert (row.status, row.finished, row.summary) == ("running", None, {})
    assert row.details == {"plugins": {"bias": "0.1"}}
    repo.finish_run("r1", "done", {"products": ["x"]})
    (row,) = repo.runs(status="done")
    assert row.run == "r1"
    assert row.finished > row.started
    assert row.summary == {"products": ["x"]}
    assert [row.run for row in repo.runs()] == ["r1", "r2"]
    assert [row.run for row in repo.runs(kind="verify", instrument="LATISS")] == ["r2"]
    with pytest.raises(UnknownNameError, match="no run 'r3'"):
        repo.finish_run("r3", "done")


def test_a_run_that_did_not_end_well_can_begin_anew(repo):
    repo.start_run(record("r"))
    repo.start_run(record("r", 5))
    assert [row.started for row in repo.runs()] == [5]
    repo.finish_run("r", "failed")
    repo.start_run(record("r", 6))
    repo.finish_run("r", "done")
    with pytest.raises(UsageError, match="is done already"):
        repo.start_run(record("r", 7))
    assert [(row.status, row.started) for row in repo.runs()] == [("done", 6)]


def check_rows(sha):
    checks = [
        Check(test="bias.noise", detector="S00", amplifier=f"C{n}", exposure=2021012000000 + n,
              value=6.0 + n, error=0.01, unit="electron", expected=6.0, deviation=n / 6,
              tolerance=0.05, verdict="PASS" if n == 0 else "FAIL", inputs={"R": 6.0},
              reason="" if n == 0 else "above model", requirements=("DMTN-101:4.3",))
        for n in range(3)
    ]  # fmt: skip
    checks.append(Check(test="bias.depth", detector="S00", verdict="PASS", value=float("nan")))
    return [{"product_sha256": sha, **msgspec.to_builtins(check)} for check in checks]


def test_checks(repo):
    repo.add_checks("v1", check_rows("a" * 64))
    repo.add_checks("v2", check_rows("b" * 64)[:1])
    repo.add_checks("v3", [])
    rows = repo.checks(run="v1")
    assert [row["test"] for row in rows] == ["bias.noise"] * 3 + ["bias.depth"]
    assert rows[1]["inputs"] == {"R": 6.0}
    assert rows[1]["requirements"] == ["DMTN-101:4.3"]
    assert rows[1]["exposure"] == 2021012000001
    assert {row["verify_run"] for row in repo.checks(product_sha256="b" * 64)} == {"v2"}
    assert len(repo.checks(verdict="FAIL")) == 2
    assert len(repo.checks(where="test = 'bias.noise' AND value > 6.5")) == 2
    assert len(repo.checks(where="amplifier IN ('C0', 'C2') OR value IS NULL", run="v1")) == 3
    assert len(repo.checks(where="GLOB(test, :t)", binds={"t": "*.depth"}, limit=1)) == 1
    with pytest.raises(WhereSyntaxError) as caught:
        repo.checks(where="verdikt = 'FAIL'")
    assert "'verdict'" in caught.value.next_step


@pytest.mark.parametrize("name", ["product_sha256", "test", "detector", "verdict"])
def test_checks_need_their_key(repo, name):
    rows = check_rows("a" * 64)
    del rows[2][name]
    with pytest.raises(UsageError, match=f"without {name}"):
        repo.add_checks("v1", rows)
    assert repo.checks() == []


def verdict(run, verdict="PASS", finished=10, **changes):
    facts = {
        "verify_run": run, "dataset": "d1", "product_sha256": "a" * 64, "dataset_type": "bias",
        "instrument": "LATISS", "profile": "strict", "profile_sha256": "p" * 64,
        "verdict": verdict, "counts": {"PASS": 3}, "n_independent": 5, "finished": finished,
        "evidence_sha256": "e" * 64, "details": {"worst": "x"},
    }  # fmt: skip
    return VerificationRecord(**(facts | changes))


def test_verifications(repo):
    repo.add_verification(verdict("v2", "FAIL", 20))
    repo.add_verification(verdict("v1"))
    repo.add_verification(verdict("v1", product_sha256="b" * 64))
    assert repo.verifications("a" * 64) == [verdict("v1"), verdict("v2", "FAIL", 20)]
    assert repo.verifications("c" * 64) == []
    assert len(repo.verifications(run="v1")) == 2
    repo.add_verification(verdict("v1", "WARN", 11))
    assert [v.verdict for v in repo.verifications("a" * 64)] == ["WARN", "FAIL"]


def waiver(**changes):
    facts = {
        "test": "bias.noise", "dataset_type": "bias", "instrument": "LATISS", "detector": "S00",
        "amplifier": "C07", "ticket": "CAL-42", "owner": "ada", "expires": 100,
        "reason": "known noisy", "created": 10,
    }  # fmt: skip
    return WaiverRecord(**(facts | changes))


def test_waivers(repo):
    number = repo.add_waiver(waiver())
    repo.add_waiver(waiver(test="bias.mean", expires=50))
    assert repo.waivers(test="bias.noise") == [waiver(id=number)]
    assert len(repo.waivers(instrument="LATISS", dataset_type="bias")) == 2
    assert [w.test for w in repo.waivers(at=60)] == ["bias.noise"]
    assert repo.waivers(at=9) == []
    assert repo.waivers(at=100) == []
    for changes, word in (({"ticket": " "}, "ticket"), ({"owner": ""}, "owner"),
                          ({"reason": ""}, "reason"), ({"expires": 10}, "expires")):  # fmt: skip
        with pytest.raises(UsageError, match=word):
            repo.add_waiver(waiver(**changes))
    assert len(repo.waivers()) == 2


def test_verdicts_outlive_the_run(repo, facts):
    facts.build(repo, "run", detectors=(0,))
    repo.start_run(record("run"))
    repo.add_verification(verdict("v1"))
    repo.add_checks("v1", check_rows("a" * 64))
    repo.remove_run("run")
    assert repo.runs(run="run")[0].status == "removed"
    assert len(repo.verifications("a" * 64)) == 1
    assert len(repo.checks(run="v1")) == 4
