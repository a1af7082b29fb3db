"""From thousands of verdicts to one, without losing any.

Every verdict is a row. Roll-ups only count rows: by test, detector and exposure, and the counts
must add up. A product is as good as its worst required row; an advisory row that fails turns a PASS
into a WARN, so that nobody misses it, and can do no more. Nothing measured is INCONCLUSIVE.
Rules: verification 3.1, 4.7 and 7.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api.context import Evidence, ProductFacts
from cpplug.api.records import Check, Verdict, Verifier
from cpplug.engine.files import replacing
from cpplug.engine.profiles import Profile

SCHEMA = "cpplug.verify/1"
VERDICTS: tuple[Verdict, ...] = ("PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT_APPLICABLE")
BLOCKING = ("FAIL", "INCONCLUSIVE")
"""Verdicts with which a required row stands in the way of certification."""
_BADNESS: dict[str, int] = {"NOT_APPLICABLE": 0, "PASS": 1, "WARN": 2, "INCONCLUSIVE": 3, "FAIL": 4}


class ProfileRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which limits were applied."""

    name: str
    sha256: str


class CalibRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which product was judged."""

    type: str
    id: str
    """Dataset id."""
    members: tuple[int, ...]
    """Exposures that the product was made of."""
    built: str
    """When it was made, UTC."""


class Row(Check, frozen=True, kw_only=True):
    """One verdict as it is stored: a check, and what it is about."""

    schema: str = SCHEMA
    run_id: str
    product_sha256: str
    profile: ProfileRef
    calib: CalibRef
    mjd: float | None = None
    """Middle of the exposure, MJD (TAI)."""
    waiver: str | None = None
    """Ticket of the waiver that excuses a failing row, if there is one."""


def evaluate(verifier: Verifier, evidence: Evidence) -> list[Check]:
    """Run one test; whatever goes wrong becomes an INCONCLUSIVE row, never a PASS.

    A test that raises, says nothing, or passes a number that is not finite has not answered.
    """
    try:
        checks = list(verifier.check(evidence))
    except Exception as error:
        reason = f"the test itself failed: {type(error).__name__}: {error}"
        return [evidence.check(verdict="INCONCLUSIVE", reason=reason)]
    if not checks:
        return [evidence.check(verdict="INCONCLUSIVE", reason="the test said nothing")]
    return [_finite(check) for check in checks]


def _finite(check: Check) -> Check:
    for name in ("value", "error", "deviation"):
        number = getattr(check, name)
        if number is not None and not math.isfinite(number) and check.verdict in ("PASS", "WARN"):
            return msgspec.structs.replace(
                check, verdict="INCONCLUSIVE", reason=f"{name} is not a number"
            )
    return check


def make_rows(
    checks: Iterable[Check],
    *,
    run_id: str,
    profile: Profile,
    product: ProductFacts,
    built: str,
    mjd: Mapping[int, float],
) -> list[Row]:
    """Turn the checks of one product into rows: plain Python numbers, NaN and infinity as None.

    Parameters
    ----------
    checks
        The verdicts.
    run_id
        Name of the verification run.
    profile
        The limits that were applied.
    product
        What was judged.
    built
        When the product was made, UTC text.
    mjd
        Middle of each exposure, MJD (TAI).
    """
    shared = {
        "run_id": run_id,
        "product_sha256": product.sha256,
        "profile": ProfileRef(name=profile.name, sha256=profile.sha256),
        "calib": CalibRef(
            type=product.dataset_type,
            id=product.dataset,
            members=tuple(int(member) for member in product.members),
            built=built,
        ),
    }
    rows = []
    for check in checks:
        fields = {name: plain(getattr(check, name)) for name in Check.__struct_fields__}
        when = None if check.exposure is None else plain(mjd.get(int(check.exposure)))
        rows.append(msgspec.convert({**fields, **shared, "mjd": when}, Row))
    return rows


def plain(value: Any) -> Any:
    """Return a value that JSON knows: numpy scalars as Python ones, NaN and infinity as None."""
    if isinstance(value, Mapping):
        kept = {str(key): plain(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def row_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain dictionaries, lists, text and numbers, the form it is stored in."""
    found: dict[str, Any] = _json(row)
    return found


def _json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def row_schema() -> dict[str, Any]:
    """Return the JSON schema of a row."""
    schema = msgspec.json.schema(Row)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = SCHEMA
    return schema


def verdict_of(rows: Iterable[Check]) -> Verdict:
    """Return the verdict that rows give together: the worst required one.

    Without a required row that says anything it is INCONCLUSIVE. An advisory FAIL makes a WARN of
    a PASS.
    """
    worst: Verdict = "NOT_APPLICABLE"
    advised = False
    for row in rows:
        if row.severity != "required":
            advised |= row.verdict == "FAIL"
        elif _BADNESS[row.verdict] > _BADNESS[worst]:
            worst = row.verdict
    if worst == "NOT_APPLICABLE":
        return "INCONCLUSIVE"
    return "WARN" if worst == "PASS" and advised else worst


def counts_of(rows: Iterable[Check]) -> dict[str, int]:
    """Return how many rows have each verdict; all five are named."""
    found = Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS}


def blocking(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that stand in the way of certification."""
    return [row for row in rows if row.severity == "required" and row.verdict in BLOCKING]


def summary(rows: Sequence[Row | Mapping[str, Any]]) -> dict[str, Any]:
    """Roll rows up: verdict, counts by test, detector and exposure, offenders, every non-PASS row.

    Parameters
    ----------
    rows
        All rows of a run, as records or in the form of :func:`row_dict`.

    Returns
    -------
    dict
        Plain JSON: ``verdict``, ``counts``, ``counts_required``, ``products`` (one entry each),
        ``tests``, ``detectors``, ``exposures`` (verdict and counts by name; rows that are about no
        single exposure under ``all``), ``offenders`` (most failures first), ``rows`` (all that are
        neither PASS nor NOT_APPLICABLE).

    Raises
    ------
    RuntimeError
        When counts do not add up, which would mean that a verdict was lost.
    """
    read = [row if isinstance(row, Row) else msgspec.convert(row, Row) for row in rows]
    views = {
        "tests": _view(read, lambda row: row.test),
        "detectors": _view(read, lambda row: row.detector),
        "exposures": _view(read, lambda row: "all" if row.exposure is None else str(row.exposure)),
    }
    by_product = _groups(read, lambda row: f"{row.calib.id} {row.detector}")
    products = [_product(found) for found in by_product.values()]
    counts = counts_of(read)
    conserve(counts, {name: list(view.values()) for name, view in views.items()})
    conserve(counts, {"products": products})
    return {
        "schema": SCHEMA,
        "run_id": read[0].run_id if read else "",
        "profile": _json(read[0].profile) if read else None,
        "verdict": worst_of([product["verdict"] for product in products]),
        "n_rows": len(read),
        "counts": counts,
        "counts_required": counts_of(row for row in read if row.severity == "required"),
        "products": products,
        **views,
        "offenders": offenders(read),
        "rows": [row_dict(row) for row in read if row.verdict not in ("PASS", "NOT_APPLICABLE")],
    }


def conserve(counts: Mapping[str, int], levels: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise a RuntimeError unless the counts of the children of every level add up."""
    for level, children in levels.items():
        for verdict in VERDICTS:
            if sum(child["counts"][verdict] for child in children) != counts[verdict]:
                raise RuntimeError(f"the counts of {verdict} by {level} do not add up")


def worst_of(verdicts: Collection[str]) -> str:
    """Return the worst of the verdicts of children; INCONCLUSIVE when there are none."""
    return max(verdicts, key=_BADNESS.__getitem__, default="INCONCLUSIVE")


def _groups(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))


def _view(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "verdict": verdict_of_part(found),
            "severity": "required" if _speaking(found) else "advisory",
            "counts": counts_of(found),
        }
        for name, found in _groups(rows, key).items()
    }


def _speaking(rows: Iterable[Check]) -> bool:
    return any(row.severity == "required" and row.verdict != "NOT_APPLICABLE" for row in rows)


def verdict_of_part(rows: Sequence[Check]) -> str:
    """Return the verdict of one test, detector or exposure.

    As for a product, except that silence is no objection and that where no required row speaks, the
    advisory ones do.
    """
    return verdict_of(rows) if _speaking(rows) else worst_of([row.verdict for row in rows])


def _product(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    by_membership: dict[str, set[int]] = {}
    for row in rows:
        if row.exposure is not None and row.verdict != "INCONCLUSIVE":
            by_membership.setdefault(row.membership or "unknown", set()).add(row.exposure)
    members = len(by_membership.get("member", ()))
    seen = {exposure for found in by_membership.values() for exposure in found}
    return {
        "calib": _json(first.calib),
        "product_sha256": first.product_sha256,
        "detector": first.detector,
        "verdict": verdict_of(rows),
        "counts": counts_of(rows),
        "blocking": len(blocking(rows)),
        "exposures": len(seen),
        "independent_exposures": len(seen) - members,
    }


def offenders(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return where rows fail, by test, detector and amplifier: most failures first."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    reasons: dict[tuple[str, str, str], str] = {}
    for row in rows:
        if row.verdict not in ("WARN", *BLOCKING):
            continue
        key = (row.test, row.detector, row.amplifier)
        found.setdefault(key, Counter())[row.verdict] += 1
        found[key]["blocking"] += row.severity == "required" and row.verdict in BLOCKING
        if _is_worse(row, reasons.get(key), found[key]):
            reasons[key] = row.reason
    ranked = sorted(
        found,
        key=lambda k: (-found[k]["FAIL"], -found[k]["INCONCLUSIVE"], -found[k]["WARN"], k),
    )
    return [
        {
            "test": key[0],
            "detector": key[1],
            "amplifier": key[2],
            "FAIL": found[key]["FAIL"],
            "INCONCLUSIVE": found[key]["INCONCLUSIVE"],
            "WARN": found[key]["WARN"],
            "required": found[key]["blocking"] > 0,
            "reason": reasons[key],
        }
        for key in ranked
    ]


def _is_worse(row: Row, reason: str | None, seen: Counter[str]) -> bool:
    """Tell whether this row is the first of the worst kind seen so far."""
    if reason is None:
        return True
    return seen[row.verdict] == 1 and not any(
        seen[verdict] for verdict in VERDICTS if _BADNESS[verdict] > _BADNESS[row.verdict]
    )


def write_summary(path: Path, content: Mapping[str, Any]) -> None:
    """Write a summary as JSON, whole or not at all.

    Raises
    ------
    RepositoryError
        When the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows, one JSON object a line, whole or not at all.

    Raises
    ------
    RepositoryError
        When the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def terminal_table(content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one line per test for the terminal (counts, and the worst that was said), and columns.

    Columns of verdicts that do not occur are left out.
    """
    said: dict[str, str] = {}
    for offender in content["offenders"]:
        where = "/".join(part for part in (offender["detector"], offender["amplifier"]) if part)
        said.setdefault(offender["test"], f"{where}: {offender['reason']}")
    seen = [verdict for verdict in VERDICTS if content["counts"][verdict]]
    table = [
        {
            "test": test,
            "verdict": entry["verdict"],
            "severity": entry["severity"],
            **{verdict: entry["counts"][verdict] for verdict in seen},
            "worst": said.get(test, ""),
        }
        for test, entry in content["tests"].items()
    ]
    return table, ["test", "verdict", "severity", *seen, "worst"]


def banner(content: Mapping[str, Any]) -> str:
    """Return the one line that an operator reads: may this be certified or not, and why."""
    verdict, counts = content["verdict"], content["counts_required"]
    n_exposures = max((p["independent_exposures"] for p in content["products"]), default=0)
    basis = f"{counts['PASS']} of {sum(counts.values()) - counts['NOT_APPLICABLE']} required checks"
    basis += f" pass, {n_exposures} independent exposures"
    if not content["n_rows"]:
        return "INCONCLUSIVE: nothing was checked. May not be certified."
    if verdict in BLOCKING:
        what = f"{counts['FAIL']} required checks fail, {counts['INCONCLUSIVE']} are inconclusive"
        return f"{verdict}: {what} ({basis}). May not be certified without waivers."
    if verdict == "WARN":
        warned = counts["WARN"]
        advisory = content["counts"]["FAIL"]
        what = f"{warned} required checks warn, {advisory} advisory checks fail"
        return f"WARN: {what} ({basis}). May be certified; read the warnings first."
    return f"PASS: {basis}. May be certified."
