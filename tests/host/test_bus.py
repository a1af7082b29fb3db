"""Events: numbered without gaps, kept first, told in isolation, read back as they were."""

import logging
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpplug.api import DataError
from cpplug.api.events import Event, MeasurementRecorded, RunFinished, UnitFinished
from cpplug.host.bus import FAILURES_ALLOWED, Bus, ForeignEvent, from_json, to_json

DONE = RunFinished(seconds=1.0, products=["a"], n_failed=0)
UNIT = UnitFinished(unit="u", kind="isr", seconds=0.1, done=1, total=2, peak_mb=10.0)


def test_envelope_is_stamped(cp_events):
    envelope = cp_events.emit(UNIT, instrument="LATISS", detector=0, exposure=2021012000019)
    assert cp_events.heard == [envelope]
    assert (envelope.event, envelope.v, envelope.seq) == ("unit.finished", 1, 1)
    assert (envelope.run, envelope.worker) == ("test", "driver")
    assert (envelope.instrument, envelope.detector, envelope.exposure) == (
        "LATISS",
        0,
        2021012000019,
    )
    assert envelope.time.endswith("Z") and len(envelope.time) == 27
    assert cp_events.emit(DONE).id != envelope.id


def test_ledger_hears_first_and_may_stop_the_run():
    order = []

    def ledger(envelope):
        if envelope.event == "run.finished":
            raise OSError("disk full")
        order.append("ledger")

    bus = Bus("r", [("ears", lambda e: order.append("ears"))], ledger=ledger)
    bus.emit(UNIT)
    assert order == ["ledger", "ears"]
    with pytest.raises(OSError, match="disk full"):
        bus.emit(DONE)
    assert order == ["ledger", "ears"]
    assert bus.emit(UNIT).seq == 2  # the failed one used no number


def test_raising_listener_hurts_nobody_and_is_switched_off(caplog):
    heard, calls = [], []

    def bad(envelope):
        calls.append(envelope.event)
        raise ValueError("no")

    logging.getLogger("cpplug").propagate = True
    bus = Bus("r", [("bad", bad), ("good", heard.append)], ledger=None)
    with caplog.at_level(logging.WARNING, logger="cpplug"):
        for _ in range(FAILURES_ALLOWED + 2):
            bus.emit(UNIT)
    assert len(calls) == FAILURES_ALLOWED
    failures = [e.body for e in heard if e.event == "listener.failed"]
    assert [f.disabled for f in failures] == [False, False, True]
    assert failures[0].listener == "bad" and failures[0].during == "unit.finished"
    assert [e.seq for e in heard] == list(range(1, len(heard) + 1))
    assert sum(e.event == "unit.finished" for e in heard) == FAILURES_ALLOWED + 2
    assert "switched off for this run" in caplog.text


def test_two_bad_listeners_do_not_chase_each_other():
    def bad(envelope):
        raise ValueError(envelope.event)

    kept = []
    bus = Bus("r", [("one", bad), ("two", bad)], ledger=kept.append)
    for _ in range(5):
        bus.emit(UNIT)
    assert [e.seq for e in kept] == list(range(1, len(kept) + 1))
    assert sum(e.event == "unit.finished" for e in kept) == 5


def test_forward_keeps_the_worker_and_numbers_anew(cp_events):
    cp_events.emit(DONE)
    sent = cp_events.bus.forward([(UNIT, "LATISS", 0, 5, "w1"), (UNIT, "LATISS", 0, 6, "w2")])
    assert [e.seq for e in sent] == [2, 3]
    assert [e.worker for e in sent] == ["w1", "w2"]
    assert [e.exposure for e in sent] == [5, 6]


def test_resumed_run_goes_on_counting():
    assert Bus("r", first_seq=41).emit(DONE).seq == 41


def test_threads_get_numbers_without_gaps():
    seen = []
    bus = Bus("r", [("ears", lambda e: seen.append(e.seq))])

    def work():
        for _ in range(200):
            bus.emit(UNIT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == list(range(1, 801))


def test_not_finite_numbers_come_back_as_nan():
    bus = Bus("r")
    nan = MeasurementRecorded(quantity="q", value=math.nan, unit="adu", scope="C10")
    back = from_json(to_json(bus.emit(nan)))
    assert isinstance(back.body, MeasurementRecorded)
    assert math.isnan(back.body.value)


class Wobbled(Event, frozen=True, kw_only=True):
    """An event of somebody else's plugin."""

    name = "wobble.seen"
    angle: float


def test_events_of_strangers_survive():
    envelope = Bus("r").emit(Wobbled(angle=3.5))
    back = from_json(to_json(envelope))
    assert back.event == "wobble.seen"
    assert isinstance(back.body, ForeignEvent)
    assert back.body.fields == {"angle": 3.5}
    assert to_json(back) == to_json(envelope)


@pytest.mark.parametrize("line", [b"", b"{}", b"not json", b'{"event": "run.finished"}'])
def test_what_is_not_an_event_is_refused(line):
    with pytest.raises(DataError, match="Not an event"):
        from_json(line)


@given(
    body=st.one_of(
        st.builds(
            UnitFinished,
            unit=st.text(),
            kind=st.text(),
            seconds=st.floats(allow_nan=False, allow_infinity=False),
            done=st.integers(0, 2**40),
            total=st.integers(0, 2**40),
            peak_mb=st.floats(0, 1e9),
        ),
        st.builds(
            RunFinished,
            seconds=st.floats(0, 1e9),
            products=st.lists(st.text()),
            n_failed=st.integers(0, 9),
        ),
    ),
    exposure=st.none() | st.integers(0, 2**62),
)
def test_json_round_trip(body, exposure):
    envelope = Bus("r").emit(body, exposure=exposure)
    assert from_json(to_json(envelope)) == envelope
    assert b"\n" not in to_json(envelope)
