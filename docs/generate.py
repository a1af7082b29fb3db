"""Writes the reference pages that are made from the code: hooks, events, cli, exit-codes.

``python docs/generate.py`` writes all of them into ``docs/reference``; name one or more to write
only these. A test fails when a page does not say what the code says. ``snapshot`` writes
``tests/api/hooks.snapshot``, after you have decided what the change means for plugins.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from cpplug.api import errors
from cpplug.api.events import EVENTS, Envelope
from cpplug.api.hooks import API_VERSION, Hooks
from cpplug.cli.lazy import TABLE
from cpplug.cli.main import cpplug
from cpplug.cli.state import State
from cpplug.host.modules import HOOK_NAMES

FOLDER = Path(__file__).resolve().parent / "reference"
SNAPSHOT = FOLDER.parents[1] / "tests" / "api" / "hooks.snapshot"
MADE = "% Made by docs/generate.py; do not edit.\n\n"


def signature(hook: str) -> str:
    """Return a hook as its implementer writes it, with types."""
    spec = getattr(Hooks, hook)
    given = inspect.signature(spec)
    arguments = [str(p) for name, p in given.parameters.items() if name != "self"]
    text = f"{hook}({', '.join(arguments)}) -> {given.return_annotation}"
    return text.replace("'", "")


def hooks() -> str:
    """Return the page of the hooks."""
    lines = [
        "# Hooks",
        "",
        f"A plugin is a module with some of these functions, each marked with `@hookimpl`. This is "
        f"API {API_VERSION}: a module says which one it was written for with `CPPLUG_API = "
        f"{API_VERSION}` (1 if it says nothing), and another one is refused. A function may leave "
        "out arguments that it does not need.",
    ]
    for name in HOOK_NAMES:
        options = getattr(getattr(Hooks, name), "cpplug_spec", {})
        lines += ["", f"## `{signature(name)}`", "", inspect.cleandoc(getattr(Hooks, name).__doc__)]
        if options.get("firstresult"):
            lines += ["", "The first result that is not `None` ends the call."]
    return "\n".join(lines) + "\n"


def _schema(event: type[msgspec.Struct]) -> str:
    schema = msgspec.json.schema(event)
    body = schema["$defs"][event.__name__]
    body.pop("description", None)
    return json.dumps(body, indent=2)


def events() -> str:
    """Return the page of the events: what each means, and the JSON schema of its body."""
    fields = [field.name for field in msgspec.structs.fields(Envelope)]
    lines = [
        "# Events",
        "",
        inspect.cleandoc(Envelope.__doc__ or ""),
        "",
        f"In the ledger (`events.jsonl` of a run) every line is an envelope with the fields "
        f"{', '.join(f'`{name}`' for name in fields)}. The body of each event is described here.",
    ]
    for name, event in EVENTS.items():
        about = inspect.cleandoc(event.__doc__ or "")
        lines += ["", f"## `{name}`", "", f"{about} Version {event.v}.", ""]
        lines += ["```json", _schema(event), "```"]
    return "\n".join(lines) + "\n"


def _commands(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Context, str]]:
    yield ctx, command.get_help(ctx)
    if isinstance(command, click.Group) and command is not cpplug:
        for name, child in command.commands.items():
            yield from _commands(child, click.Context(child, info_name=name, parent=ctx))


def cli() -> str:
    """Return the page of the commands: the help of each."""
    settings = {**cpplug.context_settings, "terminal_width": 90, "max_content_width": 90}
    root = click.Context(cpplug, info_name="cpplug", obj=State(), **settings)
    lines = ["# Command line", "", "```text", _blank_free(cpplug.get_help(root)), "```"]
    foreign = [name for name in State().command_names() if name in OWN_COMMANDS]
    for name in [*TABLE, *foreign]:
        command = cpplug.get_command(root, name)
        assert command is not None
        child = click.Context(command, info_name=name, parent=root, **settings)
        for ctx, text in _commands(command, child):
            lines += ["", f"## `{ctx.command_path}`", "", "```text", _blank_free(text), "```"]
    return "\n".join(lines) + "\n"


OWN_COMMANDS = ("simulate",)
"""Command plugins of this distribution; those of others do not belong on the page."""


def _blank_free(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip()


def exit_codes() -> str:
    """Return the page of the exit codes, from the tree of errors."""
    rows = {0: ["Done, also when there was nothing left to do."], 130: ["Interrupted."]}
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.CpplugError):
            text = inspect.cleandoc(error.__doc__ or "").partition("\n")[0]
            if error is errors.CpplugError:
                text = "A fault in cpplug; repeat with `--debug`."
            about = re.sub(r" \(exit code \d+\)", "", text)
            label = "" if error is errors.CpplugError else f"`{name}`: "
            rows.setdefault(error.exit_code, []).append(label + about)
    lines = ["# Exit codes", "", "| code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {' '.join(texts)} |" for code, texts in sorted(rows.items())]
    return "\n".join(lines) + "\n"


def snapshot() -> str:
    """Return the hooks as plugins know them: a change here is a change of the plugin interface."""
    lines = [f"API {API_VERSION}"]
    for name in HOOK_NAMES:
        options = getattr(getattr(Hooks, name), "cpplug_spec", {})
        kept = sorted(key for key, value in options.items() if value)
        lines.append(" ".join([signature(name), *kept]))
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "hooks": hooks,
    "events": events,
    "cli": cli,
    "exit-codes": exit_codes,
}
"""Page name to the function that makes its text."""


def page(name: str) -> str:
    """Return the whole text of a page."""
    return MADE + PAGES[name]()


def main(names: list[str]) -> None:
    """Write the pages named, or all; ``snapshot`` is written only when it is named."""
    if "snapshot" in names:
        SNAPSHOT.write_text(snapshot(), encoding="utf-8")
        names = [name for name in names if name != "snapshot"] or ["hooks"]
    for name in names or PAGES:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
