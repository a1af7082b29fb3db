"""Light on its way to the silicon: lamp, sky, fringes, stars, dust, and the pixels' response."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from scipy.special import erf

from cpplug_simulate.geometry import Floats, centred
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import STATIC, stream

_CODE = "utf-8"


def filter_number(physical_filter: str) -> int:
    """Return a number that tells filters apart, the same in every run."""
    return zlib.crc32(physical_filter.encode(_CODE))


def response(
    settings: Settings, seed: int, detector: int, shape: tuple[int, int], physical_filter: str
) -> Floats:
    """Return the sensitivity of every pixel in a filter, dust and bad columns left out.

    Quantum efficiency gradient (direction and strength depend on the filter) x pixel response
    non-uniformity (the same in all filters) x vignetting; a fraction near 1, (rows, columns).
    """
    y, x = centred(shape)
    image = np.ones(shape, np.float32)
    if settings.qe_gradient.on:
        dice = stream(seed, detector, STATIC, "qe_gradient", filter_number(physical_filter))
        angle = dice.uniform(0, 2 * np.pi)
        strength = settings.qe_gradient.amplitude * dice.uniform(0.5, 1.0)
        slope = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        image *= 1 + np.float32(strength / (abs(np.cos(angle)) + abs(np.sin(angle)))) * slope
    if settings.prnu.on:
        dice = stream(seed, detector, STATIC, "prnu")
        image *= 1 + np.float32(settings.prnu.rms) * dice.standard_normal(shape, np.float32)
    if settings.vignetting.on:
        image *= 1 - np.float32(settings.vignetting.corner) * ((x**2 + y**2) * 2) ** 2
    return image


def donuts(
    settings: Settings, seed: int, detector: int, shape: tuple[int, int], exposure: int
) -> list[dict[str, float]]:
    """Return the dust of an exposure: x, y, radius (pixels, in the detector), depth (fraction)."""
    options = settings.donuts
    if not options.on:
        return []
    dice = stream(seed, detector, STATIC, "donuts")
    count = int(dice.poisson(options.density * shape[0] * shape[1] / 1e6))
    places = dice.uniform(size=(count, 2)) * (shape[1], shape[0])
    radii = options.radius * dice.uniform(0.6, 1.4, count)
    depths = options.depth * dice.uniform(0.5, 1.5, count)
    moved = np.array([options.shift_x, options.shift_y])
    if exposure != STATIC:
        dice = stream(seed, detector, exposure, "donuts")
        moved = moved + options.jitter * dice.standard_normal(2)
    else:
        moved = np.zeros(2)
    return [
        {"x": float(x), "y": float(y), "radius": float(r), "depth": float(min(d, 1.0))}
        for (x, y), r, d in zip(places + moved, radii, depths, strict=True)
    ]


def dust(shape: tuple[int, int], spots: list[dict[str, float]]) -> Floats:
    """Return the transmission (fraction) of dust donuts: rings from 0.4 radius to the radius."""
    image = np.ones(shape, np.float32)
    for spot in spots:
        radius = spot["radius"]
        window = _window(shape, spot["x"], spot["y"], radius + 15)
        if window is None:
            continue
        rows, columns, y, x = window
        distance = np.hypot(x - spot["x"], y - spot["y"])
        edge = np.clip((radius - distance) / 2, -30, 30)
        hole = np.clip((distance - 0.4 * radius) / 2, -30, 30)
        ring = 1 / ((1 + np.exp(-edge)) * (1 + np.exp(-hole)))
        image[rows, columns] *= (1 - spot["depth"] * ring).astype(np.float32)
    return image


def _window(
    shape: tuple[int, int], x: float, y: float, half: float
) -> tuple[slice, slice, Any, Any] | None:
    """Return row and column slices around a place, and the pixel coordinates inside them."""
    y0, y1 = max(0, int(y - half)), min(shape[0], int(y + half) + 1)
    x0, x1 = max(0, int(x - half)), min(shape[1], int(x + half) + 1)
    if y0 >= y1 or x0 >= x1:
        return None
    return slice(y0, y1), slice(x0, x1), np.arange(y0, y1)[:, None], np.arange(x0, x1)[None, :]


def fringe_modes(
    settings: Settings, seed: int, detector: int, shape: tuple[int, int]
) -> list[Floats]:
    """Return the fringe modes: cosines of a smooth thickness, mean 0 and rms 1 each."""
    options = settings.fringes
    dice = stream(seed, detector, STATIC, "fringes")
    y, x = centred(shape)
    terms = (x * x, x * y, y * y, x * x * x, y * y * y)
    angle = dice.uniform(0, 2 * np.pi)
    thickness = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    for term in terms:
        thickness = thickness + np.float32(dice.uniform(-1, 1)) * term
    waves = max(shape) / options.period
    modes = []
    for _ in range(options.modes):
        wave = 2 * np.pi * waves * dice.uniform(0.7, 1.3)
        mode = np.cos(np.float32(wave) * thickness + np.float32(dice.uniform(0, 2 * np.pi)))
        mode -= mode.mean(dtype=np.float64)
        mode /= mode.std(dtype=np.float64)
        modes.append(mode.astype(np.float32))
    return modes


def sky_light(
    settings: Settings, seed: int, detector: int, shape: tuple[int, int], exposure: int
) -> tuple[Floats, dict[str, Any]]:
    """Return the sky (electron/s/pixel) with gradient and fringes, and its truth."""
    options = settings.sky
    dice = stream(seed, detector, exposure, "sky")
    angle = dice.uniform(0, 2 * np.pi)
    y, x = centred(shape)
    slope = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    span = abs(np.cos(angle)) + abs(np.sin(angle))
    image = np.float32(options.rate) * (1 + np.float32(options.gradient / span) * slope)
    facts: dict[str, Any] = {
        "rate": options.rate,
        "gradient": options.gradient,
        "gradient_angle": float(angle),
    }
    if settings.fringes.on:
        dice = stream(seed, detector, exposure, "fringes")
        weights = []
        for number, mode in enumerate(fringe_modes(settings, seed, detector, shape)):
            strength = settings.fringes.amplitude / (1 + number)
            weight = strength * (1 + settings.fringes.scatter * dice.standard_normal())
            image += np.float32(options.rate * weight) * mode
            weights.append(float(weight))
        facts["fringe_weights"] = weights
    return np.maximum(image, 0).astype(np.float32), facts


def stars(
    settings: Settings, seed: int, detector: int, shape: tuple[int, int], exposure: int
) -> tuple[Floats, list[dict[str, float]]]:
    """Return starlight (electron/s/pixel) and the list of stars: x, y (pixels), flux (electron/s).

    Fluxes F follow N(>F) ~ 1/F between the limits; profiles are Gaussians integrated over pixels.
    """
    options = settings.stars
    dice = stream(seed, detector, exposure, "stars")
    count = int(dice.poisson(options.density * shape[0] * shape[1] / 1e6))
    xs, ys = dice.uniform(-0.5, shape[1] - 0.5, count), dice.uniform(-0.5, shape[0] - 0.5, count)
    ratio = options.low / max(options.high, options.low)
    fluxes = options.low / (1 - dice.uniform(size=count) * (1 - ratio))
    sigma = options.fwhm / np.sqrt(8 * np.log(2))
    image = np.zeros(shape, np.float32)
    listed = []
    for x, y, flux in zip(xs, ys, fluxes, strict=True):
        window = _window(shape, x, y, 6 * sigma + 1)
        listed.append({"x": float(x), "y": float(y), "flux": float(flux)})
        if window is not None:
            rows, columns, py, px = window
            profile = _integrated(py - y, sigma) * _integrated(px - x, sigma)
            image[rows, columns] += (flux * profile).astype(np.float32)
    return image, listed


def _integrated(offset: Any, sigma: float) -> Any:
    """Return the part of a Gaussian that falls on pixels whose centres lie ``offset`` away."""
    scale = sigma * np.sqrt(2)
    return 0.5 * (erf((offset + 0.5) / scale) - erf((offset - 0.5) / scale))


def illumination(
    settings: Settings,
    seed: int,
    detector: int,
    shape: tuple[int, int],
    exposure: int,
    exposure_time: float,
) -> tuple[Floats | None, dict[str, Any]]:
    """Return the light that falls on the detector and its truth.

    Returns
    -------
    ndarray or None
        Electrons per pixel for a response of 1; None when it is dark.
    dict
        ``lamp_scale``, ``sky``, ``stars``: what this exposure had.
    """
    facts: dict[str, Any] = {}
    rate: Floats | None = None
    if settings.lamp.on and exposure_time > 0:
        dice = stream(seed, detector, exposure, "lamp")
        scale = 1 + settings.lamp.scatter * dice.standard_normal()
        rate = np.full(shape, settings.lamp.rate * scale, np.float32)
        facts["lamp_scale"] = float(scale)
    if settings.sky.on and exposure_time > 0:
        sky, facts["sky"] = sky_light(settings, seed, detector, shape, exposure)
        rate = sky if rate is None else rate + sky
    if settings.stars.on and exposure_time > 0:
        image, facts["stars"] = stars(settings, seed, detector, shape, exposure)
        rate = image if rate is None else rate + image
    return (None if rate is None else rate * np.float32(exposure_time)), facts
