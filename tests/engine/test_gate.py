"""The certification gate: what is refused, what a waiver can do, what is kept as evidence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cpplug.api.errors import CertificationRefused
from cpplug.api.times import parse_time
from cpplug.engine.gate import Waiver, make_gate, with_waivers
from cpplug.engine.rollup import CalibRef, ProfileRef, Row
from cpplug.store.records import DataId

NOW = parse_time("2021-01-21T12:00:00")
DAY = 86_400 * 10**9
SHA, OTHER = "aa" * 32, "bb" * 32
PROFILE = "strict-hash"
DATASET = SimpleNamespace(id="d1", sha256=SHA, dataset_type="bias", data_id="LATISS detector 0")


def record(verdict: str = "PASS", **fields: Any) -> SimpleNamespace:
    base = {
        "verify_run": "v1", "product_sha256": SHA, "profile": "strict", "profile_sha256": PROFILE,
        "verdict": verdict, "counts": {"PASS": 10}, "n_independent": 5, "finished": NOW - DAY,
    }  # fmt: skip
    return SimpleNamespace(**{**base, **fields})


def row(verdict: str = "FAIL", **fields: Any) -> dict[str, Any]:
    base = {"test": "bias.noise", "detector": "D0", "amplifier": "C07", "verdict": verdict,
            "severity": "required"}  # fmt: skip
    return {**base, **fields}


def waiver(**fields: Any) -> Waiver:
    base = {"test": "bias.noise", "detector": "D0", "amplifier": "C07", "ticket": "CAL-42",
            "owner": "jdoe", "reason": "known noisy", "expires": NOW + 90 * DAY}  # fmt: skip
    return Waiver(**{**base, **fields})


def gate(
    records: list[Any],
    rows: list[dict[str, Any]] | None = None,
    waivers: list[Any] | None = None,
    accept: str | None = None,
) -> Callable[[list[Any]], dict[str, Any]]:
    return make_gate(
        lambda sha: records,
        lambda run, sha: (rows or []) if (run, sha) == ("v1", SHA) else [],
        lambda kind: (waivers or []) if kind == "bias" else [],
        current_profile_hash=PROFILE,
        now=NOW,
        accept_failures=accept,
        owner="operator",
    )


def refused(door: Callable[[list[Any]], dict[str, Any]]) -> CertificationRefused:
    with pytest.raises(CertificationRefused) as caught:
        door([DATASET])
    assert caught.value.exit_code == 6
    return caught.value


@pytest.mark.parametrize("verdict", ["PASS", "WARN"])
def test_a_good_verification_opens(verdict: str) -> None:
    evidence = gate([record(verdict)], [row("PASS"), row("FAIL", severity="advisory")])([DATASET])
    kept = evidence["products"]["d1"]
    assert kept["sha256"] == SHA
    assert kept["verify_run"] == "v1"
    assert kept["profile"] == f"strict@sha256:{PROFILE}"
    assert kept["verdict"] == kept["verdict_after_waivers"] == verdict
    assert kept["independent_exposures"] == 5
    assert kept["waived"] == []
    assert msgspec.json.decode(msgspec.json.encode(evidence)) == evidence


def test_no_verification_is_refused() -> None:
    error = refused(gate([]))
    assert "has no verification" in error.message
    assert "LATISS detector 0" in error.message
    assert "cpplug verify bias" in error.next_step


def test_verification_of_another_file_is_refused() -> None:
    error = refused(gate([record(product_sha256=OTHER)]))
    assert "another file" in error.message
    assert OTHER[:12] in error.message


def test_verification_with_older_limits_is_refused() -> None:
    error = refused(gate([record(profile_sha256="older")]))
    assert "not with the one that counts now" in error.message
    assert "again" in error.next_step


def test_the_newest_verification_counts() -> None:
    old, new = record("PASS", finished=1, verify_run="v0"), record("FAIL", finished=2)
    assert "bias.noise FAIL at D0/C07" in refused(gate([new, old], [row()])).message
    kept = gate([record("FAIL", finished=1, verify_run="v0"), record("PASS")])([DATASET])
    assert kept["products"]["d1"]["verify_run"] == "v1"


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_what_fails_or_is_open_needs_a_waiver(verdict: str) -> None:
    door = gate([record(verdict)], [row(verdict), row("PASS", amplifier="C10")])
    error = refused(door)
    assert f"bias.noise {verdict} at D0/C07" in error.message
    assert "--accept-failures" in error.next_step
    kept = gate([record(verdict)], [row(verdict)], [waiver()])([DATASET])["products"]["d1"]
    assert kept["verdict_after_waivers"] == "WARN"
    assert [(w["ticket"], w["owner"], w["rows"]) for w in kept["waived"]] == [("CAL-42", "jdoe", 1)]


def test_failing_verdict_without_its_rows_is_refused() -> None:
    assert "not in the registry" in refused(gate([record("FAIL")], [])).message


def test_every_missing_waiver_is_named_up_to_a_limit() -> None:
    rows = [row(amplifier=f"C0{k}") for k in range(8)] + [row(amplifier="C00")]
    message = refused(gate([record("FAIL")], rows)).message
    assert message.count("bias.noise FAIL") == 5
    assert "and 3 more" in message


@pytest.mark.parametrize("scope", [{"amplifier": "C10"}, {"detector": "D1"}, {"test": "bias.mean"}])
def test_waiver_of_another_scope_does_not_help(scope: dict[str, str]) -> None:
    refused(gate([record("FAIL")], [row()], [waiver(**scope)]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ticket": "cal42"}, "not of the form"),
        ({"ticket": "DM-1x"}, "not of the form"),
        ({"owner": " "}, "no owner"),
        ({"detector": "", "amplifier": ""}, "not limited"),
        ({"expires": NOW}, "expired"),
        ({"expires": NOW + 367 * DAY}, "twelve months"),
    ],
)
def test_waiver_that_is_not_in_order_counts_for_nothing(fields: dict[str, Any], said: str) -> None:
    error = refused(gate([record("FAIL")], [row()], [waiver(**fields)]))
    assert said in error.message
    assert gate([record("FAIL")], [row()], [waiver(**fields), waiver()])([DATASET])


def test_waiver_records_of_the_registry_are_understood() -> None:
    stored = SimpleNamespace(**msgspec.structs.asdict(waiver()), id=3, instrument="LATISS")
    assert gate([record("FAIL")], [row()], [stored])([DATASET])


def test_waiver_of_another_camera_does_not_help() -> None:
    stored = SimpleNamespace(**msgspec.structs.asdict(waiver()), instrument="LATISS")
    door = gate([record("FAIL")], [row()], [stored])
    for instrument, opens in (("LATISS", True), ("LATISS-mini", False)):
        dataset = SimpleNamespace(**vars(DATASET) | {"data_id": DataId(instrument, 0)})
        if opens:
            assert door([dataset])
        else:
            with pytest.raises(CertificationRefused, match="LATISS-mini"):
                door([dataset])


# ---- accepting failures by word -----------------------------------------------------------------
def test_accepting_names_what_it_accepts() -> None:
    door = gate([record("FAIL")], [row(), row()], accept="DM-123: amp C07 known bad")
    evidence = door([DATASET])
    assert evidence["accept_failures"] == "DM-123: amp C07 known bad"
    (used,) = evidence["products"]["d1"]["waived"]
    assert (used["ticket"], used["owner"], used["reason"], used["rows"]) == (
        "DM-123", "operator", "amp C07 known bad", 2
    )  # fmt: skip


def test_accepting_one_amplifier_does_not_accept_another() -> None:
    rows = [row(), row(amplifier="C10")]
    error = refused(gate([record("FAIL")], rows, accept="DM-123: amp C07 known bad"))
    assert "C10" in error.message
    assert "C07" not in error.message
    assert gate([record("FAIL")], rows, accept="DM-123: C07 and C10 are bad.")([DATASET])


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        ("D0/C07 is bad", True),
        ("D1/C07 is bad", False),
        ("C07 of D0 is bad", True),
        ("C07 of D1 is bad", False),
        ("C07 is bad", True),
    ],
)
def test_accepting_an_amplifier_of_one_detector_says_nothing_of_another(
    words: str, accepted: bool
) -> None:
    rows = [row(), row("PASS", detector="D1")]
    door = gate([record("FAIL")], rows, accept=f"DM-123: {words}")
    if accepted:
        assert door([DATASET])["products"]["d1"]["waived"]
    else:
        refused(door)


def test_a_single_letter_is_an_amplifier_only_when_it_is_called_one() -> None:
    rows = [row(amplifier="A")]
    refused(gate([record("FAIL")], rows, accept="DM-123: A bad night"))
    for words in ("amp A is dead", "amplifier A is dead", "D0/A."):
        assert gate([record("FAIL")], rows, accept=f"DM-123: {words}")([DATASET])


def test_accepting_what_concerns_the_whole_detector() -> None:
    rows = [row(amplifier="", test="bias.depth")]
    refused(gate([record("FAIL")], rows, accept="DM-123: too few frames"))
    for words in ("bias.depth with 10 frames", "D0 has only 10 frames"):
        assert gate([record("FAIL")], rows, accept=f"DM-123: {words}")([DATASET])


@pytest.mark.parametrize("text", ["", "amp C07 known bad", "dm-123: C07", "DM-123", "DM-123: "])
def test_accepting_needs_ticket_and_reason(text: str) -> None:
    with pytest.raises(CertificationRefused, match="ticket and a reason"):
        gate([record("FAIL")], [row()], accept=text)


def test_accepting_does_not_replace_a_verification() -> None:
    refused(gate([], accept="DM-123: amp C07 known bad"))


def test_failing_rows_carry_the_ticket_of_their_waiver() -> None:
    now = NOW
    waiver = Waiver(
        test="bias.noise", ticket="CAL-42", owner="me", reason="known", amplifier="A2",
        expires=now + 10**15,
    )  # fmt: skip
    rows = [
        Row(
            test="bias.noise", detector="D", amplifier=amplifier, verdict=verdict, run_id="r",
            product_sha256="s", profile=ProfileRef(name="strict", sha256="p"),
            calib=CalibRef(type="bias", id="i", members=(), built=""),
        )
        for amplifier, verdict in (("A1", "FAIL"), ("A2", "FAIL"), ("A2", "PASS"))
    ]  # fmt: skip
    assert [row.waiver for row in with_waivers(rows, [waiver], now)] == [None, "CAL-42", None]
    late = msgspec.structs.replace(waiver, expires=now)
    assert [row.waiver for row in with_waivers(rows, [late], now)] == [None, None, None]
