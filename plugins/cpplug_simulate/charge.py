"""Charge that is no light, and charge that is too much: dark, hits, hot pixels, full wells."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from cpplug_simulate.correlation import poisson_image
from cpplug_simulate.effects import CosmicRays, DarkCurrent
from cpplug_simulate.geometry import Floats, centred

_PAIRS_PER_MICROMETRE = 80.0
"""Electrons that a minimum ionising particle frees per micrometre of silicon (most probable)."""


def dark_rate(options: DarkCurrent, shape: tuple[int, int]) -> Floats:
    """Return the smooth dark current, electron/s/pixel: a level and a glow at the origin."""
    y, x = centred(shape)
    if not options.on:
        return np.zeros(shape, np.float32)
    glow: Floats = np.exp(-(x + np.float32(0.5)) / np.float32(0.1)) * np.exp(
        -(y + np.float32(0.5)) / np.float32(0.1)
    )
    rate: Floats = np.float32(options.rate) + np.float32(options.glow) * glow
    return rate


def dark_charge(generator: np.random.Generator, rate: Floats, dark_time: float) -> Floats:
    """Return whole electrons of dark current after ``dark_time`` seconds."""
    return poisson_image(generator, rate * np.float32(max(dark_time, 0.0)))


def cosmic_rays(
    generator: np.random.Generator,
    options: CosmicRays,
    shape: tuple[int, int],
    dark_time: float,
    pixel_size: float,
) -> tuple[Floats, list[dict[str, Any]]]:
    """Return the charge of cosmic rays (electron) and the list of hits.

    Hits fall for the dark time and half of the read-out. Muons come with an intensity that falls as
    the square of the cosine of the angle to the normal, cross the whole thickness and free about 80
    electrons per micrometre, fluctuating with a long tail; charge spreads by a third of a pixel.

    Parameters
    ----------
    generator
        Random numbers.
    options
        Rates.
    shape
        Rows and columns of the detector.
    dark_time
        Seconds.
    pixel_size
        Micrometres.

    Returns
    -------
    ndarray
        Electrons, (rows, columns).
    list
        Each hit: kind (``muon`` or ``compact``), x, y of its start, dx, dy to its end (pixels) and
        charge (electron; what falls off the detector included).
    """
    image = np.zeros(shape, np.float32)
    area = shape[0] * shape[1] * (pixel_size * 1e-4) ** 2
    seconds = max(dark_time, 0.0) + options.readout / 2
    hits: list[dict[str, Any]] = []
    for _ in range(int(generator.poisson(options.rate * area * seconds))):
        x, y = generator.uniform(0, shape[1]) - 0.5, generator.uniform(0, shape[0]) - 0.5
        compact = generator.random() < options.compact
        angle = generator.uniform(0, 2 * np.pi)
        if compact:
            length = generator.exponential(1.0)
            charge = generator.lognormal(7.0, 1.0)
        else:
            cosine = max(generator.random() ** 0.25, 0.05)
            slant = options.thickness / cosine
            length = np.sqrt(slant**2 - options.thickness**2) / pixel_size
            tail = -np.log(max(generator.standard_normal() ** 2, 1e-6))
            charge = _PAIRS_PER_MICROMETRE * slant * max(1 + 0.1 * tail, 0.3)
        dx, dy = length * np.cos(angle), length * np.sin(angle)
        pieces = max(int(charge / 20), 1)
        along = generator.random(pieces)
        px = np.rint(x + along * dx + generator.normal(0, 0.33, pieces)).astype(int)
        py = np.rint(y + along * dy + generator.normal(0, 0.33, pieces)).astype(int)
        inside = (px >= 0) & (px < shape[1]) & (py >= 0) & (py < shape[0])
        np.add.at(image, (py[inside], px[inside]), np.float32(charge / pieces))
        hits.append(
            {
                "kind": "compact" if compact else "muon",
                "x": float(x),
                "y": float(y),
                "dx": float(dx),
                "dy": float(dy),
                "charge": float(charge),
            }
        )
    return image, hits


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _bleed(charge: Floats, full_well: float) -> float:
    """Spread what exceeds the full well along columns, in place; return what left the column.

    ``below`` and ``above`` name, for each pixel, the next one worth a look in that direction, so
    that long full stretches are crossed once only.
    """
    rows, columns = charge.shape
    lost = 0.0
    below = np.empty(rows, np.int64)
    above = np.empty(rows, np.int64)
    for x in range(columns):
        for y in range(rows):
            below[y] = y - 1
            above[y] = y + 1
        for y in range(rows):
            excess = charge[y, x] - full_well
            if excess <= 0.0:
                continue
            charge[y, x] = full_well
            # Half runs away from the register; what finds no room there turns round, and what
            # then finds none leaves through the register.
            left = 0.5 * excess
            place = above[y]
            while place < rows:
                room = full_well - charge[place, x]
                if room > left:
                    charge[place, x] += left
                    left = 0.0
                    break
                if room > 0.0:
                    charge[place, x] = full_well
                    left -= room
                place = above[place]
            above[y] = place
            left += 0.5 * excess
            place = below[y]
            while place >= 0:
                room = full_well - charge[place, x]
                if room > left:
                    charge[place, x] += left
                    left = 0.0
                    break
                if room > 0.0:
                    charge[place, x] = full_well
                    left -= room
                place = below[place]
            below[y] = place
            lost += left
    return lost


def saturate(charge: Floats, full_well: float, bleed: bool) -> float:
    """Limit an amplifier's charge to the full well, in place.

    Parameters
    ----------
    charge
        Electrons, read-out order: row 0 is next to the serial register. Changed.
    full_well
        Electrons.
    bleed
        Whether the excess runs along the column (half each way; the far end is closed, the register
        drains) or vanishes.

    Returns
    -------
    float
        Electrons that were lost.
    """
    if not bool((charge > full_well).any()):
        return 0.0
    if bleed:
        return float(_bleed(charge, float(np.float32(full_well))))
    over = float(np.sum(np.maximum(charge - np.float32(full_well), 0), dtype=np.float64))
    np.minimum(charge, np.float32(full_well), out=charge)
    return over
