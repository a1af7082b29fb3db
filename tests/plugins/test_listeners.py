"""The log says each fact once, in the form asked for; the bar keeps out of pipes."""

import json
import logging

import pytest
import structlog

from cpplug.api import Event, UsageError
from cpplug.api.events import (
    EVENTS,
    CheckEvaluated,
    CombineFinished,
    MeasurementRecorded,
    RunFinished,
    RunStarted,
    StepFinished,
    UnitFailed,
    UnitFinished,
)
from cpplug.host.bus import Bus
from cpplug.host.catalog import Catalog
from cpplug_listeners import log, phrases, progress

COMBINED = CombineFinished(
    combiner="clipped_mean", n_inputs=20, rejected_fraction=0.0012, seconds=4
)
STEP = StepFinished(step="overscan", seconds=0.02)
STARTED = RunStarted(
    calibration="bias", plugins={}, config_digest="", inputs=[], n_exposures=3, n_units=4
)


def check(verdict):
    return CheckEvaluated(
        check="bias.mean", scope="C10", value=3.0, error=0.1, expected=0.0, tolerance=1.0,
        unit="adu", verdict=verdict,
    )  # fmt: skip


@pytest.fixture
def bus():
    """A bus with the log alone; afterwards logging is as it was."""
    logger = logging.getLogger("cpplug")
    yield Bus("u/me/bias", Catalog(ambient=["log"]).listeners())
    log.configure({})
    structlog.reset_defaults()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_short_form_is_one_line_per_fact(bus, capsys):
    log.configure({})
    bus.emit(COMBINED, instrument="LATISS", detector=0)
    bus.emit(STEP)
    bus.emit(RunFinished(seconds=1.0, products=["a"], n_failed=0))
    lines = capsys.readouterr().err.splitlines()
    assert [line[9:] for line in lines] == [
        "combine   clipped_mean of 20 frames, 0.120 % rejected, 4.0 s (LATISS/0)",
        "run       1 product in 1.0 s",
    ]


def test_nothing_on_the_standard_output(bus, capsys):
    log.configure({"log_level": ["debug"]})
    bus.emit(COMBINED)
    assert capsys.readouterr().out == ""


def test_long_form_has_level_time_component_and_fields(bus, capsys):
    log.configure({"long_log": True})
    envelope = bus.emit(COMBINED, instrument="LATISS", detector=0, exposure=2021012000019)
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"INFO    {envelope.time} combine (LATISS/0/2021012000019) ")
    assert "combine.finished" in line
    assert "combiner=clipped_mean n_inputs=20 rejected_fraction=0.0012" in line


def test_levels_of_all_and_of_one_component(bus, capsys):
    log.configure({"log_level": ["error", "isr=DEBUG"]})
    bus.emit(COMBINED)
    bus.emit(STEP)
    bus.emit(UnitFailed(unit="isr", kind="isr", error="bad file", traceback="..."))
    text = capsys.readouterr().err
    assert "clipped_mean" not in text
    assert "overscan took" in text
    assert "ERROR isr failed: bad file" in text


@pytest.mark.parametrize("level", ["loud", "isr=loud", ""])
def test_unknown_level_is_refused(level):
    with pytest.raises(UsageError, match="Log level"):
        log.configure({"log_level": [level]})


def test_failed_checks_are_warnings_and_others_are_quiet(bus, capsys):
    log.configure({})
    bus.emit(check("PASS"))
    bus.emit(check("FAIL"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "WARNING FAIL bias.mean C10: 3 adu, expected 0 adu within 1" in lines[0]


def test_json_lines_file(bus, tmp_path, capsys):
    file = tmp_path / "night.jsonl"
    log.configure({"log_file": file})
    bus.emit(COMBINED, instrument="LATISS", detector=0)
    nan = MeasurementRecorded(quantity="q", value=float("nan"), unit="adu", scope="C10")
    log.configure({"log_file": file, "log_level": ["debug"]})
    bus.emit(nan)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["combine.finished", "measurement.recorded"]
    assert lines[0]["n_inputs"] == 20
    assert lines[0]["level"] == "info"
    assert lines[0]["run"] == "u/me/bias"
    assert lines[1]["value"] is None


def test_text_file_has_the_long_form(bus, tmp_path, capsys):
    file = tmp_path / "night.log"
    log.configure({"log_file": file})
    bus.emit(COMBINED)
    assert file.read_text().startswith("INFO    20")
    assert capsys.readouterr().err[2] == ":"


def test_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        log.configure({"log_file": tmp_path / "no" / "such" / "folder.log"})


def test_chatter_comes_through_the_same_log(bus, capsys):
    log.configure({})
    logging.getLogger("cpplug.plan").warning("only %d exposures", 2)
    logging.getLogger("cpplug.plan").debug("not heard")
    assert capsys.readouterr().err[9:] == "plan      WARNING only 2 exposures\n"


def test_failing_listener_is_said_once(bus, capsys):
    log.configure({})
    bus._listeners.append(("bad", lambda envelope: 1 / 0))
    bus.emit(RunFinished(seconds=1.0, products=[], n_failed=0))
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_every_event_has_a_phrase():
    assert set(phrases.PHRASES) == set(EVENTS)
    assert {level for level, _ in phrases.PHRASES.values()} <= set(log.LEVELS)


def test_event_of_a_stranger_is_shown_with_its_fields():
    class Wobbled(Event, frozen=True, kw_only=True):
        name = "wobble.seen"
        angle: float

    envelope = Bus("r").emit(Wobbled(angle=3.5))
    assert phrases.level_of(envelope) == "debug"
    assert "angle=3.5" in phrases.sentence(envelope)
    assert phrases.data_id(envelope) == ""


def finished(done):
    return UnitFinished(unit="u", kind="isr", seconds=0.1, done=done, total=4, peak_mb=1.0)


def test_no_bar_without_a_terminal(capsys):
    bus = Bus("r", Catalog(ambient=["progress"]).listeners())
    bus.emit(STARTED)
    bus.emit(finished(1))
    assert progress._bars == {}
    assert capsys.readouterr().err == ""


def test_bar_follows_the_units(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bus = Bus("r", Catalog(ambient=["progress"]).listeners())
    bus.emit(STARTED)
    bar = progress._bars["r"]
    try:
        bus.emit(finished(1))
        bus.emit(UnitFailed(unit="u", kind="isr", error="e", traceback=""))
        assert bar.tasks[0].completed == 2
        assert bar.tasks[0].total == 4
    finally:
        bus.emit(RunFinished(seconds=1.0, products=[], n_failed=0))
    assert progress._bars == {}
    assert bar.finished or not bar.live.is_started
