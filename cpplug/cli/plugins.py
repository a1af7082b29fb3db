"""``cpplug plugins``: what is installed, whether it is fit, and a start for your own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpplug.api.errors import PluginError, UnknownNameError
from cpplug.cli.output import emit_table, format_option
from cpplug.host.entries import KINDS

if TYPE_CHECKING:
    from cpplug.cli.state import State

TEMPLATES = ("isr_step", "combiner", "calibration", "verifier", "instrument", "listener")


@click.group()
def plugins() -> None:
    """List, show and create plugins."""


@plugins.command("list")
@click.option("--check", is_flag=True, help="Load every plugin and judge it.")
@click.option("--kind", type=click.Choice(KINDS), help="Only plugins of this kind.")
@format_option
@click.pass_obj
def list_plugins(state: State, check: bool, kind: str | None, format: str) -> int:
    """List the installed plugins, one line per entry point, with provider and version.

    Nothing is imported, and the verdict is unchecked, blocked or duplicate. With --check every
    plugin is loaded and the verdict may also be ok, broken, lying (registered under a name that it
    does not provide), incompatible, or unlisted (a record without entry point).
    The exit code is 8 if --check finds a plugin unfit.
    """
    rows = [
        {
            "name": info.name,
            "kind": info.kind,
            "module": info.module,
            "provider": info.provider,
            "version": info.version,
            "verdict": info.verdict,
            "detail": info.detail,
        }
        for info in state.catalog.listing(check)
        if kind in {None, info.kind}
    ]
    columns = ["kind", "name", "module", "provider", "version", "verdict"]
    if format == "ids":
        columns = ["name"]
    elif any(row["detail"] for row in rows):
        columns.append("detail")
    emit_table(rows, columns, format)
    unfit = {"broken", "lying", "duplicate", "incompatible"}
    return PluginError.exit_code if check and any(r["verdict"] in unfit for r in rows) else 0


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Needed when two kinds share the name.")
@click.option("--format", "format", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def show(state: State, name: str, kind: str | None, format: str) -> None:
    """Show a plugin: provider, version, file, API, hooks, options, and which recipes use it."""
    pages = [_page(state, kind_, name) for kind_ in _kinds_of(state, name, kind)]
    if format == "json":
        import msgspec

        encoded = msgspec.json.encode(pages if len(pages) > 1 else pages[0], enc_hook=str)
        click.echo(msgspec.json.format(encoded).decode())
        return
    click.echo("\n\n".join(_as_text(page) for page in pages))


@plugins.command()
@click.argument("kind", type=click.Choice(TEMPLATES))
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder in which the distribution's folder is made; by default here.",
)
def new(kind: str, name: str, output: Path) -> None:
    """Write a small distribution with a plugin of your own: module, test, pyproject, README."""
    from cpplug.host.scaffold import write

    folder = write(kind, name, output)
    click.echo(folder)
    click.echo(
        f"Install it with pip install -e {folder}, then cpplug plugins list --check.", err=True
    )


def _kinds_of(state: State, name: str, kind: str | None) -> list[str]:
    kinds = [kind] if kind else [k for k in KINDS if name in state.catalog.names(k)]
    if kinds:
        return kinds
    from cpplug.api.errors import nearest

    every = [known for k in KINDS for known in state.catalog.names(k)]
    raise UnknownNameError(f"No plugin is called {name!r}.", nearest(name, every))


def _page(state: State, kind: str, name: str) -> dict[str, Any]:
    catalog = state.catalog
    found = catalog.get(kind, name)
    entry = catalog.entry(kind, name)
    import sys

    module = sys.modules.get(entry.module)
    page: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "summary": getattr(found, "summary", "") or catalog.summary(kind, name),
        "provider": entry.provider,
        "version": entry.version,
        "module": entry.value,
        "file": getattr(module, "__file__", ""),
        "api": getattr(module, "CPPLUG_API", 1),
        "hooks": catalog.hooks_of(kind, name),
        "used_by": _used_by(state, kind, name),
        "options": _options(getattr(found, "config", None)),
    }
    return page


def _used_by(state: State, kind: str, name: str) -> list[str]:
    """Return the calibrations whose recipe names a step or verifier."""
    if kind not in {"isr_step", "verifier"}:
        return []
    users = []
    for calibration in state.catalog.names("calibration"):
        try:
            record = state.catalog.get("calibration", calibration)
        except PluginError:
            continue
        if name in (*record.isr, *record.verify, *record.verify_isr):
            users.append(calibration)
    return users


def _options(config: Any) -> list[dict[str, Any]]:
    """Return name, type, default and sentence of every option of a plugin."""
    import msgspec

    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        return []
    schema = msgspec.json.schema(config)
    fields = schema["$defs"][config.__name__]["properties"]
    return [
        {
            "option": option,
            "type": facts.get("type") or "|".join(map(str, facts.get("enum", ["any"]))),
            "default": facts.get("default"),
            "range": _range(facts),
            "about": facts.get("description", ""),
        }
        for option, facts in fields.items()
    ]


def _range(facts: dict[str, Any]) -> str:
    signs = {
        "minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<",
    }  # fmt: skip
    return " ".join(f"{sign} {facts[key]:g}" for key, sign in signs.items() if key in facts)


def _as_text(page: dict[str, Any]) -> str:
    lines = []
    for key, value in page.items():
        if key == "options" or value in ("", []):
            continue
        shown = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"{key.replace('_', ' '):10s}{shown}")
    for option in page["options"]:
        limits = f" ({option['range']})" if option["range"] else ""
        lines.append(
            f"option    {option['option']} = {option['default']}  "
            f"[{option['type']}{limits}] {option['about']}".rstrip()
        )
    return "\n".join(lines)
