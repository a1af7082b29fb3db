"""Verification profiles: which tests are run, and how far off a calibration may be.

A profile is a TOML file of limits, kept apart from the tests so that limits can be discussed
without reading code. Every result records the profile's name and its checksum, which is taken over
the content, not over comments or layout. Built in are ``strict`` (the default), ``upstream-compat``
(the reference pipeline's rules of 2021) and ``upstream-compat-2026``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from cpplug.api.errors import ConfigError, UnknownNameError, nearest
from cpplug.api.records import Threshold

FOLDER = Path(__file__).resolve().parent / "thresholds"
DEFAULT = "strict"


class Defaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for all tests of a profile."""

    alpha_family: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    """Chance of a single false alarm in a whole run."""
    min_independent: Annotated[int, Meta(ge=0)] = 3
    """Exposures that were not inputs of the product, without which nothing is proven."""
    min_good_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Share of good pixels below which a measurement does not count."""


class Profile(Struct, frozen=True, kw_only=True):
    """The limits of a verification."""

    name: str
    sha256: str
    version: int
    summary: str
    alpha_family: float
    min_independent: int
    min_good_fraction: float
    tests: dict[str, Threshold]

    def select(self, names: Iterable[str]) -> dict[str, Threshold]:
        """Return the limits of those of the named tests that the profile holds, in their order."""
        return {name: self.tests[name] for name in names if name in self.tests}


class _Limits(Threshold, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A threshold as written in a file: a mistyped field is an error."""


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    profile: str
    tests: dict[str, _Limits]
    version: int = 1
    summary: str = ""
    defaults: Defaults = Defaults()


def built_in() -> list[str]:
    """Return the names of the built-in profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(
    name: str | Path = DEFAULT,
    known_tests: Collection[str] | None = None,
    *,
    bootstrap: bool = False,
) -> Profile:
    """Read a profile.

    Parameters
    ----------
    name
        Name of a built-in profile, or path of a TOML file.
    known_tests
        The tests that exist. When given, a profile that names another one is refused.
    bootstrap
        True when the camera's read noise is not trusted. That asks less, so it is a profile of its
        own: name and checksum differ.

    Raises
    ------
    UnknownNameError
        When there is no such profile, or it names a test that does not exist.
    ConfigError
        When the file cannot be read, is not TOML, or holds an unknown field or a wrong value.
    """
    path = FOLDER / f"{name}.toml"
    if isinstance(name, Path) or name.endswith(".toml") or "/" in name:
        path = Path(name)
    elif not path.is_file():
        raise UnknownNameError(
            f"There is no verification profile {name!r}.", nearest(name, built_in())
        )
    content = _read(path)
    _check_name(path, content)
    if known_tests is not None:
        for test in content.tests:
            if test not in known_tests:
                raise UnknownNameError(
                    f"Profile {content.profile!r} names the test {test!r}, which does not exist.",
                    nearest(test, known_tests),
                )
    return Profile(
        name=f"{content.profile}+bootstrap" if bootstrap else content.profile,
        sha256=_checksum(content, bootstrap),
        version=content.version,
        summary=content.summary,
        **msgspec.structs.asdict(content.defaults),
        tests={
            test: Threshold(**{key: getattr(limits, key) for key in Threshold.__struct_fields__})
            for test, limits in content.tests.items()
        },
    )


def _check_name(path: Path, content: _File) -> None:
    """Refuse other limits under the name of a built-in profile: a report shows the name first."""
    if path.parent == FOLDER or content.profile not in built_in():
        return
    own = _read(FOLDER / f"{content.profile}.toml")
    if _checksum(content, bootstrap=False) != _checksum(own, bootstrap=False):
        raise ConfigError(
            f"Verification profile {path} calls itself {content.profile!r}, and its limits are "
            "not those of that profile.",
            "Give it a name of its own: profile = ...",
        )


def _read(path: Path) -> _File:
    import tomli

    try:
        return msgspec.convert(tomli.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"Verification profile {path} cannot be used: {error}.",
            f"The file {FOLDER / DEFAULT}.toml shows the form.",
        ) from None


def _checksum(content: _File, bootstrap: bool) -> str:
    """Return the SHA-256 of what decides verdicts; wording, comments and order do not matter."""
    facts: dict[str, Any] = msgspec.to_builtins(content)
    del facts["summary"]
    if bootstrap:
        facts["bootstrap"] = True
    return hashlib.sha256(msgspec.json.encode(_sorted(facts))).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return float(value)
