"""From a deviation and its error to a verdict.

Asking "is it significantly bad?" lets a calibration pass because the data are poor. Here the
question is turned round (an equivalence test): to PASS, the deviation plus twice its error must lie
within the tolerance; to FAIL, it must lie outside by more than chance allows in a run of so many
comparisons; data that cannot answer are INCONCLUSIVE. Rules: verification 3.1 and 3.2.
"""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.special import ndtri

from cpplug.api import Verdict

ALPHA = 0.01
"""Chance that a perfect run of any length shows a single false alarm (two-sided)."""
UNKNOWN_RUN = 5.2
"""Limit in standard errors when the number of comparisons is not known."""


@lru_cache(maxsize=256)
def family_limit(comparisons: int, alpha: float = ALPHA) -> float:
    """Return z(M): how many standard errors chance allows in a run of M comparisons.

    Two-sided, with alpha shared by all comparisons (Bonferroni): 3.42 for 16, 4.10 for 240, 4.65
    for 3024, 5.18 for 45360. A number below 1 means "not known" and gives 5.2.
    """
    return -float(ndtri(alpha / (2 * comparisons))) if comparisons >= 1 else UNKNOWN_RUN


def can_prove(error: float, tolerance: float, looks: int = 1) -> bool:
    """Tell whether data of this error show a perfect product to be one, 99 times in 100.

    Parameters
    ----------
    error
        Standard error of the deviation, same unit as the tolerance.
    tolerance
        Largest deviation allowed.
    looks
        Of how many deviations the largest is judged.
    """
    return error * (2 + family_limit(looks)) <= tolerance


def decide(
    deviation: float,
    error: float,
    tolerance: float,
    goal: float | None = None,
    *,
    z: float,
    two_sided: bool = True,
) -> tuple[Verdict, str]:
    """Apply the equivalence rule.

    With d the deviation and s its error: FAIL when abs(d) - z s > T; INCONCLUSIVE when s > T; WARN
    when abs(d) + 2 s > T (in tolerance but not proven, or beyond it but not significantly) or when
    abs(d) - z s > goal; PASS otherwise.

    Parameters
    ----------
    deviation, error, tolerance, goal
        All in one unit. Without goal there is no second limit.
    z
        Limit in standard errors, see :func:`family_limit`.
    two_sided
        False when only positive deviations are bad.

    Returns
    -------
    tuple
        The verdict and its reason; the reason of a PASS is empty.
    """
    if not (math.isfinite(deviation) and math.isfinite(error) and error >= 0):
        return "INCONCLUSIVE", "the deviation or its error is not a number"
    size = abs(deviation) if two_sided else deviation
    if size - z * error > tolerance:
        return "FAIL", f"deviation {deviation:.4g} is beyond the tolerance {tolerance:g}"
    if error > tolerance:
        return "INCONCLUSIVE", f"error {error:.4g} is larger than the tolerance {tolerance:g}"
    if size > tolerance:
        return "WARN", f"deviation {deviation:.4g} exceeds {tolerance:g}, but not significantly"
    if size + 2 * error > tolerance:
        return "WARN", f"within {tolerance:g} but not proven: {deviation:.4g} +- {error:.2g}"
    if goal is not None and size - z * error > goal:
        return "WARN", f"deviation {deviation:.4g} is beyond the goal {goal:g}"
    return "PASS", ""
