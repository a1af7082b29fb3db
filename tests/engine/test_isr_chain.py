"""The chain runner: border between amplifiers and detector, switches, events, errors with names."""

from __future__ import annotations

import numpy as np
import pytest

from cpplug.api import (
    ConfigError,
    DataError,
    Exposure,
    ExposureInfo,
    IsrStep,
    PlannedStep,
    PluginError,
    RawExposure,
    camera_from,
)
from cpplug.engine.isr import check_chain, run_chain

CAMERA = camera_from(
    {
        "name": "toy",
        "amplifier": {"source": [0, 0, 6, 4], "data": [0, 0, 4, 4]},
        "detector": [{"id": 0, "name": "D0", "rows": [{"amps": ["A"], "y": 0}]}],
    }
)
INFO = ExposureInfo(
    instrument="toy", exposure=1, obs_id="t1", day_obs=20210101, seq_num=1,
    observation_type="bias", exposure_time=0.0, dark_time=0.0, begin=0, end=0,
)  # fmt: skip


def _add_one(frame, config, calibs):
    for _, image, _ in frame.amplifiers():
        image += 1
    frame.record("added", 1.0, "adu", "A")
    return frame


def _assemble(frame, config, calibs):
    exposure = Exposure(frame.info, frame.detector, frame.segments["A"][:, :4].copy())
    exposure.notes_from(frame)
    return exposure


def _break(frame, config, calibs):
    raise DataError("amplifier A has no light.")


def _crash(frame, config, calibs):
    raise ValueError("no light\n  in amplifier A")


STEPS = {
    step.name: step
    for step in (
        IsrStep(name="add", summary="", level="amplifier", apply=_add_one),
        IsrStep(name="assemble", summary="", level="amplifier", apply=_assemble, assembles=True),
        IsrStep(name="late", summary="", level="detector", apply=lambda f, c, k: f, after=("add",)),
        IsrStep(name="broken", summary="", level="detector", apply=_break),
        IsrStep(name="crash", summary="", level="detector", apply=_crash),
    )
}


class Executor:
    def get(self, kind, name):
        return STEPS[name]

    def execute(self, work, context):
        return work.run()


def run(*names, off=()):
    frame = RawExposure(INFO, CAMERA.detectors[0], {"A": np.zeros((4, 6), np.float32)})
    planned = [PlannedStep(name=n, enabled=n not in off, source="default") for n in names]
    events = []
    return run_chain(frame, planned, None, Executor(), events.append), events


def test_steps_run_in_order_and_are_reported() -> None:
    exposure, events = run("add", "assemble", "late")
    assert exposure.image.shape == (4, 4) and np.all(exposure.image == 1)
    assert [e.name for e in events] == [
        "isr.step.finished", "measurement.recorded", "isr.step.finished", "isr.step.finished",
    ]  # fmt: skip
    assert events[1].quantity == "added" and events[1].scope == "A"


def test_a_step_that_is_off_is_skipped_and_said() -> None:
    exposure, events = run("add", "assemble", off=("add",))
    assert np.all(exposure.image == 0)
    assert events[0].name == "isr.step.skipped" and "default" in events[0].reason


def test_an_error_names_the_step() -> None:
    with pytest.raises(DataError, match="Step broken: amplifier A has no light"):
        run("assemble", "broken")


def test_a_step_that_crashes_is_named_in_one_line() -> None:
    with pytest.raises(PluginError) as caught:
        run("assemble", "crash")
    assert caught.value.message == "Step crash broke: ValueError: no light in amplifier A."
    assert "-c isr:do_crash=False" in caught.value.next_step


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("late", "assemble"), "stands before assembly"),
        (("assemble", "add"), "stands after assembly"),
        (("assemble", "assemble"), "second time"),
        (("add",), "never assembles"),
    ],
)
def test_impossible_chains_are_refused(names, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_chain([STEPS[name] for name in names])
    check_chain([STEPS[name] for name in ("add", "assemble", "late")])
