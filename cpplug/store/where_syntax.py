"""Reading a where expression: from text to a tree, and what to say when it cannot be read.

The grammar is ``where.lark`` beside this file. Every complaint shows the line, a caret under the
place, and what could be done about it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpplug.api.errors import WhereSyntaxError

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

    Node = Tree[Token]

_TRAILING = "\\ \t\r\n"
"""What a command that was broken into lines leaves at the end."""
_HINTS = {
    "CMP": "Comparisons cannot be chained; write 'x BETWEEN 1 AND 4' or join two with AND.",
    "RANGE": "Ranges belong inside IN (...).",
}


def complaint(text: str, position: int, message: str, next_step: str = "") -> WhereSyntaxError:
    """Return an error that points at a character of the expression.

    Parameters
    ----------
    text
        The whole expression.
    position
        Index of the character, from 0.
    message
        What is wrong there, without a full stop.
    next_step
        What to do about it.
    """
    position = min(position, len(text))
    start = text.rfind("\n", 0, position) + 1
    stop = text.find("\n", position)
    line = text[start : len(text) if stop < 0 else stop]
    column = position - start
    if column > 100 or len(line) > 160:  # keep long lists of ids from filling the screen
        cut = max(0, column - 60)
        shown = line[cut : cut + 120]
        line = ("..." if cut else "") + shown + ("..." if cut + 120 < len(line) else "")
        column = column - cut + (3 if cut else 0)
    caret = " " * column + "^"
    return WhereSyntaxError(
        f"{message} (character {position + 1} of the where expression).\n  {line}\n  {caret}\n",
        next_step,
    )


@functools.cache
def _parser() -> Lark:
    import lark

    grammar = Path(__file__).with_name("where.lark").read_text(encoding="utf-8")
    return lark.Lark(
        grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False, cache=False
    )


@functools.lru_cache(maxsize=64)
def parse(text: str) -> Node | None:
    """Return the tree of an expression, or None for an empty one.

    Raises
    ------
    WhereSyntaxError
        With the place, and a hint where there is one.
    """
    import lark

    try:
        tree = _parser().parse(text.rstrip(_TRAILING))
    except lark.UnexpectedCharacters as error:
        raise _bad_character(text, error.pos_in_stream or 0) from None
    except lark.UnexpectedToken as error:
        position = error.pos_in_stream
        if error.token.type == "$END" or position is None:
            raise complaint(
                text.rstrip(), len(text.rstrip()), "The where expression ends too early"
            ) from None
        kind = "RANGE" if str(error.token).startswith(".") else error.token.type
        hint = _HINTS.get(kind, _expected(error.expected))
        raise complaint(text, position, f"{str(error.token)!r} is out of place", hint) from None
    return tree.children[0] if tree.children else None  # type: ignore[return-value]


def _bad_character(text: str, position: int) -> WhereSyntaxError:
    character = text[position]
    if character in "'\"":
        return complaint(text, position, "This quote is not closed", "Add the closing quote.")
    if character == ".":
        return complaint(text, position, "'..' is out of place here", _HINTS["RANGE"])
    hints = {
        "&": "Write AND.",
        "|": "Write OR.",
        "@": "A file of values belongs inside IN (@file).",
        "$": "A shell variable was not expanded: use double quotes around the whole expression.",
        ";": "Leave it out.",
        "\\": "A backslash may only stand at the end of a line.",
    }
    return complaint(text, position, f"{character!r} cannot be read here", hints.get(character, ""))


def _expected(names: Any) -> str:
    """Say in words what would have fitted."""
    wanted = set(names)
    if wanted & {"NAME", "NUMBER"}:
        return "A field, a value or an opening bracket is expected there."
    if "_AND" in wanted:
        return "AND, OR or the end is expected there."
    return ""


def position_of(node: Node | Token) -> int:
    """Return the index of the first character of a part of the expression."""
    meta = getattr(node, "meta", None)
    place = node.start_pos if meta is None else meta.start_pos  # type: ignore[union-attr]
    return int(place or 0)


def source_of(text: str, node: Node) -> str:
    """Return the text of a part of the expression, on one line."""
    return " ".join(text[node.meta.start_pos : node.meta.end_pos].replace("\\\n", " ").split())


def unquote(token: str) -> str:
    """Return the value of a quoted string, in which a doubled quote stands for one."""
    quote = token[0]
    return token[1:-1].replace(quote * 2, quote)
