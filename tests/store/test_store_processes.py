"""Two processes at one repository."""

import multiprocessing
from pathlib import Path

import pytest

from cpplug.api.errors import CertificationConflict
from cpplug.store import Repository
from cpplug.store.records import DetectorRow


def _certify(root, run, begin, end, start, answers):
    """Certify a run in a process of its own, as soon as the others are ready."""
    with Repository.open(Path(root), timeout=20) as repo:
        start.wait(20)
        try:
            repo.certify(run, "calib", "bias", begin, end, who=run, command="c")
            answers.put((run, "won"))
        except CertificationConflict:
            answers.put((run, "lost"))


def _ingest(root, numbers, start, answers):
    from cpplug.store.records import RawRecord

    with Repository.open(Path(root), timeout=20) as repo:
        info = repo.exposures()[0]
        start.wait(20)
        import msgspec

        for number in numbers:
            changed = msgspec.structs.replace(info, exposure=number)
            raw = RawRecord(info=changed, detectors=(0,), path="/x", sha256="a" * 64, size=1)
            (outcome,) = repo.ingest([raw], "raw/all")
            answers.put((number, outcome.status))


def _together(target, jobs):
    """Run jobs in processes that begin at the same moment, and return their answers."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(len(jobs)), context.Queue()
    processes = [context.Process(target=target, args=(*job, start, answers)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(jobs)
    found = []
    while not answers.empty():
        found.append(answers.get())
    answers.close()
    answers.join_thread()
    return found


@pytest.mark.parametrize("exists", [True, False], ids=["old collection", "new collection"])
def test_exactly_one_of_two_overlapping_certifications_wins(repo, facts, exists):
    for run in ("run1", "run2"):
        facts.build(repo, run, detectors=range(4))
    if exists:
        facts.certify(repo, "run1", "calib", 100, 101)
    day = facts.DAY
    jobs = [
        (str(repo.root), "run1", facts.T0, facts.T0 + 5 * day),
        (str(repo.root), "run2", facts.T0 + 4 * day, None if not exists else facts.T0 + 9 * day),
    ]
    answers = dict(_together(_certify, jobs))
    assert sorted(answers.values()) == ["lost", "won"]
    rows = [row for row in repo.validity(["calib"]) if row.begin < facts.T0 + 99 * day]
    assert len(rows) == 4
    (winner,) = {row.run for row in rows}
    assert answers[winner] == "won"
    assert len(repo.journal()) == 1 + exists


def test_two_ingests_at_once_register_each_frame_once(repo, facts):
    repo.register_instrument("LATISS", [DetectorRow(0, "S00")])
    repo.ingest([facts.raw(0)], "raw/all")
    jobs = [(str(repo.root), list(range(1, 12))), (str(repo.root), list(range(8, 20)))]
    answers = _together(_ingest, jobs)
    assert len(answers) == 23
    new = [number for number, status in answers if status == "ingested"]
    assert sorted(new) == list(range(1, 20))
    assert {status for _, status in answers} == {"ingested", "present"}
    assert repo.count_exposures() == 20
