"""Products on record: what each is made for, where its file lies, and how it came to be.

A product belongs to one RUN for good. There is at most one of a type for a detector (and filter)
in a RUN, and in a TAGGED collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import RepositoryError, UnknownNameError, UsageError
from cpplug.store import collections, schema
from cpplug.store.base import StorePart
from cpplug.store.database import decode, encode
from cpplug.store.fields import dataset_fields
from cpplug.store.records import DataId, DatasetRecord, DatasetRow
from cpplug.store.where import Clause, compile_where, glob_match

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_RUN = schema.collection.alias("run_collection")
_TABLE = schema.dataset.c
_FROM = schema.dataset.join(_RUN, _RUN.c.id == _TABLE.run_id)
KEY = ("dataset_type", "instrument", "detector", "physical_filter")
"""The columns that make a dataset unique within a collection."""
COLUMNS = (
    _TABLE.id, _TABLE.dataset_type, _RUN.c.name.label("run"), _TABLE.instrument, _TABLE.detector,
    _TABLE.physical_filter, _TABLE.path, _TABLE.sha256, _TABLE.size, _TABLE.created,
    _TABLE.is_calibration,
)  # fmt: skip


def select_datasets(*more: Any) -> sa.Select[Any]:
    """Return the query of all datasets, with further columns if wanted."""
    return sa.select(*COLUMNS, *more).select_from(_FROM)


def dataset_row(row: Any, collection: str = "") -> DatasetRow:
    """Return a database row (first the columns of ``COLUMNS``) as a record."""
    identity, kind, run, instrument, detector, physical_filter, path, sha, size, made, calib = row[
        : len(COLUMNS)
    ]
    return DatasetRow(
        id=identity,
        dataset_type=kind,
        run=run,
        data_id=DataId(instrument, detector, physical_filter),
        path=path,
        sha256=sha,
        size=size,
        created=made,
        is_calibration=bool(calib),
        collection=collection or run,
    )


def key_of(row: DatasetRow) -> tuple[str, DataId]:
    """Return what makes a dataset unique within a collection."""
    return (row.dataset_type, row.data_id)


class DatasetStore(StorePart):
    """The part of a repository that keeps products."""

    def add_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Register products, all or none.

        Raises
        ------
        RepositoryError
            When a RUN holds a product of that type for that data id already.
        UnknownNameError
            When a RUN does not exist.
        UsageError
            When a path is not inside the repository.
        """
        with self._db.write() as connection:
            runs = {record.run for record in records}
            ids = {run: self._run_id(connection, run) for run in sorted(runs)}
            taken = self._taken(connection, list(ids.values()))
            rows = []
            for record in records:
                key = (ids[record.run], record.dataset_type, record.data_id)
                if key in taken:
                    raise RepositoryError(
                        f"The run {record.run!r} holds a {record.dataset_type} for "
                        f"{record.data_id} already.",
                        "Write the new one to another run.",
                    )
                taken.add(key)
                rows.append(_values(record, ids[record.run]))
            if rows:
                connection.execute(sa.insert(schema.dataset), rows)

    def datasets(
        self,
        dataset_type: str | None = None,
        collections: Sequence[str] | None = None,
        *,
        instrument: str | None = None,
        where: str = "",
        binds: Mapping[str, object] | None = None,
        find_first: bool = False,
    ) -> list[DatasetRow]:
        """Return the products that fit.

        Parameters
        ----------
        dataset_type
            A type, or a pattern such as ``b*``; default: all.
        collections
            Where to look, in order. Default: every RUN.
        instrument
            Only products of this instrument.
        where
            Expression over the fields of products: ``dataset_type``, ``run``, ``detector``,
            ``physical_filter``, ``sha256``, ``created`` ...
        binds
            Values for ``:name`` in the expression.
        find_first
            Of products of the same type and data id, only those of the first collection.
        """
        with self._db.read() as connection:
            clauses = self._clauses(dataset_type, instrument, where, binds)
            if collections is None:
                query = self._joined().where(*clauses).order_by(*_ORDER)
                return [dataset_row(row) for row in connection.execute(query)]
            found: list[DatasetRow] = []
            seen: set[tuple[str, DataId]] = set()
            for rows in self._by_collection(connection, collections, clauses):
                found += [row for row in rows if not (find_first and key_of(row) in seen)]
                seen |= {key_of(row) for row in rows}
            return found

    def dataset(self, id_or_sha_prefix: str) -> DatasetRow:
        """Return one product by id or checksum; four characters or more are enough if they tell.

        Raises
        ------
        UnknownNameError
            When there is none.
        UsageError
            When several fit, or the text is too short.
        """
        text = id_or_sha_prefix.strip().lower().removeprefix("sha256:")
        if len(text) < 4 or not all(c in "0123456789abcdef-" for c in text):
            raise UsageError(
                f"{id_or_sha_prefix!r} is not the id or checksum of a product.",
                "Give four characters or more of either.",
            )
        id_fits = glob_match(self._db.kind, _TABLE.id, f"{text}*")
        sha_fits = glob_match(self._db.kind, _TABLE.sha256, f"{text}*")
        query = select_datasets().where(sa.or_(id_fits, sha_fits)).order_by(*_ORDER).limit(6)
        with self._db.read() as connection:
            rows = [dataset_row(row) for row in connection.execute(query)]
        exact = [row for row in rows if row.id == text]
        if len(exact) == 1 or len(rows) == 1:
            return (exact or rows)[0]
        if not rows:
            raise UnknownNameError(
                f"There is no product with id or checksum {id_or_sha_prefix!r}.",
                "List them: cpplug query products.",
            )
        listed = ", ".join(f"{row.id} ({row.dataset_type} in {row.run})" for row in rows)
        raise UsageError(f"{id_or_sha_prefix!r} fits several products: {listed}.", "Give the id.")

    def provenance(self, dataset_id: str) -> dict[str, Any]:
        """Return how a product came to be, as it was given to :meth:`add_datasets`."""
        query = sa.select(_TABLE.provenance).where(_TABLE.id == dataset_id)
        with self._db.read() as connection:
            text = connection.execute(query).scalar()
        if text is None:
            raise UnknownNameError(
                f"There is no product {dataset_id!r}.", "List them: cpplug query products."
            )
        facts: dict[str, Any] = decode(text)
        return facts

    def tag(self, collection: str, dataset_ids: Sequence[str]) -> None:
        """Put products into a TAGGED collection, which is made if missing.

        Raises
        ------
        UsageError
            When the collection is of another kind, or would hold two of a type for one data id.
        UnknownNameError
            When a product does not exist.
        """
        with self._db.write() as connection:
            rows = self._by_id(connection, dataset_ids)
            tag_id = self._tagged(connection, collection)
            present = [
                dataset_row(row)
                for row in connection.execute(
                    select_datasets().join(schema.tag, schema.tag.c.dataset_id == _TABLE.id)
                    .where(schema.tag.c.collection_id == tag_id)
                )
            ]  # fmt: skip
            held = {key_of(row): row.id for row in present}
            for row in rows:
                other = held.setdefault(key_of(row), row.id)
                if other != row.id:
                    raise UsageError(
                        f"{collection!r} would hold two products {row.dataset_type} for "
                        f"{row.data_id}: {other} and {row.id}.",
                        "Untag the first one before.",
                    )
            known = {row.id for row in present}
            new = {row.id: row for row in rows if row.id not in known}
            if new:
                connection.execute(sa.insert(schema.tag), [link(tag_id, r) for r in new.values()])

    def untag(self, collection: str, dataset_ids: Sequence[str]) -> None:
        """Take products out of a TAGGED collection; those that are not in it are left alone."""
        with self._db.write() as connection:
            self._by_id(connection, dataset_ids)
            node = collections.one(connection, collection)
            if node.kind != "TAGGED":
                raise UsageError(f"{collection!r} is {node.kind}, not TAGGED.")
            chosen = self._db.any_of(schema.tag.c.dataset_id, list(dataset_ids))
            connection.execute(
                sa.delete(schema.tag).where(schema.tag.c.collection_id == node.id, chosen)
            )

    # ---- parts

    def _joined(self) -> sa.Select[Any]:
        """Return the query of datasets with the names of their detectors at hand for ``where``."""
        detector = schema.detector.c
        named = sa.and_(detector.instrument == _TABLE.instrument, detector.id == _TABLE.detector)
        return sa.select(*COLUMNS).select_from(_FROM.outerjoin(schema.detector, named))

    def _clauses(
        self,
        dataset_type: str | None,
        instrument: str | None,
        where: str,
        binds: Mapping[str, object] | None,
    ) -> list[Clause]:
        condition = compile_where(where, dataset_fields(_RUN.c.name), self._db.kind, binds)
        clauses = [term.clause for term in condition.terms]
        if instrument is not None:
            clauses.append(_TABLE.instrument == instrument)
        if dataset_type is not None and ("*" in dataset_type or "?" in dataset_type):
            clauses.append(glob_match(self._db.kind, _TABLE.dataset_type, dataset_type))
        elif dataset_type is not None:
            clauses.append(_TABLE.dataset_type == dataset_type)
        return clauses

    def _by_collection(
        self, connection: Connection, names: Sequence[str], clauses: list[Clause]
    ) -> Iterable[list[DatasetRow]]:
        """Yield the datasets of each collection in search order."""
        for node in collections.flatten_nodes(connection, names):
            query = self._joined().where(*clauses, members(node)).order_by(*_ORDER)
            yield [dataset_row(row, node.name) for row in connection.execute(query)]

    def _run_id(self, connection: Connection, run: str) -> int:
        node = collections.one(connection, run)
        if node.kind != "RUN":
            raise UsageError(f"Products are born in a RUN collection; {run!r} is {node.kind}.")
        return node.id

    def _taken(self, connection: Connection, runs: Sequence[int]) -> set[tuple[int, str, DataId]]:
        query = sa.select(
            _TABLE.run_id, _TABLE.dataset_type, _TABLE.instrument, _TABLE.detector,
            _TABLE.physical_filter,
        ).where(self._db.any_of(_TABLE.run_id, runs))  # fmt: skip
        return {
            (row.run_id, row.dataset_type, DataId(row.instrument, row.detector, row[4]))
            for row in connection.execute(query)
        }

    def _by_id(self, connection: Connection, ids: Sequence[str]) -> list[DatasetRow]:
        query = select_datasets().where(self._db.any_of(_TABLE.id, list(ids)))
        found = {row.id: dataset_row(row) for row in connection.execute(query)}
        missing = next((identity for identity in ids if identity not in found), None)
        if missing is not None:
            raise UnknownNameError(
                f"There is no product {missing!r}.", "List them: cpplug query products."
            )
        return [found[identity] for identity in ids]

    def _tagged(self, connection: Connection, name: str) -> int:
        if not collections.exists(connection, name):
            return collections.make(connection, name, "TAGGED")
        node = collections.one(connection, name)
        if node.kind != "TAGGED":
            raise UsageError(f"{name!r} is {node.kind}, not TAGGED.", "Choose another name.")
        return node.id


_ORDER = (
    _TABLE.dataset_type, _TABLE.instrument, _TABLE.detector, _TABLE.physical_filter, _RUN.c.name,
)  # fmt: skip


def members(node: collections.Node) -> Clause:
    """Return the condition that a dataset belongs to a collection (which is not a chain)."""
    if node.kind == "RUN":
        return _TABLE.run_id == node.id
    table = schema.tag if node.kind == "TAGGED" else schema.validity
    return _TABLE.id.in_(sa.select(table.c.dataset_id).where(table.c.collection_id == node.id))


def link(collection_id: int, row: DatasetRow) -> dict[str, Any]:
    """Return the row that links a dataset to a collection."""
    return {
        "collection_id": collection_id,
        "dataset_id": row.id,
        "dataset_type": row.dataset_type,
        "instrument": row.data_id.instrument,
        "detector": row.data_id.detector,
        "physical_filter": row.data_id.physical_filter,
    }


def _values(record: DatasetRecord, run_id: int) -> dict[str, Any]:
    path = PurePosixPath(record.path)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"The path of a product must lie in the repository: {record.path!r}.")
    return {
        "id": record.id.lower(),
        "dataset_type": record.dataset_type,
        "run_id": run_id,
        "instrument": record.data_id.instrument,
        "detector": record.data_id.detector,
        "physical_filter": record.data_id.physical_filter,
        "path": str(path),
        "sha256": record.sha256.lower(),
        "size": record.size,
        "created": record.created,
        "is_calibration": record.is_calibration,
        "provenance": encode(record.provenance),
    }
