"""The run's own record on disk: every event, the plan, the options, the summary.

It is the one listener that belongs to the core and cannot be switched off: certification rests on
it, so a line that cannot be written stops the run. Files lie in ``<repository>/runs/<run>/``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api.errors import RepositoryError
from cpplug.api.events import Envelope
from cpplug.engine.files import replacing
from cpplug.host.bus import to_json

_CHUNK = 1 << 16
_DURABLE = ("run.", "product.", "verify.", "certification.")


class Ledger:
    """Appends events to ``events.jsonl`` of a run's folder.

    Parameters
    ----------
    folder
        The run's folder; made when absent.

    Raises
    ------
    RepositoryError
        When it cannot be written, or another process is at work on this run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "events.jsonl").open("a+b", buffering=0)
        except OSError as error:
            raise _cannot(folder, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = _cut_torn_line(self._file)
        except BlockingIOError:
            self._file.close()
            raise RepositoryError(
                f"Another process is at work on the run in {folder}.",
                "Wait for it to end, or start a run of your own without --resume.",
            ) from None
        except OSError as error:
            self._file.close()
            raise _cannot(folder, error) from None

    def __call__(self, envelope: Envelope) -> None:
        """Append one event; facts that others build on are forced to disk."""
        line = to_json(envelope) + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if envelope.event.startswith(_DURABLE):
                os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)  # half a line would swallow the next one
            raise _cannot(self.folder, error) from None
        self._end += len(line)

    def write(self, name: str, content: Any) -> Path:
        """Write a JSON document into the run's folder, whole or not at all."""
        path = self.folder / name
        data = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=1)
        with replacing(path) as temporary:
            temporary.write_bytes(data + b"\n")
        return path

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(file: FileIO) -> int:
    """Take away a last line that a crash cut short; return the length of the file."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        first = max(0, whole - _CHUNK)
        file.seek(first)
        found = (file.read(whole - first) or b"").rfind(b"\n")
        whole = first + found + 1
        if found >= 0:
            break
    if whole != end:
        file.truncate(whole)
    return whole


def _cannot(folder: Path, error: OSError) -> RepositoryError:
    return RepositoryError(
        f"The run's ledger in {folder} cannot be written: {error.strerror or error}.",
        "Free space or mend the permissions, then run again with --resume.",
    )


def last_sequence(path: Path) -> int:
    """Return the sequence number of the last whole event in a ledger file; 0 when there is none."""
    last = 0
    for event in read_events(path):
        last = max(last, int(event.get("seq", 0)))
    return last


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a ledger file; a last line cut short by a crash is left out."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                yield msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
