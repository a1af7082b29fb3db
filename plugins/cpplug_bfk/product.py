"""The brighter-fatter calibration: how a table of type ``bfk`` is made, and read for one exposure.

A row belongs to an amplifier or to the whole ``detector``. It holds either a scalar kernel or the
shifts of pixel borders, both per unit of charge and indexed [row, column] like images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from cpplug.api import Box, DataError, Exposure, TableProduct

Method = Literal["COULTON18", "FLUX_CONSERVING", "ELECTROSTATIC"]
Level = Literal["DETECTOR", "AMP"]
Reals = npt.NDArray[np.float64]

WHOLE = "detector"
"""The name of the row that holds for all amplifiers."""
SHIFTS = ("a_north", "a_east")


@dataclass(frozen=True)
class Push:
    """Which kernels push the charge of which part of an image.

    Attributes
    ----------
    method
        How charge is moved.
    per
        Unit of the charge that the kernels count: ``electron`` or ``adu``.
    shape
        Rows and columns of the image.
    parts
        Boxes and their kernels: one, or those of the upper and the right border.
    """

    method: Method
    per: str
    shape: tuple[int, int]
    parts: tuple[tuple[Box, tuple[Reals, ...]], ...]

    @property
    def reach(self) -> int:
        """How many pixels away a charge is still felt."""
        return int(self.parts[0][1][0].shape[0]) // 2

    def grown_to(self, shape: tuple[int, int]) -> Push:
        """Return the same with the parts at the high ends stretched to a larger image."""
        rows, columns = self.shape
        parts = []
        for box, kernels in self.parts:
            wider = shape[1] - columns if box.x + box.width == columns else 0
            higher = shape[0] - rows if box.y + box.height == rows else 0
            parts.append((Box(box.x, box.y, box.width + wider, box.height + higher), kernels))
        return replace(self, shape=shape, parts=tuple(parts))


def kernel_table(kernels: Mapping[str, Reals], per: str = "electron") -> TableProduct:
    """Make a product from scalar kernels.

    Parameters
    ----------
    kernels
        Amplifier name, or ``detector``, to kernel (k, k), k odd and the same for all; its
        convolution with the image gives a field whose gradient moves charge.
    per
        Unit of the image that the kernels are made for, ``electron`` or ``adu``; kernels are per
        that unit.
    """
    columns = {"amplifier": np.array(list(kernels)), "kernel": np.stack(list(kernels.values()))}
    return TableProduct(columns=columns, units={"kernel": f"1/{per}"})


def shift_table(
    shifts: Mapping[tuple[str, str], tuple[Reals, Reals]], per: str = "electron"
) -> TableProduct:
    """Make a product from the shifts of pixel borders.

    Parameters
    ----------
    shifts
        (Amplifier name or ``detector``, physical filter or empty for all others) to the arrays
        a_north and a_east, each (r, r). ``a_north[i, j]`` is the shift of the upper border of a
        pixel, in pixels, by one unit of charge i rows below and j columns beside the pixel;
        ``a_east[i, j]`` that of the right border by charge i rows beside and j columns to the left.
        Shifts toward the charge are negative. Charge on the other side acts as its mirror image.
    per
        Unit of the charge.
    """
    values = list(shifts.values())
    columns = {
        "amplifier": np.array([name for name, _ in shifts]),
        "physical_filter": np.array([one for _, one in shifts]),
        **{name: np.stack([pair[n] for pair in values]) for n, name in enumerate(SHIFTS)},
    }
    return TableProduct(columns=columns, units=dict.fromkeys(SHIFTS, f"1/{per}"))


def push_of(table: TableProduct, exposure: Exposure, method: Method, level: Level) -> Push:
    """Pick what an exposure needs from a table.

    Raises
    ------
    DataError
        When the table is of another detector, lacks the columns of the method or a row, has no
        unit, or holds kernels that are not finite, not odd squares, or larger than the image.
    """
    name = exposure.detector.name
    columns = SHIFTS if method == "ELECTROSTATIC" else ("kernel",)
    missing = [column for column in ("amplifier", *columns) if column not in table.columns]
    if missing:
        raise DataError(
            f"The bfk of detector {name} has no column {', '.join(missing)}, which {method} needs.",
            "Choose another method with -c brighter_fatter:method=..., or another calibration.",
        )
    made_for = table.metadata.get("DETECTOR", exposure.detector.id)
    if made_for != exposure.detector.id:
        raise DataError(
            f"The bfk is of detector {made_for}, the image of detector {exposure.detector.id}.",
            "Certify one for this detector.",
        )
    scopes = [str(one).strip() for one in table.columns["amplifier"]]
    rows, width = exposure.image.shape[0], exposure.image.shape[1]
    if level == "DETECTOR":
        wanted = [(WHOLE, Box(0, 0, width, rows))]
    else:
        wanted = [(amp.name, amp.bbox) for amp in exposure.detector.amplifiers]
    parts = []
    for scope, box in wanted:
        row = _row(table, scopes, scope, exposure)
        values = [np.asarray(table.columns[column][row], dtype=np.float64) for column in columns]
        _check(values, scope, exposure, odd=columns == ("kernel",))
        parts.append((box, (values[0],) if len(values) == 1 else shift_kernels(*values)))
    unit = table.units.get(columns[0], "")
    if unit not in ("1/electron", "1/adu"):
        raise DataError(
            f"The bfk of detector {name} does not say that it is per electron or per adu but "
            f"{unit or 'nothing'}.",
            "Write the unit 1/electron or 1/adu to its column.",
        )
    push = Push(method, unit.removeprefix("1/"), exposure.image.shape, tuple(parts))
    if 2 * push.reach + 1 > min(exposure.image.shape):
        raise DataError(
            f"The bfk of detector {name} spans {2 * push.reach + 1} pixels, the image only "
            f"{width} x {rows}.",
            "Check that the calibration belongs to this camera.",
        )
    return push


def _row(table: TableProduct, scopes: list[str], scope: str, exposure: Exposure) -> int:
    """Return the row of an amplifier: that of the exposure's filter, else that for all filters."""
    found = {n: "" for n, one in enumerate(scopes) if one == scope}
    if "physical_filter" in table.columns:
        found = {n: str(table.columns["physical_filter"][n]).strip() for n in found}
    for choice in (exposure.info.physical_filter, ""):
        for n, one in found.items():
            if one == choice:
                return n
    raise DataError(
        f"The bfk of detector {exposure.detector.name} has no row for {scope} in filter "
        f"{exposure.info.physical_filter!r} or for all filters.",
        "Choose the other level (DETECTOR or AMP), or another calibration.",
    )


def _check(values: list[Reals], scope: str, exposure: Exposure, *, odd: bool) -> None:
    for value in values:
        square = value.ndim == 2 and value.shape[0] == value.shape[1] and value.size > 0
        if not square or (odd and value.shape[0] % 2 == 0) or not np.isfinite(value).all():
            raise DataError(
                f"The bfk of {scope} of detector {exposure.detector.name} is not a square of "
                f"finite numbers{' with an odd side' if odd else ''} (shape {value.shape}).",
                "Build the calibration again.",
            )


def shift_kernels(north: Reals, east: Reals) -> tuple[Reals, Reals]:
    """Return the kernels whose convolution with an image gives the shifts of all borders.

    Parameters
    ----------
    north, east
        (r, r), as :func:`shift_table` takes them.

    Returns
    -------
    tuple of numpy.ndarray
        (2 r + 1, 2 r + 1) for the upper and for the right border of each pixel. Charges on both
        sides of a border at the same distance cancel, so that a flat image shifts nothing.
    """
    return _one_sided(north), np.ascontiguousarray(_one_sided(east.T).T)


def _one_sided(away: Reals) -> Reals:
    """Return the kernel of the upper border; ``away[i, j]``: charge i rows below, j beside."""
    r = away.shape[0]
    beside = np.concatenate([away[:, :0:-1], away], axis=1)
    kernel = np.zeros((2 * r + 1, 2 * r + 1))
    kernel[r : 2 * r, 1:-1] = beside
    kernel[:r, 1:-1] = -beside[::-1]
    return kernel
