"""What may go wrong without stopping a run, and saying so: failed exposures, lost amplifiers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cpplug.api.errors import UsageError

_log = logging.getLogger("cpplug.run")


def allowed_failures(text: str, total: int) -> int:
    """Read ``--max-failed``: a count, or a percentage of ``total`` rounded down.

    Raises
    ------
    UsageError
        When the text is neither.
    """
    value = text.strip()
    try:
        if value.endswith("%"):
            share = float(value[:-1])
            if not 0 <= share <= 100:
                raise ValueError
            return int(total * share / 100)
        count = int(value)
        if count < 0:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--max-failed {text!r} is not a number of exposures or a percentage.",
            "Write --max-failed 2 or --max-failed 10%.",
        ) from None
    return count


def warn_unusable(what: str, amplifiers: Sequence[str]) -> None:
    """Say which amplifiers carry nothing: the result is made, but not from them."""
    for name in amplifiers:
        _log.warning(
            "amplifier %s of %s has no usable pixel: all are bad, saturated or not a number",
            name,
            what,
        )
