"""Workers that die: the run goes on, and the unit that kills its worker is the one that fails."""

from __future__ import annotations

import pytest

from cpplug.api import PlannedStep
from cpplug.engine.units import Task
from cpplug.engine.workers import work_through


def tasks_of(toy, ids):
    catalog = toy.catalog()
    instrument = catalog.get("instrument", "toy")
    steps = tuple(
        PlannedStep(name=name, enabled=True, source="test")
        for name in ("toy_misbehave", "toy_assemble")
    )
    tasks = [
        Task(
            unit=f"toy/D0/{number}",
            key=str(number),
            instrument="toy",
            info=instrument.translate({"EXPID": number, "IMGTYPE": "bias"}),
            detector=0,
            raw=str(toy.write(number)),
            steps=steps,
            calibs=(),
            calibration="toymean",
            options={},
            frame="",
            measure=True,
        )
        for number in ids
    ]
    return catalog, tasks


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_unit_comes_home_with_its_numbers(toy, jobs) -> None:
    catalog, tasks = tasks_of(toy, range(101, 108))
    done = {item.exposure: item for item in work_through(tasks, catalog, jobs)}
    assert sorted(done) == list(range(101, 108))
    assert {number: item.measured["total"] for number, item in done.items()} == {
        number: 48.0 * (10 + number % 100) for number in done
    }
    assert all(item.error == "" and item.events for item in done.values())


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_stays_with_its_unit(toy, jobs) -> None:
    catalog, tasks = tasks_of(toy, range(101, 106))
    toy.order(102, "fail")
    toy.order(104, "break")
    done = {item.exposure: item for item in work_through(tasks, catalog, jobs)}
    assert "Step toy_misbehave: the toy is told to fail" in done[102].error
    assert done[102].exit_code == 5
    assert (
        done[104].error == "Step toy_misbehave broke: ValueError: the toy breaks."
        and "misbehave" in done[104].trace
    )
    assert [n for n, item in sorted(done.items()) if not item.error] == [101, 103, 105]


def test_a_worker_that_dies_once_is_replaced(toy) -> None:
    catalog, tasks = tasks_of(toy, range(101, 109))
    toy.order(103, "die once")
    done = {item.exposure: item for item in work_through(tasks, catalog, 2)}
    assert sorted(done) == list(range(101, 109))
    assert not any(item.error for item in done.values())


def test_a_unit_that_always_kills_its_worker_fails_alone(toy) -> None:
    catalog, tasks = tasks_of(toy, range(101, 107))
    toy.order(103, "die always")
    done = {item.exposure: item for item in work_through(tasks, catalog, 2)}
    assert sorted(done) == list(range(101, 107))
    assert [number for number, item in done.items() if item.error] == [103]
    assert "died" in done[103].error
