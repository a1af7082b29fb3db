"""What is known to be wrong in the headers of the auxiliary telescope, by date.

Headers of 2018 to 2022 went through several hands and each era has its own errors. Every row of
:data:`FIXES` says from when until when a rule applies, which keyword it mends and why. Rules run in
the order of the table, each on what the ones before it left. Dates are those of DATE-OBS.
Source of dates and rules: the LATISS translator of obs_lsst, as listed in algorithms.md E.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cpplug.api import Header, HeaderValue

Cards = dict[str, HeaderValue]
IMAGE_NAME = re.compile(r"(?P<code>[A-Z]{2})_(?P<controller>[A-Z])_(?P<day>\d{8})_(?P<seq>\d{1,6})")
SENSOR_CHANGE = "2019-06-24T00:00:00"
_TYPES = ("bias", "dark", "flat")


@dataclass(frozen=True)
class Fix:
    """One rule: ``rule(header)`` returns the cards to replace, or nothing when all is well."""

    since: str
    """First moment (TAI, ISO) at which it applies; empty: always has."""
    until: str
    """First moment at which it no longer applies; empty: still does."""
    keyword: str
    rule: Callable[[Header], Cards]
    why: str


def _text(header: Header, key: str) -> str:
    value = header.get(key)
    return "" if value is None else str(value).strip()


def _clock_at_zero(header: Header) -> Cards:
    if not _text(header, "DATE-OBS").startswith("1970-"):
        return {}
    written = header.get("DATE")
    gone = dict.fromkeys(("DATE-BEG", "MJD-BEG", "DATE-END", "MJD-END"))
    return {"DATE-OBS": written, "MJD-OBS": header.get("MJD"), **gone}


def _end(header: Header) -> Cards:
    return {"DATE-END": None, "MJD-END": None}


def _image_name(header: Header) -> Cards:
    if _text(header, "OBSID"):
        return {}
    for key in ("IMGNAME", "FILENAME"):
        if match := IMAGE_NAME.search(_text(header, key)):
            return {"OBSID": match[0]}
    return {}


def _from_image_name(header: Header) -> Cards:
    match = IMAGE_NAME.search(_text(header, "OBSID"))
    found: Cards = {}
    if match:
        found = {
            "DAYOBS": match["day"], "SEQNUM": int(match["seq"]), "CONTRLLR": match["controller"],
        }  # fmt: skip
    elif night := _text(header, "OBS-NITE"):
        found = {"DAYOBS": night}
    return {key: value for key, value in found.items() if not _text(header, key)}


def _sensor(header: Header) -> Cards:
    return {"LSST_NUM": "ITL-3800C-068"}


def _type_from_group(header: Header) -> Cards:
    group = _text(header, "GROUPID")
    if group.startswith("Focus"):
        return {"IMGTYPE": "FOCUS"}
    word = group.partition("_")[0]
    return {"IMGTYPE": word.upper()} if "_" in group or word.lower() in _TYPES else {}


def _bias_without_time(header: Header) -> Cards:
    bias = _text(header, "IMGTYPE").lower() == "bias"
    return {"EXPTIME": 0.0} if bias and header.get("EXPTIME") is None else {}


def _not_the_sky(header: Header) -> Cards:
    return {"IMGTYPE": "ENGTEST"} if _text(header, "IMGTYPE").upper() == "OBJECT" else {}


def _unnamed_target(header: Header) -> Cards:
    science = _text(header, "IMGTYPE").upper() == "OBJECT"
    return {"OBJECT": "NOTSET"} if science and "OBJECT" not in header else {}


def _spectrum_prefix(header: Header) -> Cards:
    name = _text(header, "OBJECT")
    return {"OBJECT": name.replace("spec:", "")} if "spec:" in name else {}


def _diffuser(header: Header) -> Cards:
    return {"FILTER": "diffuser"} if _text(header, "FILTER") == "disperser" else {}


FIXES: tuple[Fix, ...] = (
    Fix("", "", "DATE-OBS", _clock_at_zero, "the clock stood at 1970: the file was written later"),
    Fix("", "2020-02-01T00:00:00", "DATE-END", _end, "DATE-END was before or at the beginning"),
    Fix("", "", "OBSID", _image_name, "older files call the image name IMGNAME, or only FILENAME"),
    Fix("", "", "DAYOBS", _from_image_name, "day, number or controller missing: the name has them"),
    Fix(SENSOR_CHANGE, "", "LSST_NUM", _sensor, "the sensor was changed, the header later or not"),
    Fix("", "2019-11-07T00:00:00", "IMGTYPE", _type_from_group, "the type was put in the group"),
    Fix("", "2019-11-07T00:00:00", "EXPTIME", _bias_without_time, "no exposure time for a bias"),
    Fix("", "2020-01-27T20:00:00", "IMGTYPE", _not_the_sky, "nothing was on the sky yet"),
    Fix("", "", "OBJECT", _unnamed_target, "a science frame without a target's name"),
    Fix("", "2022-07-10T00:00:00", "OBJECT", _spectrum_prefix, "spectra had a mark in the name"),
    Fix("", "2020-01-01T00:00:00", "FILTER", _diffuser, "the diffuser's slot had a wrong name"),
)  # fmt: skip


def mended(header: Header) -> Cards:
    """Return a copy of a header with every fix of its date applied."""
    cards = dict(header)
    for fix in FIXES:
        moment = _text(cards, "DATE-OBS") or _text(cards, "DATE-BEG") or _text(cards, "DATE")
        if (not fix.since or moment >= fix.since) and (not fix.until or moment < fix.until):
            cards.update(fix.rule(cards))
    return cards
