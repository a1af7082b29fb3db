"""Times are integer nanoseconds TAI since 1970-01-01T00:00:00 TAI; ranges are half-open.

One small module turns what people and headers write into that number and back, without astropy,
so that the commands which only touch the registry start quickly. ISO text without a scale is TAI;
``Z`` or ``/utc`` says UTC. The leap seconds are those of IERS Bulletin C up to 2026.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re

from cpplug.api.errors import UsageError

NS_PER_SECOND = 1_000_000_000
NS_PER_DAY = 86_400 * NS_PER_SECOND
MJD_OF_EPOCH = 40_587
"""Modified Julian Date of 1970-01-01."""
DAY_OBS_OFFSET_NS = 12 * 3_600 * NS_PER_SECOND

# (UTC date on which the offset starts, TAI - UTC in seconds); IERS Bulletin C.
_LEAPS: tuple[tuple[str, int], ...] = (
    ("1972-01-01", 10), ("1972-07-01", 11), ("1973-01-01", 12), ("1974-01-01", 13),
    ("1975-01-01", 14), ("1976-01-01", 15), ("1977-01-01", 16), ("1978-01-01", 17),
    ("1979-01-01", 18), ("1980-01-01", 19), ("1981-07-01", 20), ("1982-07-01", 21),
    ("1983-07-01", 22), ("1985-07-01", 23), ("1988-01-01", 24), ("1990-01-01", 25),
    ("1991-01-01", 26), ("1992-07-01", 27), ("1993-07-01", 28), ("1994-07-01", 29),
    ("1996-01-01", 30), ("1997-07-01", 31), ("1999-01-01", 32), ("2006-01-01", 33),
    ("2009-01-01", 34), ("2012-07-01", 35), ("2015-07-01", 36), ("2017-01-01", 37),
)  # fmt: skip
_EPOCH = dt.datetime(1970, 1, 1)
_UTC_STARTS = [(dt.datetime.fromisoformat(date) - _EPOCH).days * NS_PER_DAY for date, _ in _LEAPS]
_OFFSETS = [seconds * NS_PER_SECOND for _, seconds in _LEAPS]
_TAI_STARTS = [start + offset for start, offset in zip(_UTC_STARTS, _OFFSETS, strict=True)]

_ISO = re.compile(
    r"^\+?0?(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?)?$"
)
_YDAY = re.compile(
    r"^(?P<year>\d{4}):(?P<yday>\d{3})"
    r"(?::(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?)?$"
)
_COMPACT = re.compile(r"^(?P<date>\d{8})(?:T(?P<clock>\d{4}(?:\d{2})?))?$")


def utc_to_tai(ns: int) -> int:
    """Convert nanoseconds on the UTC clock (leap seconds not counted) to TAI nanoseconds."""
    index = bisect.bisect_right(_UTC_STARTS, ns) - 1
    return ns + (_OFFSETS[index] if index >= 0 else _OFFSETS[0])


def tai_to_utc(ns: int) -> int:
    """Convert TAI nanoseconds to nanoseconds on the UTC clock."""
    index = bisect.bisect_right(_TAI_STARTS, ns) - 1
    return ns - (_OFFSETS[index] if index >= 0 else _OFFSETS[0])


def from_mjd(mjd: float, scale: str = "tai") -> int:
    """Return TAI nanoseconds of a Modified Julian Date (days) on scale ``tai`` or ``utc``."""
    whole = int(mjd // 1)
    ns = (whole - MJD_OF_EPOCH) * NS_PER_DAY + round((mjd - whole) * NS_PER_DAY)
    return utc_to_tai(ns) if scale == "utc" else ns


def to_mjd(ns: int) -> float:
    """Return the Modified Julian Date (TAI, days) of TAI nanoseconds."""
    return ns / NS_PER_DAY + MJD_OF_EPOCH


def _clock(parts: dict[str, str | None]) -> int:
    hour, minute, second = (int(parts[key] or 0) for key in ("hour", "minute", "second"))
    if hour > 24 or minute > 59 or second > 60:
        raise ValueError("hour, minute or second out of range")
    fraction = int(((parts["fraction"] or "") + "0" * 9)[:9])
    return (hour * 3_600 + minute * 60 + second) * NS_PER_SECOND + fraction


def parse_time(text: str, default_scale: str = "tai") -> int:
    """Read a date or time.

    Parameters
    ----------
    text
        ``2021-07-15``, ``2021-07-15T12:00[:30[.5]]`` (``T`` or a blank),
        ``20210715[T1200[30]]``, ``2021:196[:12:00[:30]]``, or a Modified Julian Date such as
        ``59410.5``. A trailing ``Z`` or ``/utc`` means UTC, ``/tai`` means TAI.
    default_scale
        ``tai`` or ``utc``: the scale of text that names none.

    Returns
    -------
    int
        TAI nanoseconds since 1970-01-01T00:00:00 TAI.

    Raises
    ------
    UsageError
        When the text is not one of these forms, or a scale other than UTC or TAI is asked for.
    """
    value, scale = text.strip(), default_scale
    if "/" in value:
        value, _, scale = value.rpartition("/")
        scale = scale.strip().lower()
        if scale not in {"tai", "utc"}:
            raise UsageError(f"Time scale {scale!r} in {text!r} is not known.", "Use /tai or /utc.")
    elif value.endswith(("Z", "z")):
        value, scale = value[:-1], "utc"
    try:
        ns = _parse_clock_text(value.strip())
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is not a date or time ({error}).",
            "Write 2021-07-15, 2021-07-15T12:00:00, the same with Z, or an MJD such as 59410.5.",
        ) from None
    return utc_to_tai(ns) if scale == "utc" else ns


def _parse_clock_text(value: str) -> int:
    if match := _ISO.match(value):
        parts = match.groupdict()
        date = dt.date(int(match["year"]), int(match["month"]), int(match["day"]))
    elif match := _YDAY.match(value):
        parts = match.groupdict()
        date = dt.date(int(match["year"]), 1, 1) + dt.timedelta(days=int(match["yday"]) - 1)
    elif match := _COMPACT.match(value):
        date = dt.datetime.strptime(match["date"], "%Y%m%d").date()
        clock = (match["clock"] or "000000").ljust(6, "0")
        parts = {"hour": clock[:2], "minute": clock[2:4], "second": clock[4:6], "fraction": None}
    else:
        mjd = float(value)
        if not 0 <= mjd < 200_000:
            raise ValueError("a bare number is a Modified Julian Date between 0 and 200000")
        return from_mjd(mjd)
    return (date - _EPOCH.date()).days * NS_PER_DAY + _clock(parts)


def format_time(ns: int | None, scale: str = "tai") -> str:
    """Return ISO text of TAI nanoseconds, on scale ``tai`` (no suffix) or ``utc`` (suffix ``Z``).

    ``None`` is an open end and gives ``-``. Fractions are shown only where there are any.
    """
    if ns is None:
        return "-"
    clock = tai_to_utc(ns) if scale == "utc" else ns
    seconds, fraction = divmod(clock, NS_PER_SECOND)
    text = (_EPOCH + dt.timedelta(seconds=seconds)).isoformat()
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text + ("Z" if scale == "utc" else "")


def day_obs(ns: int) -> int:
    """Return the observing day (``YYYYMMDD``) of a TAI time; it changes at 12:00 UTC."""
    shifted = tai_to_utc(ns) - DAY_OBS_OFFSET_NS
    return int((_EPOCH + dt.timedelta(seconds=shifted // NS_PER_SECOND)).strftime("%Y%m%d"))


def now_tai() -> int:
    """Return the present time as TAI nanoseconds."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None) - _EPOCH
    ns = (now.days * 86_400 + now.seconds) * NS_PER_SECOND + now.microseconds * 1_000
    return utc_to_tai(ns)
