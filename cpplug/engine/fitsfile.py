"""The inside of a FITS file: where each header starts, where its pixels lie, whether all is there.

A file is looked through once, plain, gzipped or tile-compressed. Nothing here knows of cameras.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits as astropy_fits

from cpplug.api.errors import CpplugError, DataError
from cpplug.api.instrument import HeaderValue

Handle = io.BufferedReader | io.BytesIO
BLOCK = 2880
"""FITS files come in blocks of this many bytes (FITS standard 4.0, section 3.1)."""
CARD = 80
_DTYPE = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_TABLE_OF_COMPRESSION = (
    "ZIMAGE", "ZTENSION", "ZSIMPLE", "ZBITPIX", "ZNAXIS", "ZCMPTYPE", "ZPCOUNT", "ZGCOUNT",
    "ZEXTEND", "ZBLOCKED", "ZHECKSUM", "ZDATASUM", "ZQUANTIZ", "ZDITHER0", "ZBLANK", "TFIELDS",
    "PCOUNT", "GCOUNT", "XTENSION", "THEAP", "CHECKSUM", "DATASUM",
)  # fmt: skip


@dataclass(frozen=True)
class Hdu:
    """One header and data unit: its header, and where its data lie in the file (bytes)."""

    header: dict[str, HeaderValue]
    offset: int
    size: int
    index: int
    """Position in the file; the primary HDU is 0."""

    @property
    def name(self) -> str:
        """The EXTNAME, or an empty string."""
        return str(self.header.get("EXTNAME") or "").strip()

    @property
    def compressed(self) -> bool:
        """True for a tile-compressed image."""
        return self.header.get("ZIMAGE") is True

    @property
    def shape(self) -> tuple[int, ...]:
        """The numpy shape of the image; empty without pixels; axes of length 1 are left out."""
        z = "Z" if self.compressed else ""
        count = int(self.header.get(f"{z}NAXIS") or 0)
        axes = [int(self.header[f"{z}NAXIS{i}"] or 0) for i in range(count, 0, -1)]
        return tuple(n for n in axes[:-2] if n != 1) + tuple(axes[-2:])


def _open(path: Path) -> Handle:
    """Open a file for reading, unpacked in memory when it is gzipped."""
    handle = path.open("rb")
    if handle.read(2) == b"\x1f\x8b":
        with handle:
            handle.seek(0)
            return io.BytesIO(gzip.decompress(handle.read()))
    handle.seek(0)
    return handle


@contextmanager
def opened(path: Path) -> Iterator[FitsFile]:
    """Open a FITS file; whatever goes wrong while it is open becomes one sentence.

    Raises
    ------
    DataError
        When the file is missing, truncated, damaged or not FITS.
    """
    try:
        with _open(path) as handle:
            yield FitsFile(handle, path)
    except CpplugError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Was it moved after ingest?") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or damaged: it cannot be unzipped ({error}).", "Copy it again."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read: {reason}.", "Copy it again.") from error


def _scan(handle: Handle, path: Path) -> list[Hdu]:
    """List the HDUs of an open file and check that their data are all there."""
    end = handle.seek(0, os.SEEK_END)
    position, hdus = 0, list[Hdu]()
    while position < end or not hdus:
        handle.seek(position)
        text = _header_text(handle, path, first=not hdus)
        if not text:
            break  # the standard allows special records and fill after the last HDU
        header = _cards(text)
        offset = position + len(text)
        size = _data_size(header, path, len(hdus))
        if offset + size > end:
            raise DataError(
                f"{path} is truncated: extension {len(hdus)} needs {offset + size} bytes and the "
                f"file has {end}.",
                "Copy it again.",
            )
        hdus.append(Hdu(header, offset, size, len(hdus)))
        position = offset + -(-size // BLOCK) * BLOCK
    if len(hdus) > 1 and not hdus[0].shape and "ZSIMPLE" in hdus[1].header:
        return hdus[1:]  # an image packed from a primary HDU stands in the first extension
    return hdus


def _header_text(handle: Handle, path: Path, *, first: bool) -> str:
    start = b"SIMPLE  =" if first else b"XTENSION="
    text = handle.read(BLOCK)
    if not text.startswith(start):
        if first:
            raise DataError(f"{path} is not a FITS file.", "Leave it out of the selection.")
        return ""
    checked = 0
    while not _has_end(text, checked):
        checked = len(text)
        more = handle.read(BLOCK)
        if len(text) % BLOCK or not more:
            raise DataError(
                f"{path} is truncated: a header has no END card.", "Copy the file again."
            )
        text += more
    if len(text) % BLOCK:
        raise DataError(f"{path} is truncated inside a header.", "Copy the file again.")
    return text.decode("ascii", errors="replace").replace("\ufffd", "?")


def _has_end(text: bytes, start: int) -> bool:
    found = text.find(b"END     ", start)
    while found >= 0 and found % CARD:
        found = text.find(b"END     ", found + 1)
    return found >= 0


def _cards(text: str) -> dict[str, HeaderValue]:
    """Read the cards of a header; of a repeated keyword the first card counts.

    Comments and history are left out. A value that breaks the rules is kept as text.
    """
    header: dict[str, HeaderValue] = {}
    lines = [text[start : start + CARD] for start in range(0, len(text), CARD)]
    for card in astropy_fits.Header.fromstring(text).cards:
        try:
            keyword, value = card.keyword, card.value
        except astropy_fits.VerifyError:
            keyword = card.keyword
            value = next(line[9:].strip() for line in lines if line[:8].rstrip() == keyword)
        if keyword in {"", "COMMENT", "HISTORY", "CONTINUE", "END"} or keyword in header:
            continue
        if isinstance(value, astropy_fits.card.Undefined):
            value = None
        elif not isinstance(value, bool | int | float | str):
            value = str(value)
        header[keyword] = value
    return header


def _data_size(header: Mapping[str, HeaderValue], path: Path, index: int) -> int:
    """Return the size of the data in bytes (FITS standard 4.0, equation 2)."""
    try:
        axes = [int(header[f"NAXIS{i + 1}"] or 0) for i in range(int(header["NAXIS"] or 0))]
        if not axes:
            return 0
        size = np.dtype(_DTYPE[int(header["BITPIX"] or 0)]).itemsize
        groups, extra = int(header.get("GCOUNT") or 1), int(header.get("PCOUNT") or 0)
    except (KeyError, ValueError, TypeError):
        raise DataError(
            f"{path} is damaged: the header of extension {index} does not say how large its data "
            "are.",
            "Copy it again.",
        ) from None
    return size * groups * (extra + int(np.prod(axes, dtype=np.int64)))


def plain_header(hdu: Hdu) -> dict[str, HeaderValue]:
    """Return the header as if the image had never been tile-compressed."""
    if not hdu.compressed:
        return dict(hdu.header)
    axes = int(hdu.header["ZNAXIS"] or 0)
    plain: dict[str, HeaderValue] = {"BITPIX": hdu.header["ZBITPIX"], "NAXIS": axes}
    plain.update({f"NAXIS{i + 1}": hdu.header[f"ZNAXIS{i + 1}"] for i in range(axes)})
    for key, value in hdu.header.items():
        stem = key.rstrip("0123456789")
        if key in plain or key in _TABLE_OF_COMPRESSION or key == "BITPIX" or stem == "NAXIS":
            continue
        if stem in {"TTYPE", "TFORM", "TUNIT", "TDIM", "ZTILE", "ZNAXIS", "ZNAME", "ZVAL"}:
            continue
        plain[key] = value
    return plain


@dataclass(frozen=True)
class Stored:
    """Pixels as stored, (rows, columns), and what turns them into values: scale, zero, blank."""

    data: npt.NDArray[Any]
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None


class FitsFile:
    """An open file: its HDUs, and their pixels as stored."""

    def __init__(self, handle: Handle, path: Path) -> None:
        self.handle, self.path = handle, path
        self.hdus = _scan(handle, path)
        self._by_astropy: Any = None
        self._buffer = np.empty(0, np.uint8)

    def find(self, key: int | str, amplifier: str) -> int:
        """Return the position of the HDU with this number or EXTNAME (case does not matter)."""
        if isinstance(key, int):
            if key < len(self.hdus):
                return key
        else:
            for position, hdu in enumerate(self.hdus):
                if hdu.name.upper() == key.upper():
                    return position
        label = f"number {key}" if isinstance(key, int) else repr(key)
        have = ", ".join(hdu.name or str(i) for i, hdu in enumerate(self.hdus))
        raise DataError(
            f"{self.path} has no extension {label}, where amplifier {amplifier} should be; "
            f"it has {have}.",
            "The file is incomplete, or the camera file names the extension wrongly.",
        )

    def stored(self, hdu: Hdu) -> Stored:
        """Return the pixels of an image HDU; a tile-compressed one is unpacked.

        The array is valid until the next call: one buffer serves all HDUs of a file, which halves
        the time that a frame of sixteen segments takes.
        """
        if hdu.compressed:
            return Stored(self._unpack(hdu))
        dtype = np.dtype(_DTYPE[int(hdu.header["BITPIX"] or 0)])
        self.handle.seek(hdu.offset)
        if self._buffer.size < hdu.size:
            self._buffer = np.empty(hdu.size, np.uint8)
        pixels = self._buffer[: hdu.size]
        if self.handle.readinto(pixels.data) != hdu.size:
            raise DataError(f"{self.path} became shorter while it was read.", "Copy it again.")
        data = pixels.view(dtype).reshape(hdu.shape)
        scale, zero, blank = (hdu.header.get(key) for key in ("BSCALE", "BZERO", "BLANK"))
        return Stored(
            data,
            1.0 if scale is None else float(scale),
            0.0 if zero is None else float(zero),
            None if blank is None or dtype.kind == "f" else int(blank),
        )

    def astropy_hdu(self, hdu: Hdu) -> Any:
        """Return the same HDU as astropy opens it (tables, tile-compressed images)."""
        if self._by_astropy is None:
            self.handle.seek(0)
            self._by_astropy = astropy_fits.open(self.handle, memmap=False)
        return self._by_astropy[hdu.index]

    def _unpack(self, hdu: Hdu) -> npt.NDArray[Any]:
        try:
            data = self.astropy_hdu(hdu).data
        except (ValueError, TypeError, RuntimeError, KeyError, OSError, zlib.error) as error:
            raise DataError(
                f"{self.path} is damaged: extension {hdu.name or hdu.index} cannot be "
                f"decompressed ({error}).",
                "Copy it again.",
            ) from error
        array: npt.NDArray[Any] = np.asarray(data).reshape(hdu.shape)
        return array
