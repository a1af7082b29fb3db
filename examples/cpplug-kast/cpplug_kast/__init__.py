"""The blue arm of Lick Observatory's Kast spectrograph: one CCD, two amplifiers.

Recognised by the name of its data acquisition program (``VERSION = 'kastb'``). The observer's word
OBSTYPE does not tell a bias from a dark, so that exposure time and lamps decide. Times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator

from cpplug.api import (
    DataError,
    ExposureInfo,
    Header,
    HeaderValue,
    Instrument,
    SimulatedFrame,
    hookimpl,
)
from cpplug.api.times import NS_PER_SECOND, day_obs, format_time, parse_time

CPPLUG_API = 1
KELVIN = 273.15
_SHUT = {"bias", "dark"}
_FLAT_LAMPS = tuple(f"LAMPSTA{lamp}" for lamp in "12345")
_LINE_LAMPS = tuple(f"LAMPSTA{lamp}" for lamp in "ABCDEFGHIJK")


class KastBlue(Instrument):
    """Kast, blue arm."""

    name = "Kast-blue"
    summary = "Lick Shane/Kast blue arm: one CCD, two amplifiers, overscans apart from their data"
    defaults_file = "defaults.toml"

    def claims(self, header: Header) -> bool:
        """Tell whether Kast's blue camera wrote this header."""
        return header.get("VERSION") == "kastb"

    def translate(self, header: Header) -> ExposureInfo:
        """Read the facts of an exposure from its header.

        Raises
        ------
        DataError
            When the number, the exposure time or the begin is missing.
        """
        begin = parse_time(str(_card(header, "DATE-BEG")), default_scale="utc")
        exposure_time = float(_card(header, "EXPTIME"))
        number = int(_card(header, "OBSNUM"))
        night = day_obs(begin)
        end = begin + round(exposure_time * NS_PER_SECOND)
        if closed := header.get("DATE-END"):
            end = max(end, parse_time(str(closed), default_scale="utc"))
        kelvin = header.get("TEMPDET")
        return ExposureInfo(
            instrument=self.name,
            exposure=night * 100_000 + number,
            obs_id=f"kastb_{night}_{number:05d}",
            day_obs=night,
            seq_num=number,
            observation_type=_type(header, exposure_time),
            exposure_time=exposure_time,
            dark_time=max(exposure_time, (end - begin) / NS_PER_SECOND),
            begin=begin,
            end=end,
            physical_filter=f"{_name(header, 'GRISM_N')}~{_name(header, 'BSPLIT_N')}",
            target_name=str(header.get("OBJECT") or "").strip(),
            temperature=None if kelvin is None else float(kelvin) - KELVIN,
        )

    def simulated_frame(self, info: ExposureInfo, detector: int) -> SimulatedFrame:
        """Say how Kast's own file looks: everything in the primary HDU, unsigned 16 bit."""
        grism, _, splitter = info.physical_filter.partition("~")
        flat, arc = info.observation_type == "flat", info.observation_type == "arc"
        lamps: list[tuple[str, HeaderValue, str]] = [
            (key, "on" if on else "off", "Shane lamp status")
            for key, on in (("LAMPSTAF", arc), ("LAMPSTA5", flat))
        ]
        cards: list[tuple[str, HeaderValue, str]] = [
            ("OBSNUM", info.seq_num, "OBSERVATION NUMBER"),
            ("AMPSROW", 2, "AMPLIFIERS PER ROW"),
            ("AMPSCOL", 1, "AMPLIFIERS PER COLUMN"),
            ("OBSTYPE", "DARK" if info.observation_type in _SHUT else "OBJECT", "IMAGE TYPE"),
            ("EXPTIME", info.exposure_time, "Exp time (not counting shutter error)"),
            ("PROGRAM", "NEWCAM", "New Lick Camera"),
            ("VERSION", "kastb", "Data acquisition version"),
            ("DATE", _utc(info.end), "UT of CCD readout & descramble"),
            ("DATASEC", "[1:2048,1:350]", "IRAF/NOAO-style data section"),
            ("TEMPDET", (info.temperature or -80.45) + KELVIN, "EXPOSURE START TEMPERATURE"),
            ("DATE-BEG", _utc(info.begin), "OBSERVATION BEGIN"),
            ("ROVER", 0, "NUMBER OF OVERSCAN ROWS"),
            ("COVER", 32, "NUMBER OF OVERSCAN COLUMNS"),
            ("DATE-END", _utc(info.end), "OBSERVATION END"),
            ("OBJECT", "Bias" if info.observation_type == "bias" else info.target_name, ""),
            ("DATE-OBS", _utc(info.begin), "observation date (begin)"),
            ("DSENSOR", "Fairchild CCD 3041 2Kx2K", "SENSOR DESCRIPTION"),
            ("GAIN", 1, "DCS GAIN INDEX"),
            ("GRISM_N", grism.replace("-", "/"), "GRISM POSITION NAME"),
            ("BSPLIT_N", splitter or "unknown", "BEAM SPLITTER POSITION NAME"),
            *lamps,
        ]
        return SimulatedFrame(file_name=f"b{info.seq_num}.fits", primary=cards, dtype="uint16")


def _utc(ns: int) -> str:
    """Return UTC text to a hundredth of a second, as the headers have it."""
    hundredth = NS_PER_SECOND // 100
    whole = format_time(ns // NS_PER_SECOND * NS_PER_SECOND, "utc").rstrip("Z")
    return f"{whole}.{ns % NS_PER_SECOND // hundredth:02d}"


def _card(header: Header, keyword: str) -> str | int | float:
    value = header.get(keyword)
    if value is None:
        raise DataError(f"The header has no card {keyword}.", "Is this a raw Kast frame?")
    return value


def _name(header: Header, keyword: str) -> str:
    """Return a grism or beam splitter; the slash of ``600/4310`` would read as a folder."""
    return str(header.get(keyword) or "unknown").strip().replace("/", "-")


def _on(header: Header, keywords: tuple[str, ...]) -> bool:
    return any(str(header.get(keyword) or "").strip() == "on" for keyword in keywords)


def _type(header: Header, exposure_time: float) -> str:
    if exposure_time == 0:
        return "bias"
    if str(header.get("OBSTYPE") or "").strip() == "DARK":
        return "dark"
    if _on(header, _FLAT_LAMPS):
        return "flat"
    return "arc" if _on(header, _LINE_LAMPS) else "science"


@hookimpl
def cpplug_instruments() -> Iterator[Instrument]:
    """Offer the camera."""
    yield KastBlue()
