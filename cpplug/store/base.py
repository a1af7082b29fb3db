"""What the parts of a repository share: the folder and the database."""

from __future__ import annotations

from pathlib import Path

from cpplug.store.database import Database


class StorePart:
    """Base of the parts from which ``Repository`` is put together."""

    root: Path
    """The repository's folder."""
    _db: Database
