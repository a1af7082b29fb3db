"""The catalog: which plugins are installed, and one of them by name when somebody asks for it.

Listing reads the entry-point tables and imports nothing. A plugin is imported, checked and
registered when its name is first used, so that a broken one hurts only who asked for it. This is
the one module that uses the managers of stevedore (what is installed) and pluggy (what a module
contributes, who wraps the work, who watches).

stevedore caches the tables and can be two minutes behind an edited one. The cache is trusted for
what it finds and never for a miss, a duplicate or a failed load: then the tables are read afresh.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from cpplug.api.errors import PluginError, UnknownNameError, nearest
from cpplug.api.hooks import PROJECT, Hooks, hookimpl
from cpplug.host import entries as tables
from cpplug.host import refusals
from cpplug.host.entries import KINDS, Entry, PluginInfo, info, label
from cpplug.host.modules import (
    call,
    check_module,
    collect,
    import_entry,
    listener_of,
    load_file,
    short_name,
    version_of_file,
)
from cpplug.host.refusals import Rejected

if TYPE_CHECKING:
    from cpplug.api.context import Context
    from cpplug.api.events import Envelope
    from cpplug.api.records import Calibration, PlanView, Problem, Work

__all__ = ["KINDS", "Catalog", "PluginInfo", "Rejected"]


class _Core:
    """Does the work when all wrappers have been entered."""

    @hookimpl(trylast=True)
    def cpplug_execute(self, work: Work) -> object:
        return work.run()


class Catalog:
    """Finds, loads and calls plugins.

    Parameters
    ----------
    blocked
        Words of ``--no-plugin``: a plugin's name, ``kind:name``, module, top package or
        distribution. What they name is not imported.
    ambient
        Names of listener plugins that are switched on for this run.
    files
        Python files loaded as plugins (``--plugin``); recorded with their sha256.
    discover
        False: see only what ``files`` and :meth:`add_module` bring.

    Raises
    ------
    PluginError
        When one of ``files`` cannot be used.
    """

    KINDS = KINDS

    def __init__(
        self,
        *,
        blocked: Sequence[str] = (),
        ambient: Sequence[str] = (),
        files: Sequence[Path] = (),
        discover: bool = True,
    ) -> None:
        self._blocked = tuple(dict.fromkeys(blocked))
        self._ambient = tuple(dict.fromkeys(ambient))
        self._discover = discover
        self._lock = threading.RLock()
        self._offers: dict[str, dict[tuple[str, str], Any]] = {}
        self._added: dict[tuple[str, str], Entry] = {}
        self._added_modules: dict[str, ModuleType] = {}
        self._handed_out: set[tuple[str, str]] = set()
        self._fresh_tables: dict[str, list[Entry]] = {}
        self._manager = _new_manager()
        self._around: pluggy.PluginManager | None = None
        for path in files:
            self.add_module(load_file(Path(path)))

    # ---- what is there, without importing it -------------------------------------------------
    def names(self, kind: str) -> list[str]:
        """Return the names of a kind, sorted, blocked ones left out; imports no plugin."""
        tables.known_kind(kind)
        listed = {entry.name for entry in self._entries(kind)}
        return sorted(listed | {name for k, name in self._added if k == kind})

    def listing(self, check: bool = False) -> list[PluginInfo]:
        """Return every plugin with provider, version and verdict.

        Without ``check`` nothing is imported and the verdict is ``unchecked``, ``blocked`` or
        ``duplicate``; with it every plugin is loaded and judged.
        """
        rows = []
        for kind in KINDS:
            table = self._fresh(kind) if self._discover else []
            clash = tables.duplicated([e for e in table if not self._is_blocked(e)])
            for entry in table:
                verdict, detail = "unchecked", ""
                if word := self._is_blocked(entry):
                    verdict, detail = "blocked", f"by {word!r}"
                elif entry.name in clash:
                    others = [e for e in table if e.name == entry.name and e != entry]
                    verdict = "duplicate"
                    detail = "also provided by " + ", ".join(tables.who(e) for e in others)
                elif check:
                    verdict, detail = self._judge(entry)
                rows.append(info(entry, verdict, detail))
        rows += [info(entry, "ok", "added by hand") for entry in self._added.values()]
        if check:
            own = {m: o for m, o in self._offers.items() if m not in self._added_modules}
            rows += tables.unlisted(own, [e for kind in KINDS for e in self._fresh(kind)])
        return rows

    def idle_blocks(self) -> list[str]:
        """Return the blocked words that name no installed plugin."""
        every = [entry for kind in KINDS for entry in self._fresh(kind)]
        return [w for w in self._blocked if not any(entry.answers_to(w) for entry in every)]

    def provider(self, kind: str, name: str) -> str:
        """Return ``distribution version`` of a plugin, or its file and sha256."""
        return self.entry(kind, name).provided_by

    def entry(self, kind: str, name: str) -> Entry:
        """Return where a plugin is implemented and who provides it, without importing it."""
        return self._added.get((kind, name)) or self._with_provider(self._find(kind, name))

    def summary(self, kind: str, name: str) -> str:
        """Return the first line of a plugin's docstring, without importing it."""
        return tables.first_sentence(self.entry(kind, name))

    def used(self) -> dict[str, str]:
        """Return ``kind:name`` to ``distribution version`` of every plugin handed out so far."""
        with self._lock:
            return {f"{k}:{name}": self.provider(k, name) for k, name in sorted(self._handed_out)}

    # ---- one plugin by name ------------------------------------------------------------------
    def get(self, kind: str, name: str) -> Any:
        """Return a plugin: a record, an ``Instrument``, a listener module or a click command.

        Raises
        ------
        UnknownNameError
            When no plugin of this kind has the name.
        PluginError
            When it is blocked, broken, duplicated, incompatible, or not what it is registered as.
        """
        tables.known_kind(kind)
        with self._lock:
            found = self._obtain(kind, name)
            self._handed_out.add((kind, name))
            return found

    def _obtain(self, kind: str, name: str) -> Any:
        if entry := self._added.get((kind, name)):
            return self._offers[entry.module][kind, name]
        return self._load(self._find(kind, name))

    def find_calibration(self, word: str) -> Calibration:
        """Return a calibration by its name or one of its aliases (``cpBias``).

        Calibrations are imported to look at their aliases only when no name fits; those that
        cannot be loaded are passed over and named if nothing is found.

        Raises
        ------
        UnknownNameError
            When neither a name nor an alias fits.
        PluginError
            As :meth:`get`.
        """
        known = self.names("calibration")
        if word in known:
            record: Calibration = self.get("calibration", word)
            return record
        words, unreadable = list(known), []
        for name in known:
            try:
                with self._lock:
                    record = self._obtain("calibration", name)
            except PluginError:
                unreadable.append(name)
                continue
            if word.lower() in (alias.lower() for alias in (name, *record.aliases)):
                self._handed_out.add(("calibration", name))
                return record
            words += record.aliases
        blind = f" Not looked into, because broken: {', '.join(unreadable)}." if unreadable else ""
        raise UnknownNameError(f"No calibration is called {word!r}.{blind}", nearest(word, words))

    def add_module(self, module: ModuleType) -> None:
        """Register a module that was loaded by hand, with everything it offers.

        Its records are usable at once, its listeners and wrappers are switched on (it was named
        on purpose), and the sha256 of its file stands for its version.

        Raises
        ------
        PluginError
            When it is no good plugin, or offers a name that is already taken.
        """
        with self._lock:
            name = module.__name__
            if name in self._added_modules:
                return
            offers = self._register(module, name)
            file = getattr(module, "__file__", None)
            for kind, offered in offers:
                if offered in self.names(kind):
                    self._forget(module)
                    raise refusals.taken(name, kind, offered, self.provider(kind, offered))
            for kind, offered in offers:
                self._added[kind, offered] = Entry(
                    kind=kind,
                    name=offered,
                    value=name,
                    provider=Path(file).name if file else name,
                    version=version_of_file(Path(file)) if file else "",
                )
            self._added_modules[name] = module
            self._around = None

    def hooks_of(self, kind: str, name: str) -> list[str]:
        """Return the hooks that the module of a plugin implements; loads it."""
        self.get(kind, name)
        module = self._manager.get_plugin(self.entry(kind, name).module)
        callers = self._manager.get_hookcallers(module) if module is not None else None
        return sorted(caller.name for caller in callers or [])

    # ---- calls -------------------------------------------------------------------------------
    def check_plan(self, plan: PlanView) -> list[tuple[str, Problem]]:
        """Ask every plugin loaded so far for objections to a plan.

        Returns
        -------
        list of (str, Problem)
            Module and objection, in order of module.

        Raises
        ------
        PluginError
            When a plugin fails while it looks at the plan: an unheard veto would be unsafe.
        """
        self._surroundings()
        answers: list[tuple[str, Problem]] = []
        for impl in self._manager.hook.cpplug_check_plan.get_hookimpls():
            try:
                problems = call(impl, plan=plan) or ()
                answers += [(impl.plugin_name, problem) for problem in problems]
            except Exception as error:
                raise refusals.failed(
                    impl.plugin_name, impl.plugin_name, "cpplug_check_plan", error
                ) from error
        return sorted(answers, key=lambda answer: answer[0])

    def execute(self, work: Work, context: Context[Any] | None) -> Any:
        """Do one unit of work inside the wrappers that are switched on; return its result."""
        return self._surroundings().hook.cpplug_execute(work=work, context=context)

    def listeners(self) -> list[tuple[str, Callable[[Envelope], None]]]:
        """Load the listeners that are switched on; return name and function of each."""
        found = []
        for name, module in self._ambient_modules():
            found += [
                (name, listener_of(impl))
                for impl in self._manager.hook.cpplug_event.get_hookimpls()
                if impl.plugin is module
            ]
        return found

    def configure_listeners(self, options: Mapping[str, Any]) -> None:
        """Hand the user's options to every listener that has a ``configure`` function.

        All listeners get the same mapping and take what concerns them; see
        ``docs/how-to/write-a-plugin.md``.

        Raises
        ------
        CpplugError
            As the listener raises it, for example for an unknown log level.
        """
        for _, module in self._ambient_modules():
            configure = getattr(module, "configure", None)
            if callable(configure):
                configure(dict(options))

    # ---- worker processes --------------------------------------------------------------------
    def spec(self) -> dict[str, Any]:
        """Return a picklable recipe for :meth:`from_spec`.

        Of what is switched on, a worker needs only the wrappers; the driver does the listening.
        """
        wrapping = [
            impl.plugin for impl in self._surroundings().hook.cpplug_execute.get_hookimpls()
        ]
        ambient = [name for name, module in self._ambient_modules() if module in wrapping]
        return {
            "blocked": self._blocked,
            "ambient": [name for name in ambient if name in self._ambient],
            "discover": self._discover,
            "modules": [
                (name, getattr(module, "__file__", None))
                for name, module in self._added_modules.items()
            ],
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Catalog:
        """Build the same catalog in another process."""
        catalog = cls(blocked=spec["blocked"], ambient=spec["ambient"], discover=spec["discover"])
        for name, file in spec["modules"]:
            catalog.add_module(load_file(Path(file) if file else None, name))
        return catalog

    # ---- inside ------------------------------------------------------------------------------
    def _fresh(self, kind: str) -> list[Entry]:
        if not self._discover:
            return []
        if kind not in self._fresh_tables:
            self._fresh_tables[kind] = tables.read_fresh(kind)
        return self._fresh_tables[kind]

    def _entries(self, kind: str) -> list[Entry]:
        """Entries that are not blocked; from the cache unless blocking needs the distribution."""
        if not self._discover:
            return []
        if not self._blocked:
            return _read_cached(kind)
        return [entry for entry in self._fresh(kind) if not self._is_blocked(entry)]

    def _is_blocked(self, entry: Entry) -> str:
        return next((word for word in self._blocked if entry.answers_to(word)), "")

    def _find(self, kind: str, name: str) -> Entry:
        same = [entry for entry in self._entries(kind) if entry.name == name]
        if len(same) == 1:
            return same[0]
        every = [entry for entry in self._fresh(kind) if entry.name == name]
        same = [entry for entry in every if not self._is_blocked(entry)]
        if len(same) == 1:
            return same[0]
        if same:
            raise refusals.provided_twice(same)
        if every:
            raise refusals.blocked(every[0], self._is_blocked(every[0]))
        raise UnknownNameError(
            f"No {label(kind)} is called {name!r}.", nearest(name, self.names(kind))
        )

    def _with_provider(self, entry: Entry) -> Entry:
        same = (entry.name, entry.value)
        fresh = [known for known in self._fresh(entry.kind) if (known.name, known.value) == same]
        return fresh[0] if fresh else entry

    def _load(self, entry: Entry) -> Any:
        if (entry.kind, entry.name) in self._offers.get(entry.module, ()):
            return self._offers[entry.module][entry.kind, entry.name]
        try:
            return self._load_as_listed(entry)
        except Rejected:
            # The cached table may be out of date: believe a failure only of the fresh one.
            fresh = [e for e in tables.read_fresh(entry.kind) if e.name == entry.name]
            if len(fresh) != 1 or fresh[0].value == entry.value:
                raise
            return self._load_as_listed(fresh[0])

    def _load_as_listed(self, entry: Entry) -> Any:
        known = self._with_provider(entry)
        found = import_entry(known, _import_named)
        if entry.kind in tables.DRIVERS:
            label, fits = tables.DRIVERS[entry.kind]
            if not fits(found):
                raise refusals.lying(known, f"points to no {label}")
            return found
        offers = self._register(found, tables.who(known))
        key = (entry.kind, entry.name)
        if entry.kind == "listener":
            key = ("listener", short_name(found))
            if key not in offers:
                raise refusals.lying(known, "listens to nothing and wraps nothing")
        elif key not in offers:
            raise refusals.lying(known, "provides none of that name")
        return offers[key]

    def _register(self, module: ModuleType, who: str) -> dict[tuple[str, str], Any]:
        """Check a module, register it with pluggy, and keep what it offers; all or nothing."""
        name = module.__name__
        if name in self._offers:
            return self._offers[name]
        check_module(module, who)
        try:
            self._manager.register(module, name=name)
            self._manager.check_pending()
            offers = collect(self._manager, module, who)
        except pluggy.PluginValidationError as error:
            self._forget(module)
            raise refusals.wrong_hook(who, name, error) from error
        except BaseException:
            self._forget(module)
            raise
        self._offers[name] = offers
        return offers

    def _forget(self, module: ModuleType) -> None:
        self._offers.pop(module.__name__, None)
        if self._manager.has_plugin(module.__name__):
            self._manager.unregister(name=module.__name__)

    def _ambient_modules(self) -> list[tuple[str, ModuleType]]:
        silent = {e.name for e in self._fresh("listener") if self._is_blocked(e)}
        named = [(n, self.get("listener", n)) for n in self._ambient if n not in silent]
        by_hand = [
            (name, self._offers[entry.module][kind, name])
            for (kind, name), entry in self._added.items()
            if kind == "listener" and name not in self._ambient
        ]
        return named + by_hand

    def _surroundings(self) -> pluggy.PluginManager:
        """Return the manager that holds the core and the wrappers that are switched on."""
        with self._lock:
            if self._around is None:
                around = _new_manager()
                around.register(_Core(), name="cpplug core")
                for _, module in self._ambient_modules():
                    if not around.has_plugin(module.__name__):
                        around.register(module, name=module.__name__)
                self._around = around
            return self._around

    def _judge(self, entry: Entry) -> tuple[str, str]:
        try:
            with self._lock:
                self._load(entry)
        except Rejected as error:
            return error.verdict, str(error)
        return "ok", ""


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    return manager


def _read_cached(kind: str) -> list[Entry]:
    """Return the entries of a kind from stevedore's listing; imports no plugin."""
    from stevedore import NamedExtensionManager

    manager: NamedExtensionManager[Any] = NamedExtensionManager(
        f"cpplug.{kind}", names=[], on_missing_entrypoints_callback=None
    )
    return tables.unique(
        Entry(kind=kind, name=point.name, value=point.value)
        for point in manager.list_entry_points()
    )


def _import_named(entry: Entry) -> Any:
    """Import what an entry points to; raises whatever the import raises."""
    from stevedore import NamedExtensionManager

    failures: list[BaseException] = []

    def fail(_: Any, point: Any, error: BaseException) -> None:
        if point.value == entry.value:
            failures.append(error)

    manager: NamedExtensionManager[Any] = NamedExtensionManager(
        entry.group,
        names=[entry.name],
        on_load_failure_callback=fail,
        on_missing_entrypoints_callback=None,
    )
    for extension in manager:
        if extension.entry_point.value == entry.value:
            return extension.plugin
    if failures:
        raise failures[0]
    return entry.load()
