"""The brighter-fatter effect: pixels that have collected charge become smaller.

Collected charge Q (electron) pulls the borders between pixels towards itself, so that light meant
for one pixel ends in its neighbour. The area of a pixel becomes ``A = 1 + a * Q``, the convolution
of Q with a kernel a (1/electron) that is negative in the middle, positive around and adds up to
zero. What crosses a border is its shift times the light there (the mean of both sides), so charge
is conserved under stars as well. In a flat field of mean S electrons per unit of time,

    dQ/dt = S (1 + a * Q) + shot noise of density S,

and with C the power of the fluctuations at one spatial frequency and ã the kernel's transform,
dC/dmu = 1 + 2 ã C because the mean area stays one; so that

    C(mu) = [exp(2 ã mu) - 1] / (2 ã)                                        (electron^2)

exactly, whose series mu (1 + ã mu + 2/3 (ã mu)^2 + 1/3 (ã mu)^3 ...) is eq. 20 of Astier et al.
2019 (A&A 629, A36) with b = 0. :func:`covariance_model` transforms it back to lags.

:func:`collect` integrates the equation in steps of some thousand electrons. Euler steps would miss
the effect of a step's charge on the same step and so lose 1/n of a after n steps; the midpoint rule
used here, for mean and noise alike, leaves a relative error of order (ã mu)^2 / n^2.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from cpplug_simulate.effects import BrighterFatter
from cpplug_simulate.geometry import Floats

_SPARSE = 0.05
_NORMAL = 1000.0
_ROWS = 256


def pixel_area_kernel(options: BrighterFatter) -> npt.NDArray[np.float64]:
    """Return the area change per electron, by distance.

    Parameters
    ----------
    options
        Strength in the middle, reach, fall and anisotropy.

    Returns
    -------
    ndarray
        (reach + 1, reach + 1), 1/electron, index [parallel, serial] distance; the full kernel is
        its mirror image in both axes and adds up to zero.
    """
    j, i = np.mgrid[: options.reach + 1, : options.reach + 1].astype(float)
    square = i**2 + j**2
    square[0, 0] = 1.0
    shape = (i**2 + options.anisotropy * j**2) / square * square ** (-options.decay / 2)
    shape[0, 0] = 0.0
    copies = np.where(i > 0, 2, 1) * np.where(j > 0, 2, 1)
    kernel = shape * (-options.a00 / float(np.sum(shape * copies)))
    kernel[0, 0] = options.a00
    return np.asarray(kernel, float)


def covariance_model(
    kernel: npt.NDArray[np.float64], mean: float, lags: int = 4
) -> npt.NDArray[np.float64]:
    """Return the covariances of a flat field (electron^2), read noise left out.

    Parameters
    ----------
    kernel
        Area changes as :func:`pixel_area_kernel` gives them, 1/electron.
    mean
        Mean charge, electron.
    lags
        Largest distance.

    Returns
    -------
    ndarray
        (lags + 1, lags + 1), index [parallel, serial] distance; [0, 0] is the variance.
    """
    size = 8 * max(kernel.shape[0], lags + 1)
    field = np.zeros((size, size))
    for j in range(-kernel.shape[0] + 1, kernel.shape[0]):
        for i in range(-kernel.shape[1] + 1, kernel.shape[1]):
            field[j, i] = kernel[abs(j), abs(i)]
    transform = 2 * np.fft.fft2(field).real
    flat = np.abs(transform * mean) < 1e-9
    power = np.full(flat.shape, mean)
    power[~flat] = np.expm1(transform[~flat] * mean) / transform[~flat]
    covariances = np.fft.ifft2(power).real
    return np.asarray(covariances[: lags + 1, : lags + 1], float)


def border_kernels(
    kernel: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return border shifts per electron whose balance over each pixel is its area change.

    The area that a pixel at distance (j, i) gains is handed on from the charged pixel border by
    border, half of it first along the row and half first along the column.

    Parameters
    ----------
    kernel
        Area changes by [parallel, serial] distance, 1/electron.

    Returns
    -------
    serial, parallel : ndarray
        (reach + 1, reach) and (reach, reach + 1), 1/electron: shift of the border between serial
        distance k and k + 1 at parallel distance j, and the other way round.
    """
    reach = kernel.shape[0] - 1
    beyond_i = np.cumsum(kernel[:, :0:-1], axis=1)[:, ::-1]  # sum over i > k
    serial = 0.5 * beyond_i
    serial[0] = beyond_i.sum(axis=0)
    beyond_j = np.cumsum(kernel[:0:-1], axis=0)[::-1]
    parallel = 0.5 * beyond_j
    parallel[:, 0] = beyond_j.sum(axis=1)
    assert serial.shape == (reach + 1, reach)
    return serial, parallel


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _move(padded: Floats, light: Floats, serial: Floats, parallel: Floats, out: Floats) -> None:
    """Add to ``out`` what borders shifted by ``padded`` (charge with margins) bring or take."""
    reach = serial.shape[1]
    rows, columns = light.shape
    wide = padded.shape[1]
    line = np.empty(wide, np.float32)
    shift = np.empty(columns, np.float32)
    for y in range(rows):
        shift[:] = 0.0
        for j in range(reach + 1):
            above, below = padded[y + reach + j], padded[y + reach - j]
            for x in range(wide):
                line[x] = above[x] if j == 0 else above[x] + below[x]
            for k in range(reach):
                weight = serial[j, k]
                for x in range(columns - 1):
                    shift[x] += weight * (line[x + reach - k] - line[x + reach + 1 + k])
        for x in range(columns - 1):
            moved = shift[x] * np.float32(0.5) * (light[y, x] + light[y, x + 1])
            out[y, x] -= moved
            out[y, x + 1] += moved
        if y == rows - 1:
            break
        shift[:] = 0.0
        for k in range(reach):
            near, far = padded[y + reach - k], padded[y + reach + 1 + k]
            for x in range(wide):
                line[x] = near[x] - far[x]
            weight = parallel[k, 0]
            for x in range(columns):
                shift[x] += weight * line[x + reach]
            for i in range(1, reach + 1):
                weight = parallel[k, i]
                for x in range(columns):
                    shift[x] += weight * (line[x + reach - i] + line[x + reach + i])
        for x in range(columns):
            moved = shift[x] * np.float32(0.5) * (light[y, x] + light[y + 1, x])
            out[y, x] -= moved
            out[y + 1, x] += moved


def diverted(charge: Floats, light: Floats, kernel: npt.NDArray[np.float64]) -> Floats:
    """Return the light (electron) that pixels gain or lose because charge moved their borders.

    Parameters
    ----------
    charge
        Collected electrons, (rows, columns). Beyond the edge of the detector it is taken to be
        mirrored; the edge itself lets nothing through.
    light
        Electrons that arrive meanwhile, (rows, columns).
    kernel
        Area changes by distance, 1/electron.

    Returns
    -------
    ndarray
        Electrons; they add up to zero.
    """
    reach = kernel.shape[0] - 1
    out = np.zeros_like(light)
    serial, parallel = border_kernels(kernel)
    padded = np.pad(charge, reach, mode="symmetric")
    _move(padded, light, serial.astype(np.float32), parallel.astype(np.float32), out)
    return out


def poisson_image(generator: np.random.Generator, mean: Floats) -> Floats:
    """Draw whole electrons with the given mean per pixel, negative means counting as zero.

    Above 1000 electrons the normal distribution, rounded, stands in for Poisson's (skewness below
    0.03); below 0.05 the few electrons are strewn one by one, which is exact and quick.
    """
    out = np.empty_like(mean)
    for start in range(0, mean.shape[0], _ROWS):
        block = mean[start : start + _ROWS]
        low, high = float(block.min()), float(block.max())
        view = out[start : start + _ROWS]
        if high <= _SPARSE:
            view[...] = _strewn(generator, block, max(high, 0.0))
        elif low >= _NORMAL:
            draw = generator.standard_normal(block.shape, np.float32)
            view[...] = np.rint(block + draw * np.sqrt(block))
        else:
            bright = block >= _NORMAL
            view[...] = generator.poisson(np.where(bright, 0.0, np.maximum(block, 0.0)))
            if bright.any():
                values = block[bright]
                draw = generator.standard_normal(values.size, np.float32)
                view[bright] = np.rint(values + draw * np.sqrt(values))
    return out


def _strewn(generator: np.random.Generator, mean: Floats, highest: float) -> Floats:
    out = np.zeros(mean.size, np.float32)
    count = int(generator.poisson(highest * mean.size))
    places = generator.integers(0, mean.size, count)
    kept = places[generator.random(count) * highest < mean.reshape(-1)[places]]
    np.add.at(out, kept, np.float32(1.0))
    return out.reshape(mean.shape)


def collect(
    generator: np.random.Generator,
    light: Floats,
    kernel: npt.NDArray[np.float64] | None,
    step: float,
    ceiling: float,
) -> Floats:
    """Collect the charge of an exposure.

    Parameters
    ----------
    generator
        Random numbers.
    light
        Mean charge that the light would give without correlations, electron, (rows, columns).
    kernel
        Area changes, 1/electron, or None for independent pixels.
    step
        Charge per integration step, electron.
    ceiling
        Charge above which finer steps are pointless (full well), electron.

    Returns
    -------
    ndarray
        Collected charge, electron.
    """
    if kernel is None:
        return poisson_image(generator, light)
    steps = max(2, math.ceil(min(float(light.max(initial=0.0)), ceiling) / step))
    share = light / np.float32(steps)
    half = share / np.float32(2)
    charge = np.zeros_like(light)
    for _ in range(steps):
        middle = charge + half
        expected = share + diverted(middle, share, kernel)
        arrived = poisson_image(generator, expected)
        charge += arrived
        charge += diverted(arrived - expected, half, kernel)
    return charge
