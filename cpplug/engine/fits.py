"""Raw frames: reading headers and pixels of FITS files, plain, gzipped or tile-compressed.

A file is looked through once: where each header starts, where its pixels lie, whether they are all
there. Pixels are then taken from where the camera file says and turned into read-out order.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from astropy.io import fits as astropy_fits

from cpplug.api.camera import Amplifier, Box, Detector
from cpplug.api.errors import CpplugError, DataError
from cpplug.api.exposure import Image, RawExposure
from cpplug.api.instrument import ExposureInfo, Header, HeaderValue

BLOCK = 2880
"""FITS files come in blocks of this many bytes (FITS standard 4.0, section 3.1)."""
CARD = 80
_DTYPE = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_EXACT = 1 << 24
"""Integers up to this size are exact in float32."""
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


def _open(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked in memory when it is gzipped."""
    handle = path.open("rb")
    if handle.read(2) == b"\x1f\x8b":
        with handle:
            handle.seek(0)
            return io.BytesIO(gzip.decompress(handle.read()))
    handle.seek(0)
    return handle


def _reading[T](path: Path, work: Callable[[BinaryIO], T]) -> T:
    """Do ``work`` on the open file; whatever goes wrong becomes one sentence."""
    try:
        with _open(path) as handle:
            return work(handle)
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


def _scan(handle: BinaryIO, path: Path) -> list[Hdu]:
    """List the HDUs of an open file and check that their data are all there."""
    end = handle.seek(0, os.SEEK_END)
    position, hdus = 0, list[Hdu]()
    while position < end:
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


def _header_text(handle: BinaryIO, path: Path, *, first: bool) -> str:
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
    for card in astropy_fits.Header.fromstring(text).cards:
        try:
            keyword, value = card.keyword, card.value
        except astropy_fits.VerifyError:
            keyword, value = str(card.image[:8]).strip(), str(card.image[9:]).strip(" '")
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
        bits = abs(int(header["BITPIX"] or 0))
        groups, extra = int(header.get("GCOUNT") or 1), int(header.get("PCOUNT") or 0)
    except (KeyError, ValueError, TypeError):
        raise DataError(
            f"{path} is damaged: the header of extension {index} does not say how large its data "
            "are.",
            "Copy it again.",
        ) from None
    return bits // 8 * groups * (extra + int(np.prod(axes, dtype=np.int64)))


def _plain(hdu: Hdu) -> dict[str, HeaderValue]:
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


def read_headers(path: Path) -> list[Header]:
    """Read the headers of all HDUs of a file.

    Parameters
    ----------
    path
        A FITS file; gzip and tile compression are seen through.

    Returns
    -------
    list of dict
        Keyword to value, one dictionary per HDU; undefined values are None; comments and history
        are left out; of a repeated keyword the first card counts.

    Raises
    ------
    DataError
        When the file is missing, truncated or not FITS.
    """
    return [_plain(hdu) for hdu in _reading(path, lambda handle: _scan(handle, path))]


class _Pixels:
    """The pixels of one file, HDU by HDU, as stored; each HDU is read once."""

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        self.handle, self.path = handle, path
        self.hdus = _scan(handle, path)
        self._unpacked: Any = None

    def find(self, key: int | str, amplifier: str) -> Hdu:
        """Return the HDU with this number or EXTNAME (case does not matter)."""
        if isinstance(key, int):
            if key < len(self.hdus):
                return self.hdus[key]
        else:
            for hdu in self.hdus:
                if hdu.name.upper() == key.upper():
                    return hdu
        label = f"number {key}" if isinstance(key, int) else repr(key)
        have = ", ".join(hdu.name or str(i) for i, hdu in enumerate(self.hdus))
        raise DataError(
            f"{self.path} has no extension {label}, where amplifier {amplifier} should be; "
            f"it has {have}.",
            "The file is incomplete, or the camera file names the extension wrongly.",
        )

    def stored(self, hdu: Hdu) -> tuple[npt.NDArray[Any], float, float, int | None]:
        """Return the array of an HDU, and the BSCALE, BZERO and BLANK still to be applied."""
        if hdu.compressed:
            return self._unpack(hdu), 1.0, 0.0, None
        dtype = np.dtype(_DTYPE[int(hdu.header["BITPIX"] or 0)])
        self.handle.seek(hdu.offset)
        data = np.frombuffer(self.handle.read(hdu.size), dtype=dtype).reshape(hdu.shape)
        scale, zero = (
            1.0 if hdu.header.get("BSCALE") is None else float(hdu.header["BSCALE"] or 0.0),
            float(hdu.header.get("BZERO") or 0.0),
        )
        blank = hdu.header.get("BLANK")
        return data, scale, zero, int(blank) if blank is not None and dtype.kind != "f" else None

    def _unpack(self, hdu: Hdu) -> npt.NDArray[Any]:
        if self._unpacked is None:
            self.handle.seek(0)
            self._unpacked = astropy_fits.open(self.handle, memmap=False)
        try:
            data = self._unpacked[hdu.index].data
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{self.path} is damaged: extension {hdu.name or hdu.index} cannot be "
                f"decompressed ({error}).",
                "Copy it again.",
            ) from error
        array: npt.NDArray[Any] = np.asarray(data).reshape(hdu.shape)
        return array


def _segment(
    amplifier: Amplifier, stored: tuple[npt.NDArray[Any], float, float, int | None]
) -> Image:
    """Cut an amplifier's pieces out of a stored array, join them and put them in read-out order."""
    data, scale, zero, blank = stored
    segment = np.empty(amplifier.shape, np.float32)
    view = segment[:: -1 if amplifier.source_flip_y else 1, :: -1 if amplifier.source_flip_x else 1]
    x = 0
    for piece in amplifier.source:
        pixels, target = data[piece.slices], view[:, x : x + piece.width]
        if scale == 1.0 and (zero == 0.0 or (data.dtype.itemsize <= 2 and abs(zero) < _EXACT)):
            target[...] = pixels
            if zero:
                target += np.float32(zero)
        else:
            target[...] = pixels.astype(np.float64) * scale + zero
        if blank is not None:
            target[pixels == blank] = np.nan
        x += piece.width
    return segment


def _extent(amplifiers: list[Amplifier]) -> tuple[int, int]:
    pieces: list[Box] = [piece for amplifier in amplifiers for piece in amplifier.source]
    return max(p.y + p.height for p in pieces), max(p.x + p.width for p in pieces)


def read_raw(path: Path, info: ExposureInfo, detector: Detector) -> RawExposure:
    """Read the pixels of one exposure of one detector.

    Parameters
    ----------
    path
        The file, plain, gzipped or tile-compressed.
    info
        What its header says.
    detector
        Where each amplifier's pixels lie.

    Returns
    -------
    RawExposure
        Float32 segments in read-out order, ADU. BSCALE and BZERO are applied; BLANK is NaN.

    Raises
    ------
    DataError
        When the file is missing, truncated, not FITS, lacks a segment, or when an extension does
        not have the shape that the camera file describes (windowed or binned, for example).
    """

    def work(handle: BinaryIO) -> RawExposure:
        file = _Pixels(handle, path)
        groups: dict[int, list[Amplifier]] = {}
        for amplifier in detector.amplifiers:
            hdu = file.find(amplifier.hdu, amplifier.name)
            groups.setdefault(file.hdus.index(hdu), []).append(amplifier)
        segments: dict[str, Image] = {}
        for index, amplifiers in groups.items():
            hdu = file.hdus[index]
            _check_shape(path, info, hdu, amplifiers)
            stored = file.stored(hdu)
            segments.update({amp.name: _segment(amp, stored) for amp in amplifiers})
        ordered = {amp.name: segments[amp.name] for amp in detector.amplifiers}
        return RawExposure(info, detector, ordered)

    return _reading(path, work)


def _check_shape(path: Path, info: ExposureInfo, hdu: Hdu, amplifiers: list[Amplifier]) -> None:
    expected = _extent(amplifiers)
    if hdu.shape == expected:
        return
    where = f"extension {hdu.name or hdu.index} of {path}"
    got = " x ".join(str(n) for n in reversed(hdu.shape)) or "no"
    message = (
        f"{where} has {got} pixels and the camera file describes "
        f"{expected[1]} x {expected[0]} (columns x rows)."
    )
    if info.binning != (1, 1):
        message = (
            f"{path} is binned {info.binning[0]} x {info.binning[1]}: extension "
            f"{hdu.name or hdu.index} has {got} pixels and the camera file describes "
            f"{expected[1]} x {expected[0]} (columns x rows)."
        )
    raise DataError(
        message[0].upper() + message[1:] if not message.startswith("/") else message,
        "Leave the exposure out, or describe this read-out mode in a camera file of its own.",
    )
