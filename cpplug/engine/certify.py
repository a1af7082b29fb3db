"""Certification: the gate of ``cpplug.engine.gate`` in front of the store's transaction.

The gate reads what verification stored in the registry, and the waivers: those kept there, and
those of a file given with the command. What it based its answer on goes into the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cpplug.api import times
from cpplug.api.errors import ConfigError
from cpplug.engine.gate import Waiver, make_gate
from cpplug.engine.products import check_unchanged
from cpplug.engine.profiles import load_profile
from cpplug.store import Repository
from cpplug.store.records import CertifyResult, DatasetRow


class _WaiverText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A waiver as written in a file; ``expires`` is a date, TAI unless it says otherwise."""

    test: str
    ticket: str
    owner: str
    reason: str
    expires: str
    detector: str = ""
    amplifier: str = ""


class _WaiverFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    waiver: list[_WaiverText]


def read_waivers(path: Path) -> list[Waiver]:
    """Read waivers from a TOML file: one ``[[waiver]]`` table each.

    Fields: ``test``, ``ticket``, ``owner``, ``reason``, ``expires`` (a date) and the scope,
    ``detector`` or ``amplifier`` or both.

    Raises
    ------
    ConfigError
        When the file cannot be read or a waiver lacks a field or has an unknown one.
    """
    import tomli

    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
        found = msgspec.convert(document, _WaiverFile)
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"Waiver file {path} cannot be used: {getattr(error, 'strerror', None) or error}.",
            "Write [[waiver]] tables with test, detector or amplifier, ticket, owner, reason and "
            "expires.",
        ) from None
    return [
        Waiver(**{**msgspec.structs.asdict(item), "expires": times.parse_time(item.expires)})
        for item in found.waiver
    ]


def certify(
    repo: Repository,
    *,
    source: str,
    collection: str,
    dataset_type: str,
    begin: int | None,
    end: int | None,
    profile: str,
    accept_failures: str | None,
    waiver_file: Path | None,
    bootstrap: bool = False,
    who: str,
    command: str,
    reason: str,
    how: Mapping[str, Any],
) -> CertifyResult:
    """Certify products that passed their verification.

    Parameters
    ----------
    repo
        The repository.
    source, collection, dataset_type, begin, end
        Which products, into which CALIBRATION collection, for which range (TAI nanoseconds, open
        ends None).
    profile
        The limits that count.
    accept_failures
        "TICKET: what is accepted and why", or None.
    waiver_file
        TOML file of waivers, or None.
    bootstrap
        Accept a verification that did not trust the camera's read noise.
    who, command, reason
        For the journal.
    how
        ``replace``, ``truncate``, ``search_all_inputs``, ``dry_run`` of the store.

    Raises
    ------
    CertificationRefused
        When the gate or the store says no; nothing is changed then.
    DataError
        When a product's file is gone, or not the one that was registered and verified.
    """
    extra = read_waivers(waiver_file) if waiver_file else []
    judge = make_gate(
        repo.verifications,
        lambda run, sha256: repo.checks(run=run, product_sha256=sha256),
        lambda kind: [*extra, *repo.waivers(dataset_type=kind)],
        current_profile_hash=load_profile(profile, bootstrap=bootstrap).sha256,
        now=times.now_tai(),
        accept_failures=accept_failures,
        owner=who,
    )

    def gate(datasets: Sequence[DatasetRow]) -> dict[str, Any]:
        for row in datasets:
            check_unchanged(repo.root / row.path, row.sha256, f"{row.dataset_type} {row.id}")
        return judge(datasets)

    return repo.certify(
        source,
        collection,
        dataset_type,
        begin,
        end,
        gate=gate,
        who=who,
        command=command,
        reason=reason,
        **how,
    )
