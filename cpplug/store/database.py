"""One way to the database, whichever it is: connections, transactions and errors in plain words.

SQLite runs in WAL mode, so that readers never wait, and every writing transaction starts with
``BEGIN IMMEDIATE``; on PostgreSQL every writing transaction first takes the registry's advisory
lock. Either way one writer works at a time, and what it checks stays true until it commits. Nobody
waits for the lock longer than the timeout.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Connection, make_url

from cpplug.api.errors import RepositoryError, UsageError

DEFAULT_TIMEOUT = 30.0
"""Seconds to wait for another writer."""
_LOCK_NOT_AVAILABLE = "55P03"
_WRITE = "cpplug_write"


class Database:
    """A registry's database.

    Parameters
    ----------
    url
        SQLAlchemy URL; ``sqlite:///`` or ``postgresql+psycopg://``.
    timeout
        Seconds to wait for the write lock.

    Raises
    ------
    UsageError
        When the URL is not one, or of another kind of database.
    RepositoryError
        When the driver is not installed.
    """

    def __init__(self, url: str | URL, timeout: float = DEFAULT_TIMEOUT) -> None:
        try:
            self.url = make_url(url)
        except exc.ArgumentError:
            raise UsageError(
                f"{str(url)!r} is not a database URL.",
                "Write postgresql+psycopg://user@host:5432/name.",
            ) from None
        self.kind = self.url.get_backend_name()
        if self.kind not in {"sqlite", "postgresql"}:
            raise UsageError(
                f"cpplug keeps no registry in {self.kind}.",
                "Use postgresql+psycopg://... or leave the registry out for SQLite.",
            )
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.timeout = timeout
        self._open_engine()

    def _open_engine(self) -> None:
        arguments: dict[str, Any] = {}
        if self.kind == "sqlite":
            # isolation_level=None: the driver starts no transaction by itself, we do.
            arguments = {"timeout": self.timeout, "isolation_level": None}
        try:
            self.engine = sa.create_engine(self.url, connect_args=arguments)
        except ModuleNotFoundError as error:
            raise RepositoryError(
                f"The PostgreSQL driver is not installed ({error.name}).",
                "Install it: pip install 'cpplug[postgres]'.",
            ) from None
        if self.kind == "sqlite":
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def place(self) -> str:
        """Where the registry is, without a password."""
        if self.kind == "sqlite":
            return str(self.url.database)
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads; it never waits for a writer."""
        with self._errors_in_words(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a writing transaction: all of it happens or nothing, and no other writer meanwhile.

        Raises
        ------
        RepositoryError
            When another writer kept the lock for longer than the timeout.
        """
        with self._errors_in_words(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                if self.kind == "postgresql":
                    milliseconds = max(1, round(self.timeout * 1000))
                    connection.execute(sa.text(f"SET LOCAL lock_timeout = {milliseconds:d}"))
                    connection.execute(_ADVISORY_LOCK, {"name": _LOCK_NAME})
                yield connection

    @contextlib.contextmanager
    def create(self) -> Iterator[Connection]:
        """Open the transaction that makes the tables."""
        with self._errors_in_words(), self.engine.connect() as plain:
            if self.kind == "sqlite":  # a property of the file, not possible in a transaction
                assert plain.connection.driver_connection is not None
                plain.connection.driver_connection.execute("PRAGMA journal_mode=WAL")
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._in_words(error) from error

    def _in_words(self, error: exc.DBAPIError) -> RepositoryError:
        """Say what a database error means for the user."""
        text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "unknown"
        code = getattr(error.orig, "sqlstate", None)
        if code == _LOCK_NOT_AVAILABLE or "locked" in text:
            return RepositoryError(
                f"The registry {self.place} is locked: another process has been writing for more "
                f"than {self.timeout:g} s.",
                "Try again; if no cpplug process is running, see who holds the file open.",
            )
        if isinstance(error.orig, sqlite3.DatabaseError) and "not a database" in text:
            return RepositoryError(
                f"{self.place} is not a cpplug registry.", "Restore it from a backup."
            )
        if "readonly" in text or "read-only" in text:
            return RepositoryError(
                f"The registry {self.place} cannot be written.", "Check the rights of its folder."
            )
        if "unable to open database file" in text:
            return RepositoryError(
                f"The registry {self.place} cannot be opened: its folder cannot be written.",
                "Check the rights of the folder and its disk; reading needs them, too.",
            )
        if "full" in text and self.kind == "sqlite":
            return RepositoryError(
                f"No space is left for the registry {self.place}.", "Free some and try again."
            )
        if isinstance(error, exc.OperationalError) and self.kind == "postgresql" and code is None:
            return RepositoryError(
                f"The registry {self.place} cannot be reached: {text}.",
                "Check that the server runs and that the address is right.",
            )
        return RepositoryError(
            f"The registry {self.place} refused an operation: {text.rstrip('.')}.",
            "See whether its disk is full, over a quota or failing; then try again.",
        )

    def any_of(
        self, column: sa.ColumnElement[Any], values: Collection[Any]
    ) -> sa.ColumnElement[Any]:
        """Return the condition "column is one of values", of any number, as one bound parameter.

        Parameters
        ----------
        column
            What to compare.
        values
            All int, all float or all str.
        """
        return any_of(self.kind, column, values)


def any_of(
    kind: str, column: sa.ColumnElement[Any], values: Collection[Any]
) -> sa.ColumnElement[Any]:
    """Return "column is one of values" for the database ``kind``; see :meth:`Database.any_of`."""
    listed = list(values)
    if not listed:
        return sa.false()
    if kind == "sqlite":
        text = msgspec.json.encode(listed).decode()
        table = sa.func.json_each(sa.literal(text, sa.Text)).table_valued("value")
        return column.in_(sa.select(table.c.value))
    member: sa.types.TypeEngine[Any] = sa.Text()
    if isinstance(listed[0], int | float):
        whole = all(isinstance(value, int) for value in listed)
        member = sa.BigInteger() if whole else sa.Double()
    return column == sa.any_(sa.literal(listed, postgresql.ARRAY(member)))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # WAL is a property of the file, set when it is created. NORMAL: a power cut may cost the last
    # transactions, never the database; a killed process costs nothing.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA cache_size=-32000")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(_WRITE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


_LOCK_NAME = 0x63707067
# The second key is the registry's own table, which the search path may put in any schema.
_ADVISORY_LOCK = sa.text(
    "SELECT pg_advisory_xact_lock(:name, CAST(CAST('collection' AS regclass) AS oid)::integer)"
)


def sqlite_url(path: Path) -> URL:
    """Return the URL of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def encode(value: object) -> str:
    """Return the JSON text of a value that is stored as such."""
    return msgspec.json.encode(value).decode()


def decode(text: str) -> Any:
    """Return the value of stored JSON text."""
    return msgspec.json.decode(text)
