"""The gate before certification: nothing goes into use that was not shown to be good.

A product may be certified when its newest verification, made of exactly this file and with the
limits of today, holds no required FAIL or INCONCLUSIVE. What fails all the same needs a waiver for
that test and that amplifier, with a ticket, an owner and a date, at most a year away, on which it
ends. A certification can also bring its own: ``--accept-failures "DM-123: amp C07 known bad"``
accepts what fails on the amplifiers (or detectors, or tests) that the sentence names. Rules:
verification 10.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from cpplug.api.errors import CertificationRefused
from cpplug.api.times import format_time

if TYPE_CHECKING:
    from cpplug.engine.rollup import Row

R = TypeVar("R", bound="Row")

TICKET = re.compile(r"[A-Z][A-Z0-9]+-\d+")
LONGEST = 366 * 86_400 * 10**9
"""A waiver ends at most twelve months after it is used, nanoseconds."""
BLOCKING = ("FAIL", "INCONCLUSIVE")
SHOWN = 5


class Dataset(Protocol):
    """What the gate needs to know of a product."""

    @property
    def id(self) -> str:
        """Dataset id."""

    @property
    def sha256(self) -> str:
        """Checksum of its file."""

    @property
    def dataset_type(self) -> str:
        """``bias``, ``dark``, ..."""

    @property
    def data_id(self) -> object:
        """What it was made for."""


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """A known failure that may not block certification until it expires.

    The scope is a detector and an amplifier, by name; an empty name stands for any.
    """

    test: str
    ticket: str
    owner: str
    reason: str
    expires: int
    """TAI nanoseconds."""
    detector: str = ""
    amplifier: str = ""

    def covers(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a failing row lies within the scope."""
        return (
            self.test == row["test"]
            and self.detector in ("", row["detector"])
            and self.amplifier in ("", row.get("amplifier", ""))
        )

    def objection(self, now: int) -> str:
        """Return why this waiver counts for nothing, or nothing."""
        if not TICKET.fullmatch(self.ticket):
            return f"its ticket {self.ticket!r} is not of the form ABC-123"
        if not self.owner.strip():
            return "it has no owner"
        if not (self.detector or self.amplifier):
            return "it is not limited to a detector or amplifier"
        if self.expires <= now:
            return f"it expired on {format_time(self.expires)} TAI"
        if self.expires > now + LONGEST:
            return f"it expires more than twelve months ahead, on {format_time(self.expires)} TAI"
        return ""


Lookup = Callable[[str], Iterable[Any]]


def make_gate(
    verifications_of: Lookup,
    checks_of: Callable[[str, str], Iterable[Mapping[str, Any]]],
    waivers_of: Lookup,
    *,
    current_profile_hash: str,
    now: int,
    accept_failures: str | None = None,
    owner: str = "",
) -> Callable[[Sequence[Dataset]], dict[str, Any]]:
    """Return the function that the store calls before it writes a certification.

    Parameters
    ----------
    verifications_of
        Product checksum to its verification records (``verify_run``, ``product_sha256``,
        ``profile``, ``profile_sha256``, ``verdict``, ``counts``, ``n_independent``, ``finished``).
    checks_of
        (verification run, product checksum) to its rows, as dictionaries with at least ``test``,
        ``detector``, ``amplifier``, ``verdict``, ``severity``.
    waivers_of
        Dataset type to waiver records: the fields of :class:`Waiver`, and ``instrument`` where one
        camera's waivers must not excuse another's.
    current_profile_hash
        Checksum of the limits that count today.
    now
        TAI nanoseconds.
    accept_failures
        "TICKET: sentence", or None.
    owner
        Who certifies, and so answers for ``accept_failures``.

    Returns
    -------
    Callable
        Takes the products, returns the evidence to keep in the journal: per product the
        verification it rests on and the waivers that were used.

    Raises
    ------
    CertificationRefused
        From the gate when the rules forbid the certification, and from here when
        ``accept_failures`` carries no ticket.
    """
    accepted = _accepted(accept_failures, owner, now)

    def gate(datasets: Sequence[Dataset]) -> dict[str, Any]:
        products = {}
        records = [_verification(d, verifications_of, current_profile_hash) for d in datasets]
        checks = [
            list(checks_of(record.verify_run, dataset.sha256))
            for dataset, record in zip(datasets, records, strict=True)
        ]
        detectors = {row["detector"] for found in checks for row in found}
        for dataset, record, found in zip(datasets, records, checks, strict=True):
            rows = [
                row for row in found if row["severity"] == "required" and row["verdict"] in BLOCKING
            ]
            if not rows and record.verdict in BLOCKING:
                raise CertificationRefused(
                    f"The verification {record.verify_run} of {_name(dataset)} ended as "
                    f"{record.verdict}, but its failing checks are not in the registry.",
                    f"Run `cpplug verify {dataset.dataset_type}` again.",
                )
            waivers = [
                as_waiver(item)
                for item in waivers_of(dataset.dataset_type)
                if _same_instrument(item, dataset)
            ]
            used = _excuse(dataset, rows, [*waivers, *accepted(rows, detectors)], now)
            products[dataset.id] = {
                "sha256": dataset.sha256,
                "verify_run": record.verify_run,
                "profile": f"{record.profile}@sha256:{record.profile_sha256}",
                "verdict": record.verdict,
                "verdict_after_waivers": "WARN" if rows else record.verdict,
                "counts": dict(record.counts),
                "independent_exposures": record.n_independent,
                "waived": used,
            }
        return {"accept_failures": accept_failures or "", "products": products}

    return gate


def as_waiver(record: Any) -> Waiver:
    """Return a waiver with the fields of a registry record."""
    return Waiver(**{name: getattr(record, name) for name in Waiver.__struct_fields__})


def with_waivers(rows: Sequence[R], waivers: Sequence[Waiver], now: int) -> list[R]:
    """Return verification rows, each failing one with the ticket of the waiver that covers it."""
    valid = [waiver for waiver in waivers if not waiver.objection(now)]
    marked = []
    for row in rows:
        facts = {"test": row.test, "detector": row.detector, "amplifier": row.amplifier}
        ticket = next((w.ticket for w in valid if w.covers(facts)), None)
        blocks = row.verdict in BLOCKING
        marked.append(msgspec.structs.replace(row, waiver=ticket) if blocks and ticket else row)
    return marked


def _same_instrument(record: Any, dataset: Dataset) -> bool:
    """Tell whether a waiver is for the product's camera; one that names none is for any."""
    wanted = getattr(record, "instrument", "")
    return not wanted or wanted == getattr(dataset.data_id, "instrument", wanted)


def _name(dataset: Dataset) -> str:
    return f"{dataset.dataset_type} for {dataset.data_id}"


def _verification(dataset: Dataset, verifications_of: Lookup, profile: str) -> Any:
    """Return the newest verification of this very file with the limits of today."""
    again = f"Run `cpplug verify {dataset.dataset_type}` on it first."
    records = list(verifications_of(dataset.sha256))
    same = [record for record in records if record.product_sha256 == dataset.sha256]
    if not same:
        what = (
            f"was verified only as another file (sha256 {records[0].product_sha256[:12]})"
            if records
            else "has no verification"
        )
        raise CertificationRefused(
            f"The {_name(dataset)} (sha256 {dataset.sha256[:12]}) {what}.", again
        )
    current = [record for record in same if record.profile_sha256 == profile]
    if not current:
        newest = max(same, key=lambda record: record.finished)
        raise CertificationRefused(
            f"The {_name(dataset)} was verified with profile {newest.profile} (sha256 "
            f"{newest.profile_sha256[:12]}), not with the one that counts now ({profile[:12]}).",
            again.replace("first", "again"),
        )
    return max(current, key=lambda record: record.finished)


def _excuse(
    dataset: Dataset, rows: Sequence[Mapping[str, Any]], waivers: Sequence[Waiver], now: int
) -> list[dict[str, Any]]:
    """Find a valid waiver for every failing row; return them with what they excused."""
    used: dict[Waiver, int] = {}
    missing: dict[str, str] = {}
    for row in rows:
        near = [waiver for waiver in waivers if waiver.covers(row)]
        valid = [waiver for waiver in near if not waiver.objection(now)]
        if valid:
            used[valid[0]] = used.get(valid[0], 0) + 1
            continue
        what = f"{row['test']} {row['verdict']} at {_scope(row)}"
        if near:
            what += f" (waiver {near[0].ticket}: {near[0].objection(now)})"
        missing.setdefault(what, "")
    if missing:
        shown = "; ".join(list(missing)[:SHOWN])
        more = f"; and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise CertificationRefused(
            f"The {_name(dataset)} fails required checks that no waiver covers: {shown}{more}.",
            "Mend it, or waive each with ticket, owner, scope and expiry, or name what you accept: "
            '--accept-failures "DM-123: amp C07 known bad".',
        )
    return [
        msgspec.to_builtins(waiver) | {"rows": count, "disposition": "accepted"}
        for waiver, count in used.items()
    ]


def _scope(row: Mapping[str, Any]) -> str:
    return "/".join(part for part in (row["detector"], row.get("amplifier", "")) if part)


def _accepted(
    text: str | None, owner: str, now: int
) -> Callable[[Sequence[Mapping[str, Any]], Collection[str]], list[Waiver]]:
    """Return what turns failing rows into waivers where the sentence names them."""
    if text is None:
        return lambda rows, detectors: []
    ticket, colon, reason = text.partition(":")
    if not TICKET.fullmatch(ticket.strip()) or not colon or not reason.strip():
        raise CertificationRefused(
            f"--accept-failures {text!r} does not begin with a ticket and a reason.",
            'Write it like "DM-123: amp C07 known bad".',
        )
    places, words = _names_in(reason)

    def waivers(rows: Sequence[Mapping[str, Any]], detectors: Collection[str]) -> list[Waiver]:
        """Accept rows of a named amplifier; of a named detector or test only without amplifier.

        ``DETECTOR/AMPLIFIER`` names one place. Where the sentence names some of the detectors,
        amplifiers of the others are not meant.
        """
        meant = words & set(detectors)
        found = []
        for row in rows:
            detector, amplifier = row["detector"], row.get("amplifier", "")
            named = (detector, amplifier) in places
            if not amplifier:
                named = bool({detector, row["test"]} & words)
            elif amplifier in words:
                named = named or not meant or detector in meant
            if named:
                waiver = Waiver(
                    test=row["test"],
                    detector=detector,
                    amplifier=amplifier,
                    ticket=ticket.strip(),
                    owner=owner or "unknown",
                    reason=reason.strip(),
                    expires=now + LONGEST,
                )
                if waiver not in found:
                    found.append(waiver)
        return found

    return waivers


def _names_in(reason: str) -> tuple[set[tuple[str, str]], set[str]]:
    """Return the DETECTOR/AMPLIFIER places and the single words of a sentence.

    A single letter ("A bad night") is a name only behind the word amp or amplifier.
    """
    word = r"[\w\-]+(?:\.[\w\-]+)*"
    pair = re.compile(f"({word})/({word})")
    places = set(pair.findall(reason))
    alone = pair.sub(" ", reason)
    words = {found for found in re.findall(word, alone) if len(found) > 1}
    words |= set(re.findall(r"\bamp(?:lifier)?\s+(\w)\b", alone))
    return places, words
