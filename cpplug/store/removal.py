"""Removing collections without losing what others rely on.

A RUN is not removed while one of its products is certified, or while a chain lists it, unless
that is asked for. Rows go first, in one transaction; files follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import CertificationRefused, RepositoryError, UsageError
from cpplug.store import collections, schema
from cpplug.store.base import StorePart
from cpplug.store.collections import from_stored
from cpplug.store.exposures import owned
from cpplug.store.ranges import remove_ranges
from cpplug.store.records import RemovedRun, range_text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


class RemovalStore(StorePart):
    """The part of a repository that removes collections."""

    def remove_collections(
        self,
        names: Sequence[str],
        *,
        from_parents: bool = False,
        who: str = "",
        command: str = "",
        reason: str = "",
    ) -> None:
        """Remove TAGGED, CALIBRATION and CHAINED collections; products and files stay.

        Parameters
        ----------
        names
            Their names.
        from_parents
            Also take them out of the chains that hold them.
        who, command, reason
            For the journal, when validity ranges go with a CALIBRATION collection.

        Raises
        ------
        UsageError
            When one is a RUN, or is part of a chain and ``from_parents`` was not given.
        """
        with self._db.write() as connection:
            nodes = [collections.one(connection, name) for name in dict.fromkeys(names)]
            for node in nodes:
                if node.kind == "RUN":
                    raise UsageError(
                        f"{node.name!r} is a RUN: it holds products.", "Use cpplug remove-run."
                    )
                if node.kind == "CHAINED":
                    collections.set_children(connection, node.id, ())
            for node in nodes:
                self._leave_chains(connection, node, from_parents, "--remove-from-parents")
            facts = {"who": who, "command": command, "reason": reason}
            for node in nodes:
                table = schema.validity.c
                rows = connection.execute(_ranges().where(table.collection_id == node.id)).all()
                remove_ranges(connection, rows, "remove-collection", facts)
                tagged = schema.tag.c.collection_id == node.id
                connection.execute(sa.delete(schema.tag).where(tagged))
                _drop(connection, node.id)

    def remove_run(
        self,
        name: str,
        *,
        decertify: bool = False,
        unlink: bool = False,
        delete_raws: bool = False,
        who: str = "",
        command: str = "",
        reason: str = "",
    ) -> RemovedRun:
        """Remove a RUN with its products and their files.

        Raw frames registered in it are forgotten; their files are deleted only where they lie in
        the repository. The run's own folder of logs and the verdicts on its products stay.

        Parameters
        ----------
        name
            The RUN.
        decertify
            Also remove the validity ranges of its products.
        unlink
            Also take it out of the chains that hold it.
        delete_raws
            Also delete raw frames of which the repository has the file.
        who, command, reason
            For the journal, when validity ranges go.

        Raises
        ------
        CertificationRefused
            When a product is certified and ``decertify`` was not given.
        UsageError
            When it is not a RUN, or is part of a chain and ``unlink`` was not given.
        RepositoryError
            When it is removed, but some of its files could not be deleted.
        """
        dataset, raw = schema.dataset, schema.raw
        with self._db.write() as connection:
            node = collections.one(connection, name)
            if node.kind != "RUN":
                raise UsageError(
                    f"{name!r} is {node.kind}, not a RUN.",
                    f"See what it holds: cpplug collections {name}.",
                )
            ours = sa.select(dataset.c.id).where(dataset.c.run_id == node.id)
            ranges = connection.execute(
                _ranges().where(schema.validity.c.dataset_id.in_(ours))
            ).all()
            if ranges and not decertify:
                raise _certified(name, ranges)
            self._leave_chains(connection, node, unlink, "--unlink")
            facts = {"who": who, "command": command, "reason": reason}
            changes = remove_ranges(connection, ranges, "remove-run", facts)
            connection.execute(sa.delete(schema.tag).where(schema.tag.c.dataset_id.in_(ours)))
            products = connection.execute(
                sa.select(dataset.c.id, dataset.c.path).where(dataset.c.run_id == node.id)
            ).all()
            connection.execute(sa.delete(dataset).where(dataset.c.run_id == node.id))
            frames = connection.execute(
                sa.select(raw.c.path).where(raw.c.run_id == node.id)
            ).scalars().all()  # fmt: skip
            kept = sum(owned(p) and not (self.root / p).is_symlink() for p in frames)
            if kept and not delete_raws:
                raise UsageError(
                    f"{name!r} holds {kept} raw frames whose files lie in the repository.",
                    "They may be the only copies; give --delete-raws to delete them too.",
                )
            connection.execute(sa.delete(raw).where(raw.c.run_id == node.id))
            n_exposures = _forget_empty_exposures(connection) if frames else 0
            connection.execute(
                sa.update(schema.run).where(schema.run.c.run == name).values(status="removed")
            )
            _drop(connection, node.id)
            paths = {path for path in frames if owned(path)}
            others = sa.select(raw.c.path).where(self._db.any_of(raw.c.path, paths))
            shared = set(connection.execute(others).scalars())
        files = [row.path for row in products] + sorted(paths - shared)
        deleted = self._delete(name, files)
        return RemovedRun(
            run=name,
            datasets=tuple(row.id for row in products),
            n_raws=len(frames),
            n_exposures=n_exposures,
            files=tuple(deleted),
            changes=tuple(changes),
        )

    def _leave_chains(
        self, connection: Connection, node: collections.Node, allowed: bool, option: str
    ) -> None:
        parents = collections.parents(connection, [node.id])
        if parents and not allowed:
            raise UsageError(
                f"{node.name!r} is part of {', '.join(repr(parent) for parent in parents)}.",
                f"Give {option} to take it out of there too.",
            )
        collections.unlink(connection, node.id)

    def _delete(self, run: str, paths: Sequence[str]) -> list[Path]:
        """Delete files of the repository and the folders that they leave empty."""
        deleted, failed = [], []
        for path in paths:
            file = self.root / path
            try:
                file.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.append(f"{file} ({error.strerror})")
                continue
            deleted.append(file)
            for folder in file.parents:
                if self.root in {folder, folder.parent}:
                    break
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        if failed:
            raise RepositoryError(
                f"The run {run!r} is removed, but {len(failed)} of its files could not be deleted: "
                f"{', '.join(failed[:3])}.",
                "Delete them by hand.",
            )
        return deleted


def _ranges() -> sa.Select[Any]:
    """Return the query of validity ranges with the names of their collections."""
    table = schema.validity
    return (
        sa.select(table, schema.collection.c.name.label("collection"))
        .join(schema.collection, schema.collection.c.id == table.c.collection_id)
        .order_by(table.c.dataset_type, table.c.instrument, table.c.detector, table.c.begin)
    )


def _drop(connection: Connection, identity: int) -> None:
    connection.execute(sa.delete(schema.collection).where(schema.collection.c.id == identity))


def _certified(name: str, ranges: Sequence[Any]) -> CertificationRefused:
    listed = "; ".join(
        f"{row.dataset_type} {row.dataset_id} of {row.instrument} detector {row.detector} in "
        f"{row.collection} {range_text(*from_stored(row.begin, row.end))}"
        for row in ranges[:3]
    )
    more = f"; and {len(ranges) - 3} more" if len(ranges) > 3 else ""
    return CertificationRefused(
        f"The run {name!r} holds certified products: {listed}{more}.",
        "Give --decertify to remove these ranges too; exposures then lose their calibration.",
    )


def _forget_empty_exposures(connection: Connection) -> int:
    """Delete exposures that have no raw frame any more."""
    exposure, raw = schema.exposure, schema.raw
    frame = sa.select(sa.literal(1)).where(
        raw.c.instrument == exposure.c.instrument, raw.c.exposure == exposure.c.exposure
    )
    result = connection.execute(sa.delete(exposure).where(~sa.exists(frame)))
    return int(result.rowcount)
