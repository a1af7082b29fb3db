"""Names of runs: below the chain that collects them, by the second in which they began (UTC)."""

from __future__ import annotations

import time

from cpplug.api.errors import RepositoryError, UnknownNameError, UsageError
from cpplug.store import Repository

_TRIES = 1000


def new_run(repo: Repository, output: str, doc: str) -> str:
    """Make a RUN collection ``<output>/<UTC time>`` and return its name.

    Runs that begin in the same second get ``.1``, ``.2``, ... behind the time.

    Parameters
    ----------
    repo
        The repository.
    output
        Name of the chain that is to get the run.
    doc
        What to note about the run: the command line.

    Raises
    ------
    UsageError
        When ``output`` cannot be a name, or is a collection that is no chain.
    """
    if _kind(repo, output) not in {"", "CHAINED"}:
        raise UsageError(
            f"The output {output!r} is a {_kind(repo, output)} collection, not a chain of runs.",
            "Choose another name with --output.",
        )
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for attempt in range(_TRIES):
        name = f"{output}/{stamp}" + (f".{attempt}" if attempt else "")
        try:
            repo.make_run(name, doc=doc)
        except UsageError:
            if not _kind(repo, name):
                raise
            continue
        return name
    raise RepositoryError(f"No free run name is left below {output}.", "Try again in a second.")


def _kind(repo: Repository, name: str) -> str:
    """Return the kind of a collection, or nothing when there is none of that name."""
    try:
        return repo.collection(name).kind
    except UnknownNameError:
        return ""
