"""What a camera is made of: boxes, amplifiers, detectors, read from a TOML file.

A :class:`Box` is the only place where x/y (as written in headers and tables) meets row/column (as
numpy counts). All boxes are 0-based, ``(x, y, width, height)``, in pixels.

Every amplifier is described in **read-out order**: pixel (0, 0) of its segment is the first pixel
read, x runs along the serial register, y along the parallel direction. ``source`` says where those
pixels lie in the file, ``flip_x``/``flip_y``/``bbox`` say where they go in the assembled image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api.errors import ConfigError, UnknownNameError, nearest


class Box(msgspec.Struct, frozen=True, array_like=True):
    """A rectangle of pixels: 0-based corner (x, y), width and height."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index a numpy image ``[y, x]``."""
        return (slice(self.y, self.y + self.height), slice(self.x, self.x + self.width))

    @property
    def shape(self) -> tuple[int, int]:
        """The numpy shape: (height, width)."""
        return (self.height, self.width)

    @property
    def empty(self) -> bool:
        """True when the box holds no pixel."""
        return self.width <= 0 or self.height <= 0

    def contains(self, other: Box) -> bool:
        """Tell whether ``other`` lies inside this box."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.width <= self.x + self.width
            and other.y + other.height <= self.y + self.height
        )

    @classmethod
    def from_section(cls, text: str) -> Box:
        """Read an IRAF section such as ``[4:512,1:2000]`` (1-based, inclusive, either order)."""
        try:
            spans = [
                sorted(int(v) for v in part.split(":")) for part in text.strip(" []").split(",")
            ]
            (x0, x1), (y0, y1) = spans
        except ValueError:
            raise ConfigError(
                f"{text!r} is not an image section.", "Write [x1:x2,y1:y2]."
            ) from None
        return cls(x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)

    def to_section(self, *, flip_x: bool = False, flip_y: bool = False) -> str:
        """Write the box as an IRAF section (1-based, inclusive), reversed where flipped."""
        xs = (self.x + 1, self.x + self.width)
        ys = (self.y + 1, self.y + self.height)
        xs = xs[::-1] if flip_x else xs
        ys = ys[::-1] if flip_y else ys
        return f"[{xs[0]}:{xs[1]},{ys[0]}:{ys[1]}]"


EMPTY = Box(0, 0, 0, 0)


class Amplifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One read-out channel.

    ``data``, ``prescan``, ``serial_overscan`` and ``parallel_overscan`` are boxes of the segment in
    read-out order; an empty box means the region does not exist. Gain is electron/ADU, read noise
    electron, saturation and suspect level ADU (bias pedestal included; infinite when unknown).
    """

    name: str
    hdu: int | str = 0
    """Extension name or number that holds the pixels."""
    source: tuple[Box, ...]
    """Pieces of that extension, joined along x, in file coordinates."""
    source_flip_x: bool = False
    source_flip_y: bool = False
    """Flips that bring the joined pieces into read-out order."""
    data: Box
    prescan: Box = EMPTY
    serial_overscan: Box = EMPTY
    parallel_overscan: Box = EMPTY
    flip_x: bool = False
    flip_y: bool = False
    """Flips from read-out order to the detector's orientation."""
    bbox: Box
    """Where the data box lies in the assembled, trimmed detector."""
    gain: float = 1.0
    read_noise: float = 0.0
    saturation: float = math.inf
    suspect: float = math.inf

    @property
    def shape(self) -> tuple[int, int]:
        """The numpy shape of the segment: (rows, columns)."""
        return (self.source[0].height, sum(piece.width for piece in self.source))


class Detector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One CCD: its amplifiers and the size of its assembled, trimmed image."""

    id: int
    name: str
    amplifiers: tuple[Amplifier, ...]
    width: int
    height: int
    serial: str = ""
    vendor: str = ""
    pixel_size: float = 10.0
    """Pixel pitch in micrometres."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numpy shape of the assembled image: (rows, columns)."""
        return (self.height, self.width)

    def amplifier(self, name: str) -> Amplifier:
        """Return the amplifier called ``name``; UnknownNameError when there is none."""
        for amplifier in self.amplifiers:
            if amplifier.name == name:
                return amplifier
        raise UnknownNameError(
            f"Detector {self.name} has no amplifier {name!r}.",
            nearest(name, [amplifier.name for amplifier in self.amplifiers]),
        )


class Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A camera: its name and detectors."""

    name: str
    detectors: tuple[Detector, ...]

    def detector(self, key: int | str) -> Detector:
        """Return the detector with this id or name; UnknownNameError when there is none."""
        for detector in self.detectors:
            if key in (detector.id, detector.name):
                return detector
        known = ", ".join(f"{detector.id} ({detector.name})" for detector in self.detectors)
        raise UnknownNameError(f"{self.name} has no detector {key!r}.", f"Known: {known}.")

    def __iter__(self) -> Iterator[Detector]:
        return iter(self.detectors)


def load_camera(path: Path) -> Camera:
    """Read a camera from a TOML file.

    The file gives ``name``, the ``[amplifier]`` table that all amplifiers share, and one
    ``[[detector]]`` table each. A detector lists ``amplifiers`` one by one, or ``rows`` (a grid,
    see ``docs/how-to/add-a-camera.md``); what an amplifier says itself wins over the shared table.
    ``gain``, ``read_noise``, ``saturation`` and ``suspect`` may be given as tables by amplifier.

    Parameters
    ----------
    path
        The TOML file.

    Returns
    -------
    Camera
        Checked: boxes lie inside their segment, amplifiers inside the detector and apart.

    Raises
    ------
    ConfigError
        When the file is not TOML, misses a field, has an unknown one or describes an impossible
        layout.
    """
    import tomli

    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
        return camera_from(document)
    except (tomli.TOMLDecodeError, OSError, msgspec.ValidationError, KeyError, TypeError) as error:
        reason = f"misses {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"Camera file {path} cannot be used: {reason}.",
            "See docs/how-to/add-a-camera.md for the form.",
        ) from None


def camera_from(document: Mapping[str, Any]) -> Camera:
    """Build a camera from the content of a camera file; see :func:`load_camera`."""
    shared = dict(document.get("amplifier", {}))
    detectors = [_detector(shared, dict(table)) for table in document["detector"]]
    camera = msgspec.convert({"name": document["name"], "detectors": detectors}, Camera)
    for detector in camera.detectors:
        _check(detector)
    return camera


_PER_AMPLIFIER = ("gain", "read_noise", "saturation", "suspect")


def _detector(shared: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    by_name = {key: table.pop(key) for key in _PER_AMPLIFIER if isinstance(table.get(key), dict)}
    rows = table.pop("rows", [])
    listed = [dict(amp) for amp in table.pop("amplifiers", [])] + list(_grid(shared, rows))
    amplifiers = []
    for amp in listed:
        merged = {**shared, **amp}
        merged.update({k: v[amp["name"]] for k, v in by_name.items() if amp["name"] in v})
        source = merged["source"]
        merged["source"] = source if source and isinstance(source[0], list | tuple) else [source]
        amplifiers.append(merged)
    width = max(a["bbox"][0] + a["bbox"][2] for a in amplifiers)
    height = max(a["bbox"][1] + a["bbox"][3] for a in amplifiers)
    return {"width": width, "height": height, **table, "amplifiers": amplifiers}


def _grid(shared: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Expand rows of equal amplifiers, one row index ``y`` each.

    Names run from left to right, or from right to left with ``from_right = true``.
    """
    for row in rows:
        _, _, width, height = row["data"] if "data" in row else shared["data"]
        last = len(row["amps"]) - 1
        for index, name in enumerate(row["amps"]):
            column = last - index if row.get("from_right", False) else index
            yield {
                "name": name,
                "hdu": row["hdu"].format(name=name, digits=name[1:]) if "hdu" in row else name,
                "flip_x": row.get("flip", [False, False])[0],
                "flip_y": row.get("flip", [False, False])[1],
                "bbox": [column * width, row["y"] * height, width, height],
            }


def _check(detector: Detector) -> None:
    whole = Box(0, 0, detector.width, detector.height)
    seen: set[str] = set()
    covered = 0
    for amp in detector.amplifiers:
        where = f"amplifier {amp.name} of detector {detector.name}"
        if amp.name in seen:
            raise TypeError(f"{where} is listed twice")
        seen.add(amp.name)
        if len({piece.height for piece in amp.source}) != 1:
            raise TypeError(f"the source pieces of {where} differ in height")
        segment = Box(0, 0, amp.shape[1], amp.shape[0])
        for label in ("data", "prescan", "serial_overscan", "parallel_overscan"):
            box: Box = getattr(amp, label)
            if not box.empty and not segment.contains(box):
                raise TypeError(f"the {label} box of {where} leaves its segment")
        if amp.data.empty or amp.data.shape != amp.bbox.shape:
            raise TypeError(f"the data box and the bbox of {where} differ in size")
        if not whole.contains(amp.bbox):
            raise TypeError(f"the bbox of {where} leaves the detector")
        covered += amp.bbox.width * amp.bbox.height
        for other in detector.amplifiers:
            if other.name != amp.name and _overlap(amp.bbox, other.bbox):
                raise TypeError(f"{where} overlaps amplifier {other.name}")
        if not amp.gain > 0 or not amp.read_noise >= 0:
            raise TypeError(f"gain (electron/ADU) of {where} must be > 0 and read noise >= 0")
    if covered != whole.width * whole.height:
        raise TypeError(f"the amplifiers of detector {detector.name} leave pixels uncovered")


def _overlap(a: Box, b: Box) -> bool:
    return (
        a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )
