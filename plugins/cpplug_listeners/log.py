"""The log: one line per fact on the standard error, and in a file if you want one.

By default a line is the time, the component and a short sentence. ``--long-log`` adds level, UTC
date, data id, event name and every field; ``--log-file night.jsonl`` writes JSON lines, any other
name the long form as text. ``--log-level debug`` says more, ``--log-level isr=debug`` only of that
component, which is the first word of the event's name.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog

from cpplug.api import Envelope, UsageError, hookimpl, nearest
from cpplug_listeners.phrases import data_id, level_of, sentence

Line = MutableMapping[str, Any]
"""A line on its way through structlog."""
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Settings:
    """What ``configure`` has chosen."""

    def __init__(self) -> None:
        self.long = False
        self.level = LEVELS["info"]
        self.components: dict[str, int] = {}
        self.file: TextIO | None = None
        self.as_json = False

    def hears(self, component: str, level: str) -> bool:
        """Tell whether a line of this component and level is wanted."""
        return LEVELS[level] >= self.components.get(component, self.level)


_settings = _Settings()


def configure(options: Mapping[str, Any]) -> None:
    """Take over the user's choices; called once before a run.

    Parameters
    ----------
    options
        ``long_log`` (bool), ``log_level`` (list of ``[COMPONENT=]LEVEL``), ``log_file`` (path or
        None); other keys are for other listeners.

    Raises
    ------
    UsageError
        For an unknown level, or a file that cannot be written.
    """
    global _settings
    chosen = _Settings()
    chosen.long = bool(options.get("long_log"))
    for text in options.get("log_level") or ():
        component, _, level = str(text).rpartition("=")
        if level.lower() not in LEVELS:
            raise UsageError(f"Log level {level!r} is not known.", nearest(level, LEVELS))
        if component:
            chosen.components[component] = LEVELS[level.lower()]
        else:
            chosen.level = LEVELS[level.lower()]
    if file := options.get("log_file"):
        try:
            chosen.file = Path(file).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise UsageError(
                f"Log file {file} cannot be written: {error.strerror}.", "Choose another path."
            ) from None
        chosen.as_json = Path(file).suffix in {".json", ".jsonl"}
    if _settings.file is not None:
        _settings.file.close()
    _settings = chosen
    structlog.configure(
        processors=[_filter, _write_file, _to_console],
        wrapper_class=structlog.BoundLogger,
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    _take_chatter()


@hookimpl
def cpplug_event(event: Envelope) -> None:
    """Write the line of an event."""
    if not structlog.is_configured():
        configure({})
    fields = {"phrase": sentence(event), "data_id": data_id(event), "time": event.time}
    body = {"run": event.run, "worker": event.worker, **msgspec.structs.asdict(event.body)}
    getattr(structlog.get_logger(), level_of(event))(event.event, **fields, body=body)


class _StandardError:
    """Writes to whatever the standard error is at the moment, so that a progress bar survives."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")

    debug = info = warning = error = msg


def _filter(_: Any, level: str, line: Line) -> Line:
    line["component"] = line["event"].partition(".")[0]
    line["level"] = level
    if not _settings.hears(line["component"], level):
        raise structlog.DropEvent
    return line


def _write_file(_: Any, __: str, line: Line) -> Line:
    if _settings.file is not None:
        if _settings.as_json:
            flat = {key: line[key] for key in ("time", "level", "component", "event", "data_id")}
            flat["message"] = line["phrase"]
            text = msgspec.json.encode({**flat, **line["body"]}, enc_hook=str).decode()
        else:
            text = _long(line)
        _settings.file.write(text + "\n")
    return line


def _to_console(_: Any, __: str, line: Line) -> str:
    return _long(line) if _settings.long else _short(line)


def _short(line: Line) -> str:
    loud = "" if line["level"] in {"debug", "info"} else f"{line['level'].upper()} "
    text = f"{line['time'][11:19]} {line['component']:<9s} {loud}{line['phrase']}"
    return f"{text} {line['data_id']}".rstrip()


def _long(line: Line) -> str:
    fields = " ".join(f"{key}={_plain(value)}" for key, value in line["body"].items())
    head = f"{line['level'].upper():7s} {line['time']} {line['component']}"
    return f"{head} {line['data_id'] or '()'} {line['event']}: {line['phrase']} [{fields}]"


def _plain(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text or not text else text


class _Chatter(logging.Handler):
    """Brings what plugins and the core say through the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; the component is the logger's name below ``cpplug``."""
        level = next((n for n, v in reversed(LEVELS.items()) if record.levelno >= v), "debug")
        component = record.name.removeprefix("cpplug.").partition(".")[0]
        time = dt.datetime.fromtimestamp(record.created, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        getattr(structlog.get_logger(), level)(
            component, phrase=record.getMessage(), data_id="", time=time, body={}
        )


def _take_chatter() -> None:
    logger = logging.getLogger("cpplug")
    for handler in [h for h in logger.handlers if isinstance(h, _Chatter)]:
        logger.removeHandler(handler)
    logger.addHandler(_Chatter())
    logger.propagate = False
    logger.setLevel(min([_settings.level, *_settings.components.values()]))
