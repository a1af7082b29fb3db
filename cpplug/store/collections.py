"""Collections: named sets of frames and products.

A RUN is where every dataset is born. A TAGGED collection is a hand-picked set; a CALIBRATION
collection gives products a range of dates; a CHAINED collection is an ordered list of others, to be
searched from first to last.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import UnknownNameError, UsageError, nearest
from cpplug.api.times import now_tai
from cpplug.store import schema
from cpplug.store.base import StorePart
from cpplug.store.records import CollectionKind, CollectionRow, Range

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from cpplug.store.database import Database

_NAME = re.compile(r"[\w.+~:=-]+(/[\w.+~:=-]+)*", re.ASCII)
_TREE = sa.text(
    "WITH RECURSIVE tree(id) AS ("
    " SELECT id FROM collection WHERE name IN :names"
    " UNION SELECT chain.child_id FROM chain JOIN tree ON chain.parent_id = tree.id)"
    " SELECT c.id, c.name, c.kind, c.doc, c.created, chain.child_id"
    " FROM tree JOIN collection c ON c.id = tree.id"
    " LEFT JOIN chain ON chain.parent_id = c.id ORDER BY c.id, chain.position"
).bindparams(sa.bindparam("names", expanding=True))


class Node:
    """A collection while the tree of chains is walked."""

    __slots__ = ("children", "created", "doc", "id", "kind", "name")

    def __init__(self, row: Any) -> None:
        self.id: int = row.id
        self.name: str = row.name
        self.kind: CollectionKind = row.kind
        self.doc: str = row.doc
        self.created: int = row.created
        self.children: list[int] = []

    def row(self) -> CollectionRow:
        """Return the node as a record, without counts."""
        return CollectionRow(name=self.name, kind=self.kind, doc=self.doc, created=self.created)


def split_names(names: Sequence[str]) -> list[str]:
    """Return names, with elements such as ``A,B`` taken apart."""
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def check_name(name: str) -> None:
    """Raise a UsageError unless this can be the name of a collection (and of a folder)."""
    if not _NAME.fullmatch(name) or any(part in {".", ".."} for part in name.split("/")):
        raise UsageError(
            f"{name!r} cannot be the name of a collection.",
            "Use letters, digits and . _ - + : = ~, with single slashes between the parts.",
        )


def unknown(connection: Connection, name: str) -> UnknownNameError:
    """Return the error for a collection that does not exist, with names that come near."""
    known = [
        str(known) for known in connection.execute(sa.select(schema.collection.c.name)).scalars()
    ]
    longer = [other for other in known if other.startswith((f"{name}.", f"{name}/"))]
    hint = nearest(name, known)
    if longer:
        hint = f"Did you mean {' or '.join(repr(other) for other in sorted(longer)[-3:])}?"
    return UnknownNameError(f"There is no collection {name!r}.", hint)


def tree_of(connection: Connection, names: Sequence[str]) -> tuple[list[Node], dict[int, Node]]:
    """Read collections and everything below them.

    Returns
    -------
    roots, nodes
        The named collections in the order given, and all nodes by id.

    Raises
    ------
    UnknownNameError
        When one of the names does not exist.
    """
    nodes: dict[int, Node] = {}
    if not names:
        return [], nodes
    for row in connection.execute(_TREE, {"names": list(names)}):
        node = nodes.get(row.id)
        if node is None:
            node = nodes[row.id] = Node(row)
        if row.child_id is not None:
            node.children.append(row.child_id)
    by_name = {node.name: node for node in nodes.values()}
    missing = next((name for name in names if name not in by_name), None)
    if missing is not None:
        raise unknown(connection, missing)
    return [by_name[name] for name in names], nodes


def flatten_nodes(connection: Connection, names: Sequence[str]) -> list[Node]:
    """Return RUN, TAGGED and CALIBRATION collections in search order, each once."""
    roots, nodes = tree_of(connection, split_names(names))
    ordered: dict[int, Node] = {}

    def walk(node: Node) -> None:
        if node.kind == "CHAINED":
            for child in node.children:
                walk(nodes[child])
        else:
            ordered.setdefault(node.id, node)

    for root in roots:
        walk(root)
    return list(ordered.values())


def one(connection: Connection, name: str) -> Node:
    """Return one collection, without what is below it."""
    row = connection.execute(
        sa.select(schema.collection).where(schema.collection.c.name == name)
    ).first()
    if row is None:
        raise unknown(connection, name)
    return Node(row)


def exists(connection: Connection, name: str) -> bool:
    """Tell whether a collection of this name exists."""
    query = sa.select(schema.collection.c.id).where(schema.collection.c.name == name)
    return connection.execute(query).first() is not None


def make(connection: Connection, name: str, kind: CollectionKind, doc: str = "") -> int:
    """Insert a collection and return its id; its name must be free."""
    check_name(name)
    table = schema.collection
    statement = sa.insert(table).values(name=name, kind=kind, doc=doc, created=now_tai())
    return int(connection.execute(statement.returning(table.c.id)).scalar_one())


def parents(connection: Connection, ids: Collection[int]) -> list[str]:
    """Return the names of the chains that have one of these collections as a child."""
    query = (
        sa.select(schema.collection.c.name)
        .join(schema.chain, schema.chain.c.parent_id == schema.collection.c.id)
        .where(schema.chain.c.child_id.in_(ids))
        .distinct()
        .order_by(schema.collection.c.name)
    )
    return [str(name) for name in connection.execute(query).scalars()]


def set_children(connection: Connection, parent: int, children: Sequence[int]) -> None:
    """Write the ordered children of a chain."""
    connection.execute(sa.delete(schema.chain).where(schema.chain.c.parent_id == parent))
    if children:
        connection.execute(
            sa.insert(schema.chain),
            [
                {"parent_id": parent, "position": position, "child_id": child}
                for position, child in enumerate(children)
            ],
        )


def unlink(connection: Connection, child: int) -> None:
    """Take a collection out of every chain that holds it."""
    connection.execute(sa.delete(schema.chain).where(schema.chain.c.child_id == child))


class CollectionStore(StorePart):
    """The part of a repository that keeps collections."""

    def make_run(self, name: str, doc: str = "") -> None:
        """Make a RUN collection.

        Raises
        ------
        UsageError
            When the name is taken, or cannot be a name.
        """
        with self._db.write() as connection:
            if exists(connection, name):
                raise UsageError(
                    f"The collection {name!r} exists already.", "Choose another name for the run."
                )
            make(connection, name, "RUN", doc)

    def collections(
        self, pattern: str | None = None, kinds: Collection[str] | None = None
    ) -> list[CollectionRow]:
        """Return collections by name, with what they hold.

        Parameters
        ----------
        pattern
            Shell pattern such as ``LATISS/*``; default: all.
        kinds
            Of RUN, TAGGED, CALIBRATION, CHAINED; default: all.
        """
        with self._db.read() as connection:
            nodes = [Node(row) for row in connection.execute(sa.select(schema.collection))]
            chosen = [
                node
                for node in nodes
                if (pattern is None or fnmatch.fnmatchcase(node.name, pattern))
                and (kinds is None or node.kind in kinds)
            ]
            return self._rows(connection, sorted(chosen, key=lambda node: node.name))

    def collection(self, name: str) -> CollectionRow:
        """Return one collection with what it holds; UnknownNameError, with near names, if none."""
        with self._db.read() as connection:
            return self._rows(connection, [one(connection, name)])[0]

    def flatten(self, names: Sequence[str]) -> list[CollectionRow]:
        """Return what is searched, in order: chains depth first, each collection once.

        Parameters
        ----------
        names
            Collections; elements such as ``A,B`` are two names.
        """
        with self._db.read() as connection:
            return [node.row() for node in flatten_nodes(connection, names)]

    def chain(
        self,
        parent: str,
        children: Sequence[str],
        mode: str = "redefine",
        indices: Sequence[int] = (0,),
    ) -> list[str]:
        """Define or change a chain and return its children.

        Parameters
        ----------
        parent
            The chain; ``redefine``, ``extend`` and ``prepend`` make it when it is missing.
        children
            Collections; elements such as ``A,B`` are two names; a repeated one counts once.
        mode
            ``redefine`` replaces the list; ``extend`` and ``prepend`` put the children at the end
            or in front, moving those that are there already; ``remove`` takes them out; ``pop``
            takes out by ``indices``.
        indices
            For ``pop``: positions from 0, negative ones from the end.

        Raises
        ------
        UsageError
            For an unknown mode, a parent of another kind, an index out of range, or a cycle.
        UnknownNameError
            When a collection does not exist.
        """
        if mode not in {"redefine", "extend", "prepend", "remove", "pop"}:
            raise UsageError(
                f"There is no chain mode {mode!r}.", "Use redefine, extend, prepend, remove or pop."
            )
        with self._db.write() as connection:
            makes = mode in {"redefine", "extend", "prepend"}
            known = exists(connection, parent)
            if not known and not makes:
                raise unknown(connection, parent)
            names = list(dict.fromkeys(split_names(children)))
            given, nodes = tree_of(connection, names)
            cycle = next((node for node in nodes.values() if node.name == parent), None)
            if cycle is not None and makes:
                raise UsageError(
                    f"{parent!r} cannot become a part of itself, not even through another chain.",
                    "Leave it, and the chains that hold it, out of the children.",
                )
            node = one(connection, parent) if known else None
            if node is not None and node.kind != "CHAINED":
                raise UsageError(
                    f"{parent!r} is a {node.kind} collection, not a chain.", "Choose another name."
                )
            parent_id = node.id if node else make(connection, parent, "CHAINED")
            query = (
                sa.select(schema.chain.c.child_id)
                .where(schema.chain.c.parent_id == parent_id)
                .order_by(schema.chain.c.position)
            )
            before = list(connection.execute(query).scalars())
            after = _rearranged(before, [child.id for child in given], mode, indices, parent)
            set_children(connection, parent_id, after)
            return _children(connection, self._db, [parent_id]).get(parent_id, [])

    def _rows(self, connection: Connection, nodes: Sequence[Node]) -> list[CollectionRow]:
        """Fill in children, counts and coverage."""
        ids = [node.id for node in nodes]
        children = _children(connection, self._db, ids)
        counts = _counts(connection, self._db, ids)
        coverage = _coverage(connection, self._db, ids)
        return [
            CollectionRow(
                name=node.name,
                kind=node.kind,
                doc=node.doc,
                created=node.created,
                children=tuple(children.get(node.id, ())),
                counts=counts.get(node.id, {}),
                coverage=coverage.get(node.id),
            )
            for node in nodes
        ]


def _rearranged(
    before: list[int], given: list[int], mode: str, indices: Sequence[int], parent: str
) -> list[int]:
    rest = [child for child in before if child not in given]
    if mode == "pop":
        wrong = [index for index in indices if not -len(before) <= index < len(before)]
        if wrong:
            raise UsageError(
                f"{parent!r} has {len(before)} children; there is none at index {wrong[0]}.",
                "Count from 0, or from -1 backwards.",
            )
        gone = {index % len(before) for index in indices}
        return [child for index, child in enumerate(before) if index not in gone]
    if mode == "prepend":
        return given + rest
    if mode == "extend":
        return rest + given
    return rest if mode == "remove" else given


def _children(connection: Connection, db: Database, ids: list[int]) -> dict[int, list[str]]:
    query = (
        sa.select(schema.chain.c.parent_id, schema.collection.c.name)
        .join(schema.collection, schema.collection.c.id == schema.chain.c.child_id)
        .where(db.any_of(schema.chain.c.parent_id, ids))
        .order_by(schema.chain.c.parent_id, schema.chain.c.position)
    )
    found: dict[int, list[str]] = {}
    for parent, name in connection.execute(query):
        found.setdefault(parent, []).append(name)
    return found


def _counts(connection: Connection, db: Database, ids: list[int]) -> dict[int, dict[str, int]]:
    """Count datasets by type in each collection; raw frames count as type ``raw``."""
    dataset, tag, validity, raw = schema.dataset.c, schema.tag.c, schema.validity.c, schema.raw.c
    queries: list[tuple[Any, Any, Any]] = [
        (dataset.run_id, dataset.dataset_type, sa.func.count()),
        (tag.collection_id, tag.dataset_type, sa.func.count()),
        (
            validity.collection_id,
            validity.dataset_type,
            sa.func.count(sa.distinct(validity.dataset_id)),
        ),
        (raw.run_id, sa.literal("raw", sa.Text), sa.func.count()),
    ]
    found: dict[int, dict[str, int]] = {}
    for owner, kind, count in queries:
        query = sa.select(owner, kind.label("type"), count).where(db.any_of(owner, ids))
        by = (owner,) if owner is raw.run_id else (owner, kind)
        for identity, dataset_type, number in connection.execute(query.group_by(*by)):
            found.setdefault(identity, {})[dataset_type] = number
    return {identity: dict(sorted(types.items())) for identity, types in found.items()}


def _coverage(connection: Connection, db: Database, ids: list[int]) -> dict[int, Range]:
    """Return the first begin and last end of exposures (RUN) or ranges (CALIBRATION)."""
    raw, exposure, validity = schema.raw.c, schema.exposure.c, schema.validity.c
    frames = (
        sa.select(raw.run_id, sa.func.min(exposure.begin), sa.func.max(exposure.end))
        .join(
            schema.exposure,
            sa.and_(exposure.instrument == raw.instrument, exposure.exposure == raw.exposure),
        )
        .where(db.any_of(raw.run_id, ids))
        .group_by(raw.run_id)
    )
    ranges = (
        sa.select(validity.collection_id, sa.func.min(validity.begin), sa.func.max(validity.end))
        .where(db.any_of(validity.collection_id, ids))
        .group_by(validity.collection_id)
    )
    found: dict[int, Range] = {}
    for query in (frames, ranges):
        for identity, begin, end in connection.execute(query):
            found[identity] = from_stored(begin, end)
    return found


def from_stored(begin: int, end: int) -> Range:
    """Return a stored range with open ends as None."""
    return (None if begin == schema.NEVER else begin, None if end == schema.FOREVER else end)


def to_stored(begin: int | None, end: int | None) -> tuple[int, int]:
    """Return a range as it is stored: open ends are the smallest and largest integer."""
    return (schema.NEVER if begin is None else begin, schema.FOREVER if end is None else end)
