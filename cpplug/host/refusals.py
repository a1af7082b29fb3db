"""The sentences with which a plugin is refused: what is wrong, whose it is, and the way out."""

from __future__ import annotations

from collections.abc import Sequence

from cpplug.api.errors import PluginError
from cpplug.host.entries import Entry, label, who


class Rejected(PluginError):
    """A plugin that cannot be used; ``verdict`` says in which way."""

    def __init__(self, message: str, next_step: str = "", verdict: str = "broken") -> None:
        super().__init__(message, next_step)
        self.verdict = verdict

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.next_step, self.verdict))


def _way_out(word: str) -> str:
    return f"leave it out: cpplug --no-plugin {word}."


def not_importable(entry: Entry, error: BaseException) -> Rejected:
    """Return the refusal of a plugin whose module or attribute cannot be imported."""
    owner = f" of {entry.provided_by}" if entry.provider else ""
    return Rejected(
        f"Plugin {label(entry.kind)} {entry.name!r}{owner} cannot be imported from {entry.value}: "
        f"{type(error).__name__}: {error}.",
        f"Repair it, or {_way_out(entry.package)}",
    )


def lying(entry: Entry, what: str) -> Rejected:
    """Return the refusal of a plugin that is not what its entry point says."""
    return Rejected(
        f"{who(entry)} is registered as {label(entry.kind)} {entry.name!r} but {what}.",
        f"Report it to its author, or {_way_out(entry.package)}",
        verdict="lying",
    )


def provided_twice(same: Sequence[Entry]) -> Rejected:
    """Return the refusal of a name that several entries claim."""
    return Rejected(
        f"The {label(same[0].kind)} {same[0].name!r} is provided twice, by "
        f"{' and by '.join(who(entry) for entry in same)}.",
        f"Leave one out: cpplug --no-plugin {same[-1].package}.",
        verdict="duplicate",
    )


def taken(module: str, kind: str, name: str, provider: str) -> Rejected:
    """Return the refusal of a module loaded by hand whose record has the name of another one."""
    return Rejected(
        f"{module} offers {label(kind)} {name!r}, which {provider} provides already.",
        f"Rename it, or leave the other one out: cpplug --no-plugin {name}.",
        verdict="duplicate",
    )


def blocked(entry: Entry, word: str) -> Rejected:
    """Return the refusal of a plugin that the user has blocked."""
    return Rejected(
        f"The {label(entry.kind)} {entry.name!r} of {who(entry)} is blocked by {word!r}.",
        "Remove it from --no-plugin or CPPLUG_NO_PLUGIN.",
        verdict="blocked",
    )


def failed(owner: str, module: str, hook: str, error: BaseException) -> Rejected:
    """Return the refusal of a plugin that raised in a hook."""
    return Rejected(
        f"{owner} failed in {hook}: {type(error).__name__}: {error}.",
        f"Repair it, or {_way_out(module.partition('.')[0])}",
    )


def wrong_hook(owner: str, module: str, error: BaseException) -> Rejected:
    """Return the refusal of a plugin whose hook has a wrong signature."""
    reason = " ".join(str(error).split())
    return Rejected(
        f"{owner} implements a hook wrongly: {reason}",
        f"Repair it, or {_way_out(module.partition('.')[0])}",
    )
