"""Raw exposures: registering them, selecting them, finding their files.

The same file again is ``present``; the same exposure with other facts, or other pixels for the
same exposure and detector, is a ``conflict`` that is reported and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import UnknownNameError, UsageError, nearest
from cpplug.api.instrument import ExposureInfo
from cpplug.api.times import format_time
from cpplug.store import collections, schema
from cpplug.store.base import StorePart
from cpplug.store.fields import FieldSet, exposure_fields
from cpplug.store.records import DetectorRow, IngestOutcome, RawFile, RawRecord
from cpplug.store.where import Clause, Condition, compile_where

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

# These may differ between the detectors of one exposure.
_PER_DETECTOR = {"detector_serial", "temperature"}
_PLAIN = tuple(name for name in ExposureInfo.__struct_fields__ if name != "binning")
_COMPARED = tuple(name for name in (*_PLAIN, "binning") if name not in _PER_DETECTOR)
_COLUMNS = [schema.exposure.c[name] for name in _PLAIN] + [
    schema.exposure.c.serial_binning,
    schema.exposure.c.parallel_binning,
]


class ExposureStore(StorePart):
    """The part of a repository that keeps instruments and raw exposures."""

    def register_instrument(self, name: str, detectors: Sequence[DetectorRow]) -> None:
        """Register an instrument and its detectors; a second time, update them."""
        with self._db.write() as connection:
            if name not in _instruments(connection):
                connection.execute(sa.insert(schema.instrument).values(name=name))
            table = schema.detector
            known = set(
                connection.execute(
                    sa.select(table.c.id).where(table.c.instrument == name)
                ).scalars()
            )
            for row in detectors:
                facts = {"name": row.name, "serial": row.serial}
                if row.id in known:
                    where = sa.and_(table.c.instrument == name, table.c.id == row.id)
                    connection.execute(sa.update(table).where(where).values(**facts))
                else:
                    key = {"instrument": name, "id": row.id}
                    connection.execute(sa.insert(table).values(**key, **facts))

    def instruments(self) -> list[str]:
        """Return the names of the registered instruments."""
        with self._db.read() as connection:
            return _instruments(connection)

    def detectors(self, instrument: str) -> list[DetectorRow]:
        """Return the detectors of a registered instrument, by id."""
        table = schema.detector
        query = sa.select(table).where(table.c.instrument == instrument).order_by(table.c.id)
        with self._db.read() as connection:
            _check_instrument(connection, instrument)
            return [DetectorRow(row.id, row.name, row.serial) for row in connection.execute(query)]

    def ingest(self, raws: Sequence[RawRecord], run: str) -> list[IngestOutcome]:
        """Register raw files in one transaction.

        Parameters
        ----------
        raws
            The files.
        run
            RUN collection that they belong to; made if missing.

        Returns
        -------
        list
            One outcome per file, in the same order. Nothing of a conflicting file is stored.

        Raises
        ------
        UnknownNameError
            When an instrument is not registered.
        UsageError
            When ``run`` is a collection of another kind.
        """
        with self._db.write() as connection:
            ledger = _Ledger(connection, self, raws)
            outcomes = [ledger.take(record) for record in raws]
            if ledger.new_raws:
                run_id = _raw_run(connection, run)
                for row in ledger.new_raws:
                    row["run_id"] = run_id
                if ledger.new_exposures:
                    connection.execute(sa.insert(schema.exposure), ledger.new_exposures)
                connection.execute(sa.insert(schema.raw), ledger.new_raws)
        return outcomes

    def exposures(
        self,
        where: str = "",
        *,
        instrument: str | None = None,
        binds: Mapping[str, object] | None = None,
        order_by: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[ExposureInfo]:
        """Return the exposures that fit.

        Parameters
        ----------
        where
            Expression in the where language. ``detector`` asks for exposures that have a raw frame
            of that detector, by id or name.
        instrument
            Instrument to look at. Default: what ``where`` says, or the only one there is.
        binds
            Values for ``:name`` in the expression.
        order_by
            Fields; ``-`` in front reverses. Default: instrument and exposure id.
        limit
            How many at the most.

        Raises
        ------
        WhereSyntaxError
            When the expression cannot be read, or uses an id without an instrument.
        UnknownNameError
            For an unknown field in ``order_by``, or an instrument that is not registered.
        """
        fields = exposure_fields()
        order = [_order_column(name, fields) for name in order_by]
        with self._db.read() as connection:
            condition = self._selection(connection, where, instrument, binds, fields)
            query = sa.select(*_COLUMNS).where(*_conditions(condition, instrument))
            query = query.order_by(*order, schema.exposure.c.instrument, schema.exposure.c.exposure)
            if limit is not None:
                query = query.limit(limit)
            return [_info(row) for row in connection.execute(query)]

    def count_exposures(
        self,
        where: str = "",
        *,
        instrument: str | None = None,
        binds: Mapping[str, object] | None = None,
    ) -> int:
        """Count the exposures that fit; see :meth:`exposures`."""
        with self._db.read() as connection:
            condition = self._selection(connection, where, instrument, binds, exposure_fields())
            return _count(connection, _conditions(condition, instrument))

    def explain_empty(
        self,
        where: str,
        *,
        instrument: str | None = None,
        binds: Mapping[str, object] | None = None,
    ) -> str:
        """Say which AND term of a selection removed all exposures.

        Returns
        -------
        str
            A few lines: how many exposures are left after each term, and, for the one that took
            the last, how many fit it alone and which value may have been meant.
        """
        fields = exposure_fields()
        with self._db.read() as connection:
            condition = self._selection(connection, where, instrument, binds, fields)
            base = Condition((), None)
            total = _count(connection, _conditions(base, instrument))
            of = f" of {instrument}" if instrument else ""
            if total == 0:
                return f"The repository holds no exposures{of}. Register some: cpplug ingest."
            lines = [f"{total} exposures{of} in the repository"]
            width = len(str(total))
            for number, term in enumerate(condition.terms, 1):
                part = Condition(condition.terms[:number])
                left = _count(connection, _conditions(part, instrument))
                lines.append(f"  {left:>{width}} left after {_shortened(term.text)}")
                if left == 0:
                    alone = _count(connection, _conditions(Condition((term,)), instrument))
                    lines[-1] += f"   <- removed all (alone it fits {alone})"
                    hint = _meant(connection, term.equals, fields) if alone == 0 else ""
                    return "\n".join([*lines, hint] if hint else lines)
            return "\n".join(lines)

    def raw_runs(self, instrument: str) -> frozenset[str]:
        """Return the RUN collections that hold raw frames of an instrument."""
        raw, run = schema.raw.c, schema.collection.c
        held = sa.exists().where(raw.run_id == run.id, raw.instrument == instrument)
        with self._db.read() as connection:
            return frozenset(connection.execute(sa.select(run.name).where(held)).scalars())

    def raw_paths(
        self,
        instrument: str,
        detector: int,
        exposures: Sequence[int],
        runs: Collection[str] | None = None,
    ) -> dict[int, RawFile]:
        """Return the raw files of exposures of one detector; those without one are left out.

        With ``runs`` only files in these RUN collections count.
        """
        raw, run = schema.raw.c, schema.collection.c
        query = sa.select(raw.exposure, raw.path, raw.sha256, raw.size).where(
            raw.instrument == instrument,
            raw.detector == detector,
            self._db.any_of(raw.exposure, exposures),
        )
        if runs is not None:
            wanted = sa.select(run.id).where(self._db.any_of(run.name, runs))
            query = query.where(raw.run_id.in_(wanted))
        with self._db.read() as connection:
            return {
                row.exposure: RawFile(self.root / row.path, row.sha256, row.size)
                for row in connection.execute(query)
            }

    def _selection(
        self,
        connection: Connection,
        where: str,
        instrument: str | None,
        binds: Mapping[str, object] | None,
        fields: FieldSet,
    ) -> Condition:
        if instrument is not None:
            _check_instrument(connection, instrument)
        condition = compile_where(where, fields, self._db.kind, binds)
        # With one instrument registered, ids can only mean that one's.
        needed = instrument is None and condition.needs_instrument is not None
        if needed and len(_instruments(connection)) > 1:
            assert condition.needs_instrument is not None
            raise condition.needs_instrument
        return condition


class _Ledger:
    """Compares raw files with what is registered, and with each other."""

    def __init__(
        self, connection: Connection, store: ExposureStore, raws: Sequence[RawRecord]
    ) -> None:
        self.new_exposures: list[dict[str, Any]] = []
        self.new_raws: list[dict[str, Any]] = []
        self._known: dict[tuple[str, int], ExposureInfo] = {}
        self._files: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._detectors: dict[str, set[int]] = {}
        ids: dict[str, list[int]] = {}
        for record in raws:
            ids.setdefault(record.info.instrument, []).append(record.info.exposure)
        exposure, raw, db = schema.exposure.c, schema.raw.c, store._db
        for name, numbers in ids.items():
            _check_instrument(connection, name)
            detectors = sa.select(schema.detector.c.id).where(schema.detector.c.instrument == name)
            self._detectors[name] = set(connection.execute(detectors).scalars())
            known = sa.select(*_COLUMNS).where(
                exposure.instrument == name, db.any_of(exposure.exposure, numbers)
            )
            for row in connection.execute(known):
                self._known[name, row.exposure] = _info(row)
            files = sa.select(raw.exposure, raw.detector, raw.sha256, raw.path).where(
                raw.instrument == name, db.any_of(raw.exposure, numbers)
            )
            for row in connection.execute(files):
                self._files[name, row.exposure, row.detector] = (row.sha256, row.path)

    def take(self, record: RawRecord) -> IngestOutcome:
        """Decide on one file and keep what is to be inserted."""
        info = record.info
        name, number = info.instrument, info.exposure

        def outcome(status: Any, reason: str = "") -> IngestOutcome:
            return IngestOutcome(path=record.path, exposure=number, status=status, reason=reason)

        strange = [d for d in record.detectors if d not in self._detectors[name]]
        if strange or not record.detectors:
            what = (
                f"has no detector {strange[0]}" if strange else "must have a detector in the file"
            )
            return outcome("conflict", f"{name} {what}")
        known = self._known.get((name, number))
        if known is not None and (reason := _differences(known, info)):
            return outcome(
                "conflict", f"exposure {number} is registered with other facts: {reason}"
            )
        new = []
        for detector in record.detectors:
            registered = self._files.get((name, number, detector))
            if registered is None:
                new.append(detector)
            elif registered[0] != record.sha256:
                return outcome(
                    "conflict",
                    f"exposure {number} of detector {detector} is registered with another file, "
                    f"{registered[1]} (sha256 {registered[0][:12]}, here {record.sha256[:12]})",
                )
        if not new:
            return outcome("present")
        if known is None:
            self._known[name, number] = info
            self.new_exposures.append(_values(info))
        for detector in new:
            self._files[name, number, detector] = (record.sha256, record.path)
            self.new_raws.append(
                {
                    "instrument": name, "exposure": number, "detector": detector,
                    "path": record.path, "sha256": record.sha256, "size": record.size,
                }
            )  # fmt: skip
        return outcome("ingested")


def _differences(known: ExposureInfo, given: ExposureInfo) -> str:
    """Return the facts in which two records of one exposure differ, with both values."""

    def shown(info: ExposureInfo, name: str) -> str:
        value = getattr(info, name)
        return f"{format_time(value)} TAI" if name in {"begin", "end"} else repr(value)

    return ", ".join(
        f"{name} is {shown(known, name)}, here {shown(given, name)}"
        for name in _COMPARED
        if getattr(known, name) != getattr(given, name)
    )


def _values(info: ExposureInfo) -> dict[str, Any]:
    values = {name: getattr(info, name) for name in _PLAIN}
    values["serial_binning"], values["parallel_binning"] = info.binning
    return values


def _info(row: Any) -> ExposureInfo:
    *plain, serial, parallel = row
    return ExposureInfo(binning=(serial, parallel), **dict(zip(_PLAIN, plain, strict=True)))


def _raw_run(connection: Connection, run: str) -> int:
    if not collections.exists(connection, run):
        return collections.make(connection, run, "RUN", "raw frames")
    node = collections.one(connection, run)
    if node.kind != "RUN":
        raise UsageError(
            f"Raw frames belong in a RUN collection, and {run!r} is {node.kind}.",
            "Name another one.",
        )
    return node.id


def _instruments(connection: Connection) -> list[str]:
    query = sa.select(schema.instrument.c.name).order_by(schema.instrument.c.name)
    return [str(name) for name in connection.execute(query).scalars()]


def _check_instrument(connection: Connection, name: str) -> None:
    known = _instruments(connection)
    if name not in known:
        raise UnknownNameError(
            f"The instrument {name!r} is not registered in this repository.",
            nearest(name, known) or "Ingest raw frames of it first.",
        )


def _conditions(condition: Condition, instrument: str | None) -> list[Clause]:
    """Return SQL conditions; terms about detectors are asked of the raw frames, all of one."""
    exposure, raw, detector = schema.exposure.c, schema.raw, schema.detector
    clauses: list[Clause] = []
    if instrument is not None:
        clauses.append(exposure.instrument == instrument)
    of_raw = [term.clause for term in condition.terms if _speaks_of_raw(term.uses)]
    clauses += [term.clause for term in condition.terms if not _speaks_of_raw(term.uses)]
    if of_raw:
        named = sa.and_(detector.c.instrument == raw.c.instrument, detector.c.id == raw.c.detector)
        frames = (
            sa.select(sa.literal(1))
            .select_from(raw.join(detector, named))
            .where(
                raw.c.instrument == exposure.instrument,
                raw.c.exposure == exposure.exposure,
                *of_raw,
            )
            .correlate(schema.exposure)
        )
        clauses.append(sa.exists(frames))
    return clauses


def _speaks_of_raw(names: frozenset[str]) -> bool:
    return any(name.split(".")[0] == "detector" for name in names)


def _count(connection: Connection, clauses: list[Clause]) -> int:
    query = sa.select(sa.func.count()).select_from(schema.exposure).where(*clauses)
    return int(connection.execute(query).scalar_one())


def _order_column(name: str, fields: FieldSet) -> sa.ColumnElement[Any]:
    plain = name.removeprefix("-")
    found = fields.resolve(plain)
    if found is None or found[1].of_raw:
        known = [key for key in fields.known(plain) if not key.startswith("detector")]
        raise UnknownNameError(
            f"Exposures cannot be ordered by {plain!r}.",
            nearest(plain, known) or f"Known: {', '.join(sorted(known))}.",
        )
    return found[1].column.desc() if name.startswith("-") else found[1].column.asc()


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:80]} ... {text[-15:]}"


def _meant(connection: Connection, equals: tuple[str, str] | None, fields: FieldSet) -> str:
    """Suggest the values a field does have, for ``field = 'text'`` that fits nothing."""
    if equals is None:
        return ""
    found = fields.resolve(equals[0])
    if found is None or found[1].kind != "str" or found[1].of_raw:
        return ""
    values = connection.execute(sa.select(found[1].column).distinct().limit(500)).scalars()
    return nearest(equals[1], [str(value) for value in values])


def owned(path: str) -> bool:
    """Tell whether a registered path is the repository's own file."""
    return not Path(path).is_absolute()
