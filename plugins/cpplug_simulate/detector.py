"""One simulated detector: everything about it that does not change from exposure to exposure.

It depends on the seed, the detector and the strengths of the effects, never on the exposure; two
nights simulated with one seed come from one camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cpplug.api import Amplifier, Detector
from cpplug_simulate import charge, correlation, light, readout
from cpplug_simulate.geometry import Floats, assemble
from cpplug_simulate.settings import STATIC as STATIC_EFFECTS
from cpplug_simulate.settings import BiasStructure, RowTransient, Settings
from cpplug_simulate.streams import STATIC, stream

HOT, BRIGHT_COLUMN, DEAD_COLUMN = 1, 2, 4
"""Bits of the truth mask."""
_DEFAULT_FULL_WELL = 150_000.0
_LEVEL_FRACTION = 0.07


@dataclass(kw_only=True)
class StaticDetector:
    """The truth of a detector.

    Attributes
    ----------
    level, gain, read_noise, full_well
        By amplifier: ADU, electron/ADU, electron, electron.
    nonlinearity
        By amplifier: c2, c3 ... of ``readout.bend``.
    crosstalk
        (source, target) in the order of the amplifiers, ADU/ADU.
    kernel
        Area changes of the brighter-fatter effect, 1/electron, by distance.
    pattern
        By amplifier: float32 (rows, columns) of the segment in read-out order, ADU: level and
        fixed pattern, as a noise-free frame without row drift would be.
    bias
        Assembled, ADU: the mean over noise of a data pixel less the overscan level of its row.
    dark
        Assembled, electron/s/pixel: the smooth dark current, hot pixels left out.
    hot
        y, x, rate (electron/s) of hot pixels and of the pixels of bright columns.
    n_hot
        How many of ``hot`` are single pixels; they come first.
    dead
        (first row, last row, column) of dead columns in the assembled image, last row excluded.
    mask
        uint8, assembled: HOT, BRIGHT_COLUMN, DEAD_COLUMN.
    """

    detector: Detector
    seed: int
    settings: Settings
    maximum: int
    level: dict[str, float]
    gain: dict[str, float]
    read_noise: dict[str, float]
    full_well: dict[str, float]
    nonlinearity: dict[str, tuple[float, ...]]
    crosstalk: npt.NDArray[np.float64]
    kernel: npt.NDArray[np.float64]
    pattern: dict[str, Floats]
    bias: Floats
    dark: Floats
    hot: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
    n_hot: int
    dead: list[tuple[int, int, int]]
    mask: npt.NDArray[np.uint8]
    _response: dict[str, Floats] = field(default_factory=dict)

    def response(self, physical_filter: str) -> Floats:
        """Return the sensitivity in a filter (fraction), dead columns in, dust out."""
        if physical_filter not in self._response:
            image = light.response(
                self.settings, self.seed, self.detector.id, self.detector.shape, physical_filter
            )
            for first, last, column in self.dead:
                image[first:last, column] *= np.float32(self.settings.bad_columns.response)
            self._response = {physical_filter: image}
        return self._response[physical_filter]


def static_detector(
    detector: Detector, settings: Settings, seed: int, dtype: str = "int32"
) -> StaticDetector:
    """Return the truth of a detector; the last few are kept.

    Parameters
    ----------
    detector
        Geometry, nominal gains and noises.
    settings
        Effects.
    seed
        Non-negative integer.
    dtype
        Pixel type of the raw file, which sets the range of the ADC.
    """
    return _static_detector(detector, msgspec.json.encode(settings), seed, dtype)


@lru_cache(maxsize=2)
def _static_detector(detector: Detector, encoded: bytes, seed: int, dtype: str) -> StaticDetector:
    settings = msgspec.json.decode(encoded, type=Settings)
    amplifiers = detector.amplifiers
    names = [amplifier.name for amplifier in amplifiers]
    maximum = settings.adc.maximum
    maximum = readout.adc_maximum(dtype) if maximum is None else maximum
    gain = {a.name: _factor(settings.gain.factors, a, a.gain) for a in amplifiers}
    if not settings.gain.on:
        gain = dict.fromkeys(names, 1.0)
    level = _levels(settings, seed, detector, maximum)
    columns, pixels = _patterns(settings, seed, detector)
    pattern = {}
    for amplifier in amplifiers:
        image = np.full(amplifier.shape, level[amplifier.name], np.float32)
        rows, cols = amplifier.data.slices
        image[:, cols] += columns[amplifier.name]
        image[rows, cols] += pixels[amplifier.name]
        pattern[amplifier.name] = image
    hot, n_hot, dead, mask = _defects(settings, seed, detector)
    return StaticDetector(
        detector=detector,
        seed=seed,
        settings=settings,
        maximum=maximum,
        level=level,
        gain=gain,
        read_noise={
            a.name: _factor(settings.read_noise.factors, a, a.read_noise)
            if settings.read_noise.on
            else 0.0
            for a in amplifiers
        },
        full_well={a.name: _full_well(settings, a, level, gain) for a in amplifiers},
        nonlinearity=_nonlinearity(settings, seed, detector),
        crosstalk=_crosstalk(settings, seed, detector),
        kernel=correlation.pixel_area_kernel(settings.brighter_fatter),
        pattern=pattern,
        bias=assemble(detector, {n: columns[n][None, :] + pixels[n] for n in names}),
        dark=charge.dark_rate(settings.dark_current, detector.shape),
        hot=hot,
        n_hot=n_hot,
        dead=dead,
        mask=mask,
    )


def _factor(factors: dict[str, float], amplifier: Amplifier, nominal: float) -> float:
    return nominal * factors.get(amplifier.name, 1.0)


def _full_well(
    settings: Settings, amplifier: Amplifier, level: dict[str, float], gain: dict[str, float]
) -> float:
    if settings.saturation.full_well is not None:
        return settings.saturation.full_well
    if math.isfinite(amplifier.saturation):
        return max(amplifier.saturation - level[amplifier.name], 1.0) * gain[amplifier.name]
    return _DEFAULT_FULL_WELL


def _levels(settings: Settings, seed: int, detector: Detector, maximum: int) -> dict[str, float]:
    options = settings.bias_level
    if not options.on:
        return {amplifier.name: 0.0 for amplifier in detector.amplifiers}
    dice = stream(seed, detector.id, STATIC, "bias_level")
    mean = _LEVEL_FRACTION * maximum if options.mean is None else options.mean
    return {
        amplifier.name: float(mean * (1 + options.scatter * dice.uniform(-1, 1)))
        for amplifier in detector.amplifiers
    }


def _patterns(
    settings: Settings, seed: int, detector: Detector
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return by amplifier what is the same in all rows (columns,), and the rest (rows, columns).

    Both belong to the data columns alone: overscan columns see the level only.
    """
    dice = stream(seed, detector.id, STATIC, "bias_structure")
    columns, pixels = {}, {}
    for amplifier in detector.amplifiers:
        rows, width = amplifier.data.shape
        columns[amplifier.name] = np.zeros(width, np.float32)
        pixels[amplifier.name] = np.zeros((rows, width), np.float32)
        if settings.row_transient.on:
            columns[amplifier.name] += _transient(settings.row_transient, amplifier)
        options = settings.bias_structure
        if options.on:
            columns[amplifier.name] += np.float32(options.columns) * dice.standard_normal(
                width, np.float32
            )
            pixels[amplifier.name] += _structure(dice, options, amplifier)
    return columns, pixels


def _transient(options: RowTransient, amplifier: Amplifier) -> Floats:
    """Return the settling at the start of a row: exponential, brought to zero where data end."""
    end = amplifier.data.x + amplifier.data.width
    x = np.arange(amplifier.data.x, end, dtype=float)
    last = np.exp(-end / options.length)
    shape = (np.exp(-x / options.length) - last) / (1 - last)
    settled: Floats = (options.amplitude * shape).astype(np.float32)
    return settled


def _structure(dice: np.random.Generator, options: BiasStructure, amplifier: Amplifier) -> Floats:
    rows, width = amplifier.data.shape
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    weights = dice.uniform(-1, 1, 5).astype(np.float32)
    terms = (x, y, x * x, x * y, y * y)
    shape: Any = np.zeros((rows, width), np.float32)
    for weight, term in zip(weights, terms, strict=True):
        shape += weight * term
    shape *= np.float32(options.shape) / np.abs(shape).max()
    shape += np.float32(options.pixels) * dice.standard_normal(shape.shape, np.float32)
    shape += np.float32(options.offsets.get(amplifier.name, 0.0))
    return np.asarray(shape, np.float32)


def _defects(settings: Settings, seed: int, detector: Detector) -> tuple[Any, int, Any, Any]:
    """Return hot pixels, their number, dead columns and the mask."""
    rows, columns = detector.shape
    mask = np.zeros(detector.shape, np.uint8)
    ys: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    xs: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    rates: list[npt.NDArray[np.float64]] = [np.empty(0)]
    if settings.hot_pixels.on:
        hot = settings.hot_pixels
        dice = stream(seed, detector.id, STATIC, "hot_pixels")
        count = int(dice.poisson(hot.density * rows * columns / 1e6))
        where = np.sort(dice.choice(rows * columns, min(count, rows * columns), replace=False))
        ys.append(where // columns)
        xs.append(where % columns)
        rates.append(np.exp(dice.uniform(np.log(hot.low), np.log(hot.high), where.size)))
        mask[ys[-1], xs[-1]] |= HOT
    n_hot = sum(part.size for part in ys)
    dead: list[tuple[int, int, int]] = []
    if settings.bad_columns.on:
        dice = stream(seed, detector.id, STATIC, "bad_columns")
        for amplifier in detector.amplifiers:
            box = amplifier.bbox
            for _ in range(int(dice.poisson(settings.bad_columns.density * box.width / 1e3))):
                column = box.x + int(dice.integers(box.width))
                start = int(dice.integers(box.height))
                bright = bool(dice.random() < 0.5)
                first, last = (
                    (box.y, box.y + box.height - start)
                    if amplifier.flip_y
                    else (box.y + start, box.y + box.height)
                )
                mask[first:last, column] |= BRIGHT_COLUMN if bright else DEAD_COLUMN
                if bright:
                    ys.append(np.arange(first, last))
                    xs.append(np.full(last - first, column))
                    rates.append(np.full(last - first, settings.bad_columns.bright))
                else:
                    dead.append((first, last, column))
    hot_list = (np.concatenate(ys), np.concatenate(xs), np.concatenate(rates))
    return hot_list, n_hot, dead, mask


def _nonlinearity(
    settings: Settings, seed: int, detector: Detector
) -> dict[str, tuple[float, ...]]:
    options = settings.nonlinearity
    dice = stream(seed, detector.id, STATIC, "nonlinearity")
    out: dict[str, tuple[float, ...]] = {}
    for amplifier in detector.amplifiers:
        factors = 1 + options.scatter * dice.standard_normal(2)
        out[amplifier.name] = (float(options.c2 * factors[0]), float(options.c3 * factors[1]))
    return out


def _crosstalk(settings: Settings, seed: int, detector: Detector) -> npt.NDArray[np.float64]:
    options = settings.crosstalk
    dice = stream(seed, detector.id, STATIC, "crosstalk")
    count = len(detector.amplifiers)
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    matrix = options.nearest * options.decay ** (1.0 - distance)
    matrix *= 1 + options.scatter * dice.standard_normal((count, count))
    matrix[(distance == 0) | (np.abs(matrix) < abs(options.nearest) * 1e-3)] = 0.0
    return np.asarray(matrix, float)


def static_facts(static: StaticDetector) -> dict[str, Any]:
    """Return the numbers of a detector's truth, for ``truth.json``; units are in the names."""
    names = [amplifier.name for amplifier in static.detector.amplifiers]
    settings = msgspec.to_builtins(static.settings)
    return {
        "detector": static.detector.id,
        "name": static.detector.name,
        "seed": static.seed,
        "settings": {name: settings[name] for name in STATIC_EFFECTS},
        "adc_maximum": static.maximum,
        "amplifiers": names,
        "bias_level_adu": static.level,
        "gain_electron_per_adu": static.gain,
        "read_noise_electron": static.read_noise,
        "full_well_electron": static.full_well,
        "nonlinearity_c2_c3": {k: list(v) for k, v in static.nonlinearity.items()},
        "crosstalk_source_target": static.crosstalk.tolist(),
        "a_matrix_per_electron": static.kernel.tolist(),
        "cti": {k: v for k, v in settings["cti"].items() if k != "on"},
        "hot_pixels": static.n_hot,
        "dead_columns": [list(span) for span in static.dead],
        "dust_at_home": light.donuts(
            static.settings, static.seed, static.detector.id, static.detector.shape, STATIC
        ),
    }
