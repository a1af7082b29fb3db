"""The crosstalk table: how much of each amplifier shows up in each other one.

One row per source amplifier; arrays run over the target amplifiers in the order of their own rows,
so that a matrix is indexed ``[source, target]``. More rows may follow whose sources are amplifiers
of other detectors. Columns: docs/reference/product-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpplug.api import DataError, Detector, TableProduct

Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
UNITS = ("adu", "electron")
SOURCE = "source_detector"
MATRICES = ("coefficients", "quadratic", "valid")


@dataclass(frozen=True)
class Coefficients:
    """What the amplifiers of a source detector leak into those of the target, in camera order.

    Attributes
    ----------
    linear, quadratic
        ``[source, target]``, (n, m): signal in the target per signal in the source, and per signal
        squared (1/unit). 0 where there is none or it is not trusted.
    unit
        ``adu`` or ``electron``: the unit in which they hold.
    gains
        electron/ADU of each source at the time of the measurement; None when not stored.
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
    valid: Flags | None = None,
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


def add_source(product: TableProduct, detector: str, part: TableProduct) -> TableProduct:
    """Return a product ``crosstalk`` that also says what another detector leaks into this one.

    Parameters
    ----------
    product
        The crosstalk of the target detector.
    detector
        Name of the source detector.
    part
        Made by :func:`make_crosstalk` of the source's amplifiers, in the same unit and with the
        same columns; its matrices are ``[source, target]``, (n, m), with the targets in the order
        of ``product``.

    Raises
    ------
    DataError
        When the parts do not fit together, or the product has this source already.
    """
    own, more = set(product.columns) - {SOURCE}, set(part.columns)
    if own != more:
        raise DataError(
            f"The crosstalk from detector {detector} and the one it is added to differ in "
            f"{', '.join(sorted(own ^ more))}.",
            "Give both the same columns.",
        )
    if part.metadata["CTUNIT"] != product.metadata["CTUNIT"]:
        raise DataError(
            f"The crosstalk from detector {detector} is in {part.metadata['CTUNIT']}, the one it "
            f"is added to in {product.metadata['CTUNIT']}."
        )
    known = _sources(product)
    if detector in known:
        raise DataError(f"The product has the crosstalk from detector {detector} already.")
    pairs = {name: (product.columns[name], part.columns[name]) for name in sorted(own)}
    wrong = [name for name, (one, two) in pairs.items() if one.shape[1:] != two.shape[1:]]
    if wrong:
        raise DataError(
            f"The crosstalk from detector {detector} is for another number of targets than the "
            f"product has in {', '.join(wrong)}."
        )
    columns = {name: np.concatenate(pair) for name, pair in pairs.items()}
    added = len(columns["amplifier"]) - len(known)
    columns[SOURCE] = np.array([*known, *[detector] * added])
    return TableProduct(columns=columns, units=product.units, metadata=product.metadata)


def other_sources(product: TableProduct, detector: Detector) -> tuple[str, ...]:
    """Return the other detectors of which a coefficient is used, in the order of the rows."""
    names = _sources(product)
    use = np.zeros(len(names), bool)
    for matrix in _trusted(product).values():
        use |= (matrix != 0).any(axis=1)
    own = ("", detector.name)
    return tuple(dict.fromkeys(n for n, u in zip(names, use, strict=True) if u and n not in own))


def read_crosstalk(product: TableProduct, detector: Detector) -> Coefficients:
    """Return the coefficients between the detector's own amplifiers that may be used.

    A pair of amplifiers whose linear coefficient is not finite or not valid has none at all.

    Raises
    ------
    DataError
        When the table is of another detector, its matrices are not square, or its unit is unknown.
    """
    own = _own(product, detector)
    targets = list(own.rows_for(detector, "crosstalk", ("coefficients",)).values())
    unit = str(product.metadata.get("CTUNIT", ""))
    if unit not in UNITS:
        raise DataError(
            f"The crosstalk of detector {detector.name} is in {unit or 'no unit'}.",
            "Its card CTUNIT must say adu or electron.",
        )
    _check_width(product, detector, len(targets))
    return _coefficients(own, targets, targets)


def read_source(product: TableProduct, target: Detector, source: Detector) -> Coefficients:
    """Return what another detector's amplifiers leak into the target's; as :func:`read_crosstalk`.

    Raises
    ------
    DataError
        When the rows of that source are not its amplifiers, each once.
    """
    columns = ("coefficients",)
    targets = list(_own(product, target).rows_for(target, "crosstalk", columns).values())
    wanted = [name == source.name for name in _sources(product)]
    cards = {"CTUNIT": product.metadata["CTUNIT"]}  # those of the target do not hold here
    part = _rows(product, wanted, cards)
    kind = f"crosstalk from detector {source.name}"
    return _coefficients(part, list(part.rows_for(source, kind, columns).values()), targets)


def _sources(product: TableProduct) -> list[str]:
    """Return each row's source detector; empty for the product's own."""
    if SOURCE not in product.columns:
        return [""] * len(product.columns.get("amplifier", ()))
    return [str(name).strip() for name in product.columns[SOURCE]]


def _rows(
    product: TableProduct, wanted: Sequence[bool], cards: dict[str, str | int | float]
) -> TableProduct:
    mask = np.array(wanted, bool)
    columns = {name: np.asarray(column)[mask] for name, column in product.columns.items()}
    return TableProduct(columns=columns, units=product.units, metadata=cards)


def _own(product: TableProduct, detector: Detector) -> TableProduct:
    wanted = [name in ("", detector.name) for name in _sources(product)]
    return _rows(product, wanted, product.metadata)


def _check_width(product: TableProduct, detector: Detector, targets: int) -> None:
    for name in MATRICES:
        shape = np.asarray(product.columns.get(name, np.empty((1, targets)))).shape
        if len(shape) != 2 or shape[1] != targets:
            raise DataError(
                f"Column {name} of the crosstalk of detector {detector.name} has shape {shape}; "
                f"{targets} amplifiers need {targets} values each."
            )


def _trusted(product: TableProduct) -> dict[str, Reals]:
    """Return the matrices of all rows, 0 where a coefficient is not to be used."""
    linear = np.asarray(product.columns["coefficients"], np.float64)
    trusted = np.isfinite(linear)
    if "valid" in product.columns:
        trusted &= np.asarray(product.columns["valid"]).astype(bool)
    matrices = {"coefficients": linear}
    if "quadratic" in product.columns:
        matrices["quadratic"] = np.asarray(product.columns["quadratic"], np.float64)
    return {
        name: np.where(trusted & np.isfinite(matrix), matrix, 0.0)
        for name, matrix in matrices.items()
    }


def _coefficients(product: TableProduct, rows: list[int], targets: list[int]) -> Coefficients:
    matrices = {name: m[np.ix_(rows, targets)] for name, m in _trusted(product).items()}
    gains = product.columns.get("gain")
    return Coefficients(
        matrices["coefficients"],
        matrices.get("quadratic"),
        str(product.metadata["CTUNIT"]),
        None if gains is None else np.asarray(gains, np.float64)[rows],
    )
