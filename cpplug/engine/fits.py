"""FITS in and out: raw frames of any camera, and the calibration products that cpplug writes.

Raw pixels are taken from where the camera file says and brought into read-out order. A product is
a FITS file that stands alone: image, mask and variance (or a table), units, the meaning of each
mask bit, and cards that say how it was made. Equal content gives equal bytes, so that a checksum
names a product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits as astropy_fits

from cpplug.api.camera import Amplifier, Box, Detector
from cpplug.api.errors import DataError
from cpplug.api.exposure import MASK_DTYPE, MASK_PLANES, Image, Mask, RawExposure
from cpplug.api.instrument import ExposureInfo, Header
from cpplug.api.product import ImageProduct, MetaValue, TableProduct
from cpplug.engine.files import replacing
from cpplug.engine.files import sha256_of as sha256_of
from cpplug.engine.fitsfile import FitsFile, Hdu, Stored, opened, plain_header

_EXACT = 1 << 24
"""Integers up to this size are exact in float32."""
_STRUCTURE = frozenset({
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT",
    "TFIELDS", "EXTNAME", "BUNIT", "BSCALE", "BZERO", "CHECKSUM", "DATASUM", "KIND",
    "COMMENT", "HISTORY", "CONTINUE", "HIERARCH", "END", "",
})  # fmt: skip
"""Cards that belong to the file; all others of a product's first header are its metadata."""
_PLANE = "MP_"


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
    with opened(path) as file:
        return [plain_header(hdu) for hdu in file.hdus]


def _fill(segment: Image, amplifier: Amplifier, stored: Stored) -> None:
    """Cut an amplifier's pieces out of a stored array, join them and put them in read-out order."""
    data, scale, zero, blank = stored.data, stored.scale, stored.zero, stored.blank
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


def _empty_segments(detector: Detector) -> dict[str, Image]:
    """Make room for all segments in one piece of memory (faster than sixteen)."""
    sizes = [amp.shape[0] * amp.shape[1] for amp in detector.amplifiers]
    pool, ends = np.empty(sum(sizes), np.float32), np.cumsum(sizes)
    return {
        amp.name: pool[end - size : end].reshape(amp.shape)
        for amp, size, end in zip(detector.amplifiers, sizes, ends, strict=True)
    }


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
    groups: dict[int, list[Amplifier]] = {}
    segments = _empty_segments(detector)
    with opened(path) as file:
        for amplifier in detector.amplifiers:
            position = file.find(amplifier.hdu, amplifier.name)
            groups.setdefault(position, []).append(amplifier)
        for position, amplifiers in groups.items():
            hdu = file.hdus[position]
            _check_shape(path, info, hdu, amplifiers)
            stored = file.stored(hdu)
            for amp in amplifiers:
                _fill(segments[amp.name], amp, stored)
    return RawExposure(info, detector, segments)


def _check_shape(path: Path, info: ExposureInfo, hdu: Hdu, amplifiers: list[Amplifier]) -> None:
    expected = _extent(amplifiers)
    if hdu.shape == expected:
        return
    got = " x ".join(str(n) for n in reversed(hdu.shape)) or "no"
    binned = "" if info.binning == (1, 1) else " is binned {} x {}".format(*info.binning)
    raise DataError(
        f"{path}{binned}: extension {hdu.name or hdu.index} has {got} pixels and the camera file "
        f"describes {expected[1]} x {expected[0]} (columns x rows).",
        "Leave the exposure out, or describe this read-out mode in a camera file of its own.",
    )


# ---- products --------------------------------------------------------------------------------
def write_image_product(
    path: Path, product: ImageProduct, cards: Mapping[str, MetaValue]
) -> tuple[str, int]:
    """Write an image product as FITS with extensions IMAGE, MASK and VARIANCE.

    Parameters
    ----------
    path
        The file to write; it appears whole or not at all.
    product
        Image, mask, variance (rows, columns), unit, metadata.
    cards
        More cards for the primary header (provenance); they win over the product's metadata.

    Returns
    -------
    sha256, size
        The checksum of the file's bytes, and their number.

    Raises
    ------
    DataError
        When the three planes differ in shape.
    RepositoryError
        When the file cannot be written; nothing is left behind.
    """
    shapes = {plane.shape for plane in (product.image, product.mask, product.variance)}
    if len(shapes) != 1:
        raise DataError(f"Image, mask and variance of {path.name} differ in shape: {shapes}.")
    squared = "" if product.unit in {"", "1"} else f"({product.unit})^2"
    hdus = [
        _primary("image", {**product.metadata, **cards}),
        _extension("IMAGE", np.asarray(product.image, np.float32), product.unit),
        _extension("MASK", np.asarray(product.mask, MASK_DTYPE), ""),
        _extension("VARIANCE", np.asarray(product.variance, np.float32), squared),
    ]
    for plane, bit in MASK_PLANES.items():
        _set_card(hdus[2].header, _PLANE + plane, bit, "bit of this mask plane")
    return _write(path, hdus)


def write_table_product(
    path: Path, product: TableProduct, cards: Mapping[str, MetaValue]
) -> tuple[str, int]:
    """Write a table product as FITS with one binary table TABLE.

    Columns may be numbers, booleans or text, with one value or one array per row. Arguments,
    result and errors as in :func:`write_image_product`.
    """
    columns = {name: np.asarray(column) for name, column in product.columns.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"The columns of {path.name} differ in length: {sorted(lengths)}.")
    fields = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
    rows = np.zeros(lengths.pop() if lengths else 0, dtype=fields)
    for name, column in columns.items():
        if column.dtype == object:
            raise DataError(f"Column {name!r} of {path.name} holds objects, not numbers or text.")
        rows[name] = column
    table = astropy_fits.BinTableHDU(data=rows, name="TABLE")
    for name, unit in product.units.items():
        table.columns[name].unit = unit
    return _write(path, [_primary("table", {**product.metadata, **cards}), table])


def read_image_product(path: Path) -> ImageProduct:
    """Read what :func:`write_image_product` wrote.

    The mask is brought to today's bit numbers by the names in its header.

    Raises
    ------
    DataError
        When the file is missing, truncated or not an image product.
    """
    with opened(path) as file:
        planes = {name: _plane(file, name) for name in ("IMAGE", "MASK", "VARIANCE")}
        image, variance = (_native(file, planes[name]) for name in ("IMAGE", "VARIANCE"))
        mask = _mask(file, planes["MASK"])
        unit = str(planes["IMAGE"].header.get("BUNIT") or "1")
        metadata = _metadata(file.hdus[0])
    return ImageProduct(image=image, mask=mask, variance=variance, unit=unit, metadata=metadata)


def read_table_product(path: Path) -> TableProduct:
    """Read what :func:`write_table_product` wrote; DataError when the file is something else."""
    with opened(path) as file:
        table = file.astropy_hdu(_plane(file, "TABLE"))
        columns: dict[str, npt.NDArray[np.generic]] = {}
        for name in table.columns.names:
            column = np.asarray(table.data[name])
            columns[name] = column.astype(column.dtype.newbyteorder("="))
        units = {c.name: str(c.unit) for c in table.columns if c.unit}
        return TableProduct(columns=columns, units=units, metadata=_metadata(file.hdus[0]))


def _primary(kind: str, cards: Mapping[str, MetaValue]) -> Any:
    primary = astropy_fits.PrimaryHDU()
    primary.header["KIND"] = (kind, "image: IMAGE, MASK, VARIANCE; table: TABLE")
    for key, value in cards.items():
        if key.upper() in _STRUCTURE:
            raise DataError(f"A product cannot carry a card {key!r}: FITS needs it for itself.")
        _set_card(primary.header, key, value)
    return primary


def _extension(name: str, data: npt.NDArray[Any], unit: str) -> Any:
    hdu = astropy_fits.ImageHDU(np.ascontiguousarray(data), name=name)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _set_card(header: Any, key: str, value: MetaValue, comment: str = "") -> None:
    """Add a card; long or lower-case keywords become HIERARCH cards and keep their case.

    A card has twenty places for a number, so that floats keep twelve digits at least.
    """
    item: Any = value.item() if isinstance(value, np.generic) else value
    if isinstance(item, float) and not math.isfinite(item):
        item = None if math.isnan(item) else str(item)
    if isinstance(item, str):
        item = " ".join(item.split("\n")).encode("ascii", "backslashreplace").decode("ascii")
    standard = re.fullmatch(r"[A-Z0-9_-]{1,8}", key) is not None
    header.append((key if standard else f"HIERARCH {key}", item, comment), end=True)


def _write(path: Path, hdus: list[Any]) -> tuple[str, int]:
    for hdu in hdus:
        hdu.add_checksum(when="on writing")  # a fixed comment: the default holds today's date
    with replacing(path) as temporary:
        with temporary.open("wb") as handle:
            astropy_fits.HDUList(hdus).writeto(handle)
        digest, size = sha256_of(temporary), temporary.stat().st_size
    return digest, size


def _plane(file: FitsFile, name: str) -> Hdu:
    for hdu in file.hdus:
        if hdu.name == name:
            return hdu
    raise DataError(
        f"{file.path} has no extension {name}, so it is not a product of the kind asked for."
    )


def _native(file: FitsFile, hdu: Hdu) -> Image:
    return file.stored(hdu).data.astype(np.float32)


def _mask(file: FitsFile, hdu: Hdu) -> Mask:
    stored = file.stored(hdu)
    mask = (stored.data.astype(np.int32) + np.int32(stored.zero)).astype(MASK_DTYPE)
    in_file = {
        key.removeprefix(_PLANE): int(value or 0)
        for key, value in hdu.header.items()
        if key.startswith(_PLANE)
    }
    if all(MASK_PLANES.get(plane) == bit for plane, bit in in_file.items()):
        return mask
    today = np.zeros_like(mask)
    for plane, bit in in_file.items():
        if plane in MASK_PLANES:
            today |= ((mask >> bit) & 1).astype(MASK_DTYPE) << MASK_DTYPE(MASK_PLANES[plane])
    return today


def _metadata(primary: Hdu) -> dict[str, MetaValue]:
    return {
        key: math.nan if value is None else value
        for key, value in primary.header.items()
        if key not in _STRUCTURE
    }
