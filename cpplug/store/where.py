"""From a where expression to a parameterised database condition.

``compile_where`` checks every comparison (text against text, time against time), turns lists of
any length into one bound parameter, and keeps the top-level AND terms apart, so that an empty
result can be explained term by term. Values never become part of the SQL text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import WhereSyntaxError
from cpplug.store.database import any_of
from cpplug.store.fields import WORDS, FieldSet, Kind
from cpplug.store.where_syntax import complaint, parse, position_of, source_of, unquote
from cpplug.store.where_values import Operand, Operands, Steps

if TYPE_CHECKING:
    from cpplug.store.where_syntax import Node

Clause = sa.ColumnElement[bool]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """One top-level AND term: its text, its condition, and the fields it speaks of."""

    text: str
    clause: Clause
    uses: frozenset[str]
    equals: tuple[str, str] | None = None
    """Field and text, for a term of the form ``field = 'text'``."""


@dataclass(frozen=True)
class Condition:
    """A compiled expression: terms that must all hold."""

    terms: tuple[Term, ...] = ()
    needs_instrument: WhereSyntaxError | None = None
    """Set when an id is used in a branch that names no instrument."""


def compile_where(
    text: str, fields: FieldSet, database: str, binds: Mapping[str, object] | None = None
) -> Condition:
    """Compile an expression.

    Parameters
    ----------
    text
        The expression; empty means no condition.
    fields
        What it may speak of.
    database
        ``sqlite`` or ``postgresql``.
    binds
        Values for ``:name``; sequences for ``IN (:name)``.

    Raises
    ------
    WhereSyntaxError
        With position, caret, and the nearest names for an unknown one.
    """
    tree = parse(text) if text.strip() else None
    if tree is None:
        return Condition()
    compiler = _Compiler(text, fields, database, dict(binds or {}))
    terms = []
    for node in _and_terms(tree):
        compiler.uses = set()
        clause = compiler.condition(node)
        terms.append(
            Term(source_of(text, node), clause, frozenset(compiler.uses), compiler.equality(node))
        )
    _, loose = compiler.pins(tree)
    problem = None
    if loose is not None:
        problem = complaint(
            text, position_of(loose),
            f"{str(loose)!r} means nothing without an instrument",
            "Add instrument='NAME' AND ... to this branch, or give --instrument NAME.",
        )  # fmt: skip
    return Condition(tuple(terms), problem)


def _and_terms(node: Node) -> list[Node]:
    """Return the top-level AND terms; brackets around a whole conjunction are looked through."""
    if node.data == "all":
        return [term for child in node.children for term in _and_terms(child)]  # type: ignore[arg-type]
    inner = node.children[0] if node.data == "group" else None
    if inner is not None and inner.data in {"all", "group"}:  # type: ignore[union-attr]
        return _and_terms(inner)  # type: ignore[arg-type]
    return [node]


class _Compiler(Operands):
    """Walks the tree. One method per kind of node; ``condition`` and ``operand`` choose."""

    # ---- conditions

    def condition(self, node: Any) -> Clause:
        """Return the condition of a node; values that are not conditions are refused."""
        method = getattr(self, f"_on_{node.data}", None)
        if method is not None:
            result: Clause = method(node)
            return result
        operand = self.operand(node)
        if operand.kind != "bool":
            raise self.fail(
                node, f"{WORDS[operand.kind].capitalize()} alone is not a condition",
                "Compare it with something.",
            )  # fmt: skip
        return operand.column()

    def _on_any(self, node: Node) -> Clause:
        return sa.or_(*[self.condition(child) for child in node.children])

    def _on_all(self, node: Node) -> Clause:
        return sa.and_(*[self.condition(child) for child in node.children])

    def _on_negation(self, node: Node) -> Clause:
        return sa.not_(self.condition(node.children[0]))

    def _on_group(self, node: Node) -> Clause:
        return self.condition(node.children[0])

    def _on_compare(self, node: Node) -> Clause:
        left, sign, right = node.children
        return self._compare(str(sign), self.operand(left), self.operand(right), sign)

    def _compare(self, sign: str, left: Operand, right: Operand, place: Any) -> Clause:
        ordered = sign not in {"=", "==", "!=", "<>"}
        if ordered and left.kind == right.kind == "bool":
            raise self.fail(place, f"Conditions are not compared with {sign}", "Use = or !=.")
        if "null" in (left.kind, right.kind):
            if ordered:
                raise self.fail(place, f"Nothing is {sign} NULL", "Use = NULL or != NULL.")
            operand = right if left.kind == "null" else left
            return self._null(operand, wanted=sign in {"=", "=="})
        a, b = self.unify(left, right, place)
        return _COMPARE[sign](a, b)  # type: ignore[no-any-return]

    def _null(self, operand: Operand, *, wanted: bool) -> Clause:
        if operand.kind == "null":
            return sa.true() if wanted else sa.false()
        column = operand.column()
        return column.is_(None) if wanted else column.is_not(None)

    def _on_is_null(self, node: Node) -> Clause:
        return self._null(self.operand(node.children[0]), wanted=True)

    def _on_not_null(self, node: Node) -> Clause:
        return self._null(self.operand(node.children[0]), wanted=False)

    def _on_between(self, node: Node) -> Clause:
        value, low, high = (self.operand(child) for child in node.children)
        place = node.children[0]
        return sa.and_(
            self._compare(">=", value, low, place), self._compare("<=", value, high, place)
        )

    def _on_not_between(self, node: Node) -> Clause:
        return sa.not_(self._on_between(node))

    def _on_like(self, node: Node) -> Clause:
        return self._pattern(node, "%", "_")

    def _on_not_like(self, node: Node) -> Clause:
        return sa.not_(self._on_like(node))

    def _pattern(self, node: Node, many: str, one: str) -> Clause:
        column, pattern = (self.operand(child) for child in node.children[-2:])
        if column.kind == "detector":
            column = Operand("str", column.node, sql=column.other)
        if column.kind != "str" or pattern.kind != "str" or not pattern.constant:
            raise self.fail(node, "Patterns compare a text field with a quoted pattern")
        return glob_match(self.database, column.column(), pattern.value, many, one)

    def _on_call(self, node: Node) -> Clause:
        name = str(node.children[0])
        if name.upper() == "GLOB":
            if len(node.children) != 3:
                raise self.fail(node, "GLOB takes a field and a pattern", "GLOB(field, 'a*').")
            return self._pattern(node, "*", "?")
        raise self.fail(
            node.children[0], f"There is no function {name!r} that gives a condition",
            "Functions: GLOB(field, 'pattern').",
        )  # fmt: skip

    def _on_overlaps(self, node: Node) -> Clause:
        one, two = self._span(node.children[0]), self._span(node.children[2])
        return sa.and_(_begins_before(one, two), _begins_before(two, one))

    def _span(self, node: Any) -> _Span:
        if node.data == "group":
            return self._span(node.children[0])
        if node.data == "pair":
            return self._pair(node)
        operand = self.operand(node)
        if operand.kind == "span":
            return _Span(operand.column(), operand.other)
        operand = self.as_time(operand) if operand.loose else operand
        if operand.kind != "time":
            raise self.fail(
                node, f"OVERLAPS takes time spans, not {WORDS[operand.kind]}",
                "Write exposure.timespan OVERLAPS (T'2021-01-20', T'2021-01-21').",
            )  # fmt: skip
        return _Span(operand.column(), operand.column())

    def _pair(self, node: Node) -> _Span:
        """Return the span (time, time); NULL leaves an end open."""
        ends = [self.operand(child) for child in node.children]
        ends = [self.as_time(end) if end.loose else end for end in ends]
        for end in ends:
            if end.kind not in {"time", "null"}:
                raise self.fail(end.node, "A time span is (time, time)", "Write T'2021-01-20'.")
        values = [end.value for end in ends if end.constant and end.kind == "time"]
        if len(values) == 2 and values[0] >= values[1]:
            raise self.fail(node, "The span does not begin before it ends")
        first, last = [None if end.kind == "null" else end.column() for end in ends]
        return _Span(first, last, may_be_instant=len(values) < 2)

    # ---- IN

    def _on_not_in(self, node: Node) -> Clause:
        return sa.not_(self._on_is_in(node))

    def _on_is_in(self, node: Node) -> Clause:
        left = self.operand(node.children[0])
        if left.kind in {"span", "null"}:
            raise self.fail(node, f"IN does not take {WORDS[left.kind]}", "Use OVERLAPS.")
        by_type: dict[Kind, list[Any]] = {}
        clauses: list[Clause] = []
        for item in node.children[1].children:  # type: ignore[union-attr]
            for member in self.members(item):
                if isinstance(member, tuple):
                    clauses.append(self._in_range(left, member, item))
                elif member.kind == "null":
                    clauses.append(self._null(left, wanted=True))
                elif not member.constant:
                    raise self.fail(
                        item, "IN takes values, not fields",
                        "For times write: field OVERLAPS span.",
                    )  # fmt: skip
                else:
                    kind, value = self.fit(left, member)
                    by_type.setdefault(kind, []).append(value)
        for kind, values in by_type.items():
            by_name = left.kind == "detector" and kind == "str"
            column: Any = left.other if by_name else left.column()
            if kind == "float":
                values = [float(value) for value in values]
            clauses.append(any_of(self.database, column, values))
        return sa.or_(sa.false(), *clauses)

    def _in_range(self, left: Operand, limits: Steps, item: Any) -> Clause:
        if left.kind not in {"int", "date", "detector"}:
            raise self.fail(item, f"Ranges fit whole numbers, not {WORDS[left.kind]}")
        first, last, step = (sa.literal(limit, sa.BigInteger) for limit in limits)
        column = left.column()
        inside = column.between(first, last)
        return inside if limits[2] == 1 else sa.and_(inside, (column - first) % step == 0)

    # ---- the instrument

    def pins(self, node: Any) -> tuple[bool, Any]:
        """Tell whether a node fixes the instrument, and which id in it is left without one."""
        if node.data in {"all", "any"}:
            parts = [self.pins(child) for child in node.children]
            loose = next((token for _, token in parts if token is not None), None)
            if node.data == "any":
                return all(fixed for fixed, _ in parts), loose
            fixed = any(fixed for fixed, _ in parts)
            return fixed, (None if fixed else loose)
        if node.data == "group":
            return self.pins(node.children[0])
        names = [
            token
            for tree in node.iter_subtrees_topdown()
            if tree.data == "name"
            for token in tree.children
        ]
        resolved = [(token, self.fields.resolve(str(token))) for token in names]
        equal = node.data == "is_in" or (
            node.data == "compare" and str(node.children[1]) in {"=", "=="}
        )
        fixed = equal and any(found and found[0] == "instrument" for _, found in resolved)
        loose = next((t for t, found in resolved if found and found[1].needs_instrument), None)
        return fixed, (None if fixed else loose)

    def equality(self, node: Any) -> tuple[str, str] | None:
        """Return field and text of a ``field = 'text'`` node."""
        if node.data != "compare" or str(node.children[1]) not in {"=", "=="}:
            return None
        left, _, right = node.children
        if left.data != "name" or right.data != "string":
            return None
        found = self.fields.resolve(str(left.children[0]))
        return (found[0], unquote(str(right.children[0]))) if found else None


@dataclass(frozen=True)
class _Span:
    """A time span: None is an open end; one that ends where it begins is an instant."""

    begin: Any
    end: Any
    may_be_instant: bool = True


def _begins_before(one: _Span, two: _Span) -> Clause:
    """Say that span ``one`` begins before span ``two`` ends."""
    if one.begin is None or two.end is None:
        return sa.true()
    before: Clause = one.begin < two.end
    if two.begin is None or not two.may_be_instant:
        return before
    return sa.or_(before, one.begin <= two.begin)


def glob_match(
    database: str, column: sa.ColumnElement[Any], pattern: str, many: str = "*", one: str = "?"
) -> Clause:
    """Return "column matches pattern", case-sensitively, the same on every database.

    Parameters
    ----------
    database
        ``sqlite`` or ``postgresql``.
    column
        A text column.
    pattern
        Text in which ``many`` stands for any characters and ``one`` for any one of them.
    many, one
        The two special characters; all others stand for themselves.
    """
    if database == "sqlite":
        special = {many: "*", one: "?"}
        text = "".join(special.get(c, f"[{c}]" if c in "*?[" else c) for c in pattern)
        return column.op("GLOB", is_comparison=True)(sa.literal(text, sa.Text))
    special = {many: "%", one: "_"}
    text = "".join(special.get(c, f"\\{c}" if c in "%_\\" else c) for c in pattern)
    return column.like(sa.literal(text, sa.Text), escape="\\")
