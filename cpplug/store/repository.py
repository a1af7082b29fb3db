"""A repository: a folder with raw frames, products and logs, and the registry that knows them.

::

    <root>/cpplug-repository.toml   format, uuid, and where the registry is
    <root>/registry.sqlite3         the registry, unless it is a server
    <root>/raw/<run>/               raw frames that were copied in
    <root>/datasets/<run>/          products
    <root>/runs/<run>/              logs and ledgers of runs

``Repository`` is the whole interface between cpplug and its store. Another kind of repository is
one that offers the same methods: exposures (``ingest``, ``exposures``, ``count_exposures``,
``explain_empty``, ``raw_paths``, ``raw_runs``), instruments, collections (``make_run``,
``collections``, ``collection``, ``flatten``, ``chain``, ``tag``, ``untag``, ``remove_collections``,
``remove_run``), products (``add_datasets``, ``datasets``, ``dataset``, ``provenance``), validity
(``find``, ``find_many``, ``certify``, ``decertify``, ``validity``, ``journal``) and runs
(``start_run``, ``finish_run``, ``runs``, ``add_checks``, ``checks``, ``add_verification``,
``verifications``, ``add_waiver``, ``waivers``). All arguments and results are plain values or the
records of ``cpplug.store.records``; errors are those of ``cpplug.api.errors``. Only the driver of
a run calls the methods that write.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from cpplug.api.errors import RepositoryError
from cpplug.api.times import format_time, now_tai
from cpplug.store import schema
from cpplug.store.certification import CertificationStore
from cpplug.store.collections import CollectionStore
from cpplug.store.database import DEFAULT_TIMEOUT, Database, sqlite_url
from cpplug.store.datasets import DatasetStore
from cpplug.store.exposures import ExposureStore
from cpplug.store.removal import RemovalStore
from cpplug.store.runs import RunStore
from cpplug.store.search import SearchStore
from cpplug.store.validity import ValidityStore

FORMAT = 1
"""Version of the folder's layout."""
MARKER = "cpplug-repository.toml"
REGISTRY = "registry.sqlite3"


class Repository(
    ExposureStore,
    CollectionStore,
    DatasetStore,
    SearchStore,
    CertificationStore,
    ValidityStore,
    RemovalStore,
    RunStore,
):
    """An open repository; see the module for the list of methods.

    Attributes
    ----------
    root
        Its folder, absolute.
    uuid
        What tells it from all others.
    url
        Where its registry is, without a password.
    """

    uuid: str
    url: str

    def __init__(self, root: Path, database: Database, identity: str) -> None:
        self.root = root
        self._db = database
        self.uuid = identity
        self.url = database.url.render_as_string(hide_password=True)

    @classmethod
    def create(
        cls, root: Path, registry: str | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Self:
        """Make a new repository and open it.

        Parameters
        ----------
        root
            Its folder; made if missing.
        registry
            Database URL, such as ``postgresql+psycopg://user@host/name``. Default: an SQLite file
            in the folder.
        timeout
            Seconds to wait for another writer.

        Raises
        ------
        RepositoryError
            When there is a repository already, in the folder or at the URL, or when the folder or
            the database cannot be written.
        """
        root = Path(root).absolute()
        if (root / MARKER).exists():
            raise RepositoryError(f"{root} is a repository already.", "Use it, or name another.")
        if registry is None and (root / REGISTRY).exists():
            raise RepositoryError(
                f"{root} holds a registry but no {MARKER}.", "Restore that file, or name another."
            )
        identity = str(uuid.uuid4())
        try:
            root.mkdir(parents=True, exist_ok=True)
            if registry is None:
                _create_file(root, identity, timeout)
            else:
                database = Database(registry, timeout)
                registry = database.url.render_as_string(hide_password=False)
                try:
                    _create_tables(database, identity)
                finally:
                    database.close()
            _write_marker(root, identity, registry)
        except OSError as error:
            raise RepositoryError(
                f"No repository can be made in {root}: {error.strerror}.",
                "Check the rights of the folder and the space on its disk.",
            ) from error
        return cls.open(root, timeout=timeout)

    @classmethod
    def open(cls, root: Path, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Open a repository.

        Parameters
        ----------
        root
            Its folder.
        timeout
            Seconds to wait for another writer.

        Raises
        ------
        RepositoryError
            When it is missing, damaged, of another version, or cannot be reached.
        """
        root = Path(root).absolute()
        identity, url = _read_marker(root)
        if url is None and not (root / REGISTRY).exists():
            raise RepositoryError(
                f"The registry {root / REGISTRY} is missing.", "Restore it from a backup."
            )
        database = Database(sqlite_url(root / REGISTRY) if url is None else url, timeout)
        try:
            _check_tables(database, identity)
        except BaseException:
            database.close()
            raise
        return cls(root, database, identity)

    def close(self) -> None:
        """Give back the connections to the registry."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _create_file(root: Path, identity: str, timeout: float) -> None:
    """Make the SQLite registry: complete under another name first, so that it is never half."""
    handle, name = tempfile.mkstemp(dir=root, prefix=f".{REGISTRY}.")
    os.close(handle)
    part = Path(name)
    database = Database(sqlite_url(part), timeout)
    try:
        _create_tables(database, identity)
        database.close()  # leaves one file: the journal is written back
        part.chmod(0o666 & ~_umask())
        _put(part, root / REGISTRY)
    finally:
        database.close()
        for file in root.glob(f"{part.name}*"):
            file.unlink()


def _put(part: Path, place: Path) -> None:
    """Give a finished file its name, unless another process was quicker."""
    try:
        os.link(part, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        part.replace(place)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _create_tables(database: Database, identity: str) -> None:
    with database.create() as connection:
        if sa.inspect(connection).has_table(schema.info.name):
            raise RepositoryError(
                f"There is a registry at {database.place} already.",
                "Give another database, or another schema of it.",
            )
        schema.metadata.create_all(connection)
        facts = {
            "schema_version": str(schema.SCHEMA_VERSION),
            "uuid": identity,
            "created": format_time(now_tai(), "utc"),
        }
        connection.execute(
            sa.insert(schema.info), [{"key": key, "value": value} for key, value in facts.items()]
        )


def _check_tables(database: Database, identity: str) -> None:
    with database.read() as connection:
        if not sa.inspect(connection).has_table(schema.info.name):
            raise RepositoryError(
                f"{database.place} holds no cpplug registry.", "Make one: cpplug init."
            )
        facts = {row.key: row.value for row in connection.execute(sa.select(schema.info))}
    version = int(facts.get("schema_version", 0))
    if version > schema.SCHEMA_VERSION:
        raise RepositoryError(
            f"The registry {database.place} has schema {version}; this cpplug knows "
            f"{schema.SCHEMA_VERSION}.",
            "Update cpplug.",
        )
    if version < schema.SCHEMA_VERSION:
        raise RepositoryError(
            f"The registry {database.place} has schema {version}; this cpplug needs "
            f"{schema.SCHEMA_VERSION}.",
            "Use the cpplug that made it.",
        )
    if facts.get("uuid") != identity:
        raise RepositoryError(
            f"The registry {database.place} belongs to another repository.",
            f"Put the right address into {MARKER}.",
        )


def _write_marker(root: Path, identity: str, registry: str | None) -> None:
    lines = [
        "# This folder is a cpplug repository. Do not edit while cpplug runs.",
        f"format = {FORMAT}",
        f'uuid = "{identity}"',
        f'created = "{format_time(now_tai(), "utc")}"',
    ]
    if registry is not None:
        escaped = registry.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'registry = "{escaped}"')
    handle, name = tempfile.mkstemp(dir=root, prefix=f".{MARKER}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A database address may hold a password: then only the owner may read it.
        secret = registry is not None and re.search(r"//[^/@]*:[^/@]+@", registry)
        part.chmod(0o600 if secret else 0o666 & ~_umask())
        part.replace(root / MARKER)
    finally:
        part.unlink(missing_ok=True)


def _read_marker(root: Path) -> tuple[str, str | None]:
    """Return uuid and database URL (None: the file in the folder)."""
    marker = root / MARKER
    try:
        facts = tomllib.loads(marker.read_text(encoding="utf-8"))
        version, identity, url = facts["format"], str(facts["uuid"]), facts.get("registry")
    except (FileNotFoundError, NotADirectoryError):
        raise RepositoryError(
            f"{root} is not a cpplug repository.", f"Make one: cpplug init {root}."
        ) from None
    except OSError as error:
        raise RepositoryError(f"{marker} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise RepositoryError(
            f"{marker} is damaged: {error}.", "Restore it from a backup."
        ) from None
    if version != FORMAT:
        raise RepositoryError(
            f"The repository {root} has format {version}; this cpplug knows {FORMAT}.",
            "Update cpplug." if isinstance(version, int) and version > FORMAT else "",
        )
    return identity, url
