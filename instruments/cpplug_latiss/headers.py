"""How a raw file of LATISS looks: its name, its primary header, the headers of its segments.

Two eras: files of the telescope's header service (until April 2022, not compressed, with the wrong
DATASEC cards of those years) and files of the camera's own control system (since then, tile
compressed). The simulator writes its frames with these cards.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cpplug.api import Amplifier, Detector, ExposureInfo, HeaderValue, SimulatedFrame
from cpplug.api.times import NS_PER_SECOND, format_time, to_mjd
from cpplug_latiss.translator import CONTROLLERS, exposure_id

Card = tuple[str, HeaderValue, str]
CAMERA_SYSTEM_SINCE = 20220426
"""First day of the newer files."""
_WRONG_DATASEC_SINCE = 20210101
_SERIAL_SINCE = 20210212
_UNDERSCORE_SINCE = 20220101
_READ_OUT = 2 * NS_PER_SECOND
_FILTERS = ("empty_1", "BG40", "quadnotch1", "RG610")
_GRATINGS = ("empty_1", "ronchi90lpmm", "ronchi170lpmm", "holo4_003")
_SYSTEMS = (
    ("A", "AMPLIFIER", "Seg_X", "Seg_Y"), ("C", "CCD", "CCD_X", "CCD_Y"),
    ("R", "RAFT", "RAFT_X", "RAFT_Y"), ("F", "FOCAL_PLANE", "FP_X", "FP_Y"),
    ("E", "FP_SERPAR", "FP_S", "FP_P"), ("B", "CCD_SERPAR", "CCD_S", "CCD_P"),
    ("Q", "RAFT_SERPAR", "RAFT_S", "RAFT_P"),
)  # fmt: skip
_RAFT_ORIGIN = (125.0, 89.0)
_FOCAL_PLANE_ORIGIN = (12825.0, 89.0)


def controller_of(info: ExposureInfo) -> str:
    """Return the controller's letter that an exposure id implies."""
    for letter in CONTROLLERS:
        if exposure_id(info.day_obs, info.seq_num, letter) == info.exposure:
            return letter
    return "O"


def _slot(name: str, slots: tuple[str, ...]) -> tuple[str, int]:
    name = "empty_1" if name == "empty" else name
    return name, slots.index(name) if name in slots else len(slots)


def _values(info: ExposureInfo, detector: Detector, obs_id: str) -> dict[str, HeaderValue]:
    physical, _, grating = info.physical_filter.partition("~")
    filter_name, filter_slot = _slot(physical, _FILTERS)
    no_grating = "unknown" if physical == "unknown" else "empty"
    grating_name, grating_slot = _slot(grating or no_grating, _GRATINGS)
    kind = info.observation_type
    amp = detector.amplifiers[0]
    written = info.end + _READ_OUT
    era_wrong = _WRONG_DATASEC_SINCE <= info.day_obs < CAMERA_SYSTEM_SINCE
    return {
        "obs_id": obs_id,
        "file_name": _file_name(info, obs_id)
        if info.day_obs >= CAMERA_SYSTEM_SINCE
        else f"{obs_id}.fits",
        "date_begin": _iso(info.begin), "date_end": _iso(info.end), "date_written": _iso(written),
        "mjd_begin": _mjd(info.begin), "mjd_end": _mjd(info.end), "mjd_written": _mjd(written),
        "group": info.group or _iso(info.begin),
        "image_type": "OBJECT" if kind == "science" else kind.upper(),
        "target": info.target_name or "UNKNOWN",
        "program": info.science_program or None,
        "reason": info.observation_reason or None,
        "controller": controller_of(info), "day_obs": str(info.day_obs), "seq_num": info.seq_num,
        "image_tag": hashlib.sha256(obs_id.encode()).hexdigest()[:16],
        "temperature": -90.1324081420898 if info.temperature is None else info.temperature,
        "filter": filter_name, "filter_slot": filter_slot,
        "grating": grating_name, "grating_slot": grating_slot,
        "exposure_time": info.exposure_time, "dark_time": info.dark_time,
        "serial": detector.serial if info.day_obs >= _SERIAL_SINCE else None,
        "serial_overscan": amp.serial_overscan.width,
        "parallel_overscan": amp.parallel_overscan.height,
        "prescan": 0 if era_wrong else amp.prescan.width,
    }  # fmt: skip


def _iso(ns: int) -> str:
    """Return TAI text to the millisecond, as the headers have it."""
    whole = format_time(ns // NS_PER_SECOND * NS_PER_SECOND)
    return f"{whole}.{ns % NS_PER_SECOND // 1_000_000:03d}"


def _mjd(ns: int) -> float:
    return round(to_mjd(ns // 1_000_000 * 1_000_000), 10)


def _file_name(info: ExposureInfo, obs_id: str) -> str:
    if info.day_obs < _WRONG_DATASEC_SINCE:
        return f"{info.exposure}-det000.fits"
    return (
        f"{obs_id}_R00_S00.fits" if info.day_obs >= _UNDERSCORE_SINCE else f"{obs_id}-R00S00.fits"
    )


def read_cards(path: Path, values: dict[str, HeaderValue]) -> list[Card]:
    """Read a card file: ``KEYWORD = value / comment``; ``{name}`` is taken from ``values``.

    Comments end with the card, as in real files.
    """
    cards: list[Card] = []
    for line in path.read_text(encoding="ascii").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("COMMENT "):
            cards.append(("COMMENT", line.removeprefix("COMMENT "), ""))
            continue
        keyword, _, rest = line.partition(" = ")
        text, _, comment = rest.strip().partition("/ " if rest.startswith("/") else " /")
        value = _value(text.strip(), values)
        width = max(20, len(value) + 2) if isinstance(value, str) else 20
        room = max(0, 80 - len("KEYWORD = ") - width - len(" / "))
        cards.append((keyword.strip(), value, comment.strip()[:room].strip()))
    return cards


def _value(text: str, values: dict[str, HeaderValue]) -> HeaderValue:
    if text.startswith("{"):
        return values[text.strip("{}")]
    if text.startswith("'"):
        return text.strip("'")
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _segment(info: ExposureInfo, detector: Detector, amp: Amplifier, channel: int) -> list[Card]:
    """Return the cards of one segment.

    DETSEC has the rows of the two halves exchanged, as the real files have (algorithms.md E.2).
    """
    modern = info.day_obs >= CAMERA_SYSTEM_SINCE
    skipped = 0 if info.day_obs >= _WRONG_DATASEC_SINCE and not modern else amp.prescan.width
    box, upper = amp.bbox, amp.flip_y
    rows = f"1:{box.height}" if upper else f"{detector.height}:{detector.height - box.height + 1}"
    right = box.x + box.width
    matrix = "detector transformation matrix"
    vector = "detector transformation vector"
    zero: HeaderValue = 0.0 if modern else 0
    common: list[Card] = [
        ("DATASEC", f"[{skipped + 1}:{skipped + box.width},1:{box.height}]", ""),
        ("DETSEC", f"[{right}:{box.x + 1},{rows}]", ""),
        ("DETSIZE", f"[1:{detector.width},1:{detector.height}]", ""),
        ("DTV1", right + 1 + skipped, vector),
        ("DTV2", 0 if upper else detector.height + 1, vector),
        ("DTM1_1", -1.0, matrix), ("DTM2_2", 1.0 if upper else -1.0, matrix),
        ("DTM1_2", zero, matrix), ("DTM2_1", zero, matrix),
    ]  # fmt: skip
    inherit: Card = ("INHERIT", True, "Inherits global header")
    if not modern:
        return [inherit, ("EXTNAME", str(amp.hdu), ""), *common]
    first: list[Card] = [
        ("CHANNEL", channel, ""), ("EXTNAME", str(amp.hdu), ""), ("CCDSUM", "1 1", ""),
    ]  # fmt: skip
    return [*first, *common, *_world(detector, amp, right + 1 + skipped), inherit]


def _world(detector: Detector, amp: Amplifier, serial: int) -> list[Card]:
    """Return the seven linear coordinate systems that the camera writes for each segment."""
    upper = amp.flip_y
    own = float(amp.bbox.height + 1 if upper else 0), float(amp.bbox.width + 1 + amp.prescan.width)
    ccd = float(detector.height + 1 if upper else 0), float(serial)
    raft = ccd[0] + _RAFT_ORIGIN[0], ccd[1] + _RAFT_ORIGIN[1]
    plane = ccd[0] + _FOCAL_PLANE_ORIGIN[0], ccd[1] + _FOCAL_PLANE_ORIGIN[1]
    origin = {"A": own, "C": ccd, "R": raft, "F": plane, "E": plane, "B": ccd, "Q": raft}
    parallel = -1.0 if upper else 1.0
    cards: list[Card] = []
    for letter, name, axis1, axis2 in _SYSTEMS:
        swapped = letter in "EBQ"  # serial first
        matrix = (-1.0, 0.0, 0.0, parallel) if swapped else (0.0, parallel, -1.0, 0.0)
        place = origin[letter][::-1] if swapped else origin[letter]
        note = "serial-parallel" if swapped else "camera"
        cards += [
            (f"WCSNAME{letter}", name, "Name of coordinate system"),
            (f"CTYPE1{letter}", axis1, f"In the {note} coordinate system"),
            (f"CTYPE2{letter}", axis2, f"In the {note} coordinate system"),
        ]
        keys = ("PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2", "CRPIX1", "CRPIX2")
        numbers = (*matrix, 1.0, 1.0, 0.0, 0.0, *place)
        cards += [
            (f"{key}{letter}", number, "")
            for key, number in zip((*keys, "CRVAL1", "CRVAL2"), numbers, strict=True)
        ]
    return cards


def simulated_frame(info: ExposureInfo, detector: Detector, *, small: bool) -> SimulatedFrame:
    """Say how the raw file of an exposure looks; ``small`` adds the card that marks the mini."""
    modern = info.day_obs >= CAMERA_SYSTEM_SINCE
    obs_id = f"AT_{controller_of(info)}_{info.day_obs}_{info.seq_num:06d}"
    form = Path(__file__).with_name("header_2022.cards" if modern else "header_2021.cards")
    primary = read_cards(form, _values(info, detector, obs_id))
    if small:
        size = f"[1:{detector.width},1:{detector.height}]"
        primary.append(("DETSIZE", size, "IRAF detector size"))
    return SimulatedFrame(
        file_name=_file_name(info, obs_id),
        primary=primary,
        segments={
            str(amp.hdu): _segment(info, detector, amp, channel)
            for channel, amp in enumerate(detector.amplifiers, start=1)
        },
        dtype="int32",
        compressed=modern,
    )
