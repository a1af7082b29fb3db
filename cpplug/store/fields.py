"""What a where expression can speak of: the fields of exposures, products and checks.

Each field has a kind, which decides what it may be compared with. A set of fields belongs to one
sort of row; ``exposure.day_obs`` and plain ``day_obs`` mean the same there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from cpplug.store import schema

Kind = Literal["int", "float", "str", "time", "span", "bool", "date", "detector", "null"]

WORDS: dict[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "time": "a time",
    "span": "a time span",
    "bool": "a condition",
    "date": "an observing day",
    "detector": "a detector",
    "null": "NULL",
}


@dataclass(frozen=True)
class Field:
    """A field: its kind, its column, and a second column where the kind needs one.

    ``other`` is the end of a span, or the name of a detector given by number.
    """

    kind: Kind
    column: sa.ColumnElement[Any]
    other: sa.ColumnElement[Any] | None = None
    of_raw: bool = False
    """True for what a raw frame has and its exposure has not: the detector."""
    needs_instrument: bool = False
    """True for ids that mean something within one instrument only."""


@dataclass(frozen=True)
class FieldSet:
    """The fields of one sort of row, by name.

    Parameters
    ----------
    prefix
        What may stand before a field: ``exposure``.
    fields
        By full name without prefix.
    """

    prefix: str
    fields: dict[str, Field]

    def resolve(self, name: str) -> tuple[str, Field] | None:
        """Return a field and its plain name, or None when there is none of that name."""
        plain = name.removeprefix(f"{self.prefix}.")
        if name in self.fields:
            plain = name
        field = self.fields.get(plain)
        return None if field is None else (plain, field)

    def known(self, like: str) -> Iterable[str]:
        """Return the names to suggest for a mistyped one, spelt as the user spells them."""
        lead = f"{self.prefix}." if like.startswith(f"{self.prefix}.") else ""
        return [lead + name for name in self.fields]


def exposure_fields() -> FieldSet:
    """Return the fields of exposures. Those of a detector need a join with ``raw``."""
    table, raw, detector = schema.exposure.c, schema.raw.c, schema.detector.c
    number = Field("int", table.exposure, needs_instrument=True)
    fields = {
        "instrument": Field("str", table.instrument),
        "exposure": number,
        "id": number,
        "detector": Field(
            "detector", raw.detector, detector.name, of_raw=True, needs_instrument=True
        ),
        "detector.id": Field("int", raw.detector, of_raw=True, needs_instrument=True),
        "detector.name": Field("str", detector.name, of_raw=True, needs_instrument=True),
        "obs_id": Field("str", table.obs_id, needs_instrument=True),
        "day_obs": Field("date", table.day_obs, needs_instrument=True),
        "seq_num": Field("int", table.seq_num),
        "physical_filter": Field("str", table.physical_filter, needs_instrument=True),
        "group": Field("str", table.group, needs_instrument=True),
        "observation_type": Field("str", table.observation_type),
        "observation_reason": Field("str", table.observation_reason),
        "target_name": Field("str", table.target_name),
        "science_program": Field("str", table.science_program),
        "exposure_time": Field("float", table.exposure_time),
        "dark_time": Field("float", table.dark_time),
        "temperature": Field("float", table.temperature),
        "serial_binning": Field("int", table.serial_binning),
        "parallel_binning": Field("int", table.parallel_binning),
        "timespan": Field("span", table.begin, table.end),
        "timespan.begin": Field("time", table.begin),
        "timespan.end": Field("time", table.end),
    }
    return FieldSet("exposure", fields)


def dataset_fields(run_name: sa.ColumnElement[Any]) -> FieldSet:
    """Return the fields of products; ``run_name`` is the joined column of their RUN."""
    table = schema.dataset.c
    fields = {
        "id": Field("str", table.id),
        "dataset": Field("str", table.id),
        "dataset_type": Field("str", table.dataset_type),
        "run": Field("str", run_name),
        "instrument": Field("str", table.instrument),
        "detector": Field(
            "detector", table.detector, schema.detector.c.name, needs_instrument=True
        ),
        "physical_filter": Field("str", table.physical_filter, needs_instrument=True),
        "sha256": Field("str", table.sha256),
        "size": Field("int", table.size),
        "path": Field("str", table.path),
        "created": Field("time", table.created),
        "is_calibration": Field("bool", table.is_calibration),
    }
    return FieldSet("dataset", fields)


def check_fields() -> FieldSet:
    """Return the fields of verification checks."""
    table = schema.check.c
    words = (
        "verify_run", "product_sha256", "test", "detector", "amplifier", "membership", "unit",
        "verdict", "severity", "reason",
    )  # fmt: skip
    numbers = ("value", "error", "expected", "deviation", "tolerance", "goal", "z")
    fields = {name: Field("str", table[name]) for name in words}
    fields |= {name: Field("float", table[name]) for name in numbers}
    fields |= {name: Field("int", table[name]) for name in ("exposure", "n_good")}
    return FieldSet("check", fields)
