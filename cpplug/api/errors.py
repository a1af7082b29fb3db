"""What can go wrong, said once: every error cpplug raises on purpose, with its exit code.

A user sees one sentence (what is wrong, where) and one more (what to do next). The class decides
the exit code of the command; ``docs/reference/exit-codes.md`` lists them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CpplugError(Exception):
    """Base of everything cpplug raises on purpose.

    Parameters
    ----------
    message
        One sentence: what is wrong, and where.
    next_step
        One sentence: what the user can do about it. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        # Keeps the exception (and its next step) whole on the way home from a worker process.
        return (type(self), (self.message, self.next_step))


class UsageError(CpplugError):
    """A wrong option, name or expression (exit code 2)."""

    exit_code = 2


class WhereSyntaxError(UsageError):
    """A ``--where`` expression that cannot be read (exit code 2)."""


class UnknownNameError(UsageError):
    """A name that does not exist: collection, field, plugin, option (exit code 2)."""


class ConfigError(UsageError):
    """An option that does not exist or a value outside its type or range (exit code 2)."""


class VerificationFailed(CpplugError):
    """A calibration did not pass its verification (exit code 3)."""

    exit_code = 3


class NothingMatched(CpplugError):
    """A selection that leaves nothing to work on (exit code 4)."""

    exit_code = 4


class DataError(CpplugError):
    """Input data missing, damaged or of the wrong kind (exit code 5)."""

    exit_code = 5


class CalibrationMissing(DataError):
    """A calibration that a step needs was not found (exit code 5)."""


class CalibrationAmbiguous(DataError):
    """Two calibrations are valid at once in the first collection that has any (exit code 5)."""


class CertificationRefused(CpplugError):
    """A certification that the rules do not allow (exit code 6)."""

    exit_code = 6


class CertificationConflict(CertificationRefused):
    """A validity range that overlaps another one of the same kind (exit code 6)."""


class UnitsFailed(CpplugError):
    """Some units of work failed; the others are safe and can be resumed (exit code 7)."""

    exit_code = 7


class PluginError(CpplugError):
    """A plugin that is missing, broken, blocked, duplicated or incompatible (exit code 8).

    Whatever its code said over several lines becomes one.
    """

    exit_code = 8

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(" ".join(message.split()), next_step)


class RepositoryError(CpplugError):
    """A repository that cannot be used: missing, locked, full, of another schema (exit code 9)."""

    exit_code = 9


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a "did you mean" sentence for a mistyped name.

    Parameters
    ----------
    name
        What was typed.
    known
        The names that exist.
    count
        How many suggestions at the most.

    Returns
    -------
    str
        A sentence that ends in a full stop; empty when nothing is near.
    """
    choices = sorted(set(known))
    folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)
    if not close:
        return f"Known: {', '.join(choices)}." if 0 < len(choices) <= 12 else ""
    return f"Did you mean {' or '.join(repr(folded[match]) for match in close)}?"
