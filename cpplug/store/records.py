"""The facts that go into a repository and come out of it: small frozen records.

Everything the engine and the command line exchange with the store is one of these. Times are
integer nanoseconds TAI, ranges are half-open ``[begin, end)``, and ``None`` is an open end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from cpplug.api.errors import UsageError
from cpplug.api.instrument import ExposureInfo
from cpplug.api.times import format_time

CollectionKind = Literal["RUN", "TAGGED", "CALIBRATION", "CHAINED"]
Range = tuple[int | None, int | None]
MIN_TIME, MAX_TIME = -(2**63), 2**63 - 1
"""Nanoseconds that a 64-bit integer can hold; the two values themselves stand for open ends."""


class DetectorRow(Struct, frozen=True):
    """A detector of a registered instrument."""

    id: int
    name: str
    serial: str = ""


class DataId(Struct, frozen=True, order=True):
    """What a product is made for: a detector, and a physical filter where it matters."""

    instrument: str
    detector: int
    physical_filter: str = ""

    def __str__(self) -> str:
        filter_text = f" {self.physical_filter}" if self.physical_filter else ""
        return f"{self.instrument} detector {self.detector}{filter_text}"


class RawRecord(Struct, frozen=True, kw_only=True):
    """A raw file to be registered: the facts of its exposure and where the file lies."""

    info: ExposureInfo
    detectors: tuple[int, ...]
    """Ids of the detectors whose pixels the file holds."""
    path: str
    """Absolute, or relative to the repository's root when the repository owns the file."""
    sha256: str
    size: int


class RawFile(Struct, frozen=True):
    """Where the raw frame of one exposure and detector lies, and what it must look like."""

    path: Path
    sha256: str
    size: int


class IngestOutcome(Struct, frozen=True, kw_only=True):
    """What became of one raw file: ``ingested``, ``present`` already, or in ``conflict``."""

    path: str
    exposure: int
    status: Literal["ingested", "present", "conflict"]
    reason: str = ""


class DatasetRecord(Struct, frozen=True, kw_only=True):
    """A product to be registered."""

    id: str
    """UUID text."""
    dataset_type: str
    run: str
    data_id: DataId
    path: str
    """Relative to the repository's root."""
    sha256: str
    size: int
    created: int
    is_calibration: bool
    provenance: dict[str, Any]
    """Inputs with checksums, calibrations used, plugins, configuration, command line, host."""


class DatasetRow(Struct, frozen=True, kw_only=True):
    """A registered product. Its provenance is read with ``Repository.provenance``."""

    id: str
    dataset_type: str
    run: str
    data_id: DataId
    path: str
    sha256: str
    size: int
    created: int
    is_calibration: bool
    collection: str = ""
    """Where it was found: the RUN, or the TAGGED or CALIBRATION collection that was asked."""


class CollectionRow(Struct, frozen=True, kw_only=True):
    """A collection, what it holds, and (where known) the times it covers."""

    name: str
    kind: CollectionKind
    doc: str = ""
    created: int = 0
    children: tuple[str, ...] = ()
    """Of a CHAINED collection, in search order."""
    counts: dict[str, int] = {}
    """Datasets by type; ``raw`` counts raw frames. Not filled in by ``flatten``."""
    coverage: Range | None = None
    """First begin and last end of raw exposures or validity ranges; None when there are none."""


class SearchStep(Struct, frozen=True, kw_only=True):
    """What was seen in one collection during a search."""

    collection: str
    kind: str
    outcome: str


class Found(Struct, frozen=True, kw_only=True):
    """A calibration that was found, and the way to it."""

    dataset: DatasetRow
    collection: str
    begin: int | None
    end: int | None
    trace: tuple[SearchStep, ...]


class Change(Struct, frozen=True, kw_only=True):
    """What happened to one validity range: added, removed, shortened or split."""

    action: Literal["added", "removed", "shortened", "split"]
    dataset: str
    data_id: DataId
    before: Range | None
    """The range as it was; None when it is new."""
    after: tuple[Range, ...]
    """What is left of it: nothing, one range, or two."""


class CertifyResult(Struct, frozen=True, kw_only=True):
    """What a certification did, or (``dry_run``) would do."""

    collection: str
    dataset_type: str
    begin: int | None
    end: int | None
    certified: tuple[DatasetRow, ...]
    unchanged: tuple[DatasetRow, ...]
    """Datasets that were certified for exactly this range before."""
    changes: tuple[Change, ...]
    evidence: dict[str, Any]
    dry_run: bool


class ValidityRow(Struct, frozen=True, kw_only=True):
    """One validity range of one product in one CALIBRATION collection."""

    collection: str
    dataset_type: str
    data_id: DataId
    dataset: str
    run: str
    sha256: str
    begin: int | None
    end: int | None


class JournalRow(Struct, frozen=True, kw_only=True):
    """Who changed which validity ranges, when, why, and on what evidence."""

    id: int
    time: int
    action: str
    """``certify``, ``decertify``, ``remove-run`` or ``remove-collection``."""
    collection: str
    dataset_type: str
    begin: int | None
    end: int | None
    who: str
    command: str
    reason: str
    changes: tuple[Change, ...]
    """Additions, and what they replaced."""
    evidence: dict[str, Any]


class RemovedRun(Struct, frozen=True, kw_only=True):
    """What went with a RUN collection."""

    run: str
    datasets: tuple[str, ...]
    n_raws: int
    n_exposures: int
    files: tuple[Path, ...]
    """Files that were deleted; raw files outside the repository are never touched."""
    changes: tuple[tuple[str, Change], ...]
    """Validity ranges that were removed, with their collection."""


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run as it starts."""

    run: str
    kind: str
    """``build`` or ``verify``."""
    calibration: str
    instrument: str
    started: int
    command: str
    user: str
    host: str
    details: dict[str, Any] = {}
    """Plugins and versions, configuration with its sources, inputs."""


class RunRow(RunRecord, frozen=True, kw_only=True):
    """A run as it stands: ``running``, ``done``, ``failed``, ``interrupted`` or ``removed``."""

    status: str
    finished: int | None = None
    summary: dict[str, Any] = {}


class VerificationRecord(Struct, frozen=True, kw_only=True):
    """The verdict of one verification run on one product."""

    verify_run: str
    dataset: str
    product_sha256: str
    dataset_type: str
    instrument: str
    profile: str
    profile_sha256: str
    verdict: str
    counts: dict[str, int]
    """Number of checks by verdict."""
    n_independent: int
    """Exposures that were not inputs of the product."""
    finished: int
    evidence_sha256: str = ""
    """Checksum of the file of results."""
    details: dict[str, Any] = {}


class WaiverRecord(Struct, frozen=True, kw_only=True):
    """A known failure that may not block certification until it expires."""

    test: str
    dataset_type: str
    instrument: str
    detector: str = ""
    """Detector name; empty for all."""
    amplifier: str = ""
    """Amplifier name; empty for all."""
    ticket: str
    owner: str
    expires: int
    reason: str
    created: int
    id: int = 0
    """Given by the registry."""


def range_text(begin: int | None, end: int | None) -> str:
    """Return a validity range in words, TAI: ``[2021-01-01T00:00:00, -) TAI``."""
    return f"[{format_time(begin)}, {format_time(end)}) TAI"


def check_range(begin: int | None, end: int | None) -> None:
    """Raise a UsageError unless ``begin`` lies before ``end`` and both can be stored."""
    for time in (begin, end):
        if time is not None and not MIN_TIME < time < MAX_TIME:
            raise UsageError(
                f"{format_time(time)} TAI lies outside the years 1678 to 2261.",
                "Leave the date out: the range is open then.",
            )
    if begin is not None and end is not None and begin >= end:
        raise UsageError(
            f"The begin {format_time(begin)} TAI is not before the end {format_time(end)} TAI.",
            "Ranges are half-open: for one day give that day and the next.",
        )
