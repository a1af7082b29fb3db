"""From a LATISS primary header to the facts of an exposure.

The header is first mended (``fixes``); then each fact has one rule here. Times in LATISS headers
are TAI. Rules after algorithms.md E.4.
"""

from __future__ import annotations

from cpplug.api import DataError, ExposureInfo, Header, UsageError
from cpplug.api.times import NS_PER_SECOND, from_mjd, parse_time
from cpplug_latiss.fixes import mended

CONTROLLERS = "OCHPQS"
"""Who took the image; each letter has exposure ids of its own, a thousand years apart."""
_SHARED_SINCE = {"C": 20231004, "P": 20250417, "Q": 20250417, "S": 20250417}
"""After this day a controller's sequence numbers no longer collide with those of O."""
_ON_SKY = {"skyexp", "object"}


def exposure_id(day_obs: int, seq_num: int, controller: str = "O") -> int:
    """Return ``day_obs * 100000 + seq_num``, moved by 1000 years per controller other than O.

    Raises
    ------
    DataError
        When the day has not eight digits, the number more than five, or the controller is unknown.
    """
    if not 10_000_000 <= day_obs <= 99_999_999:
        raise DataError(f"DAYOBS {day_obs} is not a day of the form YYYYMMDD.")
    if not 0 <= seq_num < 100_000:
        raise DataError(f"SEQNUM {seq_num} of day {day_obs} is not between 0 and 99999.")
    if len(controller) != 1 or controller not in CONTROLLERS:
        raise DataError(
            f"Controller {controller!r} of day {day_obs}, image {seq_num}, is not one of "
            f"{', '.join(CONTROLLERS)}."
        )
    shared = day_obs > _SHARED_SINCE.get(controller, day_obs)
    offset = 0 if shared else CONTROLLERS.index(controller)
    return (day_obs + 10_000_000 * offset) * 100_000 + seq_num


def _text(header: Header, *keys: str, default: str = "") -> str:
    for key in keys:
        value = header.get(key)
        if value is not None and str(value).strip():
            return str(value).strip()
    return default


def _number(header: Header, key: str) -> float | None:
    value = header.get(key)
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except ValueError:
        raise DataError(f"{key} of a LATISS header is {value!r}, not a number.") from None


def _whole(header: Header, key: str) -> int:
    value = _text(header, key)
    if not value.isdigit():
        raise DataError(
            f"A LATISS header has no usable {key} ({value or 'missing'}), so that the exposure "
            "cannot be identified.",
            "Mend the header, or leave the file out.",
        )
    return int(value)


def observation_type(header: Header, day_obs: int, exposure_time: float) -> str:
    """Return bias, dark, flat, science, ... of a mended header; OBSTYPE wins over IMGTYPE."""
    kind = _text(header, "OBSTYPE", "IMGTYPE").lower()
    if kind in _ON_SKY:
        return "science" if day_obs >= 20200101 else "labobject"
    return kind or ("bias" if exposure_time == 0 else "unknown")


def physical_filter(header: Header) -> str:
    """Return ``FILTER~GRATING``; an empty slot is ``empty``, an unknown one ``unknown``."""
    parts = [_text(header, key, default="unknown") for key in ("FILTER", "GRATING")]
    return "~".join("empty" if part.lower().startswith("empty") else part for part in parts)


def _moment(header: Header, *stems: str) -> int | None:
    """Return the first time given, TAI nanoseconds: DATE-x (to the millisecond), then MJD-x."""
    scale = "utc" if _text(header, "TIMESYS").upper() == "UTC" else "tai"
    for stem in stems:
        if text := _text(header, f"DATE-{stem}"):
            try:
                return parse_time(text, scale)
            except UsageError as error:
                raise DataError(f"DATE-{stem} of a LATISS header: {error.message}") from None
        if (mjd := _number(header, f"MJD-{stem}")) is not None:
            return from_mjd(mjd, scale)
    return None


def translate(header: Header, instrument: str) -> ExposureInfo:
    """Read the facts of an exposure from its primary header.

    Raises
    ------
    DataError
        When day, number, controller or time are missing or senseless.
    """
    cards = mended(header)
    day_obs, seq_num = _whole(cards, "DAYOBS"), _whole(cards, "SEQNUM")
    exposure = exposure_id(day_obs, seq_num, _text(cards, "CONTRLLR", default="O"))
    time = _number(cards, "EXPTIME")
    exposure_time = -1.0 if time is None else time
    dark_time = _number(cards, "DARKTIME")
    if dark_time is None or dark_time < exposure_time:
        dark_time = exposure_time
    begin = _moment(cards, "BEG", "OBS")
    if begin is None:
        raise DataError(f"Exposure {exposure} has no time: no DATE-BEG, MJD-BEG or DATE-OBS.")
    end = _moment(cards, "END")
    if end is None or end < begin:
        end = begin + round(max(exposure_time, 0.0) * NS_PER_SECOND)
    return ExposureInfo(
        instrument=instrument,
        exposure=exposure,
        obs_id=_text(cards, "OBSID", "IMGNAME"),
        day_obs=day_obs,
        seq_num=seq_num,
        observation_type=observation_type(cards, day_obs, exposure_time),
        exposure_time=exposure_time,
        dark_time=dark_time,
        begin=begin,
        end=end,
        physical_filter=physical_filter(cards),
        target_name=_text(cards, "OBJECT", default="UNKNOWN"),
        science_program=_text(cards, "PROGRAM", default="unknown"),
        observation_reason=_text(cards, "REASON", "TESTTYPE", default="unknown").lower(),
        group=_text(cards, "GROUPID"),
        detector_serial=_text(cards, "LSST_NUM", "DETSER"),
        temperature=_number(cards, "CCDTEMP"),
        binning=(int(_number(cards, "BINX") or 1), int(_number(cards, "BINY") or 1)),
    )
