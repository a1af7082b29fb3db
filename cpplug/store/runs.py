"""What was run, what the checks found, and which failures are known and accepted.

Only the driver of a run writes here. Verdicts stay when a run is removed: they speak of a product
by its checksum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cpplug.api.errors import UnknownNameError, UsageError
from cpplug.api.times import now_tai
from cpplug.store import schema
from cpplug.store.base import StorePart
from cpplug.store.database import decode, encode
from cpplug.store.fields import check_fields
from cpplug.store.records import RunRecord, RunRow, VerificationRecord, WaiverRecord
from cpplug.store.where import compile_where

_CHECK_COLUMNS = tuple(
    column.name for column in schema.check.c if column.name not in {"id", "verify_run", "row"}
)
_TEXT = {column.name for column in schema.check.c if isinstance(column.type, sa.Text)}
_JSON = {"details", "summary", "counts"}


class RunStore(StorePart):
    """The part of a repository that keeps runs, checks, verifications and waivers."""

    def start_run(self, record: RunRecord) -> None:
        """Write down that a run begins; one of that name that did not end well is begun anew.

        Raises
        ------
        UsageError
            When a run of that name is done.
        """
        table = schema.run
        values = {name: getattr(record, name) for name in record.__struct_fields__}
        values |= {"details": encode(record.details), "summary": "{}", "status": "running"}
        with self._db.write() as connection:
            status = connection.execute(
                sa.select(table.c.status).where(table.c.run == record.run)
            ).scalar()
            if status == "done":
                raise UsageError(
                    f"The run {record.run!r} is done already.", "Give the new run another name."
                )
            connection.execute(sa.delete(table).where(table.c.run == record.run))
            connection.execute(sa.insert(table).values(**values))

    def finish_run(self, run: str, status: str, summary: Mapping[str, Any] | None = None) -> None:
        """Write down how a run ended: ``done``, ``failed`` or ``interrupted``."""
        table = schema.run
        values = {"status": status, "finished": now_tai(), "summary": encode(dict(summary or {}))}
        with self._db.write() as connection:
            result = connection.execute(sa.update(table).where(table.c.run == run).values(**values))
            if result.rowcount == 0:
                raise UnknownNameError(f"There is no run {run!r}.", "List them: cpplug query runs.")

    def runs(
        self,
        *,
        run: str | None = None,
        kind: str | None = None,
        calibration: str | None = None,
        instrument: str | None = None,
        status: str | None = None,
    ) -> list[RunRow]:
        """Return runs, oldest first, that fit whatever is given."""
        wanted = {
            "run": run, "kind": kind, "calibration": calibration, "instrument": instrument,
            "status": status,
        }  # fmt: skip
        return [RunRow(**facts) for facts in self._facts(schema.run, wanted, ("started", "run"))]

    def add_checks(self, verify_run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store the rows of a verification, all or none.

        Parameters
        ----------
        verify_run
            Name of the verification run.
        rows
            One mapping per check: ``product_sha256``, ``test``, ``detector`` and ``verdict`` are
            needed; the other fields of ``cpplug.api.Check`` become columns too, and whatever else
            there is comes back as it was given.

        Raises
        ------
        UsageError
            When a needed field is missing.
        """
        values = []
        for row in rows:
            for name in ("product_sha256", "test", "detector", "verdict"):
                if not row.get(name):
                    raise UsageError(f"A check without {name} cannot be stored.")
            columns = {name: row.get(name) for name in _CHECK_COLUMNS}
            columns |= {name: columns[name] or "" for name in columns.keys() & _TEXT}
            columns |= {name: None for name, value in columns.items() if value != value}  # NaN
            values.append({"verify_run": verify_run, **columns, "row": encode(dict(row))})
        if values:
            with self._db.write() as connection:
                connection.execute(sa.insert(schema.check), values)

    def checks(
        self,
        *,
        run: str | None = None,
        product_sha256: str | None = None,
        verdict: str | None = None,
        where: str = "",
        binds: Mapping[str, object] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return stored checks, in the order in which they were stored.

        Parameters
        ----------
        run, product_sha256, verdict
            Only these; default: all.
        where, binds
            Expression over the columns: ``test``, ``detector``, ``amplifier``, ``value`` ...
        limit
            How many at the most.

        Returns
        -------
        list of dict
            As given to :meth:`add_checks`, with ``verify_run``.
        """
        table = schema.check.c
        limits = {
            table.verify_run: run, table.product_sha256: product_sha256, table.verdict: verdict
        }  # fmt: skip
        clauses: list[Any] = [
            column == value for column, value in limits.items() if value is not None
        ]
        condition = compile_where(where, check_fields(), self._db.kind, binds)
        clauses += [term.clause for term in condition.terms]
        query = sa.select(table.verify_run, table.row).where(*clauses).order_by(table.id)
        with self._db.read() as connection:
            rows = connection.execute(query.limit(limit) if limit is not None else query)
            return [{"verify_run": name, **decode(text)} for name, text in rows]

    def add_verification(self, record: VerificationRecord) -> None:
        """Store the verdict on a product; a second one of the same run replaces the first."""
        table = schema.verification
        values = {name: getattr(record, name) for name in record.__struct_fields__}
        values |= {"counts": encode(record.counts), "details": encode(record.details)}
        same = [
            table.c[name] == values[name] for name in ("verify_run", "product_sha256", "dataset")
        ]
        with self._db.write() as connection:
            connection.execute(sa.delete(table).where(*same))
            connection.execute(sa.insert(table).values(**values))

    def verifications(
        self, product_sha256: str | None = None, *, run: str | None = None
    ) -> list[VerificationRecord]:
        """Return verdicts, oldest first: on one product, of one run, or all."""
        wanted = {"product_sha256": product_sha256, "verify_run": run}
        order = ("finished", "verify_run")
        return [VerificationRecord(**v) for v in self._facts(schema.verification, wanted, order)]

    def add_waiver(self, record: WaiverRecord) -> int:
        """Store a waiver and return its number.

        Raises
        ------
        UsageError
            When ticket, owner or reason is empty, or it expires before it begins.
        """
        for name in ("test", "dataset_type", "instrument", "ticket", "owner", "reason"):
            if not getattr(record, name).strip():
                raise UsageError(f"A waiver needs a {name}.", f"Give --{name.replace('_', '-')}.")
        if record.expires <= record.created:
            raise UsageError("The waiver expires before it begins.", "Give a later date.")
        names = (name for name in record.__struct_fields__ if name != "id")
        values = {name: getattr(record, name) for name in names}
        statement = sa.insert(schema.waiver).values(**values).returning(schema.waiver.c.id)
        with self._db.write() as connection:
            return int(connection.execute(statement).scalar_one())

    def waivers(
        self,
        *,
        instrument: str | None = None,
        dataset_type: str | None = None,
        test: str | None = None,
        at: int | None = None,
    ) -> list[WaiverRecord]:
        """Return waivers, oldest first; with ``at``, only those in force at that time."""
        wanted = {"instrument": instrument, "dataset_type": dataset_type, "test": test}
        found = [WaiverRecord(**facts) for facts in self._facts(schema.waiver, wanted, ("id",))]
        return [w for w in found if at is None or w.created <= at < w.expires]

    def _facts(
        self, table: sa.Table, wanted: Mapping[str, Any], order: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return the rows of a table that fit, with JSON columns read."""
        clauses = [table.c[name] == value for name, value in wanted.items() if value is not None]
        query = sa.select(table).where(*clauses).order_by(*(table.c[name] for name in order))
        with self._db.read() as connection:
            return [
                {k: decode(v) if k in _JSON else v for k, v in row.items()}
                for row in connection.execute(query).mappings()
            ]
