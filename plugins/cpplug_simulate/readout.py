"""What reading out does to the charge: trails, gain, nonlinearity, ghosts, digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numba
import numpy as np
import numpy.typing as npt

from cpplug_simulate.effects import Cti
from cpplug_simulate.geometry import Floats

_NEGLIGIBLE = 1e-12


def transfer(segment: Floats, cti: float) -> Floats:
    """Clock rows through the serial register, each transfer leaving a fraction behind.

    A charge in column x has x + 1 transfers before it; one that fails delays it by one pixel. The
    number of delays k before n successes follows the negative binomial distribution
    C(n+k-1, k) c^k (1-c)^n, which makes this exact for charge-independent inefficiency c.

    Parameters
    ----------
    segment
        Electrons, (rows, columns), read-out order, overscan included.
    cti
        Fraction left behind per transfer.

    Returns
    -------
    ndarray
        Electrons as they arrive.
    """
    columns = segment.shape[1]
    transfers = np.arange(1, columns + 1, dtype=float)
    weight = (1 - cti) ** transfers
    out = segment * weight.astype(np.float32)
    for delay in range(1, columns):
        weight = weight * cti * (transfers + delay - 1) / delay
        if weight.max() < _NEGLIGIBLE:
            break
        moved = segment[:, :-delay] * weight[:-delay].astype(np.float32)
        out[:, delay:] += moved
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _output(
    segment: Floats, scale: float, keep: float, size: float, scaling: float, release: float
) -> None:
    for y in range(segment.shape[0]):
        held = 0.0
        offset = 0.0
        for x in range(segment.shape[1]):
            signal = segment[y, x]
            if size > 0.0:
                freed = held * release
                held -= freed
                caught = max(min(size, scaling * signal) - held, 0.0)
                held += caught
                signal += freed - caught
            offset = max(scale * signal, offset * keep)
            segment[y, x] = signal + offset


def deferred(segment: Floats, options: Cti) -> Floats:
    """Apply serial transfer inefficiency, a serial trap and the output's memory.

    After the register (see :func:`transfer`) a trap of a given size catches up to ``trap_scaling``
    of each signal and frees a fraction 1 - exp(-1/trap_time) of its charge per pixel; then the
    output adds an offset, the larger of ``drift_scale`` x signal and the last offset x
    exp(-1/decay_time).

    Parameters
    ----------
    segment
        Electrons, (rows, columns), read-out order, overscan included.
    options
        Strengths.

    Returns
    -------
    ndarray
        Electrons as they arrive.
    """
    out = transfer(segment, options.cti)
    if options.drift_scale > 0 or options.trap_size > 0:
        keep = float(np.exp(-1 / options.decay_time))
        release = 1 - float(np.exp(-1 / options.trap_time))
        _output(
            out, options.drift_scale, keep, options.trap_size, options.trap_scaling, release
        )  # fmt: skip
    return out


def bend(signal: Floats, coefficients: Sequence[float]) -> Floats:
    """Return ADU out of linear ADU x: x + c2 x^2 + c3 x^3 ..."""
    factor: Floats = np.zeros_like(signal)
    for coefficient in reversed(coefficients):
        factor += np.float32(coefficient)
        factor *= signal
    factor += 1
    return signal * factor


def add_ghosts(
    segments: Mapping[str, Floats], names: Sequence[str], matrix: npt.NDArray[np.float64]
) -> dict[str, Floats]:
    """Return segments with their crosstalk: V_t + sum over s of c[s, t] V_s, all in ADU.

    Amplifiers are read together, so a ghost lies at the same read-out coordinates as its source.

    Parameters
    ----------
    segments
        Signal above bias, ADU, by amplifier.
    names
        Amplifiers in the order of the matrix.
    matrix
        (source, target), ADU/ADU.
    """
    out = {}
    for target, name in enumerate(names):
        image = segments[name].copy()
        for source, other in enumerate(names):
            coefficient = np.float32(matrix[source, target])
            if coefficient != 0 and source != target:
                ghost = segments[other]
                rows = min(image.shape[0], ghost.shape[0])
                columns = min(image.shape[1], ghost.shape[1])
                image[:rows, :columns] += coefficient * ghost[:rows, :columns]
        out[name] = image
    return out


def adc_maximum(dtype: str) -> int:
    """Return the largest number of a camera whose pixels are stored as ``dtype``.

    Cameras that store 32 bits have converters of 18 bits at the most; 16-bit types are full.
    """
    kind = np.dtype(dtype)
    return 2**18 - 1 if kind.itemsize > 2 else int(np.iinfo(kind).max)


def digitise(image: Floats, dtype: str, maximum: int) -> npt.NDArray[np.signedinteger]:
    """Round ADU to the nearest integer and clip to 0 ... ``maximum``, in place; return integers."""
    np.rint(image, out=image)
    np.clip(image, 0, maximum, out=image)
    return image.astype(np.dtype(dtype))
