"""Brings raw files into a repository: who wrote the file, which exposure it is, where it stays.

Every installed instrument (or the one that was named) is asked whether a header is its own; exactly
one must say yes. Files that cannot be used are reported one by one with the reason, and the others
go in. A source file is removed (``move``) only after its row is safely in the registry.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from cpplug.api.camera import Detector
from cpplug.api.errors import CpplugError, DataError, NothingMatched, PluginError, RepositoryError
from cpplug.api.events import Event, PluginRejected
from cpplug.api.instrument import ExposureInfo, Header, Instrument
from cpplug.engine import fits
from cpplug.engine.files import replacing, sha256_of
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DetectorRow, RawRecord

SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fits.fz", ".fit.fz")
Transfer = Literal["auto", "direct", "symlink", "hardlink", "copy", "move"]
NOT_RAW = ("image", "table", "truth")
"""KIND cards of files that cpplug wrote itself."""
BATCH = 200


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file."""

    path: str
    status: Literal["ingested", "present", "conflict", "rejected", "skipped"]
    """``skipped``: not a raw frame at all, but a product or the truth of a simulation."""
    exposure: int | None = None
    instrument: str = ""
    reason: str = ""


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    path: Path
    instrument: str
    info: ExposureInfo
    detectors: tuple[int, ...]
    sha256: str
    size: int


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the FITS files among the paths, and below those that are folders, sorted.

    Raises
    ------
    DataError
        When a path does not exist.
    NothingMatched
        When there is no FITS file at all.
    """
    found: dict[Path, None] = {}
    given = list(paths)
    for path in given:
        if path.is_dir():
            for entry in sorted(path.rglob("*")):
                if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    found[entry] = None
        elif path.is_file():
            found[path] = None
        else:
            raise DataError(f"There is no file or folder {path}.", "Check the path.")
    if not found:
        where = ", ".join(str(path) for path in given)
        raise NothingMatched(
            f"No FITS file was found in {where}.", f"Files are known by {', '.join(SUFFIXES)}."
        )
    return list(found)


def ingest(
    repo: Repository,
    catalog: Catalog,
    files: Sequence[Path],
    *,
    instrument: str = "",
    transfer: Transfer = "auto",
    run: str = "",
    jobs: int = 1,
    fail_fast: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    emit: Callable[[Event], object] = lambda event: None,
) -> list[Outcome]:
    """Register raw files.

    Parameters
    ----------
    repo, catalog
        Where to, and which instruments may claim a file.
    files
        The files.
    instrument
        Ask only this one; empty asks all.
    transfer
        ``direct`` notes where the file lies; ``symlink``, ``hardlink``, ``copy`` and ``move`` put
        it into the repository; ``auto`` leaves files that are already there, links the others.
    run
        RUN collection; by default ``<instrument>/raw/all``.
    jobs
        Threads that read headers and compute checksums.
    fail_fast
        Stop at the first file that cannot be used.
    progress
        Told how many of how many files are done.
    emit
        Told of instrument plugins that cannot be used.

    Returns
    -------
    list of Outcome
        One per file, in the order of the files; a file that is named twice counts once.
    """
    files = list(dict.fromkeys(files))
    instruments = _instruments(catalog, instrument, emit)
    outcomes: dict[Path, Outcome] = {}
    done = 0
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        for batch in _batches(files, BATCH):
            known: list[_Known] = []
            for answer in pool.map(lambda path: _identify(path, instruments, instrument), batch):
                done += 1
                progress(done, len(files))
                if isinstance(answer, Outcome):
                    outcomes[Path(answer.path)] = answer
                    if fail_fast and answer.status == "rejected":
                        raise _stopped(answer)
                else:
                    known.append(answer)
            for outcome in _store(repo, instruments, known, transfer, run):
                outcomes[Path(outcome.path)] = outcome
                if fail_fast and outcome.status == "conflict":
                    raise _stopped(outcome)
    return [outcomes[path] for path in files]


def _stopped(outcome: Outcome) -> DataError:
    return DataError(
        f"{outcome.path}: {outcome.reason.rstrip('.')}.",
        "Leave the file out, or run without --fail-fast to register the others.",
    )


def _batches(files: Sequence[Path], size: int) -> Iterator[list[Path]]:
    remaining = iter(files)
    while batch := list(islice(remaining, size)):
        yield batch


def _instruments(
    catalog: Catalog, wanted: str, emit: Callable[[Event], object]
) -> dict[str, Instrument]:
    if wanted:
        return {wanted: catalog.get("instrument", wanted)}
    found = {}
    for name in catalog.names("instrument"):
        try:
            found[name] = catalog.get("instrument", name)
        except PluginError as error:
            # A broken instrument hurts only who names it.
            provider = catalog.provider("instrument", name)
            emit(
                PluginRejected(
                    plugin=f"instrument:{name}",
                    provider=provider,
                    stage="load",
                    error=error.message,
                )
            )
    return found


def _identify(path: Path, instruments: dict[str, Instrument], wanted: str) -> _Known | Outcome:
    """Find out what a file is, or why it cannot be used."""
    try:
        headers = fits.read_headers(path)
        if str(headers[0].get("KIND", "")).startswith(NOT_RAW):
            reason = f"it is not a raw frame (KIND {headers[0]['KIND']!r})"
            return Outcome(path=str(path), status="skipped", reason=reason)
        claims = [
            name
            for name, candidate in instruments.items()
            if candidate.claims(candidate.header_of(path, headers))
        ]
        if len(claims) != 1:
            written = headers[0].get("INSTRUME")
            by = f"INSTRUME is {written!r}" if written else "it has no INSTRUME card"
            if claims:
                reason = f"{' and '.join(claims)} both claim it; name one with --instrument"
            elif wanted:
                reason = f"it was not written by {wanted} ({by})"
            else:
                reason = f"no installed instrument claims it ({by})"
            return Outcome(path=str(path), status="rejected", reason=reason)
        chosen = instruments[claims[0]]
        header = chosen.header_of(path, headers)
        info = chosen.translate(header)
        detectors = chosen.detectors(header)
        for detector in detectors:
            _check_layout(headers, info, chosen.camera.detector(detector))
        return _Known(
            path=path,
            instrument=claims[0],
            info=info,
            detectors=detectors,
            sha256=sha256_of(path),
            size=path.stat().st_size,
        )
    except CpplugError as error:
        reason = error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ")
    except Exception as error:
        # A translator that stumbles over one header must not stop the other files.
        reason = f"{type(error).__name__}: {error}"
    return Outcome(path=str(path), status="rejected", reason=reason)


def _check_layout(headers: Sequence[Header], info: ExposureInfo, detector: Detector) -> None:
    """Refuse a file whose extensions are not those of the camera, before its pixels are needed.

    Raises
    ------
    DataError
        When an amplifier's extension is missing or of another size.
    """
    named = {str(header.get("EXTNAME", "")).strip().upper(): header for header in headers}
    for amplifier in detector.amplifiers:
        key = amplifier.hdu
        header = (
            named.get(key.upper())
            if isinstance(key, str)
            else headers[key]
            if key < len(headers)
            else None
        )
        if header is None:
            raise DataError(f"extension {key!r} of amplifier {amplifier.name} is missing")
        size = (header.get("NAXIS1"), header.get("NAXIS2"))
        sharing = [other for other in detector.amplifiers if other.hdu == key]
        wanted = (
            max(piece.x + piece.width for other in sharing for piece in other.source),
            max(piece.y + piece.height for other in sharing for piece in other.source),
        )
        if size != wanted:
            binned = "" if info.binning == (1, 1) else f" (binned {info.binning})"
            raise DataError(
                f"extension {key!r} is {size[0]} x {size[1]} pixels{binned}, "
                f"and {detector.name} has {wanted[0]} x {wanted[1]}"
            )


def _store(
    repo: Repository,
    instruments: dict[str, Instrument],
    known: Sequence[_Known],
    transfer: Transfer,
    run: str,
) -> Iterator[Outcome]:
    """Put files in place and register them, one transaction per instrument."""
    for name in sorted({item.instrument for item in known}):
        mine = [item for item in known if item.instrument == name]
        camera = instruments[name].camera
        repo.register_instrument(
            name, [DetectorRow(d.id, d.name, d.serial) for d in camera.detectors]
        )
        calibrations = f"{name}/calib"
        if not repo.collections(calibrations):
            # The chain that runs search by default; certified collections are put into it.
            repo.chain(calibrations, [])
        collection = run or f"{name}/raw/all"
        placed: list[tuple[_Known, Path, bool]] = []
        try:
            for item in mine:
                target, made = _place(repo.root, collection, item, transfer)
                placed.append((item, target, made))
            answers = repo.ingest(
                [
                    RawRecord(
                        info=item.info,
                        detectors=item.detectors,
                        path=_registered(repo.root, target),
                        sha256=item.sha256,
                        size=item.size,
                    )
                    for item, target, _ in placed
                ],
                run=collection,
            )
        except BaseException:
            for _, target, made in placed:
                if made:
                    target.unlink(missing_ok=True)
            raise
        present = [
            item for (item, *_), a in zip(placed, answers, strict=True) if a.status == "present"
        ]
        _mend_links(repo, name, present)
        for (item, target, made), answer in zip(placed, answers, strict=True):
            if answer.status != "ingested" and made:
                target.unlink(missing_ok=True)
            if answer.status == "ingested" and transfer == "move" and made:
                item.path.unlink()
            yield Outcome(
                path=str(item.path),
                status=answer.status,
                exposure=item.info.exposure,
                instrument=name,
                reason=answer.reason,
            )


def _mend_links(repo: Repository, instrument: str, present: Sequence[_Known]) -> None:
    """Let registered links that lead nowhere lead to the same file, found again elsewhere."""
    for detector in sorted({number for item in present for number in item.detectors}):
        numbers = [item.info.exposure for item in present]
        for number, raw in repo.raw_paths(instrument, detector, numbers).items():
            if raw.path.is_symlink() and not raw.path.exists():
                same = (i.path for i in present if i.info.exposure == number)
                raw.path.unlink()
                raw.path.symlink_to(next(same).absolute())


def _registered(root: Path, target: Path) -> str:
    return str(target.relative_to(root)) if target.is_relative_to(root) else str(target)


def _place(root: Path, collection: str, item: _Known, transfer: Transfer) -> tuple[Path, bool]:
    """Put a file where it will stay; return its path and whether this call made it."""
    source = item.path.absolute()
    inside = source.is_relative_to(root)
    if transfer == "direct" or (transfer == "auto" and inside):
        return source, False
    target = root / "raw" / collection / str(item.info.day_obs) / source.name
    if target.is_symlink() and not target.exists():
        target = target.with_name(f"{item.sha256[:12]}-{source.name}")  # a link that leads nowhere
    if target.exists():
        if target.resolve() == source.resolve() or sha256_of(target) == item.sha256:
            return target, False
        target = target.with_name(f"{item.sha256[:12]}-{source.name}")
        if target.exists():
            return target, False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if transfer in {"auto", "symlink"}:
            target.symlink_to(source)
        elif transfer == "hardlink":
            os.link(source, target)
        else:
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise RepositoryError(
            f"{source} cannot be brought to {target.parent} by {transfer}: "
            f"{error.strerror or error}.",
            "Choose another --transfer, or free space.",
        ) from None
    return target, True
