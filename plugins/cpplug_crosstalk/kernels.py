"""The sums over amplifiers, compiled by numba.

Blocks are (amplifiers, pixels): pixel p of all amplifiers was read at the same moment. Of n source
and m target amplifiers; within one detector both are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])
TILE = 512


def compiled(function: F) -> F:
    """Compile on first use; keep the result on disk wherever numba finds a folder to write to."""
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no such folder: compile again in every process
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def subtrahend(source: Array, linear: Array, quadratic: Array, out: Array) -> None:
    """Write what every target received: sum over s of c[s, t] x + q[s, t] x^2.

    Parameters
    ----------
    source
        x, float32, (n, pixels), finite.
    linear, quadratic
        c and q, ``[source, target]``, (n, m).
    out
        float32, (m, pixels).
    """
    n, pixels = source.shape
    total = np.empty(TILE, np.float64)
    for start in range(0, pixels, TILE):
        size = min(TILE, pixels - start)
        for t in range(out.shape[0]):
            total[:size] = 0.0
            for s in range(n):
                c, q = linear[s, t], quadratic[s, t]
                if q != 0.0:
                    for i in range(size):
                        x = np.float64(source[s, start + i])
                        total[i] += (c + q * x) * x
                elif c != 0.0:
                    for i in range(size):
                        total[i] += c * np.float64(source[s, start + i])
            for i in range(size):
                out[t, start + i] = total[i]


@compiled
def spread_variance(
    source: Array, variance: Array, linear: Array, quadratic: Array, kept: float, out: Array
) -> None:
    """Write the variance of target minus subtrahend, for independent amplifiers.

    The derivative by the source is d = c + 2 q x, so that V_t becomes (1 - d_tt)^2 V_t plus the sum
    over the others of d_st^2 V_s. With ``kept`` 0 the target is none of the sources, and what is
    written is to be added to its variance.

    Parameters
    ----------
    source, variance
        x and its variance, float32, (n, pixels).
    linear, quadratic
        c and q, ``[source, target]``, (n, m).
    kept
        1 where sources and targets are the same amplifiers, 0 where they are of two detectors.
    out
        float32, (m, pixels).
    """
    n, pixels = source.shape
    total = np.empty(TILE, np.float64)
    for start in range(0, pixels, TILE):
        size = min(TILE, pixels - start)
        for t in range(out.shape[0]):
            total[:size] = 0.0
            for s in range(n):
                own = kept if s == t else 0.0
                c, q = own - linear[s, t], -2.0 * quadratic[s, t]
                if q != 0.0:
                    for i in range(size):
                        d = c + q * np.float64(source[s, start + i])
                        total[i] += d * d * np.float64(variance[s, start + i])
                elif c != 0.0:
                    for i in range(size):
                        total[i] += c * c * np.float64(variance[s, start + i])
            for i in range(size):
                out[t, start + i] = total[i]
