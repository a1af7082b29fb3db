"""The charge transfer table: what every amplifier holds back while it is read.

One row per amplifier: the drift of its output, the loss per transfer, and a trap. Columns:
docs/reference/product-format.md. Physics: Snyder and Roodman (2019), algorithms A.10 and B.11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api import DataError, Detector, TableProduct, nearest

Reals = npt.NDArray[np.float64]
TRAPS = ("linear", "logistic", "spline")
COLUMNS = (
    "drift_scale", "decay_time", "global_cti", "trap_type", "trap_size", "trap_emission_time",
    "trap_pixel", "n_trap_coefficients", "trap_coefficients",
)  # fmt: skip


@dataclass(frozen=True)
class Trap:
    """A trap in the serial register.

    Attributes
    ----------
    kind
        ``linear``: holds min(size, c q). ``logistic``: size / (1 + exp(-k (q - f0))). ``spline``:
        straight lines between nodes, constant beyond them.
    size
        Charge that fills it, electron.
    emission_time
        Transfers in which its charge falls to 1/e.
    pixel
        Where it lies, in pixels from the output.
    coefficients
        ``linear``: c. ``logistic``: f0 (electron), k (1/electron). ``spline``: nodes, then values
        (electron).
    """

    kind: str
    size: float
    emission_time: float
    pixel: int
    coefficients: Reals


@dataclass(frozen=True)
class Transfer:
    """The deferred charge of one amplifier.

    Attributes
    ----------
    drift_scale
        Part of a pixel's charge that the output is offset by after it, 0 or more.
    decay_time
        Pixels in which that offset falls to 1/e.
    global_cti
        Part of the charge left behind in each transfer.
    trap
        The trap.
    """

    drift_scale: float
    decay_time: float
    global_cti: float
    trap: Trap


def make_cti(transfers: Mapping[str, Transfer], **metadata: str | int | float) -> TableProduct:
    """Return the product ``cti`` of a detector from the transfer of each amplifier.

    ``metadata`` are header cards.
    """
    rows = list(transfers.values())
    coefficients = np.zeros((len(rows), max(t.trap.coefficients.size for t in rows)))
    for row, transfer in zip(coefficients, rows, strict=True):
        row[: transfer.trap.coefficients.size] = transfer.trap.coefficients
    return TableProduct(
        columns={
            "amplifier": np.array(list(transfers)),
            "drift_scale": np.array([t.drift_scale for t in rows], np.float64),
            "decay_time": np.array([t.decay_time for t in rows], np.float64),
            "global_cti": np.array([t.global_cti for t in rows], np.float64),
            "trap_type": np.array([t.trap.kind for t in rows]),
            "trap_size": np.array([t.trap.size for t in rows], np.float64),
            "trap_emission_time": np.array([t.trap.emission_time for t in rows], np.float64),
            "trap_pixel": np.array([t.trap.pixel for t in rows], np.int32),
            "n_trap_coefficients": np.array([t.trap.coefficients.size for t in rows], np.int32),
            "trap_coefficients": coefficients,
        },
        units={"decay_time": "pixel", "trap_size": "electron", "trap_emission_time": "pixel"},
        metadata=metadata,
    )


def read_cti(product: TableProduct, detector: Detector) -> dict[str, Transfer]:
    """Return the transfer of each amplifier.

    Raises
    ------
    DataError
        When the table is of another detector, or a number or a trap cannot be.
    """
    columns = product.columns
    transfers = {}
    for name, row in product.rows_for(detector, "cti", COLUMNS).items():
        where = f"The cti of amplifier {name} of detector {detector.name}"
        size = int(columns["n_trap_coefficients"][row])
        pixel = float(columns["trap_pixel"][row])
        values = np.asarray(columns["trap_coefficients"], np.float64)[row].reshape(-1)
        if not 0 < size <= values.size:
            raise DataError(f"{where} announces {size} trap coefficients and has {values.size}.")
        if not pixel.is_integer():
            raise DataError(f"{where} has its trap at {pixel}, which is not a pixel.")
        transfer = Transfer(
            drift_scale=float(columns["drift_scale"][row]),
            decay_time=float(columns["decay_time"][row]),
            global_cti=float(columns["global_cti"][row]),
            trap=Trap(
                kind=str(columns["trap_type"][row]).strip(),
                size=float(columns["trap_size"][row]),
                emission_time=float(columns["trap_emission_time"][row]),
                pixel=int(pixel),
                coefficients=values[:size],
            ),
        )
        check_transfer(transfer, where)
        transfers[name] = transfer
    return transfers


def check_transfer(transfer: Transfer, where: str) -> None:
    """Refuse what no register can do; DataError says what, after ``where``."""
    trap = transfer.trap
    if trap.kind not in TRAPS:
        raise DataError(f"{where} has a trap of type {trap.kind!r}.", nearest(trap.kind, TRAPS))
    limits = (
        (trap.size >= 0, f"a trap of {trap.size} electron"),
        (trap.emission_time > 0, f"an emission time of {trap.emission_time} pixel"),
        (transfer.drift_scale >= 0, f"a drift scale of {transfer.drift_scale}"),
        (0 <= transfer.global_cti < 1, f"a loss per transfer of {transfer.global_cti}"),
        (
            transfer.drift_scale == 0 or transfer.decay_time > 0,
            f"a decay time of {transfer.decay_time} pixel",
        ),
        (bool(np.isfinite(trap.coefficients).all()), "trap coefficients that are not numbers"),
        (math.isfinite(trap.size + transfer.drift_scale), "an infinite trap or drift"),
        (_complete(trap), f"a {trap.kind} trap of {trap.coefficients.size} coefficients"),
    )
    for holds, text in limits:
        if not holds:
            raise DataError(f"{where} has {text}.", "Build the cti of this detector again.")


def _complete(trap: Trap) -> bool:
    """Tell whether a trap has the coefficients of its kind, nodes rising."""
    size = trap.coefficients.size
    if trap.kind != "spline":
        return size >= {"linear": 1, "logistic": 2}[trap.kind]
    nodes = trap.coefficients[: size // 2]
    return size >= 2 and size % 2 == 0 and bool((np.diff(nodes) > 0).all())
