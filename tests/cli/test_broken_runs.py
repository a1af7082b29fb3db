"""Runs that are killed, interrupted, doubled or disturbed: nothing is lost, nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest


def ledger_of(shell):
    (run,) = shell.runs()
    return shell.events(run["run"])


def check_resumed(toys, killed_marks):
    """Resume; hold the ledger and the product to those of an undisturbed run."""
    for number in toys.ids:
        toys.toy.forgive(number)
    before = len(ledger_of(toys))
    toys.build("--resume")
    (run,) = toys.runs()
    assert run["status"] == "done"
    events = toys.events(run["run"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    second = Counter(event["event"] for event in events[before:])
    assert second["unit.skipped"] == killed_marks
    done = [e for e in events[before:] if e["event"] == "unit.finished"]
    assert sum(e["body"]["kind"] == "isr" for e in done) == len(toys.ids) - killed_marks
    assert events[-1]["event"] == "run.finished"
    toys.build("-o", "u/me/undisturbed")
    assert toys.pixels("u/me/toymeanGen") == toys.pixels("u/me/undisturbed")
    answer = toys.build("--resume")
    assert "Nothing left to do" in answer.err


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_run_goes_on_where_it_was(toys, wait_for, jobs):
    toys.toy.order(toys.ids[3], "sleep 300")
    finished = 3 if jobs == 1 else 5
    process = toys.start("-j", str(jobs))
    try:
        wait_for(lambda: toys.done_marks() == finished)
        wait_for(lambda: sum(e["event"] == "unit.finished" for e in ledger_of(toys)) == finished)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert [run["status"] for run in toys.runs()] == ["running"]
    assert toys.products("toymean") == []
    check_resumed(toys, finished)


def test_a_driver_that_is_killed_leaves_no_worker_behind(toys, wait_for):
    toys.toy.order(toys.ids[3], "sleep 300")
    process = toys.start("-j", "2")
    try:
        wait_for(lambda: toys.done_marks() == 5)
        events = ledger_of(toys)
        workers = {e["worker"].removeprefix("pid ") for e in events if e["worker"] != "driver"}
        assert workers
    finally:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in workers))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_says_so_and_can_be_resumed(toys, wait_for, jobs):
    toys.toy.order(toys.ids[4], "sleep 2")
    process = toys.start("-j", str(jobs))
    wait_for(lambda: toys.done_marks() >= 4)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "--resume" in err
    assert [run["status"] for run in toys.runs()] == ["interrupted"]
    assert ledger_of(toys)[-1]["event"] == "run.failed"
    check_resumed(toys, toys.done_marks())


def test_a_line_of_the_ledger_cut_short_by_a_crash_is_taken_away(toys):
    toys.toy.order(toys.ids[0], "fail")
    toys.build("--max-failed", "0", code=7)
    (run,) = toys.runs()
    path = toys.repo / "runs" / run["run"] / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"unit.finished","seq":')
    toys.toy.forgive(toys.ids[0])
    toys.build("--resume")
    events = toys.events(run["run"])
    assert path.read_bytes().startswith(whole)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_two_runs_at_once_both_end_well(toys):
    processes = [toys.start(), toys.start()]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    runs = {run["run"] for run in toys.runs()}
    assert len(runs) == 2
    assert {run["status"] for run in toys.runs()} == {"done"}
    chain = toys("collections", "u/me/toymeanGen", "--format", "json").rows
    assert set(chain[0]["children"]) == runs
    assert len(toys.products("toymean")) == 2


def test_a_run_that_is_going_on_cannot_be_resumed_by_another(toys, wait_for):
    toys.toy.order(toys.ids[5], "sleep 300")
    process = toys.start()
    try:
        wait_for(lambda: toys.done_marks() == 5)
        text = toys.refuses(9, "run", "toymean", "--instrument", "toy", "--resume")
        assert "Another process is at work on the run" in text
        assert [run["status"] for run in toys.runs()] == ["running"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_of_two_certifications_of_overlapping_ranges_at_once_exactly_one_wins(built):
    built("run", "bias", "--instrument", "simcam", "-d", "seq_num <= 20", "-o", "u/me/second")
    built("verify", "bias", "--instrument", "simcam", "-i", "u/me/second,simcam/raw/all")
    ranges = {"u/me/biasGen": ("2021-01-01", "2022-01-01"), "u/me/second": ("2021-06-01", "-")}
    common = [sys.executable, "-m", "cpplug", "-b", str(built.repo), "certify"]
    processes = [
        subprocess.Popen(
            [*common, run, "simcam/calib/daily", "bias", "--begin-date", begin, "--end-date", end],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for run, (begin, end) in ranges.items()
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 6], said
    loser = said[[process.returncode for process in processes].index(6)]
    assert "overlap" in loser and "Traceback" not in loser
    assert len(built("validity", "simcam/calib/daily", "--format", "json").rows) == 1


BAD_LISTENER = """
from cpplug.api import hookimpl

@hookimpl
def cpplug_event(event):
    if event.event == "product.written":
        raise ValueError("no ears")
"""


def test_a_listener_that_raises_is_named_and_the_run_ends_well(toys, tmp_path):
    listener = tmp_path / "deaf.py"
    listener.write_text(BAD_LISTENER)
    answer = toys("--plugin", listener, "run", "toymean", "--instrument", "toy")
    assert "failed at product.written (ValueError: no ears)." in answer.err
    (failed,) = [e for e in ledger_of(toys) if e["event"] == "listener.failed"]
    assert "deaf" in failed["body"]["listener"] and "deaf" in answer.err
    assert failed["body"]["during"] == "product.written"
    assert len(toys.products("toymean")) == 1


@pytest.mark.parametrize("command", ["certify", "decertify"])
@pytest.mark.parametrize("begin", ["2022-01-01", "2021-01-01"])
def test_a_range_must_begin_before_it_ends(built, command, begin):
    source = ["u/me/biasGen"] if command == "certify" else []
    built("certify", "u/me/biasGen", "simcam/calib/daily", "bias")
    text = built.refuses(
        2, command, *source, "simcam/calib/daily", "bias", "--begin-date", begin,
        "--end-date", "2021-01-01",
    )  # fmt: skip
    assert "begin" in text and "2021-01-01" in text
    rows = built("validity", "simcam/calib/daily", "--format", "json").rows
    assert len(rows) == 1 and rows[0]["run"].startswith("u/me/biasGen/")


def test_certification_of_an_unverified_product_is_refused(ready):
    ready("run", "bias", "--instrument", "simcam")
    text = ready.refuses(6, "certify", "u/me/biasGen", "simcam/calib/daily", "bias")
    assert "has no verification" in text and "cpplug verify bias" in text
    assert json.loads(ready("collections", "simcam/calib/daily", "--format", "json").out) == []
