"""Options of plugins: a frozen struct per plugin, each field with a type, a range and a sentence.

Write ``class OverscanConfig(Config, frozen=True)`` with fields such as
``clip: Annotated[float, positive, doc("half width of the clip, sigma")] = 3.0``. Options are
layered, converted and checked by ``cpplug.engine.settings``; a plugin only declares them.
"""

from __future__ import annotations

import msgspec
from msgspec import Meta


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every options struct; unknown options are errors."""


class NoConfig(Config, frozen=True):
    """For plugins without options."""


positive = Meta(gt=0)
"""Larger than zero."""
not_negative = Meta(ge=0)
"""Zero or larger."""
fraction = Meta(ge=0, le=1)
"""Between 0 and 1, both included."""


def at_least(value: float) -> Meta:
    """Return the constraint "this value or larger"."""
    return Meta(ge=value)


def at_most(value: float) -> Meta:
    """Return the constraint "this value or smaller"."""
    return Meta(le=value)


def doc(text: str) -> Meta:
    """Attach the sentence that explains an option; state its unit."""
    return Meta(description=text)
