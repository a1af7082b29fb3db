"""Validity ranges: what is valid when, taking it back, and the journal of all that.

Whatever a command changes happens in one transaction or not at all, and every change is written
into the journal with who, when and why.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from cpplug.store import schema
from cpplug.store.base import StorePart
from cpplug.store.collections import flatten_nodes, from_stored, to_stored, unknown
from cpplug.store.database import decode
from cpplug.store.datasets import dataset_row, select_datasets
from cpplug.store.ranges import Cut, calibration_id, note, overlapping
from cpplug.store.records import Change, DataId, JournalRow, ValidityRow, check_range

_TABLE = schema.validity
_DATASET = schema.dataset.c


class ValidityStore(StorePart):
    """The part of a repository that keeps validity ranges."""

    def decertify(
        self,
        collection: str,
        dataset_type: str,
        begin: int | None,
        end: int | None,
        *,
        data_ids: Collection[DataId] | None = None,
        who: str,
        command: str,
        reason: str = "",
        dry_run: bool = False,
    ) -> list[Change]:
        """Take a span out of the validity ranges of a type, splitting them where needed.

        Parameters
        ----------
        collection
            CALIBRATION collection.
        dataset_type
            Type of the products.
        begin, end
            TAI nanoseconds; None is open.
        data_ids
            Only for these; default: all.
        who, command, reason
            For the journal.
        dry_run
            Find out what would happen, and change nothing.

        Returns
        -------
        list of Change
            Empty when nothing was valid in the span.
        """
        check_range(begin, end)
        span = to_stored(begin, end)
        with self._db.write() as connection:
            owner = calibration_id(connection, collection)
            if owner is None:
                raise unknown(connection, collection)
            cut = Cut()
            for old in overlapping(connection, owner, dataset_type, span):
                if data_ids is None or old.data_id in data_ids:
                    cut.take(old, span)
            if cut.changes and not dry_run:
                cut.write(connection, owner)
                facts = {"who": who, "command": command, "reason": reason}
                note(
                    connection, "decertify", collection, dataset_type, span, cut.changes, {}, facts
                )
            return cut.changes

    def validity(
        self,
        collections: Sequence[str],
        dataset_type: str | None = None,
        *,
        instrument: str | None = None,
        detector: int | None = None,
    ) -> list[ValidityRow]:
        """Return the validity ranges in collections (chains are looked through), in order of time.

        Parameters
        ----------
        collections
            Their names.
        dataset_type, instrument, detector
            Only these; default: all.
        """
        with self._db.read() as connection:
            nodes = flatten_nodes(connection, collections)
            rank = {node.id: number for number, node in enumerate(nodes)}
            names = {node.id: node.name for node in nodes}
            columns = (_TABLE.c.collection_id, _TABLE.c.begin, _TABLE.c.end)
            query = (
                select_datasets(*columns)
                .join(_TABLE, _TABLE.c.dataset_id == _DATASET.id)
                .where(self._db.any_of(_TABLE.c.collection_id, list(rank)))
            )
            limits = {
                _TABLE.c.dataset_type: dataset_type,
                _TABLE.c.instrument: instrument,
                _TABLE.c.detector: detector,
            }
            wanted = [column == value for column, value in limits.items() if value is not None]
            found = [
                (rank[row.collection_id], row.begin, dataset_row(row), row)
                for row in connection.execute(query.where(*wanted))
            ]
        found.sort(key=lambda item: (item[0], item[2].dataset_type, item[2].data_id, item[1]))
        return [
            ValidityRow(
                collection=names[row.collection_id],
                dataset_type=dataset.dataset_type,
                data_id=dataset.data_id,
                dataset=dataset.id,
                run=dataset.run,
                sha256=dataset.sha256,
                begin=from_stored(row.begin, row.end)[0],
                end=from_stored(row.begin, row.end)[1],
            )
            for _, _, dataset, row in found
        ]

    def journal(self, collection: str | None = None) -> list[JournalRow]:
        """Return who changed validity ranges and why, oldest first.

        Parameters
        ----------
        collection
            Only of this collection, which may be gone by now; default: all.
        """
        query = sa.select(schema.journal).order_by(schema.journal.c.id)
        if collection is not None:
            query = query.where(schema.journal.c.collection == collection)
        with self._db.read() as connection:
            return [_journal_row(row) for row in connection.execute(query)]


def _journal_row(row: Any) -> JournalRow:
    begin, end = from_stored(row.begin, row.end)
    return JournalRow(
        id=row.id,
        time=row.time,
        action=row.action,
        collection=row.collection,
        dataset_type=row.dataset_type,
        begin=begin,
        end=end,
        who=row.who,
        command=row.command,
        reason=row.reason,
        changes=msgspec.json.decode(row.changes, type=tuple[Change, ...]),
        evidence=decode(row.evidence),
    )
