"""Named chains: which correction steps run, in which order, with which settings.

A chain is a TOML file in the folder ``chains`` beside this module: a name, a sentence and the list
of steps, each with its switch and the options that differ from the plugin's own. It knows nothing
of plugins: whether its steps exist and their options are right is seen when it is planned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import tomli

from cpplug.api.errors import ConfigError, UnknownNameError, nearest

FOLDER = Path(__file__).parent / "chains"


class ChainStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step: its name, whether it runs, and options that differ from the plugin's."""

    name: str
    on: bool = True
    options: dict[str, Any] = {}


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named order of steps."""

    name: str
    summary: str
    steps: tuple[ChainStep, ...]


def chain_names() -> tuple[str, ...]:
    """Return the names of the chains, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_chain(name: str) -> Chain:
    """Read a chain.

    Raises
    ------
    UnknownNameError
        When there is none of this name.
    ConfigError
        When its file is malformed or names a step twice.
    """
    if name not in chain_names():
        raise UnknownNameError(
            f"There is no chain {name!r}.",
            nearest(name, chain_names()) or f"Known: {', '.join(chain_names())}.",
        )
    return read_chain(FOLDER / f"{name}.toml")


def read_chain(path: Path) -> Chain:
    """Read a chain from its file; ConfigError when it is malformed or names a step twice."""
    try:
        chain = msgspec.convert(tomli.loads(path.read_text(encoding="utf-8")), Chain)
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"Chain {path} cannot be used: {error}.",
            "It needs name, summary and steps = [{ name = ..., on = ..., options = {...} }, ...].",
        ) from None
    names = [step.name for step in chain.steps]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Chain {chain.name} names {', '.join(twice)} twice.", "A step runs once in a chain."
        )
    return chain
