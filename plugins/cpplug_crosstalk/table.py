"""The crosstalk table: how much of each amplifier shows up in each other one.

One row per source amplifier; arrays run over the target amplifiers in the order of the rows, so
that a matrix is indexed ``[source, target]``. Columns: docs/reference/product-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api import DataError, Detector, TableProduct

Reals = npt.NDArray[np.float64]
UNITS = ("adu", "electron")


@dataclass(frozen=True)
class Coefficients:
    """The crosstalk of a detector, amplifiers in the detector's order.

    Attributes
    ----------
    linear, quadratic
        ``[source, target]``, (n, n): signal in the target per signal in the source, and per signal
        squared (1/unit). 0 where there is none or it is not trusted.
    unit
        ``adu`` or ``electron``: the unit in which they hold.
    gains
        electron/ADU of each amplifier at the time of the measurement; None when not stored.
    """

    linear: Reals
    quadratic: Reals | None
    unit: str
    gains: Reals | None


def make_crosstalk(
    amplifiers: Sequence[str],
    linear: Reals,
    unit: str,
    *,
    errors: Reals | None = None,
    counts: npt.NDArray[np.int64] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
    quadratic: Reals | None = None,
    quadratic_errors: Reals | None = None,
    gains: Reals | None = None,
    **metadata: str | int | float,
) -> TableProduct:
    """Return the product ``crosstalk`` of a detector.

    Parameters
    ----------
    amplifiers
        Names, in the order of the matrices.
    linear, errors, counts, valid, quadratic, quadratic_errors
        ``[source, target]``, (n, n): coefficient, its standard error, number of pixels it rests
        on, whether it is significant; quadratic coefficient (1/unit) and its error.
    unit
        ``adu`` or ``electron``.
    gains
        electron/ADU, (n,).
    metadata
        Header cards.
    """
    columns: dict[str, npt.NDArray[np.generic]] = {"amplifier": np.array(list(amplifiers))}
    offered = {
        "coefficients": linear,
        "errors": errors,
        "counts": counts,
        "valid": valid,
        "quadratic": quadratic,
        "quadratic_errors": quadratic_errors,
        "gain": gains,
    }
    columns |= {name: np.asarray(array) for name, array in offered.items() if array is not None}
    per_unit = [name for name in columns if name.startswith("quadratic")]
    units: dict[str, str] = dict.fromkeys(per_unit, f"1/{unit}")
    if gains is not None:
        units["gain"] = "electron/adu"
    return TableProduct(columns=columns, units=units, metadata={**metadata, "CTUNIT": unit})


def read_crosstalk(product: TableProduct, detector: Detector) -> Coefficients:
    """Return the coefficients that may be used.

    A pair of amplifiers whose linear coefficient is not finite or not valid has none at all.

    Raises
    ------
    DataError
        When the table is of another detector, its matrices are not square, or its unit is unknown.
    """
    rows = list(product.rows_for(detector, "crosstalk", ("coefficients",)).values())
    unit = str(product.metadata.get("CTUNIT", ""))
    if unit not in UNITS:
        raise DataError(
            f"The crosstalk of detector {detector.name} is in {unit or 'no unit'}.",
            "Its card CTUNIT must say adu or electron.",
        )
    square = {}
    for name in ("coefficients", "quadratic", "valid"):
        if name in product.columns:
            array = np.asarray(product.columns[name])
            if array.shape != (len(rows), len(rows)):
                raise DataError(
                    f"Column {name} of the crosstalk of detector {detector.name} has shape "
                    f"{array.shape}; {len(rows)} amplifiers need {len(rows)} values each."
                )
            square[name] = array[np.ix_(rows, rows)]
    trusted = np.isfinite(square["coefficients"])
    if "valid" in square:
        trusted &= square["valid"].astype(bool)
    matrices = {
        name: np.where(trusted & np.isfinite(square[name]), square[name], 0.0).astype(np.float64)
        for name in ("coefficients", "quadratic")
        if name in square
    }
    gains = product.columns.get("gain")
    return Coefficients(
        matrices["coefficients"],
        matrices.get("quadratic"),
        unit,
        None if gains is None else np.asarray(gains, np.float64)[rows],
    )
