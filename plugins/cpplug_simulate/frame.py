"""One exposure of one detector, from photons to digits.

The order is that of nature: light (with its shot noise and charge correlations), dark current, hot
pixels and hits collect charge; wells fill and bleed; charge is clocked out with its trails; it
becomes volts and digits (gain, nonlinearity, crosstalk); the electronics add bias, drift and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cpplug.api import Amplifier, ExposureInfo, Instrument
from cpplug_simulate import charge as charges
from cpplug_simulate import light, readout
from cpplug_simulate.correlation import collect
from cpplug_simulate.detector import StaticDetector, static_detector
from cpplug_simulate.effects import RowDrift
from cpplug_simulate.geometry import Floats, data_of
from cpplug_simulate.settings import EFFECTS, Settings
from cpplug_simulate.streams import stream


@dataclass(kw_only=True)
class Simulated:
    """A simulated exposure and what went into it.

    Attributes
    ----------
    segments
        By amplifier: integers, (rows, columns), read-out order, ADU.
    static
        The detector's truth.
    charge
        Assembled, electron: what the pixels held when read-out began.
    response
        Assembled: sensitivity with dust (fraction); None when there was no light.
    row_level
        By amplifier: what was added to every row, ADU, (rows,).
    facts
        Numbers that belong to this exposure, ready for JSON.
    """

    info: ExposureInfo
    segments: dict[str, npt.NDArray[np.signedinteger]]
    static: StaticDetector
    charge: Floats
    response: Floats | None
    row_level: dict[str, npt.NDArray[np.float64]]
    facts: dict[str, Any] = field(default_factory=dict)


def simulate_frame(
    instrument: Instrument,
    info: ExposureInfo,
    detector: int | str,
    settings: Settings,
    seed: int,
    dtype: str | None = None,
) -> Simulated:
    """Simulate one exposure of one detector.

    Parameters
    ----------
    instrument
        Gives the camera, and the pixel type of its files.
    info
        Exposure id, exposure and dark time, filter.
    detector
        Id or name.
    settings
        Effects with their switches and strengths; see ``settings_for``.
    seed
        The camera's seed. The same seed is the same camera; the exposure id makes the dice of an
        exposure.
    dtype
        Pixel type; by default that of the instrument's files.

    Returns
    -------
    Simulated
        Segments in read-out order, and the truth.
    """
    one = instrument.camera.detector(detector)
    if dtype is None:
        dtype = instrument.simulated_frame(info, one.id).dtype
    static = static_detector(one, settings, seed, dtype)

    def dice(effect: str) -> np.random.Generator:
        return stream(seed, one.id, info.exposure, effect)

    facts: dict[str, Any] = {
        "exposure": info.exposure,
        "detector": one.id,
        "observation_type": info.observation_type,
        "exposure_time": info.exposure_time,
        "dark_time": info.dark_time,
        "physical_filter": info.physical_filter,
        "effects": [name for name in EFFECTS if getattr(settings, name).on],
    }
    collected, response = _collect(static, info, dice, facts)
    signal = _electronics(static, collected, facts)
    segments, row_level = _digits(static, signal, dice, dtype)
    return Simulated(
        info=info,
        segments=segments,
        static=static,
        charge=collected,
        response=response,
        row_level=row_level,
        facts=facts,
    )


def _collect(
    static: StaticDetector,
    info: ExposureInfo,
    dice: Callable[[str], np.random.Generator],
    facts: dict[str, Any],
) -> tuple[Floats, Floats | None]:
    """Fill the pixels; return electrons and, where there was light, the response."""
    settings, detector = static.settings, static.detector
    where = (settings, static.seed, detector.id, detector.shape, info.exposure)
    falling, light_facts = light.illumination(*where, info.exposure_time)
    facts |= light_facts
    charge, response = np.zeros(detector.shape, np.float32), None
    if falling is not None:
        spots = light.donuts(*where)
        facts["donuts"] = spots
        response = static.response(info.physical_filter) * light.dust(detector.shape, spots)
        falling *= response
        charge = falling
        if settings.photon_noise.on:
            correlations = settings.brighter_fatter
            charge = collect(
                dice("photon_noise"),
                falling,
                static.kernel if correlations.on else None,
                correlations.step,
                max(static.full_well.values()),
            )
    if settings.dark_current.on:
        charge += charges.dark_charge(dice("dark_current"), static.dark, info.dark_time)
    ys, xs, rates = static.hot
    single, columns = slice(None, static.n_hot), slice(static.n_hot, None)
    for effect, part in (("hot_pixels", single), ("bad_columns", columns)):
        drawn = dice(effect).poisson(rates[part] * max(info.dark_time, 0.0))
        np.add.at(charge, (ys[part], xs[part]), drawn.astype(np.float32))
    if settings.cosmic_rays.on:
        hits, facts["cosmic_rays"] = charges.cosmic_rays(
            dice("cosmic_rays"),
            settings.cosmic_rays,
            detector.shape,
            info.dark_time,
            detector.pixel_size,
        )
        charge += hits
    return charge, response


def _electronics(
    static: StaticDetector, charge: Floats, facts: dict[str, Any]
) -> dict[str, Floats] | None:
    """Turn charge into ADU above bias, by amplifier; None when no pixel holds any."""
    settings = static.settings
    if not charge.any():
        return None
    signal: dict[str, Floats] = {}
    lost = 0.0
    for amplifier in static.detector.amplifiers:
        if settings.saturation.on:
            held = np.ascontiguousarray(data_of(amplifier, charge), np.float32)
            lost += charges.saturate(
                held, static.full_well[amplifier.name], settings.saturation.bleed
            )
            data_of(amplifier, charge)[...] = held
        signal[amplifier.name] = _volts(static, amplifier, charge)
    if settings.saturation.on:
        facts["electrons_lost"] = lost
    if settings.crosstalk.on:
        names = [amplifier.name for amplifier in static.detector.amplifiers]
        signal = readout.add_ghosts(signal, names, static.crosstalk)
    return signal


def _volts(static: StaticDetector, amplifier: Amplifier, charge: Floats) -> Floats:
    segment = np.zeros(amplifier.shape, np.float32)
    segment[amplifier.data.slices] = data_of(amplifier, charge)
    if static.settings.cti.on:
        segment = readout.deferred(segment, static.settings.cti)
    segment /= np.float32(static.gain[amplifier.name])
    if static.settings.nonlinearity.on:
        segment = readout.bend(segment, static.nonlinearity[amplifier.name])
    return segment


def _digits(
    static: StaticDetector,
    signal: dict[str, Floats] | None,
    dice: Callable[[str], np.random.Generator],
    dtype: str,
) -> tuple[dict[str, npt.NDArray[np.signedinteger]], dict[str, npt.NDArray[np.float64]]]:
    """Add bias, drift and noise, and digitise."""
    settings = static.settings
    drift_dice, noise_dice = dice("row_drift"), dice("read_noise")
    maximum = static.maximum if settings.adc.on else int(np.iinfo(dtype).max) // 2
    segments, levels = {}, {}
    for amplifier in static.detector.amplifiers:
        name = amplifier.name
        rows = amplifier.shape[0]
        levels[name] = np.zeros(rows)
        if settings.row_drift.on:
            levels[name] = row_drift(drift_dice, settings.row_drift, rows)
        image = noise_dice.standard_normal(amplifier.shape, np.float32)
        image *= np.float32(static.read_noise[name] / static.gain[name])
        image += static.pattern[name]
        image += levels[name].astype(np.float32)[:, None]
        if signal is not None:
            image += signal[name]
        segments[name] = readout.digitise(image, dtype, maximum)
    return segments, levels


def row_drift(
    generator: np.random.Generator, options: RowDrift, rows: int
) -> npt.NDArray[np.float64]:
    """Return what is added to each row of an amplifier, data and overscan alike, ADU.

    An offset of the exposure, a stationary random walk with exponential correlation, and an
    exponential transient at the first row.
    """
    from scipy.signal import lfilter

    offset = options.exposure * generator.standard_normal()
    keep = np.exp(-1 / options.length)
    steps = generator.standard_normal(rows)
    steps[1:] *= np.sqrt(1 - keep**2)
    walk = options.rms * lfilter([1.0], [1.0, -keep], steps)
    start = options.start * np.exp(-np.arange(rows) / options.start_length)
    return np.asarray(offset + walk + start, float)
