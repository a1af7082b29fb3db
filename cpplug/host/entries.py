"""What is installed, under which names: the entry-point tables, read without importing a plugin."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpplug.api.errors import UnknownNameError, nearest

KINDS = (
    "instrument",
    "isr_step",
    "combiner",
    "solver",
    "calibration",
    "verifier",
    "listener",
    "command",
    "executor",
)
"""Kinds of plugin; the entry-point group of a kind is ``cpplug.<kind>``."""


def _is_command(found: object) -> bool:
    import click

    return isinstance(found, click.Command)


def _is_executor(found: object) -> bool:
    from cpplug.api.records import WorkExecutor

    return isinstance(found, WorkExecutor)


DRIVERS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "command": ("click command", _is_command),
    "executor": ("WorkExecutor", _is_executor),
}
"""Kinds whose entry points name the object itself, and how such an object is known."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of an entry-point table: what a user types, and where it is implemented."""

    kind: str
    name: str
    value: str
    """``module`` or ``module:attribute``."""
    provider: str = ""
    version: str = ""

    @property
    def group(self) -> str:
        """The entry-point group."""
        return f"cpplug.{self.kind}"

    @property
    def module(self) -> str:
        """Import path of the module."""
        return self.value.partition(":")[0].strip()

    @property
    def package(self) -> str:
        """Top package of the module, which is what ``--no-plugin`` usually names."""
        return self.module.partition(".")[0]

    @property
    def provided_by(self) -> str:
        """``distribution version``, or file and sha256."""
        return f"{self.provider} {self.version}".strip()

    def load(self) -> object:
        """Import what the entry points to; raises whatever the import raises."""
        return importlib.metadata.EntryPoint(self.name, self.value, self.group).load()

    def answers_to(self, word: str) -> bool:
        """Tell whether ``--no-plugin WORD`` means this entry.

        A word is a plugin's name, ``kind:name``, its module, its top package, or the distribution
        (known only when the entry was read afresh).
        """
        return word in {
            self.name,
            f"{self.kind}:{self.name}",
            self.module,
            self.package,
        } or (bool(self.provider) and _normal(word) == _normal(self.provider))


def read_fresh(kind: str) -> list[Entry]:
    """Return the entries of a kind with provider and version, read from the installed metadata."""
    found = []
    for point in importlib.metadata.entry_points(group=f"cpplug.{kind}"):
        provider, version = "", ""
        if point.dist is not None:
            provider, version = point.dist.name, point.dist.version
        found.append(
            Entry(kind=kind, name=point.name, value=point.value, provider=provider, version=version)
        )
    return unique(found)


def duplicated(entries: Sequence[Entry]) -> set[str]:
    """Return the names that more than one entry claims."""
    return {name for name, count in Counter(entry.name for entry in entries).items() if count > 1}


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """One line of the plugin listing.

    ``verdict`` is ``unchecked`` (not imported), ``ok``, ``blocked``, ``duplicate``, ``broken``,
    ``lying`` (registered under a name it does not provide), ``incompatible`` (of another API) or
    ``unlisted`` (a record without an entry point, which cannot be used).
    """

    kind: str
    name: str
    module: str
    provider: str
    version: str
    verdict: str
    detail: str = ""


def unique(entries: Iterable[Entry]) -> list[Entry]:
    """Drop lines seen twice because a folder is on the path twice; sort by name."""
    seen: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        seen.setdefault((entry.name, entry.value), entry)
    return sorted(seen.values(), key=lambda entry: (entry.name, entry.value))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def first_sentence(entry: Entry) -> str:
    """Return the first line of the docstring of what an entry points to, without importing it.

    The source file is found through the top package and parsed; an empty string says that there
    is no readable source or no docstring.
    """
    try:
        spec = importlib.util.find_spec(entry.package)
        if spec is None or spec.origin is None:
            return ""
        path = Path(spec.origin)
        if rest := entry.module.split(".")[1:]:
            base = path.parent.joinpath(*rest)
            path = base.with_suffix(".py") if not base.is_dir() else base / "__init__.py"
        tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    attribute = entry.value.partition(":")[2].strip()
    for node in ast.walk(tree) if attribute else ():
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            tree = node
    if not isinstance(tree, ast.Module | ast.FunctionDef):
        return ""
    return (ast.get_docstring(tree) or "").strip().partition("\n")[0]


def unlisted(
    offers: Mapping[str, Iterable[tuple[str, str]]], listed: Iterable[Entry]
) -> list[PluginInfo]:
    """Return a line for each (kind, name) that a module offers without an entry point."""
    known = {(entry.module, entry.kind, entry.name) for entry in listed}
    return [
        info(
            Entry(kind=kind, name=name, value=module), "unlisted", "a record without an entry point"
        )
        for module, records in offers.items()
        for kind, name in records
        if kind != "listener" and (module, kind, name) not in known
    ]


def info(entry: Entry, verdict: str, detail: str) -> PluginInfo:
    """Return the line of the listing for an entry."""
    return PluginInfo(
        kind=entry.kind,
        name=entry.name,
        module=entry.value,
        provider=entry.provider,
        version=entry.version,
        verdict=verdict,
        detail=detail,
    )


def who(entry: Entry) -> str:
    """Return ``distribution version (module)`` for messages."""
    return f"{entry.provided_by} ({entry.value})" if entry.provider else entry.value


def label(kind: str) -> str:
    """Return a kind as messages write it."""
    return kind.replace("isr_step", "ISR step")


def known_kind(kind: str) -> None:
    """Raise UnknownNameError unless ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise UnknownNameError(f"There is no kind of plugin {kind!r}.", nearest(kind, KINDS))


def names_blocked(words: Iterable[str], environment: str | None) -> tuple[str, ...]:
    """Join the words of ``--no-plugin`` with those of ``CPPLUG_NO_PLUGIN`` (comma separated)."""
    listed = [word.strip() for word in (environment or "").split(",")]
    return tuple(dict.fromkeys([*words, *(word for word in listed if word)]))
