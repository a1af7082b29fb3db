"""Which exposures a simulated night holds: ids, times, filters, exposure times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

import numpy as np

from cpplug.api import ExposureInfo, Instrument, UsageError
from cpplug.api.times import DAY_OBS_OFFSET_NS, NS_PER_DAY, NS_PER_SECOND, utc_to_tai
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import stream

CADENCE: Final = 30
"""Seconds between the starts of consecutive sequence numbers."""
DEFAULT_TIMES: Final[dict[str, tuple[float, ...]]] = {
    "bias": (0.0,),
    "dark": (30.0,),
    "flat": (0.4,),
    "science": (30.0,),
}
_PTC_LADDER: Final = (0.01, 1.05)
"""Lowest and highest illumination of a photon transfer ladder, as a fraction of the full well."""
_SHUTTER: Final = 0.24
_IDS_PER_DAY: Final = 100_000


def exposure_ids(first: int, count: int) -> list[int]:
    """Return ``count`` consecutive ids from ``first`` (day_obs x 100000 + sequence number)."""
    return list(range(first, first + count))


def plan(
    instrument: Instrument,
    recipe: str,
    ids: Sequence[int],
    *,
    settings: Settings,
    seed: int,
    times: Sequence[float] = (),
    filters: Sequence[str] = (),
) -> list[ExposureInfo]:
    """Return the exposures of a recipe.

    Exposure times and filters are dealt in equal blocks: with two times, the first half of the ids
    gets the first. A photon transfer ladder takes pairs of consecutive ids; without given times
    they rise in equal factors from 1 % of the full well to just above it.

    Parameters
    ----------
    instrument
        The camera; it names the default filter.
    recipe
        ``bias``, ``dark``, ``flat``, ``ptc`` or ``science``.
    ids
        Exposure ids: day_obs x 100000 + sequence number.
    settings
        The lamp's rate sets the default ladder.
    seed
        For the small scatter of dark times.
    times
        Exposure times, seconds.
    filters
        Physical filters.

    Raises
    ------
    UsageError
        When an id holds no date, comes twice, or a recipe is given a time it cannot have.
    """
    _check(instrument, recipe, ids, times, filters)
    if recipe == "ptc" and not times:
        times = _ladder(instrument, settings, max(len(ids) // 2, 1))
    times = tuple(times) or DEFAULT_TIMES[recipe]
    filters = tuple(filters) or (instrument.default_filter or [*instrument.filters, "empty"][0],)
    each = len(filters) * len(times)
    block = max(-(-len(ids) // each), 1)
    infos = []
    for index, exposure in enumerate(ids):
        deal = min(index // block, each - 1)
        physical_filter, seconds = filters[deal // len(times)], times[deal % len(times)]
        infos.append(_info(instrument, recipe, exposure, seconds, physical_filter, seed))
    return infos


def _check(
    instrument: Instrument,
    recipe: str,
    ids: Sequence[int],
    times: Sequence[float],
    filters: Sequence[str],
) -> None:
    if len(set(ids)) != len(ids):
        raise UsageError("An exposure id is given twice.", "Give each id once.")
    if recipe == "bias" and any(time != 0 for time in times):
        raise UsageError("A bias has no exposure time.", "Simulate dark or flat instead.")
    if any(not 0 <= time < 86_400 for time in times):
        raise UsageError("An exposure time must lie between 0 and 86400 s.")
    if recipe == "ptc" and len(ids) % 2:
        raise UsageError(
            f"A photon transfer ladder takes pairs, not {len(ids)} exposures.",
            "Give an even number of ids.",
        )
    for name in filters:
        if instrument.filters and name not in instrument.filters:
            raise UsageError(
                f"{instrument.name} has no filter {name!r}.",
                f"Known: {', '.join(instrument.filters)}.",
            )


def _ladder(instrument: Instrument, settings: Settings, pairs: int) -> tuple[float, ...]:
    wells = [amp.saturation * amp.gain for amp in instrument.camera.detectors[0].amplifiers]
    well = settings.saturation.full_well or min(150_000.0, *wells)
    if settings.lamp.rate <= 0:
        raise UsageError("A photon transfer ladder needs light.", "Set lamp.rate above 0.")
    steps = np.geomspace(*_PTC_LADDER, pairs) * well / settings.lamp.rate
    return tuple(float(f"{step:.4g}") for step in steps)


def _begin(exposure: int) -> tuple[int, int, int]:
    """Return day_obs, sequence number and begin (TAI ns) of an exposure id."""
    day_obs, seq_num = divmod(exposure, _IDS_PER_DAY)
    try:
        date = dt.datetime.strptime(f"{day_obs:08d}", "%Y%m%d")
    except ValueError:
        raise UsageError(
            f"Exposure id {exposure} holds no date.",
            "An id is YYYYMMDD followed by five digits, such as 2021012000019.",
        ) from None
    if seq_num * CADENCE >= 86_400:
        raise UsageError(
            f"Exposure id {exposure} does not fit into its day.",
            f"Sequence numbers go up to {86_400 // CADENCE - 1}.",
        )
    noon = (date - dt.datetime(1970, 1, 1)).days * NS_PER_DAY + DAY_OBS_OFFSET_NS
    return day_obs, seq_num, utc_to_tai(noon + seq_num * CADENCE * NS_PER_SECOND)


def _info(
    instrument: Instrument,
    recipe: str,
    exposure: int,
    seconds: float,
    physical_filter: str,
    seed: int,
) -> ExposureInfo:
    day_obs, seq_num, begin = _begin(exposure)
    kind = "flat" if recipe == "ptc" else recipe
    scatter = stream(seed, 0, exposure, "shutter").uniform(-0.02, 0.02)
    extra = 0.05 if kind in {"bias", "dark"} else _SHUTTER
    target = {"bias": "Park position", "dark": "Park position", "flat": "FlatField"}
    return ExposureInfo(
        instrument=instrument.name,
        exposure=exposure,
        obs_id=f"{instrument.name}_{day_obs}_{seq_num:06d}",
        day_obs=day_obs,
        seq_num=seq_num,
        observation_type=kind,
        exposure_time=float(seconds),
        dark_time=round(seconds + extra + scatter, 4),
        begin=begin,
        end=begin + round(seconds * NS_PER_SECOND),
        physical_filter=physical_filter,
        target_name=target.get(kind, "Field"),
        science_program="science" if kind == "science" else "calibration",
        observation_reason=recipe,
        group=str(exposure),
        detector_serial=instrument.camera.detectors[0].serial,
        temperature=-94.0,
    )
