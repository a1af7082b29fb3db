"""Raw files as the camera would write them: every pixel where the camera file says.

A file appears when it is complete, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
from astropy.io import fits

from cpplug.api import Amplifier, Detector, RepositoryError, SimulatedFrame, UsageError

_STRUCTURE = frozenset({
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT",
    "BZERO", "BSCALE", "END",
})  # fmt: skip


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name when it is complete, or not at all.

    Raises
    ------
    RepositoryError
        When the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RepositoryError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the folder's permissions and the free space.",
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def as_json(value: Any) -> bytes:
    """Return readable JSON, keys in order."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def in_file_order(
    amplifiers: Sequence[Amplifier], segments: dict[str, npt.NDArray[Any]], dtype: str
) -> npt.NDArray[Any]:
    """Return the pixels of one extension: the inverse of how the camera file says it is read.

    Parameters
    ----------
    amplifiers
        Those whose pixels lie in the extension.
    segments
        Read-out order, by amplifier name.
    dtype
        Pixel type. Pixels that belong to no amplifier are 0.
    """
    pieces = [piece for amplifier in amplifiers for piece in amplifier.source]
    shape = (max(p.y + p.height for p in pieces), max(p.x + p.width for p in pieces))
    image = np.zeros(shape, np.dtype(dtype))
    for amplifier in amplifiers:
        segment = segments[amplifier.name]
        segment = segment[
            :: -1 if amplifier.source_flip_y else 1, :: -1 if amplifier.source_flip_x else 1
        ]
        x = 0
        for piece in amplifier.source:
            image[piece.slices] = segment[:, x : x + piece.width]
            x += piece.width
    return image


def _put(header: Any, cards: Sequence[tuple[str, Any, str]]) -> None:
    for keyword, value, comment in cards:
        if keyword.upper() not in _STRUCTURE:
            long = len(keyword) > 8 or keyword != keyword.upper()
            header.append((f"HIERARCH {keyword}" if long else keyword, value, comment), end=True)


def raw_hdus(
    look: SimulatedFrame,
    detector: Detector,
    segments: dict[str, npt.NDArray[Any]],
    compress: bool,
) -> fits.HDUList:
    """Return the HDUs of a raw file, segments in the camera's own places and order."""
    groups: dict[str, list[Amplifier]] = {}
    for amplifier in detector.amplifiers:
        groups.setdefault(str(amplifier.hdu), []).append(amplifier)
    primary = fits.PrimaryHDU()
    if "0" in groups:
        if compress:
            raise UsageError(
                "This camera keeps its pixels in the primary HDU, which cannot be compressed.",
                "Leave --compress out.",
            )
        primary = fits.PrimaryHDU(in_file_order(groups.pop("0"), segments, look.dtype))
    _put(primary.header, look.primary)
    hdus = [primary]
    numbered = {int(name): name for name in groups if name.isdigit()}
    order = [name for name in look.segments if name in groups and name not in numbered.values()]
    order += [name for name in groups if name not in order and name not in numbered.values()]
    for position in range(1, len(groups) + len(numbered) + max(numbered, default=0) + 1):
        name = numbered.get(position) or (order.pop(0) if order else None)
        if name is None:
            if position > max(numbered, default=0):
                break
            hdus.append(fits.ImageHDU())
            continue
        pixels = in_file_order(groups[name], segments, look.dtype)
        cards = look.segments.get(name, [])
        named = any(keyword == "EXTNAME" for keyword, _, _ in cards)  # astropy writes capitals
        label = None if name.isdigit() or named else name
        hdu = (
            fits.CompImageHDU(pixels, name=label, compression_type="RICE_1")
            if compress
            else fits.ImageHDU(pixels, name=label)
        )
        _put(hdu.header, cards)
        hdus.append(hdu)
    return fits.HDUList(hdus)
