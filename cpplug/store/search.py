"""Which calibration belongs to an exposure, and why.

Collections are searched in order, chains depth first. Products in RUN and TAGGED collections fit
at any time, those in CALIBRATION collections within their range. The first collection that has a
fitting product decides; two different ones there are an error, even if a later collection would
be clear.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from msgspec import Struct

from cpplug.api.errors import CalibrationAmbiguous, CalibrationMissing
from cpplug.api.times import format_time
from cpplug.store import schema
from cpplug.store.base import StorePart
from cpplug.store.collections import Node, flatten_nodes, from_stored, to_stored
from cpplug.store.datasets import COLUMNS, dataset_row, select_datasets
from cpplug.store.records import DataId, DatasetRow, Found, Range, SearchStep, range_text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from cpplug.store.database import Database

At = int | Range | None
"""An instant, a span, or None for all time."""

Outcome = Found | CalibrationMissing | CalibrationAmbiguous
"""What a search ends in; errors are returned so that many searches can share their queries."""


class _Candidate(Struct, frozen=True):
    """A product in a collection, with its stored range."""

    dataset: DatasetRow
    begin: int
    end: int


_Shelf = dict[DataId, list[_Candidate]]
"""What one collection holds, by data id, in order of begin."""


class SearchStore(StorePart):
    """The part of a repository that finds calibrations."""

    def find(
        self,
        dataset_type: str,
        data_id: DataId,
        collections: Sequence[str],
        at: At,
        *,
        explain: bool = False,
    ) -> Found:
        """Find the calibration of a detector (and filter) at a time.

        Parameters
        ----------
        dataset_type
            Its type.
        data_id
            What it is needed for. A product without a physical filter serves every filter.
        collections
            Where to look, in order.
        at
            TAI nanoseconds of the middle of the exposure; a span ``(begin, end)``; or None for all
            time, as a combination without a date needs it.
        explain
            Let the trace also say when products that were passed over are valid. The trace of an
            error always does.

        Raises
        ------
        CalibrationMissing
            With what was seen in each collection.
        CalibrationAmbiguous
            When two products fit in the first collection that has any.
        """
        wanted = [(data_id, at)]
        result = (self._explained if explain else self.find_many)(dataset_type, wanted, collections)
        if isinstance(result[0], Found):
            return result[0]
        raise result[0]

    def find_many(
        self, dataset_type: str, wanted: Sequence[tuple[DataId, At]], collections: Sequence[str]
    ) -> list[Outcome]:
        """Find many calibrations of one type in one go; see :meth:`find`.

        Returns
        -------
        list
            For each wanted one what was found, or the error that :meth:`find` would raise.
        """
        if not wanted:
            return []
        with self._db.read() as connection:
            nodes = flatten_nodes(connection, collections)
            span = _hull([at for _, at in wanted])
            shelves = self._shelves(connection, dataset_type, wanted, nodes, span)
        results = [
            _search(dataset_type, data_id, at, nodes, shelves, all_ranges=False)
            for data_id, at in wanted
        ]
        missing = [n for n, result in enumerate(results) if isinstance(result, CalibrationMissing)]
        again = self._explained(dataset_type, [wanted[n] for n in missing], collections)
        for number, result in zip(missing, again, strict=True):
            results[number] = result
        return results

    def _explained(
        self, dataset_type: str, wanted: Sequence[tuple[DataId, At]], collections: Sequence[str]
    ) -> list[Outcome]:
        """Find with all ranges at hand, also those that do not fit."""
        if not wanted:
            return []
        with self._db.read() as connection:
            nodes = flatten_nodes(connection, collections)
            shelves = self._shelves(connection, dataset_type, wanted, nodes, (None, None))
        return [
            _search(dataset_type, data_id, at, nodes, shelves, all_ranges=True)
            for data_id, at in wanted
        ]

    def _shelves(
        self,
        connection: Connection,
        dataset_type: str,
        wanted: Sequence[tuple[DataId, At]],
        nodes: Sequence[Node],
        span: Range,
    ) -> dict[int, _Shelf]:
        """Read the products for the wanted detectors that are valid in a span, by collection."""
        table = schema.dataset.c
        data_ids = [data_id for data_id, _ in wanted]
        clauses = [
            table.dataset_type == dataset_type,
            _among(self._db, table.instrument, {data_id.instrument for data_id in data_ids}),
            _among(self._db, table.detector, {data_id.detector for data_id in data_ids}),
        ]
        shelves: dict[int, _Shelf] = {node.id: {} for node in nodes}
        names = {node.id: node.name for node in nodes}
        for kind in ("RUN", "TAGGED", "CALIBRATION"):
            ids = [node.id for node in nodes if node.kind == kind]
            if not ids:
                continue
            query, owner = _members(kind, span)
            for row in connection.execute(query.where(*clauses, _among(self._db, owner, ids))):
                collection, first, last = row[len(COLUMNS) :]
                dataset = dataset_row(row, names[collection])
                shelf = shelves[collection].setdefault(dataset.data_id, [])
                shelf.append(_Candidate(dataset, first, last))
        for shelves_of_one in shelves.values():
            for shelf in shelves_of_one.values():
                shelf.sort(key=_begin)
        return shelves


def _members(kind: str, span: Range) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    """Return the query of datasets with their collection and range, and the collection's column."""
    table = schema.dataset.c
    never, forever = sa.literal(schema.NEVER), sa.literal(schema.FOREVER)
    if kind == "RUN":
        return select_datasets(table.run_id, never, forever), table.run_id
    if kind == "TAGGED":
        tag = schema.tag.c
        query = select_datasets(tag.collection_id, never, forever)
        return query.join(schema.tag, tag.dataset_id == table.id), tag.collection_id
    validity = schema.validity.c
    query = select_datasets(validity.collection_id, validity.begin, validity.end)
    query = query.join(schema.validity, validity.dataset_id == table.id)
    begin, end = to_stored(*span)
    return query.where(validity.begin < end, validity.end > begin), validity.collection_id


def _hull(times: Sequence[At]) -> Range:
    """Return the span that holds all wanted times."""
    ends = [(at, at + 1) if isinstance(at, int) else at or (None, None) for at in times]
    begins, lasts = [begin for begin, _ in ends], [end for _, end in ends]
    return (
        None if None in begins else min(begin for begin in begins if begin is not None),
        None if None in lasts else max(end for end in lasts if end is not None),
    )


def _begin(candidate: _Candidate) -> int:
    return candidate.begin


def _among(
    db: Database, column: sa.ColumnElement[Any], values: Iterable[Any]
) -> sa.ColumnElement[bool]:
    listed = sorted(values)
    return column == listed[0] if len(listed) == 1 else db.any_of(column, listed)


def _search(
    dataset_type: str,
    data_id: DataId,
    at: At,
    nodes: Sequence[Node],
    shelves: dict[int, _Shelf],
    *,
    all_ranges: bool,
) -> Outcome:
    """Go through the collections; ``all_ranges`` tells whether shelves hold what does not fit."""
    trace: list[SearchStep] = []
    data_ids = [data_id]
    if data_id.physical_filter:
        data_ids.append(DataId(data_id.instrument, data_id.detector))
    for node in nodes:
        shelf = [part for key in data_ids if (part := shelves[node.id].get(key))]
        fitting = [candidate for part in shelf for candidate in _fitting(part, at)]
        if not fitting:
            outcome = _not_here(dataset_type, data_id, [c for part in shelf for c in part])
            outcome += "" if all_ranges or node.kind != "CALIBRATION" else " that is valid then"
            trace.append(SearchStep(collection=node.name, kind=node.kind, outcome=outcome))
            continue
        first = fitting[0]
        begin, end = from_stored(first.begin, first.end)
        if any(other.dataset.id != first.dataset.id for other in fitting[1:]):
            return _ambiguous(dataset_type, data_id, at, node, fitting)
        outcome = f"{dataset_type} {first.dataset.id} of run {first.dataset.run}"
        outcome += (
            ", at any time" if node.kind != "CALIBRATION" else f", valid {range_text(begin, end)}"
        )
        trace.append(SearchStep(collection=node.name, kind=node.kind, outcome=outcome))
        return Found(
            dataset=first.dataset, collection=node.name, begin=begin, end=end, trace=tuple(trace)
        )
    return _missing(dataset_type, data_id, at, trace)


def _fitting(shelf: Sequence[_Candidate], at: At) -> Sequence[_Candidate]:
    """Return what fits; the ranges on one shelf do not overlap."""
    if isinstance(at, int):
        index = bisect.bisect_right(shelf, at, key=_begin) - 1
        return shelf[index : index + 1] if index >= 0 and at < shelf[index].end else ()
    begin, end = to_stored(*(at or (None, None)))
    return [candidate for candidate in shelf if candidate.begin < end and begin < candidate.end]


def _not_here(dataset_type: str, data_id: DataId, shelf: Sequence[_Candidate]) -> str:
    if not shelf:
        return f"no {dataset_type} for {data_id}"
    ranges = sorted((candidate.begin, candidate.end) for candidate in shelf)
    shown = [range_text(*from_stored(*limits)) for limits in ranges]
    if len(shown) > 4:
        shown = [*shown[:2], f"{len(shown) - 3} more", shown[-1]]
    return f"{dataset_type} for {data_id}, but valid only {', '.join(shown)}"


def _when(at: At) -> str:
    if at is None:
        return "for all time"
    return f"at {format_time(at)} TAI" if isinstance(at, int) else f"for {range_text(*at)}"


def _missing(
    dataset_type: str, data_id: DataId, at: At, trace: Sequence[SearchStep]
) -> CalibrationMissing:
    seen = "".join(f"\n  {step.collection} ({step.kind}): {step.outcome}" for step in trace)
    return CalibrationMissing(
        f"No {dataset_type} of {data_id} was found {_when(at)}."
        + (f" Searched:{seen}\n" if seen else " No collections were searched."),
        f"Build and certify one (cpplug run {dataset_type}), or name another collection with -i.",
    )


def _ambiguous(
    dataset_type: str, data_id: DataId, at: At, node: Node, fitting: Sequence[_Candidate]
) -> CalibrationAmbiguous:
    listed = "; ".join(
        f"{candidate.dataset.id} {range_text(*from_stored(candidate.begin, candidate.end))}"
        for candidate in sorted(fitting, key=lambda c: c.begin)[:4]
    )
    return CalibrationAmbiguous(
        f"{len(fitting)} {dataset_type} products of {data_id} fit {_when(at)} in "
        f"{node.name}: {listed}.",
        "Ask for one instant (--at TIME), or select exposures within one range.",
    )
