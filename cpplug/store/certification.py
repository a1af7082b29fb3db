"""Certification: saying from when until when a product is to be used.

Within one CALIBRATION collection the ranges of a type for one detector (and filter) never
overlap; they may touch. A certification happens for all its products or for none, and the journal
keeps who asked for it, why, and on what evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import (
    CertificationConflict,
    CertificationRefused,
    NothingMatched,
    UnknownNameError,
    UsageError,
)
from cpplug.api.times import format_time
from cpplug.store import collections, schema
from cpplug.store.base import StorePart
from cpplug.store.collections import Node, from_stored, to_stored
from cpplug.store.datasets import dataset_row, key_of, link, members, select_datasets
from cpplug.store.ranges import Cut, StoredRange, calibration_id, note, overlapping
from cpplug.store.records import (
    CertifyResult,
    Change,
    DataId,
    DatasetRow,
    check_range,
    range_text,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Gate = Callable[[Sequence[DatasetRow]], Mapping[str, Any]]
"""Looks at the products to be certified; raises to refuse, returns evidence for the journal."""
_TABLE = schema.validity
_DATASET = schema.dataset.c


class CertificationStore(StorePart):
    """The part of a repository that certifies."""

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
            known = calibration_id(connection, output)
            evidence = dict(gate(chosen)) if gate is not None else {}
            span = to_stored(begin, end)
            plan = _Plan(chosen, span, output, replace=replace, truncate=truncate)
            if known is not None:
                plan.compare(overlapping(connection, known, dataset_type, span))
            plan.refuse_conflicts(inputs, begin, end)
            if not dry_run and plan.certified:
                owner = known or collections.make(connection, output, "CALIBRATION")
                plan.write(connection, owner)
                facts = {"who": who, "command": command, "reason": reason}
                note(
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

    # ---- parts

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
        self._cut = Cut()
        self._conflicts: list[tuple[DatasetRow, StoredRange]] = []

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

    def compare(self, stored: Sequence[StoredRange]) -> None:
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
        also = f" {more} more ranges are in the way." if more else ""
        options = "".join(
            f" {name} {format_time(value)}"
            for name, value in (("--begin-date", begin), ("--end-date", end))
            if value is not None
        )
        again = f"cpplug certify {inputs} {self._output} {row.dataset_type}{options}"
        ways = f"To put the new one in its place: {again} --replace."
        if all(range_.begin < self._span[0] for _, range_ in self._conflicts):
            ways = f"To end the older one at the new begin: {again} --truncate. {ways}"
        raise CertificationConflict(
            f"{row.dataset_type} {row.id} of {row.data_id} cannot be valid "
            f"{range_text(begin, end)} in {self._output}: it overlaps {old.dataset}, valid there "
            f"{range_text(*from_stored(old.begin, old.end))}.{also}",
            ways,
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
