"""A command group that knows its commands by name and imports one when it is used.

``cpplug --help`` shows a static table and the names of the ``cpplug.command`` entry points, so it
pays for no command's imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cpplug.cli.state import State

TABLE: dict[str, tuple[str, str]] = {
    "init": ("cpplug.cli.repository:init", "Create a repository."),
    "ingest": ("cpplug.cli.repository:ingest", "Register raw files."),
    "query": ("cpplug.cli.query:query", "Look up exposures, products, runs and checks."),
    "collections": ("cpplug.cli.repository:collections", "Show collections as a tree."),
    "chain": ("cpplug.cli.repository:chain", "Change a chain of collections."),
    "tag": ("cpplug.cli.repository:tag", "Put products into a collection by hand."),
    "run": ("cpplug.cli.run:run", "Build a calibration from exposures."),
    "verify": ("cpplug.cli.run:verify", "Test a calibration on exposures."),
    "isr": ("cpplug.cli.isr:isr", "Correct one exposure with a named chain."),
    "certify": ("cpplug.cli.certification:certify", "Declare products valid for a range of dates."),
    "decertify": ("cpplug.cli.certification:decertify", "Take a range of dates back."),
    "validity": ("cpplug.cli.certification:validity", "Show which product is valid when."),
    "which": (
        "cpplug.cli.certification:which",
        "Say which product an exposure would get, and why.",
    ),
    "picture": ("cpplug.cli.picture:picture", "Draw a product."),
    "remove-run": ("cpplug.cli.repository:remove_run", "Delete a run and its files."),
    "config": ("cpplug.cli.run:config", "Show options, their values and where they come from."),
    "events": ("cpplug.cli.events:events", "Show what happened in a run."),
    "plugins": ("cpplug.cli.plugins:plugins", "List, show and create plugins."),
    "completion": ("cpplug.cli.completion:completion", "Print the completion script of a shell."),
}
"""Built-in commands in the order of a night's work: ``module:attribute`` and one-line help."""

COMMON = (
    "long_log",
    "log_level",
    "log_file",
    "no_plugin",
    "with_",
    "plugin",
    "debug",
    "no_progress",
    "repo",
)
"""Options of ``cpplug`` that may also stand behind the command."""


def hyphens(words: list[str]) -> list[str]:
    """Write the names of options with hyphens: ``--begin_date=D`` becomes ``--begin-date=D``.

    Values are left as they are, and so is everything behind ``--``.
    """
    end = words.index("--") if "--" in words else len(words)
    fixed = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        fixed.append(name.replace("_", "-") + equals + value if name.startswith("--") else word)
    return fixed + words[end:]


class LazyGroup(click.Group):
    """The ``cpplug`` command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options, also those that are written with underscores."""
        return super().parse_args(ctx, hyphens(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return built-in commands in their order, then those of plugins."""
        return [*TABLE, *(name for name in _state(ctx).command_names() if name not in TABLE)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None when there is none of this name."""
        if cmd_name in TABLE:
            module, _, attribute = TABLE[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
        elif cmd_name in _state(ctx).command_names():
            command = _state(ctx).catalog.get("command", cmd_name)
        else:
            return None
        _accept_common_options(command, self.params)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a mistyped one fails with the nearest names."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from cpplug.api.errors import UnknownNameError, nearest

            raise UnknownNameError(
                f"There is no command {name!r}.",
                nearest(name, self.list_commands(ctx)) or "Run cpplug --help for the commands.",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        foreign = [name for name in self.list_commands(ctx) if name not in TABLE]
        with formatter.section("Commands"):
            formatter.write_dl([(name, TABLE[name][1]) for name in TABLE])
        if foreign:
            catalog = _state(ctx).catalog
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, catalog.summary("command", name)) for name in foreign])


def _state(ctx: click.Context) -> State:
    from cpplug.cli.state import State

    return ctx.ensure_object(State)


def _accept_common_options(command: click.Command, options: list[click.Parameter]) -> None:
    """Let a command take the options of ``cpplug`` that it has no own use for."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _accept_common_options(child, options)
    taken = {name for param in command.params for name in param.opts + param.secondary_opts}
    taken |= {param.name for param in command.params if param.name}
    for option in options:
        if option.name in COMMON and option.name not in taken and not taken & set(option.opts):
            command.params.append(_Repeated(option))


class _Repeated(click.Option):
    """An option of ``cpplug`` behind the command's name: hidden, and noted in the state."""

    def __init__(self, original: click.Parameter) -> None:
        assert isinstance(original, click.Option)
        same: Mapping[str, Any] = {
            "is_flag": original.is_flag,
            "multiple": original.multiple,
            "type": original.type,
        }
        super().__init__(
            [*original.opts, str(original.name)],
            hidden=True,
            expose_value=False,
            callback=_note,
            **same,
        )


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        _state(ctx).add(str(param.name), value)
