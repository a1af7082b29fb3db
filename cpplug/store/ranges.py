"""Stored validity ranges: reading them, taking spans out of them, and keeping the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cpplug.api.errors import UsageError
from cpplug.api.times import now_tai
from cpplug.store import collections, schema
from cpplug.store.collections import from_stored
from cpplug.store.database import encode
from cpplug.store.records import Change, DataId

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_TABLE = schema.validity


class StoredRange(msgspec.Struct, frozen=True):
    """A stored range."""

    id: int
    dataset: str
    data_id: DataId
    dataset_type: str
    begin: int
    end: int


class Cut:
    """Takes spans out of stored ranges: what goes, what is left, and how to say it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._gone: list[int] = []
        self._left: list[dict[str, Any]] = []

    def take(self, old: StoredRange, span: tuple[int, int]) -> None:
        """Take ``span`` out of a range."""
        left = []
        if old.begin < span[0]:
            left.append((old.begin, span[0]))
        if span[1] < old.end:
            left.append((span[1], old.end))
        self._gone.append(old.id)
        for begin, end in left:
            self._left.append(
                {
                    "dataset_id": old.dataset, "dataset_type": old.dataset_type,
                    "instrument": old.data_id.instrument, "detector": old.data_id.detector,
                    "physical_filter": old.data_id.physical_filter, "begin": begin, "end": end,
                }
            )  # fmt: skip
        actions = ("removed", "shortened", "split")
        self.changes.append(
            Change(
                action=actions[len(left)],  # type: ignore[arg-type]
                dataset=old.dataset,
                data_id=old.data_id,
                before=from_stored(old.begin, old.end),
                after=tuple(from_stored(*limits) for limits in left),
            )
        )

    def write(self, connection: Connection, owner: int) -> None:
        """Carry it out."""
        if self._gone:
            connection.execute(
                sa.delete(_TABLE).where(_TABLE.c.id == sa.bindparam("gone")),
                [{"gone": identity} for identity in self._gone],
            )
        if self._left:
            rows = [{"collection_id": owner, **row} for row in self._left]
            connection.execute(sa.insert(_TABLE), rows)


def calibration_id(connection: Connection, name: str) -> int | None:
    """Return the id of a CALIBRATION collection, or None when it does not exist yet."""
    if not collections.exists(connection, name):
        return None
    node = collections.one(connection, name)
    if node.kind != "CALIBRATION":
        step = "Name another one; it is made if it is missing."
        if node.kind == "CHAINED":
            step = f"Name a new one such as {name}/2026, then: cpplug chain {name} {name}/2026."
        raise UsageError(
            f"Validity ranges live in CALIBRATION collections, and {name!r} is {node.kind}.", step
        )
    return node.id


def overlapping(
    connection: Connection, owner: int, dataset_type: str, span: tuple[int, int]
) -> list[StoredRange]:
    """Return the stored ranges that overlap a span."""
    table = _TABLE.c
    query = (
        sa.select(_TABLE)
        .where(
            table.collection_id == owner,
            table.dataset_type == dataset_type,
            table.begin < span[1],
            table.end > span[0],
        )
        .order_by(table.instrument, table.detector, table.physical_filter, table.begin)
    )
    return [
        StoredRange(
            id=row.id,
            dataset=row.dataset_id,
            data_id=DataId(row.instrument, row.detector, row.physical_filter),
            dataset_type=row.dataset_type,
            begin=row.begin,
            end=row.end,
        )
        for row in connection.execute(query)
    ]


def note(
    connection: Connection,
    action: str,
    collection: str,
    dataset_type: str,
    span: tuple[int, int],
    changes: Sequence[Change],
    evidence: Mapping[str, Any],
    facts: Mapping[str, str],
) -> None:
    """Write into the journal."""
    connection.execute(
        sa.insert(schema.journal).values(
            time=now_tai(),
            action=action,
            collection=collection,
            dataset_type=dataset_type,
            begin=span[0],
            end=span[1],
            changes=encode(list(changes)),
            evidence=encode(dict(evidence)),
            **facts,
        )
    )


def remove_ranges(
    connection: Connection, rows: Sequence[Any], action: str, facts: Mapping[str, str]
) -> list[tuple[str, Change]]:
    """Remove whole ranges because what they link is going away, and note it in the journal.

    Parameters
    ----------
    rows
        Rows of the validity table with the name of the collection as ``collection``.
    action
        For the journal.
    facts
        ``who``, ``command`` and ``reason`` for the journal.
    """
    cuts: dict[tuple[str, str], Cut] = {}
    everything = (schema.NEVER, schema.FOREVER)
    for row in rows:
        data_id = DataId(row.instrument, row.detector, row.physical_filter)
        old = StoredRange(row.id, row.dataset_id, data_id, row.dataset_type, row.begin, row.end)
        cuts.setdefault((row.collection, row.dataset_type), Cut()).take(old, everything)
    for (collection, dataset_type), cut in cuts.items():
        cut.write(connection, 0)
        note(connection, action, collection, dataset_type, everything, cut.changes, {}, facts)
    return [(name, change) for (name, _), cut in cuts.items() for change in cut.changes]
