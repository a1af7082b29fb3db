"""What the commands share: the global options, and things made from them when first needed.

A command gets the state as ``click.Context.obj``; for command plugins it is the ``Toolbox`` of the
plugin interface.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpplug.api.errors import CpplugError, UsageError

if TYPE_CHECKING:
    from cpplug.api.events import Envelope
    from cpplug.api.instrument import Instrument
    from cpplug.host.bus import Bus
    from cpplug.host.catalog import Catalog
    from cpplug.store import Repository


@dataclass
class State:
    """The options of ``cpplug`` and what hangs on them.

    Attributes
    ----------
    repo
        Folder of the repository (``-b``, ``CPPLUG_REPO``), or None.
    debug
        Show tracebacks.
    long_log, log_level, log_file, no_progress
        How the listeners talk; see :meth:`listener_options`.
    no_plugin, with_, plugin
        Plugins left out, listeners switched on, files loaded as plugins.
    """

    repo: Path | None = None
    debug: bool = False
    long_log: bool = False
    log_level: tuple[str, ...] = ()
    log_file: Path | None = None
    no_progress: bool = False
    no_plugin: tuple[str, ...] = ()
    with_: tuple[str, ...] = ()
    plugin: tuple[Path, ...] = ()
    command_line: list[str] = field(default_factory=list)
    """What the user typed, for the provenance."""

    def add(self, name: str, value: Any) -> None:
        """Note an option; the values of repeatable ones are joined."""
        old = getattr(self, name)
        setattr(self, name, (*old, *value) if isinstance(old, tuple) else value)
        self.__dict__.pop("catalog", None)

    @cached_property
    def catalog(self) -> Catalog:
        """The plugin catalog of this command, made when first asked for.

        Raises
        ------
        UnknownNameError
            When ``--no-plugin`` names nothing that is installed.
        PluginError
            When a ``--plugin`` file cannot be used.
        """
        from cpplug.api.errors import UnknownNameError
        from cpplug.host.catalog import Catalog
        from cpplug.host.entries import names_blocked

        catalog = Catalog(
            blocked=names_blocked(self.no_plugin, os.environ.get("CPPLUG_NO_PLUGIN")),
            ambient=("log", *(() if self.no_progress else ("progress",)), *self.with_),
            files=self.plugin,
        )
        idle = set(self.no_plugin) and set(self.no_plugin).intersection(catalog.idle_blocks())
        if idle:
            raise UnknownNameError(
                f"--no-plugin {min(idle)} names no installed plugin.", "See cpplug plugins list."
            )
        return catalog

    def command_names(self) -> list[str]:
        """Return the names of command plugins; empty when the catalog itself cannot be made."""
        try:
            return self.catalog.names("command")
        except CpplugError:
            if self.plugin or self.no_plugin:
                raise
            return []

    @property
    def listener_options(self) -> dict[str, Any]:
        """What every listener's ``configure`` is given."""
        return {
            "long_log": self.long_log,
            "log_level": list(self.log_level),
            "log_file": self.log_file,
        }

    @property
    def command_text(self) -> str:
        """What the user typed, as one line that a shell would read again."""
        return shlex.join(self.command_line)

    def listeners(self) -> list[tuple[str, Callable[[Envelope], None]]]:
        """Return the listeners that are switched on, told how the user wants them to talk."""
        self.catalog.configure_listeners(self.listener_options)
        return self.catalog.listeners()

    def bus(self, what: str) -> Bus:
        """Return a bus to announce what a command did; the registry's journal keeps the record."""
        from cpplug.host.bus import Bus

        return Bus(what, self.listeners())

    @contextmanager
    def repository(self, path: Path | None = None) -> Iterator[Repository]:
        """Open the repository for the time of a ``with`` block.

        Parameters
        ----------
        path
            Its folder, when the command takes it as an argument; else ``-b`` or ``CPPLUG_REPO``.

        Raises
        ------
        UsageError
            When no repository is named.
        RepositoryError
            When it cannot be used.
        """
        from cpplug.store import Repository

        root = path or self.repo
        if root is None:
            raise UsageError("No repository is named.", "Give -b REPO or set CPPLUG_REPO.")
        repository = Repository.open(Path(root))
        try:
            yield repository
        finally:
            repository.close()

    def instrument(self, name: str) -> Instrument:
        """Load an instrument by name."""
        instrument: Instrument = self.catalog.get("instrument", name)
        return instrument

    def instruments(self) -> tuple[str, ...]:
        """Return the names of all registered instruments, without importing any."""
        return tuple(self.catalog.names("instrument"))
