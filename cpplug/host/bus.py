"""The bus: everything that happens in a run passes here once, is numbered, kept and told on.

The ledger hears an event first, and a ledger that cannot write stops the run. Then every listener
is called on its own: one that raises is reported as ``listener.failed``, switched off after three
failures, and never keeps the others from hearing.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from cpplug.api.errors import DataError
from cpplug.api.events import EVENTS, Envelope, Event, ListenerFailed

FAILURES_ALLOWED = 3
"""A listener that fails this often is switched off for the rest of the run."""

Listener = Callable[[Envelope], None]
Forwarded = tuple[Event, str, int | None, int | None, str]
"""What a worker sends home: event, instrument, detector, exposure, worker."""

_log = logging.getLogger("cpplug.bus")


class ForeignEvent(Event, frozen=True, kw_only=True):
    """An event read back from a ledger whose type this process does not know."""

    name: ClassVar[str] = "foreign"
    fields: dict[str, Any]


class Bus:
    """Stamps events and hands them to the ledger and to listeners; safe to use from threads.

    Parameters
    ----------
    run
        Name of the run.
    listeners
        Name and function of each listener.
    worker
        Who emits, unless an event was forwarded.
    ledger
        Called first with every event; what it raises goes to the caller of :meth:`emit`.
    first_seq
        Number of the first event: larger than 1 when a run is resumed.
    """

    def __init__(
        self,
        run: str,
        listeners: Sequence[tuple[str, Listener]] = (),
        *,
        worker: str = "driver",
        ledger: Listener | None = None,
        first_seq: int = 1,
    ) -> None:
        self.run = run
        self._listeners = list(listeners)
        self._failures: dict[str, int] = {}
        self._worker = worker
        self._ledger = ledger
        self._next = first_seq
        self._lock = threading.RLock()

    def emit(
        self,
        event: Event,
        *,
        instrument: str = "",
        detector: int | None = None,
        exposure: int | None = None,
        worker: str = "",
    ) -> Envelope:
        """Say that something happened.

        Returns
        -------
        Envelope
            The event as the ledger and the listeners got it.

        Raises
        ------
        Exception
            What the ledger raises; the sequence number is not used up then.
        """
        with self._lock:
            envelope = Envelope(
                event=event.name,
                v=event.v,
                id=uuid.uuid4().hex,
                seq=self._next,
                time=_now(),
                run=self.run,
                worker=worker or self._worker,
                body=event,
                instrument=instrument,
                detector=detector,
                exposure=exposure,
            )
            if self._ledger is not None:
                self._ledger(envelope)
            self._next += 1
            for failure in self._tell(envelope):
                self.emit(failure)
            return envelope

    def forward(self, events: Iterable[Forwarded]) -> list[Envelope]:
        """Emit again what came home from workers, with the numbers of this run."""
        with self._lock:
            return [
                self.emit(
                    event,
                    instrument=instrument,
                    detector=detector,
                    exposure=exposure,
                    worker=worker,
                )
                for event, instrument, detector, exposure, worker in events
            ]

    def _tell(self, envelope: Envelope) -> list[ListenerFailed]:
        """Call the listeners one by one; return a report of each that raised."""
        reports = []
        for name, listener in list(self._listeners):
            body = envelope.body
            if isinstance(body, ListenerFailed) and body.listener == name:
                continue
            try:
                listener(envelope)
            except Exception as error:
                count = self._failures[name] = self._failures.get(name, 0) + 1
                disabled = count >= FAILURES_ALLOWED
                if disabled:
                    self._listeners.remove((name, listener))
                said = f"{type(error).__name__}: {error}"
                # Said here and not by a listener: the log may be the one that failed.
                _log.warning(
                    "Listener %r failed at %s (%s)%s.",
                    name,
                    envelope.event,
                    said,
                    "; it is switched off for this run" if disabled else "",
                )
                reports.append(
                    ListenerFailed(
                        listener=name, during=envelope.event, error=said, disabled=disabled
                    )
                )
        return reports


class _Stored(msgspec.Struct, kw_only=True):
    """An envelope on disk: the body is read when its type is known."""

    event: str
    v: int
    id: str
    seq: int
    time: str
    run: str
    worker: str
    body: msgspec.Raw
    instrument: str = ""
    detector: int | None = None
    exposure: int | None = None


def to_json(envelope: Envelope) -> bytes:
    """Write an envelope as one line of JSON, without the line feed.

    Numbers that are not finite become ``null``, as JSON has no word for them.
    """
    if isinstance(envelope.body, ForeignEvent):
        plain = msgspec.to_builtins(envelope)
        return msgspec.json.encode({**plain, "body": envelope.body.fields})
    return msgspec.json.encode(envelope)


def from_json(line: bytes | str) -> Envelope:
    """Read an envelope from one line of JSON.

    Events of a type that is not known here come as :class:`ForeignEvent`; ``null`` in the place of
    a number that is always there becomes NaN.

    Raises
    ------
    DataError
        When the line is not an event.
    """
    try:
        stored = msgspec.json.decode(line, type=_Stored)
        body = _body(stored.event, msgspec.json.decode(stored.body, type=dict[str, Any]))
    except msgspec.DecodeError as error:
        raise DataError(
            f"Not an event: {error}.", "A ledger holds one event in JSON per line."
        ) from None
    known = {name: getattr(stored, name) for name in _Stored.__struct_fields__}
    return Envelope(**{**known, "body": body})


def _body(event: str, fields: dict[str, Any]) -> Event:
    cls = EVENTS.get(event)
    if cls is None:
        return ForeignEvent(fields=fields)
    for name in _numbers(cls):
        if fields.get(name, 0) is None:
            fields[name] = float("nan")
    return msgspec.convert(fields, cls)


@functools.cache
def _numbers(cls: type[Event]) -> tuple[str, ...]:
    """Return the fields of an event that always hold a number."""
    return tuple(field.name for field in msgspec.structs.fields(cls) if field.type is float)


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
