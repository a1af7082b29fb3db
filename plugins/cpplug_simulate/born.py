"""What a simulated detector is born with: levels, fixed patterns, defects, coefficients.

Everything here is drawn once per seed and detector.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cpplug.api import Amplifier, Detector
from cpplug_simulate.effects import BiasStructure, RowTransient
from cpplug_simulate.geometry import Floats
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import STATIC, stream

HOT: Final = 1
BRIGHT_COLUMN: Final = 2
DEAD_COLUMN: Final = 4
"""Bits of the truth mask."""
_DEFAULT_FULL_WELL = 150_000.0
_LEVEL_FRACTION = 0.07


def factor(factors: dict[str, float], amplifier: Amplifier, nominal: float) -> float:
    """Return the true value of an amplifier: nominal times the factor set for it, if any."""
    return nominal * factors.get(amplifier.name, 1.0)


def full_well(
    settings: Settings, amplifier: Amplifier, level: dict[str, float], gain: dict[str, float]
) -> float:
    """Return the charge (electron) at which an amplifier's pixels are full."""
    if settings.saturation.full_well is not None:
        return settings.saturation.full_well
    if math.isfinite(amplifier.saturation):
        return max(amplifier.saturation - level[amplifier.name], 1.0) * gain[amplifier.name]
    return _DEFAULT_FULL_WELL


def levels(settings: Settings, seed: int, detector: Detector, maximum: int) -> dict[str, float]:
    """Return the bias level of every amplifier, ADU."""
    options = settings.bias_level
    if not options.on:
        return {amplifier.name: 0.0 for amplifier in detector.amplifiers}
    dice = stream(seed, detector.id, STATIC, "bias_level")
    mean = _LEVEL_FRACTION * maximum if options.mean is None else options.mean
    return {
        amplifier.name: float(mean * (1 + options.scatter * dice.uniform(-1, 1)))
        for amplifier in detector.amplifiers
    }


def patterns(
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


def defects(settings: Settings, seed: int, detector: Detector) -> tuple[Any, int, Any, Any]:
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


def nonlinearity(settings: Settings, seed: int, detector: Detector) -> dict[str, tuple[float, ...]]:
    """Return c2 (1/ADU) and c3 (1/ADU^2) of every amplifier."""
    options = settings.nonlinearity
    dice = stream(seed, detector.id, STATIC, "nonlinearity")
    out: dict[str, tuple[float, ...]] = {}
    for amplifier in detector.amplifiers:
        factors = 1 + options.scatter * dice.standard_normal(2)
        out[amplifier.name] = (float(options.c2 * factors[0]), float(options.c3 * factors[1]))
    return out


def crosstalk(settings: Settings, seed: int, detector: Detector) -> npt.NDArray[np.float64]:
    """Return the ghosts, (source, target), ADU/ADU; below 0.1 % of the nearest they are 0."""
    options = settings.crosstalk
    dice = stream(seed, detector.id, STATIC, "crosstalk")
    count = len(detector.amplifiers)
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    matrix = options.nearest * options.decay ** (1.0 - distance)
    matrix *= 1 + options.scatter * dice.standard_normal((count, count))
    matrix[(distance == 0) | (np.abs(matrix) < abs(options.nearest) * 1e-3)] = 0.0
    return np.asarray(matrix, float)
