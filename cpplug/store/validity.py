"""Certification: which product is valid when, and the journal of how that came to be.

Within one CALIBRATION collection the ranges of a type for one detector (and filter) never
overlap; they may touch. Whatever a command changes happens in one transaction or not at all, and
every change is written into the journal with who, when, why, and the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cpplug.api.errors import (
    CertificationConflict,
    CertificationRefused,
    NothingMatched,
    UnknownNameError,
    UsageError,
)
from cpplug.api.times import format_time, now_tai
from cpplug.store import collections, schema
from cpplug.store.base import StorePart
from cpplug.store.collections import Node, from_stored, to_stored
from cpplug.store.database import decode, encode
from cpplug.store.datasets import dataset_row, key_of, link, members, select_datasets
from cpplug.store.records import (
    CertifyResult,
    Change,
    DataId,
    DatasetRow,
    JournalRow,
    ValidityRow,
    check_range,
    range_text,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Gate = Callable[[Sequence[DatasetRow]], Mapping[str, Any]]
_TABLE = schema.validity
_DATASET = schema.dataset.c


class ValidityStore(StorePart):
    """The part of a repository that keeps validity ranges."""

    def certify(
        self,
        inputs: str,
        output: str,
        dataset_type: str,
        begin: int | None,
        end: int | None,
        *,
        datasets: Sequence[str] | None = None,
        reason: str = "",
        who: str,
        command: str,
        replace: bool = False,
        truncate: bool = False,
        search_all_inputs: bool = False,
        gate: Gate | None = None,
        dry_run: bool = False,
    ) -> CertifyResult:
        """Make products valid from ``begin`` up to (not including) ``end``.

        Parameters
        ----------
        inputs
            RUN or TAGGED collection: all its products of the type. A chain: those of its first
            child.
        output
            CALIBRATION collection; made if missing.
        dataset_type
            Type of the products.
        begin, end
            TAI nanoseconds; None is open.
        datasets
            Ids to choose from the products of ``inputs``; default: all.
        reason, who, command
            For the journal.
        replace
            Take the range away from whatever holds a part of it.
        truncate
            End earlier ranges at ``begin``.
        search_all_inputs
            Of a chain, take from every child; the first that has a product for a data id counts.
        gate
            Called with the products found before anything is written; raises to refuse; what it
            returns goes into the journal as evidence. It may read the repository, not write it.
        dry_run
            Find out what would happen, and change nothing.

        Raises
        ------
        UsageError
            When begin is not before end, or a collection is of the wrong kind.
        NothingMatched
            When ``inputs`` holds no product of the type.
        CertificationConflict
            When a range would overlap another; nothing is changed then.
        CertificationRefused
            When the products are not calibrations.
        """
        check_range(begin, end)
        if replace and truncate:
            raise UsageError("Only one of replace and truncate is possible.", "Choose one.")
        with self._db.write() as connection:
            chosen = self._inputs(connection, inputs, dataset_type, search_all_inputs, datasets)
            known = self._output(connection, output)
            evidence = dict(gate(chosen)) if gate is not None else {}
            span = to_stored(begin, end)
            plan = _Plan(chosen, span, output, replace=replace, truncate=truncate)
            if known is not None:
                plan.compare(self._overlapping(connection, known, dataset_type, span))
            plan.refuse_conflicts(inputs, begin, end)
            if not dry_run and plan.certified:
                owner = known or collections.make(connection, output, "CALIBRATION")
                plan.write(connection, owner)
                facts = {"who": who, "command": command, "reason": reason}
                _note(
                    connection, "certify", output, dataset_type, span, plan.changes, evidence, facts
                )
        return CertifyResult(
            collection=output,
            dataset_type=dataset_type,
            begin=begin,
            end=end,
            certified=tuple(plan.certified),
            unchanged=tuple(plan.unchanged),
            changes=tuple(plan.changes),
            evidence=evidence,
            dry_run=dry_run,
        )

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
            owner = self._output(connection, collection)
            if owner is None:
                raise collections.unknown(connection, collection)
            cut = _Cut()
            for old in self._overlapping(connection, owner, dataset_type, span):
                if data_ids is None or old.data_id in data_ids:
                    cut.take(old, span)
            if cut.changes and not dry_run:
                cut.write(connection, owner)
                facts = {"who": who, "command": command, "reason": reason}
                _note(
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
            nodes = _flattened(connection, collections)
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

    # ---- parts

    def _output(self, connection: Connection, name: str) -> int | None:
        """Return the id of a CALIBRATION collection, or None when it does not exist yet."""
        if not collections.exists(connection, name):
            return None
        node = collections.one(connection, name)
        if node.kind != "CALIBRATION":
            raise UsageError(
                f"Validity ranges live in CALIBRATION collections, and {name!r} is {node.kind}.",
                "Name another one; it is made if it is missing.",
            )
        return node.id

    def _inputs(
        self,
        connection: Connection,
        name: str,
        dataset_type: str,
        search_all: bool,
        chosen: Sequence[str] | None,
    ) -> list[DatasetRow]:
        """Return the products to certify."""
        roots, nodes = collections.tree_of(connection, [name])
        if roots[0].kind == "CALIBRATION":
            raise UsageError(
                f"{name!r} is a CALIBRATION collection: its products have their ranges already.",
                "Certify from the RUN in which they were built.",
            )
        places = [node for node in _searched(roots[0], nodes, search_all)]
        found: dict[tuple[str, DataId], DatasetRow] = {}
        for node in places:
            query = select_datasets().where(members(node), _DATASET.dataset_type == dataset_type)
            for row in connection.execute(query.order_by(_DATASET.detector)):
                dataset = dataset_row(row, node.name)
                found.setdefault(key_of(dataset), dataset)
        if not found:
            raise self._nothing(connection, roots[0], nodes, places, dataset_type)
        rows = list(found.values())
        if chosen is not None:
            ids = {row.id for row in rows}
            strange = next((identity for identity in chosen if identity not in ids), None)
            if strange is not None:
                raise UnknownNameError(
                    f"{name!r} holds no {dataset_type} with id {strange}.",
                    f"It holds {', '.join(sorted(ids)[:6])}.",
                )
            rows = [row for row in rows if row.id in set(chosen)]
        if not all(row.is_calibration for row in rows):
            raise CertificationRefused(
                f"{dataset_type} in {name!r} is not a calibration.",
                "Only calibrations have validity ranges.",
            )
        return rows

    def _nothing(
        self,
        connection: Connection,
        root: Node,
        nodes: Mapping[int, Node],
        places: Sequence[Node],
        dataset_type: str,
    ) -> NothingMatched:
        """Say what the inputs do hold, and which other children have the type."""

        def types(node: Node) -> dict[str, int]:
            kind = _DATASET.dataset_type
            query = sa.select(kind, sa.func.count()).where(members(node)).group_by(kind)
            return {str(name): int(count) for name, count in connection.execute(query)}

        held = {place.name: types(place) for place in places}
        what = "; ".join(
            f"{name!r} holds "
            + (", ".join(f"{kind} ({n})" for kind, n in sorted(kinds.items())) or "no products")
            for name, kinds in held.items()
        )
        others = [
            node.name
            for node in _searched(root, nodes, search_all=True)
            if node.name not in held and dataset_type in types(node)
        ]
        hint = "Name the run that built it."
        if others:
            hint = f"It is in {', '.join(others)}: name that, or use --search-all-inputs."
        return NothingMatched(
            f"There is no {dataset_type} to certify in {root.name!r}: {what or 'it is empty'}.",
            hint,
        )

    def _overlapping(
        self, connection: Connection, owner: int, dataset_type: str, span: tuple[int, int]
    ) -> list[_Old]:
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
            _Old(
                id=row.id,
                dataset=row.dataset_id,
                data_id=DataId(row.instrument, row.detector, row.physical_filter),
                dataset_type=row.dataset_type,
                begin=row.begin,
                end=row.end,
            )
            for row in connection.execute(query)
        ]


class _Old(msgspec.Struct, frozen=True):
    """A stored range."""

    id: int
    dataset: str
    data_id: DataId
    dataset_type: str
    begin: int
    end: int


class _Cut:
    """Takes spans out of stored ranges: what goes, what is left, and how to say it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._gone: list[int] = []
        self._left: list[dict[str, Any]] = []

    def take(self, old: _Old, span: tuple[int, int]) -> None:
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


class _Plan:
    """What a certification will do, found out before anything is written."""

    def __init__(
        self,
        chosen: Sequence[DatasetRow],
        span: tuple[int, int],
        output: str,
        *,
        replace: bool,
        truncate: bool,
    ) -> None:
        self.certified = list(chosen)
        self.unchanged: list[DatasetRow] = []
        self._span = span
        self._output = output
        self._replace = replace
        self._truncate = truncate
        self._cut = _Cut()
        self._conflicts: list[tuple[DatasetRow, _Old]] = []

    @property
    def changes(self) -> list[Change]:
        """What gives way, then what is added."""
        added = [
            Change(
                action="added",
                dataset=row.id,
                data_id=row.data_id,
                before=None,
                after=(from_stored(*self._span),),
            )
            for row in self.certified
        ]
        return self._cut.changes + added

    def compare(self, stored: Sequence[_Old]) -> None:
        """Sort the stored ranges that overlap into: the same, to give way, in conflict."""
        by_id = {row.data_id: row for row in self.certified}
        for old in stored:
            row = by_id.get(old.data_id)
            if row is None:
                continue
            if old.dataset == row.id and (old.begin, old.end) == self._span:
                self.unchanged.append(row)
            elif self._replace:
                self._cut.take(old, self._span)
            elif self._truncate and old.begin < self._span[0]:
                self._cut.take(old, (self._span[0], schema.FOREVER))
            else:
                self._conflicts.append((row, old))
        same = {row.id for row in self.unchanged}
        self.certified = [row for row in self.certified if row.id not in same]

    def refuse_conflicts(self, inputs: str, begin: int | None, end: int | None) -> None:
        """Raise if a stored range stands in the way."""
        if not self._conflicts:
            return
        row, old = self._conflicts[0]
        more = len(self._conflicts) - 1
        also = f" So do {more} more ranges." if more else ""
        options = "".join(
            f" {name} {format_time(value)}"
            for name, value in (("--begin-date", begin), ("--end-date", end))
            if value is not None
        )
        again = f"cpplug certify {inputs} {self._output} {row.dataset_type}{options}"
        raise CertificationConflict(
            f"{row.dataset_type} {row.id} of {row.data_id} cannot be valid "
            f"{range_text(begin, end)} in {self._output}: it overlaps {old.dataset}, valid there "
            f"{range_text(*from_stored(old.begin, old.end))}.{also}",
            f"To end the older one at the new begin: {again} --truncate. "
            f"To put the new one in its place: {again} --replace.",
        )

    def write(self, connection: Connection, owner: int) -> None:
        """Carry it out."""
        self._cut.write(connection, owner)
        begin, end = self._span
        connection.execute(
            sa.insert(_TABLE),
            [{**link(owner, row), "begin": begin, "end": end} for row in self.certified],
        )


def _searched(root: Node, nodes: Mapping[int, Node], search_all: bool) -> list[Node]:
    """Return the RUN and TAGGED collections of a certification's input, in order."""
    if root.kind != "CHAINED":
        return [root] if root.kind != "CALIBRATION" else []
    children = [nodes[child] for child in root.children]
    if not search_all:
        children = children[:1]
    found = [node for child in children for node in _searched(child, nodes, search_all)]
    return list({node.id: node for node in found}.values())


def _flattened(connection: Connection, names: Sequence[str]) -> list[Node]:
    return collections.flatten_nodes(connection, names)


def _note(
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
    cuts: dict[tuple[str, str], _Cut] = {}
    everything = (schema.NEVER, schema.FOREVER)
    for row in rows:
        data_id = DataId(row.instrument, row.detector, row.physical_filter)
        old = _Old(row.id, row.dataset_id, data_id, row.dataset_type, row.begin, row.end)
        cuts.setdefault((row.collection, row.dataset_type), _Cut()).take(old, everything)
    for (collection, dataset_type), cut in cuts.items():
        cut.write(connection, 0)
        _note(connection, action, collection, dataset_type, everything, cut.changes, {}, facts)
    return [(name, change) for (name, _), cut in cuts.items() for change in cut.changes]


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
