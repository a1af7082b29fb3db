"""The linearity table: one curve for every amplifier, made and read back.

A curve says how many ADU to add to or subtract from a pixel so that the result is proportional to
the charge. Kinds and formulas: algorithms A.8; columns: docs/reference/product-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import Akima1DInterpolator

from cpplug.api import DataError, Detector, TableProduct, nearest

Reals = npt.NDArray[np.float64]
KINDS = ("None", "Proportional", "Squared", "Polynomial", "Spline", "DoubleSpline", "LookupTable")
COLUMNS = ("type", "n_coefficients", "coefficients")


@dataclass(frozen=True)
class Curve:
    """The linearity of one amplifier.

    Attributes
    ----------
    kind
        One of ``KINDS``; ``None`` and ``Proportional`` change nothing.
    coefficients
        ``Squared``: c of x + c x^2, 1/ADU. ``Polynomial``: c_2, c_3, ... of x + sum c_k x^k,
        ADU^(1-k). ``Spline``: nodes, then values (ADU) of S in x - S(x). ``DoubleSpline``: number
        of nodes of the first and of the second spline, then nodes and values of the first, nodes
        and values of the second. ``LookupTable``: offset (ADU) between pixel and table index.
    lookup
        ``LookupTable`` only: what is added to a pixel of index + offset ADU; ADU, (n,).
    """

    kind: str
    coefficients: Reals
    lookup: npt.NDArray[np.float32] | None = None

    @property
    def finite(self) -> bool:
        """True when the curve consists of numbers."""
        return bool(
            np.isfinite(self.coefficients).all()
            and (self.lookup is None or np.isfinite(self.lookup).all())
        )


@dataclass(frozen=True)
class Pieces:
    """Splines as cubic pieces: breakpoints (ADU), coefficients (4, n), first breakpoint of each."""

    breaks: Reals
    cubics: Reals
    ends: npt.NDArray[np.int64]


def make_linearity(curves: Mapping[str, Curve], **metadata: str | int | float) -> TableProduct:
    """Return the product ``linearity`` of a detector.

    Parameters
    ----------
    curves
        By amplifier.
    metadata
        Header cards.
    """
    longest = max(curve.coefficients.size for curve in curves.values())
    coefficients = np.zeros((len(curves), longest))
    for row, curve in zip(coefficients, curves.values(), strict=True):
        row[: curve.coefficients.size] = curve.coefficients
    columns: dict[str, npt.NDArray[np.generic]] = {
        "amplifier": np.array(list(curves)),
        "type": np.array([curve.kind for curve in curves.values()]),
        "n_coefficients": np.array([c.coefficients.size for c in curves.values()], np.int32),
        "coefficients": coefficients,
    }
    tables = [curve.lookup for curve in curves.values() if curve.lookup is not None]
    if tables:
        if len({table.shape for table in tables}) > 1 or tables[0].ndim != 1:
            raise DataError("The lookup tables of a linearity differ in length.")
        empty = np.zeros_like(tables[0])
        columns["lookup"] = np.stack(
            [empty if c.lookup is None else c.lookup for c in curves.values()]
        ).astype(np.float32)
    return TableProduct(
        columns=columns, units={"lookup": "adu"} if tables else {}, metadata=metadata
    )


def read_linearity(product: TableProduct, detector: Detector) -> dict[str, Curve]:
    """Return the curve of each amplifier.

    Raises
    ------
    DataError
        When the table is of another detector, or a type, its number of coefficients or its nodes
        cannot be.
    """
    rows = product.rows_for(detector, "linearity", COLUMNS)
    columns = product.columns
    curves = {}
    for name, row in rows.items():
        kind = str(columns["type"][row]).strip()
        size = int(columns["n_coefficients"][row])
        values = np.asarray(columns["coefficients"], np.float64)[row].reshape(-1)
        where = f"The linearity of amplifier {name} of detector {detector.name}"
        if kind not in KINDS:
            raise DataError(f"{where} is of type {kind!r}, which is unknown.", nearest(kind, KINDS))
        if not 0 <= size <= values.size:
            raise DataError(f"{where} announces {size} coefficients and has {values.size}.")
        lookup = None
        if kind == "LookupTable":
            if "lookup" not in columns:
                raise DataError(f"{where} is a lookup table, but the column lookup is missing.")
            lookup = np.asarray(columns["lookup"][row], np.float32).reshape(-1)
        curve = Curve(kind, values[:size], lookup)
        _check(curve, where)
        curves[name] = curve
    return curves


def _check(curve: Curve, where: str) -> None:
    size, needed = curve.coefficients.size, {"Squared": 1, "Polynomial": 1, "LookupTable": 1}
    if size < needed.get(curve.kind, 0) or (curve.lookup is not None and curve.lookup.size == 0):
        raise DataError(f"{where} is of type {curve.kind} and has no coefficients.")
    if curve.kind in ("Spline", "DoubleSpline") and curve.finite:
        try:
            pieces(curve)
        except ValueError as error:
            raise DataError(f"{where} is not a {curve.kind}: {error}.") from None


def pieces(curve: Curve) -> Pieces:
    """Return the Akima splines of a curve, in the order in which they are subtracted.

    A single spline is shifted so that its first value is 0, and starts at (0, 0).

    Raises
    ------
    ValueError
        When numbers are missing or nodes do not rise.
    """
    if curve.kind == "Spline":
        if curve.coefficients.size % 2:
            raise ValueError("nodes and values differ in number")
        nodes, values = np.split(curve.coefficients, 2)
        values = values - values[:1]
        if nodes.size and nodes[0] != 0:
            nodes, values = np.concatenate([[0.0], nodes]), np.concatenate([[0.0], values])
        pairs = [(nodes, values)]
    else:
        pairs = _double(curve.coefficients)
    found = [_akima(nodes, values) for nodes, values in pairs]
    return Pieces(
        breaks=np.concatenate([breaks for breaks, _ in found]),
        cubics=np.concatenate([cubics for _, cubics in found], axis=1),
        ends=np.cumsum([0] + [breaks.size for breaks, _ in found]),
    )


def _double(coefficients: Reals) -> list[tuple[Reals, Reals]]:
    counts = coefficients[:2]
    if counts.size < 2 or (counts < 0).any() or (counts != np.floor(counts)).any():
        raise ValueError("it must start with two numbers of nodes")
    n1, n2 = (int(count) for count in counts)
    if coefficients.size < 2 + 2 * (n1 + n2) or n1 + n2 == 0:
        raise ValueError(f"it announces {n1} and {n2} nodes and has {coefficients.size} numbers")
    cuts = np.cumsum([2, n1, n1, n2, n2])
    _, nodes1, values1, nodes2, values2, _ = np.split(coefficients, cuts)
    return [pair for pair in ((nodes1, values1), (nodes2, values2)) if pair[0].size]


def _akima(nodes: Reals, values: Reals) -> tuple[Reals, Reals]:
    """Return breakpoints (n,) and the coefficients of the pieces (4, n), the last one unused."""
    if nodes.size < 2:
        raise ValueError("a spline needs two nodes")
    if not (np.diff(nodes) > 0).all():
        raise ValueError("its nodes do not rise")
    cubics = np.asarray(Akima1DInterpolator(nodes, values).c, np.float64)
    return nodes, np.pad(cubics, ((0, 0), (0, 1)))
