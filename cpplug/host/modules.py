"""Loads a plugin's module and judges it: importable, of our API, well formed.

Every refusal is one sentence that names the plugin, who provides it and the way out.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cpplug.api.errors import nearest
from cpplug.api.hooks import API_VERSION, PROJECT, Hooks
from cpplug.host import refusals
from cpplug.host.entries import Entry, label
from cpplug.host.refusals import Rejected

if TYPE_CHECKING:
    from cpplug.api.events import Envelope

HOOK_OF_KIND = {
    "cpplug_instruments": "instrument",
    "cpplug_isr_steps": "isr_step",
    "cpplug_combiners": "combiner",
    "cpplug_solvers": "solver",
    "cpplug_calibrations": "calibration",
    "cpplug_verifiers": "verifier",
}
"""The hook by which a module offers records, and the kind of the records."""

HOOK_NAMES = tuple(name for name in vars(Hooks) if name.startswith(f"{PROJECT}_"))
"""Every hook, in the order of a run."""


def import_entry(entry: Entry, load: Callable[[Entry], Any]) -> Any:
    """Import what an entry points to; any failure becomes one sentence.

    Raises
    ------
    Rejected
        When the import raises, also ``SystemExit`` and failed assertions.
    """
    try:
        return load(entry)
    except (Exception, SystemExit) as error:
        raise refusals.not_importable(entry, error) from error


def check_module(module: ModuleType, who: str) -> None:
    """Check API version and hook markers of a module.

    Raises
    ------
    Rejected
        When it was written for another API, or has a function named like a hook without
        ``@hookimpl``.
    """
    if not isinstance(module, ModuleType):
        raise Rejected(
            f"{who} points to a {type(module).__name__}, not to a module.",
            "The entry point's value must be the import path of a module.",
        )
    way_out = f"cpplug --no-plugin {module.__name__.partition('.')[0]}"
    version = getattr(module, "CPPLUG_API", 1)
    if version != API_VERSION:
        raise Rejected(
            f"{who} is written for plugin API {version}, this cpplug has API {API_VERSION}.",
            f"Install a version that fits, or leave it out: {way_out}.",
            verdict="incompatible",
        )
    for name, value in vars(module).items():
        marked = hasattr(value, f"{PROJECT}_impl")
        if name.startswith(f"{PROJECT}_") and callable(value) and not marked:
            if name in HOOK_NAMES:
                raise Rejected(
                    f"{who} has a function {name} that is not marked as a hook.",
                    f"Write @hookimpl above it, or leave the plugin out: {way_out}.",
                )
        elif marked and name not in HOOK_NAMES:
            raise Rejected(
                f"{who} implements the unknown hook {name}.",
                nearest(name, HOOK_NAMES) or f"Leave it out: {way_out}.",
            )


def check_record(kind: str, record: Any, who: str) -> str:
    """Return the name of a record after checking that it is of the right type.

    Raises
    ------
    Rejected
        When it is not.
    """
    if kind == "instrument":
        from cpplug.api.instrument import Instrument as Expected
    else:
        from cpplug.api.records import RECORD_KINDS

        Expected = RECORD_KINDS[kind]  # type: ignore[misc,assignment]
    name = getattr(record, "name", "")
    if not isinstance(record, Expected) or not isinstance(name, str) or not name:
        raise Rejected(
            f"{who} offers {record!r} as {kind}; expected a named {Expected.__name__}.",
            "See docs/how-to/write-a-plugin.md for the form.",
        )
    return name


def load_file(path: Path | None, name: str = "") -> ModuleType:
    """Import a module by name or, where that is not possible, from its file.

    Parameters
    ----------
    path
        A Python file, or None when the module can only come by name.
    name
        The name under which another process knows the module; by default one is made of the
        file's name and content, so that two versions of a file are two modules.

    Raises
    ------
    Rejected
        When the file does not exist or cannot be imported.
    """
    if name and name in sys.modules:
        return sys.modules[name]
    try:
        if name and importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    except (ImportError, ValueError):
        pass
    if path is None or not path.is_file():
        raise Rejected(
            f"Plugin file {path or name} does not exist.", "Give the path of a Python file."
        )
    if not name:
        name = f"cpplug_file_{path.stem}_{version_of_file(path)[7:15]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise Rejected(f"{path} is not a Python file.", "Give the path of a file ending in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise Rejected(
            f"Plugin file {path} cannot be imported: {type(error).__name__}: {error}.",
            "Repair the file, or leave out --plugin.",
        ) from error
    return module


def version_of_file(path: Path) -> str:
    """Return ``sha256:`` and the digest of a file, which stands for its version."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def collect(manager: Any, module: ModuleType, who: str) -> dict[tuple[str, str], Any]:
    """Return what a registered module offers, by kind and name.

    Raises
    ------
    Rejected
        When a hook raises, a record is of the wrong type or offered twice, a wrapper stands where
        a plain implementation must, or the other way round.
    """
    offers: dict[tuple[str, str], Any] = {}
    for caller in manager.get_hookcallers(module) or []:
        for impl in caller.get_hookimpls():
            if impl.plugin is not module:
                continue
            wraps = impl.wrapper or impl.hookwrapper
            if (caller.name == "cpplug_execute") != wraps:
                rule = "only as a wrapper" if not wraps else "without wrapper=True"
                raise Rejected(
                    f"{who} must implement {caller.name} {rule}.",
                    f"Leave it out: cpplug --no-plugin {module.__name__.partition('.')[0]}.",
                )
            if kind := HOOK_OF_KIND.get(caller.name):
                for record in _records(impl, who, caller.name):
                    key = (kind, check_record(kind, record, who))
                    if key in offers:
                        raise Rejected(
                            f"{who} offers {label(kind)} {key[1]!r} twice.",
                            f"Leave it out: cpplug --no-plugin {module.__name__}.",
                        )
                    offers[key] = record
            elif caller.name in {"cpplug_event", "cpplug_execute"}:
                offers["listener", short_name(module)] = module
    return offers


def _records(impl: Any, who: str, hook: str) -> list[Any]:
    try:
        return list(call(impl) or ())
    except Exception as error:
        raise refusals.failed(who, impl.plugin_name, hook, error) from error


def call(impl: Any, **arguments: Any) -> Any:
    """Call one implementation of a hook with the arguments that it declares."""
    return impl.function(*(arguments[name] for name in impl.argnames))


def listener_of(impl: Any) -> Callable[[Envelope], None]:
    """Return an implementation of ``cpplug_event`` as a function of the event."""

    def listen(event: Envelope) -> None:
        call(impl, event=event)

    return listen


def short_name(module: ModuleType) -> str:
    """Return the last part of a module's import path."""
    return module.__name__.rpartition(".")[2]
