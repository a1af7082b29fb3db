"""Which units of an unfinished run are already done, so that a killed run can go on.

A worker marks a unit only after its frame is complete on disk. The mark holds the unit's key (a
hash of everything that decides its result) and what it measured; a unit with another key is done
again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cpplug.engine import frames
from cpplug.engine.files import replacing

_KEY = "unit key"


def _mark(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.done.npz")


def finish(stem: Path, key: str, measured: Mapping[str, Any]) -> None:
    """Mark a unit as done, with the numbers and arrays that it measured."""
    arrays = {name: np.asarray(value) for name, value in measured.items()}
    with replacing(_mark(stem)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{_KEY: np.asarray(key), **arrays})  # type: ignore[arg-type]


def finished(stem: Path, key: str, *, with_frame: bool) -> dict[str, Any] | None:
    """Return what a unit measured if it is done under this key, else None."""
    try:
        with _mark(stem).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None
    if str(content.pop(_KEY, "")) != key or (with_frame and not frames.frame_exists(stem)):
        return None
    return {name: value.item() if value.ndim == 0 else value for name, value in content.items()}
