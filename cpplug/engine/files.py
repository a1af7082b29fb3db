"""Writing files so that nobody ever sees half of one, and knowing a file by its checksum.

A file is written under another name in the same folder, pushed to the disk, and only then given
its name. Whoever looks finds the old file or the new one, also after a power cut.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpplug.api.errors import RepositoryError

_NEXT_STEP = {
    errno.ENOSPC: "Free some space, or choose another folder.",
    errno.EDQUOT: "Free some of your quota, or choose another folder.",
    errno.EACCES: "Check who may write there.",
    errno.EPERM: "Check who may write there.",
    errno.EROFS: "The file system is mounted read-only; choose another folder.",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, else it is gone.

    Missing folders are made.

    Raises
    ------
    RepositoryError
        When the file cannot be written: disk full, no permission, read-only.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _push_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _push_to_disk(path.parent)
    except OSError as error:
        raise RepositoryError(
            f"{path} could not be written: {error.strerror or error}.",
            _NEXT_STEP.get(error.errno or 0, ""),
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _push_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
