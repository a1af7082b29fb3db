"""The values and fields in a where expression: what each is, and what it may be compared with.

Text compares with text, numbers with numbers, times with times. Text may stand for an observing
day or a detector's name; text that came from outside the expression (a bound value, a file) may
also stand for a number or a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cpplug.api.errors import UsageError, WhereSyntaxError, nearest
from cpplug.api.times import NS_PER_DAY, NS_PER_SECOND, parse_time, utc_to_tai
from cpplug.store.fields import WORDS, FieldSet, Kind
from cpplug.store.where_syntax import complaint, position_of, unquote

if TYPE_CHECKING:
    from cpplug.store.where_syntax import Node

Clause = sa.ColumnElement[bool]
Steps = tuple[int, int, int]
"""First, last and step of a range of whole numbers."""

_MISSING: Any = object()
_NUMBERS = ("int", "float", "date", "detector")
_RANGE = re.compile(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*(?::\s*(-?\d+))?\s*$")
_COUNTED = re.compile(r"(unix|jd|cxcsec)/\s*([+-]?\d+(?:\.\d*)?)\s*(?:/\s*(\w+))?$")
_JD_EPOCH = Decimal("2440587.5")
"""Julian date of 1970-01-01."""
_CXC_EPOCH = parse_time("1998-01-01") - 32_184_000_000
"""1998-01-01 TT, TAI nanoseconds."""
_COLUMN_TYPE: dict[str, sa.types.TypeEngine[Any]] = {
    "int": sa.BigInteger(), "date": sa.BigInteger(), "detector": sa.BigInteger(),
    "time": sa.BigInteger(), "float": sa.Double(), "str": sa.Text(), "bool": sa.Boolean(),
}  # fmt: skip


@dataclass
class Operand:
    """A value or a field in a comparison."""

    kind: Kind
    node: Any
    sql: sa.ColumnElement[Any] | None = None
    other: sa.ColumnElement[Any] | None = None
    value: Any = _MISSING
    loose: bool = False
    """Text that came from outside (a bind or a file) and may stand for a number or a time."""

    @property
    def constant(self) -> bool:
        """True for a value, False for what differs from row to row."""
        return self.value is not _MISSING

    def column(self) -> sa.ColumnElement[Any]:
        """Return it as SQL; values become bound parameters."""
        if self.sql is not None:
            return self.sql
        return sa.literal(self.value, _COLUMN_TYPE[self.kind])


@dataclass
class Operands:
    """Reads values and fields; its subclass reads conditions."""

    text: str
    fields: FieldSet
    database: str
    binds: dict[str, object]
    uses: set[str] = field(default_factory=set)

    def fail(self, node: Any, message: str, next_step: str = "") -> WhereSyntaxError:
        """Return an error that points at a node."""
        return complaint(self.text, position_of(node), message, next_step)

    def condition(self, node: Any) -> Clause:
        """Return the condition of a node."""
        raise NotImplementedError

    def operand(self, node: Any, *, listed: bool = False) -> Operand:
        """Return the value or field of a node."""
        kind = node.data
        token = node.children[0] if node.children else None
        if kind == "name":
            return self._name(token, listed=listed)
        if kind == "bind":
            return self._bind(str(token)[1:], token, listed=listed)
        if kind == "number":
            return self._number(str(token), node)
        if kind == "string":
            return Operand("str", node, value=unquote(str(token)))
        if kind == "time":
            return Operand("time", node, value=self._time(str(token)[2:-1], node))
        if kind == "null":
            return Operand("null", node, value=None)
        if kind in {"true", "false"}:
            return Operand("bool", node, sql=sa.true() if kind == "true" else sa.false())
        if kind == "group":
            return self.operand(token, listed=listed)
        if kind == "sign":
            return self._sign(node)
        if kind == "arithmetic":
            return self._arithmetic(node)
        if kind == "call" and str(token).upper() == "UUID":
            return self._uuid(node)
        if kind == "pair":
            raise self.fail(node, "A time span belongs after OVERLAPS")
        return Operand("bool", node, sql=self.condition(node))

    def _name(self, token: Any, *, listed: bool) -> Operand:
        name = str(token)
        resolved = self.fields.resolve(name)
        if resolved is None:
            if name in self.binds:
                return self._bind(name, token, listed=listed)
            raise self.fail(
                token, f"There is no field {name!r}", nearest(name, self.fields.known(name))
            )
        plain, known = resolved
        self.uses.add(plain)
        return Operand(known.kind, token, sql=known.column, other=known.other)

    def _bind(self, name: str, token: Any, *, listed: bool) -> Operand:
        if name not in self.binds:
            raise self.fail(
                token, f"No value was given for :{name}", f"Give one: --bind {name}=VALUE."
            )
        value = self.binds[name]
        if isinstance(value, list | tuple | set | frozenset | range):
            if not listed:
                raise self.fail(token, f":{name} is a list", f"Write IN (:{name}).")
            return Operand("str", token, value=list(value))
        return self._constant(value, token, loose=True)

    def _constant(self, value: Any, node: Any, *, loose: bool) -> Operand:
        if value is None:
            return Operand("null", node, value=None)
        if isinstance(value, bool):
            return Operand("bool", node, sql=sa.true() if value else sa.false())
        if isinstance(value, int):
            return Operand("int", node, value=self._whole(str(value), node))
        if isinstance(value, float):
            return Operand("float", node, value=value)
        return Operand("str", node, value=str(value), loose=loose)

    def _number(self, text: str, node: Any) -> Operand:
        if text.isdigit():
            return Operand("int", node, value=self._whole(text, node))
        return Operand("float", node, value=float(text))

    def _whole(self, text: str, node: Any) -> int:
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise self.fail(node, f"{number} is too large a number")
        return number

    def _sign(self, node: Node) -> Operand:
        operand = self.operand(node.children[1])
        if operand.kind not in _NUMBERS:
            raise self.fail(node, f"A sign does not fit {WORDS[operand.kind]}")
        if str(node.children[0]) == "+":
            return operand
        kind: Kind = "float" if operand.kind == "float" else "int"
        if operand.constant:
            return Operand(kind, node, value=-operand.value)
        return Operand(kind, node, sql=-operand.column())

    def _arithmetic(self, node: Node) -> Operand:
        left, sign, right = (
            self.operand(node.children[0]),
            node.children[1],
            self.operand(node.children[2]),
        )
        left, right = (self.as_number(x) if x.loose else x for x in (left, right))
        for operand in (left, right):
            if operand.kind not in _NUMBERS:
                raise self.fail(sign, f"'{sign}' does not work with {WORDS[operand.kind]}")
        a, b = left.column(), right.column()
        kind: Kind = "float" if "float" in (left.kind, right.kind) else "int"
        if str(sign) == "/":
            # Always a true division; nothing comes out of a division by zero.
            quotient = sa.cast(a, sa.Double) / sa.func.nullif(
                sa.cast(b, sa.Double), 0.0, type_=sa.Double
            )
            return Operand("float", node, sql=quotient)
        if str(sign) == "%":
            if kind == "float":
                raise self.fail(sign, "'%' works with whole numbers only")
            return Operand("int", node, sql=a % sa.func.nullif(b, 0, type_=sa.BigInteger))
        results = {"+": a + b, "-": a - b, "*": a * b}
        return Operand(kind, node, sql=results[str(sign)])

    def _uuid(self, node: Node) -> Operand:
        operand = self.operand(node.children[1]) if len(node.children) == 2 else None
        if operand is None or operand.kind != "str":
            raise self.fail(node, "UUID takes one quoted text", "UUID('...').")
        return Operand("str", node, value=str(operand.value).lower())

    # ---- lists

    def members(self, item: Any) -> list[Operand | tuple[int, int, int]]:
        """Return what one item of a list stands for: values, or (first, last, step)."""
        kind = item.data
        if kind == "range":
            return [self._range(str(item.children[0]), item)]
        if kind == "integers":
            return [
                Operand("int", item, value=self._whole(number, item))
                for number in str(item.children[0]).replace("\\", " ").split(",")
            ]
        if kind == "file":
            return self._words(_read_values(str(item.children[0])[1:], self, item), item)
        operand = self.operand(item, listed=True)
        if operand.constant and isinstance(operand.value, list):
            return [
                self._range(value, item)
                if isinstance(value, str) and _RANGE.match(value)
                else self._constant(value, item, loose=True)
                for value in operand.value
            ]
        if operand.loose and operand.kind == "str" and re.search(r",|\.\.", operand.value):
            return self._words(re.split(r"\s*,\s*", operand.value.strip()), item)
        return [operand]

    def _words(self, words: Sequence[str], item: Any) -> list[Operand | tuple[int, int, int]]:
        return [
            self._range(word, item)
            if _RANGE.match(word)
            else Operand("str", item, value=word, loose=True)
            for word in words
            if word
        ]

    def _range(self, text: str, item: Any) -> tuple[int, int, int]:
        match = _RANGE.match(text)
        assert match is not None
        first, last = self._whole(match[1], item), self._whole(match[2], item)
        step = self._whole(match[3] or "1", item)
        if last < first or step < 1:
            raise self.fail(
                item, f"The range {text!r} is empty", "Write first..last, and a step of 1 or more."
            )
        return first, last, step

    def fit(self, left: Operand, member: Operand) -> tuple[Kind, Any]:
        """Return a list member as the kind that the left side is compared with."""
        if left.kind == "detector":
            member = self.as_number(member, must=False) if member.loose else member
            if member.kind in {"int", "str"}:
                return member.kind, member.value
        elif left.kind == "date":
            member = self.as_day(member)
            if member.kind == "date":
                return "int", member.value
        elif left.kind in {"int", "float"}:
            member = self.as_number(member) if member.loose else member
            if member.kind in {"int", "float"}:
                # One float in the list of an integer field makes the comparison one of floats.
                return ("float" if left.kind == "float" else member.kind), member.value
        elif left.kind == "time":
            member = self.as_time(member) if member.loose else member
            if member.kind == "time":
                return "int", member.value
        elif left.kind == member.kind == "str":
            return "str", member.value
        raise self.mismatch(left, member, member.node)

    # ---- kinds

    def unify(self, left: Operand, right: Operand, place: Any) -> tuple[Any, Any]:
        """Return two columns that can be compared."""
        for one, two in ((left, right), (right, left)):
            if one.kind == "detector" and two.kind == "str" and two.constant:
                number = self.as_number(two, must=False) if two.loose else two
                if number.kind == "str":
                    pair = (one.other, two.column())
                    return pair if one is left else pair[::-1]
        left, right = self._convert(left, right), self._convert(right, left)
        same = left.kind == right.kind and left.kind != "span"
        if same or (left.kind in _NUMBERS and right.kind in _NUMBERS):
            return left.column(), right.column()
        raise self.mismatch(left, right, place)

    def _convert(self, operand: Operand, other: Operand) -> Operand:
        """Read text as what it is compared with, where that is allowed."""
        if operand.kind != "str" or not operand.constant:
            return operand
        if other.kind == "date":
            return self.as_day(operand)
        if operand.loose and other.kind in {"int", "float", "detector"}:
            return self.as_number(operand)
        if operand.loose and other.kind == "time":
            return self.as_time(operand)
        return operand

    def mismatch(self, left: Operand, right: Operand, place: Any) -> WhereSyntaxError:
        """Return the error for two kinds that do not compare."""
        hint = ""
        if "span" in (left.kind, right.kind):
            hint = "Spans are compared with OVERLAPS, or by .begin and .end."
        elif "time" in (left.kind, right.kind):
            hint = "Write times as T'2021-01-20T18:00:00'."
        elif {left.kind, right.kind} & {"int", "float"}:
            hint = "Numbers are written without quotes, text with."
        words = f"{WORDS[left.kind]} cannot be compared with {WORDS[right.kind]}"
        return self.fail(place, words[0].upper() + words[1:], hint)

    def as_number(self, operand: Operand, *, must: bool = True) -> Operand:
        """Read text as a number; unless it ``must`` be one, other text stays text."""
        if operand.kind != "str":
            return operand
        text = operand.value.strip()
        if re.fullmatch(r"[+-]?\d+", text):
            return Operand("int", operand.node, value=self._whole(text, operand.node))
        try:
            return Operand("float", operand.node, value=float(text))
        except ValueError:
            if must:
                raise self.fail(operand.node, f"{text!r} is not a number") from None
            return operand

    def as_day(self, operand: Operand) -> Operand:
        """Read a number or text as an observing day, YYYYMMDD."""
        if operand.kind == "int":
            return Operand("date", operand.node, value=operand.value)
        match = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)", str(operand.value).strip())
        if operand.kind != "str" or match is None:
            raise self.fail(
                operand.node, f"{operand.value!r} is not an observing day",
                "Write 20210120 or '2021-01-20'.",
            )  # fmt: skip
        return Operand("date", operand.node, value=int("".join(match.groups())))

    def as_time(self, operand: Operand) -> Operand:
        """Read text as a time; anything else stays what it is."""
        if operand.kind != "str":
            return operand
        return Operand("time", operand.node, value=self._time(operand.value, operand.node))

    def _time(self, text: str, node: Any) -> int:
        # astropy's spelling "iso/2021-01-20/utc" names the format first; the text itself tells it.
        text = re.sub(r"^(mjd|iso|isot|fits|yday)/", "", text.strip())
        try:
            number = _count(text)
            return self._whole(str(parse_time(text) if number is None else number), node)
        except UsageError as error:
            raise self.fail(node, error.message.rstrip("."), error.next_step) from None


def _count(text: str) -> int | None:
    """Return TAI nanoseconds of a time that is counted: ``unix/...``, ``jd/...``, ``cxcsec/...``.

    Seconds since 1970 (UTC unless it ends in ``/tai``), Julian days (TAI unless it ends in
    ``/utc``), and seconds since 1998-01-01 TT. None for all other forms.
    """
    match = _COUNTED.match(text)
    if match is None:
        return None
    form, number, scale = match[1], Decimal(match[2]), match[3] or ""
    if form == "cxcsec":
        if scale not in {"", "tt"}:
            raise UsageError("Chandra seconds are TT.", "Leave the scale out.")
        return int(number * NS_PER_SECOND) + _CXC_EPOCH
    if scale not in {"", "tai", "utc"}:
        raise UsageError(f"Time scale {scale!r} in {text!r} is not known.", "Use /tai or /utc.")
    day = form == "jd"
    ns = int((number - _JD_EPOCH) * NS_PER_DAY) if day else int(number * NS_PER_SECOND)
    return utc_to_tai(ns) if (scale or ("tai" if day else "utc")) == "utc" else ns


def _read_values(name: str, operands: Operands, node: Any) -> list[str]:
    """Read the values in a file: separated by commas or white space, ``#`` starts a comment."""
    path = Path(unquote(name) if name[:1] in {"'", '"'} else name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise operands.fail(
            node, f"The file {str(path)!r} cannot be read: {reason.lower()}",
            "One value per line, or separated by commas.",
        ) from None  # fmt: skip
    values = []
    for line in lines:
        content = line.split("#")[0].replace("\\", " ")
        if '"' in content or "'" in content or re.search(r"[^\d\s,.:-]", content):
            words = content.split(",")
        else:
            words = re.sub(r"\s*(\.\.|:)\s*", r"\1", content).replace(",", " ").split()
        values += [word.strip().strip("'\"") for word in words if word.strip()]
    if not values:
        raise operands.fail(node, f"The file {str(path)!r} holds no values")
    return values
