"""Named chains: which correction steps run, in which order, with which settings.

A chain is a TOML file in the folder ``chains`` beside this module: a name, a sentence and the list
of steps, each with its switch and the options that differ from the plugin's own. It knows nothing
of plugins; the catalog is asked for each step when a chain is planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import tomli

from cpplug.api.errors import ConfigError, UnknownNameError, nearest
from cpplug.api.records import IsrStep, PlannedStep
from cpplug.engine.isr import check_chain
from cpplug.engine.settings import build

FOLDER = Path(__file__).parent / "chains"


class Steps(Protocol):
    """What a chain needs of the plugin catalog."""

    def names(self, kind: str) -> list[str]:
        """Return the registered names of a kind."""

    def get(self, kind: str, name: str) -> Any:
        """Return the record of this kind and name."""


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


def plan_chain(
    chain: Chain,
    catalog: Steps,
    switches: Mapping[str, bool] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[PlannedStep, ...]:
    """Turn a chain into steps that :func:`cpplug.engine.isr.run_chain` can run.

    Parameters
    ----------
    chain
        What :func:`load_chain` returned.
    catalog
        The plugin catalog.
    switches
        Step to on or off, over the chain's own.
    options
        Step to option to value, over the chain's own.

    Raises
    ------
    UnknownNameError
        When a step of the chain is not registered, or a switch or option is for a step that the
        chain does not have.
    ConfigError
        When an option is unknown or out of range, or the steps that run cannot stand in this order.
    """
    switches, options = switches or {}, options or {}
    known, own = catalog.names("isr_step"), [step.name for step in chain.steps]
    for name in own:
        if name not in known:
            raise UnknownNameError(
                f"Chain {chain.name} has a step {name!r}, which no plugin offers.",
                nearest(name, known) or "See `cpplug plugins list`.",
            )
    for name in (*switches, *options):
        if name not in own:
            raise UnknownNameError(f"Chain {chain.name} has no step {name!r}.", nearest(name, own))
    records: list[IsrStep] = []
    planned = []
    for step in chain.steps:
        record: IsrStep = catalog.get("isr_step", step.name)
        chosen = {**step.options, **options.get(step.name, {})}
        values = msgspec.to_builtins(build(record.config, chosen))
        enabled = switches.get(step.name, step.on)
        planned.append(
            PlannedStep(
                name=step.name,
                enabled=enabled,
                source="request" if step.name in switches else f"chain {chain.name}",
                options=values,
            )
        )
        if enabled:
            records.append(record)
    check_chain(records)
    return tuple(planned)
