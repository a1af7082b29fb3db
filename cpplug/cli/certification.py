"""Commands about validity: certify, decertify, validity, which.

Dates are TAI unless they end in Z or /utc; ranges are half-open. What a command resolved them to is
shown in both scales.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpplug.cli.output import emit_table, format_option, with_instrument
from cpplug.cli.state import State

if TYPE_CHECKING:
    from cpplug.store import Repository


def _time(text: str | None) -> int | None:
    from cpplug.api.times import parse_time

    return None if text is None or text.strip() in {"", "-"} else parse_time(text)


def _span(begin: int | None, end: int | None) -> str:
    from cpplug.api.times import format_time

    if begin is None and end is None:
        return "all time"
    return (
        f"[{format_time(begin)}, {format_time(end)}) TAI = "
        f"[{format_time(begin, 'utc')}, {format_time(end, 'utc')}) UTC"
    )


@click.command()
@click.argument("source", metavar="RUN")
@click.argument("collection")
@click.argument("dataset_type", metavar="CALIB")
@click.option("--begin-date", help="First moment of validity; absent means always.")
@click.option("--end-date", help="First moment after it; absent means for ever.")
@click.option(
    "--profile", default="strict", show_default=True, help="Limits that the verification must meet."
)
@click.option(
    "--bootstrap",
    is_flag=True,
    help="Accept a verification with --bootstrap: the camera's read noise is not trusted yet.",
)
@click.option("--accept-failures", metavar="REASON", help='For example "DM-123: amp C07 is dead".')
@click.option(
    "--waivers", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of waivers."
)
@click.option("--reason", default="", help="Noted in the journal.")
@click.option("--replace", is_flag=True, help="End what is valid in that range now.")
@click.option("--truncate", is_flag=True, help="End what is valid now where this begins.")
@click.option("--search-all-inputs", is_flag=True, help="Of a chain, look in all children.")
@click.option("--check", "dry_run", is_flag=True, help="Say what would happen; change nothing.")
@format_option
@click.pass_obj
def certify(
    state: State, /, source: str, collection: str, dataset_type: str, format: str, **options: Any
) -> None:
    """Declare the CALIB products of RUN valid for a range of dates, in COLLECTION.

    Needs a passing verification of the very same product, or waivers.
    """
    from cpplug.api.errors import CertificationRefused
    from cpplug.api.events import CertificationGranted, CertificationRefusedEvent
    from cpplug.api.times import format_time
    from cpplug.engine.certify import certify as grant

    dry_run = options["dry_run"]
    begin, end = _time(options["begin_date"]), _time(options["end_date"])
    bus = state.bus(f"certify {collection}")
    with state.repository() as repo:
        try:
            result = grant(
                repo,
                source=source,
                collection=collection,
                dataset_type=dataset_type,
                begin=begin,
                end=end,
                profile=options["profile"],
                accept_failures=options["accept_failures"],
                waiver_file=options["waivers"],
                bootstrap=options["bootstrap"],
                who=getpass.getuser(),
                command=state.command_text,
                reason=options["reason"] or options["accept_failures"] or "",
                how={
                    name: options[name]
                    for name in ("replace", "truncate", "search_all_inputs", "dry_run")
                },
            )
        except CertificationRefused as error:
            if not dry_run:
                bus.emit(CertificationRefusedEvent(collection=collection, reason=error.message))
            raise
    for row in () if dry_run else result.certified:
        bus.emit(
            CertificationGranted(
                collection=collection,
                dataset=row.id,
                product_sha256=row.sha256,
                begin=format_time(begin),
                end=format_time(end),
                reason=options["reason"],
            ),
            instrument=row.data_id.instrument,
            detector=row.data_id.detector,
        )
    what = "Would certify" if dry_run else "Certified"
    if result.certified:
        click.echo(
            f"{what} {len(result.certified)} {result.dataset_type} in {collection} for "
            f"{_span(result.begin, result.end)}.",
            err=True,
        )
    if result.unchanged:
        click.echo(f"{len(result.unchanged)} were certified for this very range before.", err=True)
    rows = [
        {"id": r.id, "type": r.dataset_type, "detector": r.data_id.detector,
         "physical_filter": r.data_id.physical_filter, "run": r.run, "sha256": r.sha256}
        for r in (*result.certified, *result.unchanged)
    ]  # fmt: skip
    emit_table(rows, ["id", "type", "detector", "physical_filter", "run"], format)


@click.command()
@click.argument("collection")
@click.argument("dataset_type", metavar="CALIB")
@click.option("--begin-date", help="From when; absent means from the beginning.")
@click.option("--end-date", help="Until when; absent means for ever.")
@click.option("--detector", "detectors", multiple=True, type=int, help="Only of this detector.")
@click.option("--reason", default="", help="Noted in the journal.")
@format_option
@click.pass_obj
def decertify(
    state: State,
    collection: str,
    dataset_type: str,
    begin_date: str | None,
    end_date: str | None,
    detectors: tuple[int, ...],
    reason: str,
    format: str,
) -> int:
    """End the validity of CALIB in COLLECTION within a range of dates; splits ranges if needed."""
    from cpplug.api.times import format_time

    begin, end = _time(begin_date), _time(end_date)
    with state.repository() as repo:
        ids = None
        if detectors:
            rows = repo.validity([collection], dataset_type)
            ids = sorted({row.data_id for row in rows if row.data_id.detector in detectors})
        changes = repo.decertify(
            collection, dataset_type, begin, end, data_ids=ids, who=getpass.getuser(),
            command=state.command_text, reason=reason,
        )  # fmt: skip
    table = [
        {"dataset": c.dataset, "detector": c.data_id.detector, "action": c.action,
         "left": "; ".join(f"[{format_time(a)}, {format_time(b)})" for a, b in c.after)}
        for c in changes
    ]  # fmt: skip
    emit_table(table, ["dataset", "detector", "action", "left"], format)
    if not changes:
        click.echo(f"No {dataset_type} in {collection} is valid in {_span(begin, end)}.", err=True)
        return 4
    return 0


@click.command()
@click.argument("collections", nargs=-1, required=True)
@click.option("--type", "dataset_type", default=None, help="Only this type.")
@click.option("--detector", type=int, default=None, help="Only this detector.")
@click.option("--timeline/--no-timeline", default=True, help="Draw the ranges below the table.")
@click.option("--journal", is_flag=True, help="Show who changed what, when and why instead.")
@format_option
@click.pass_obj
def validity(
    state: State,
    collections: tuple[str, ...],
    dataset_type: str | None,
    detector: int | None,
    timeline: bool,
    journal: bool,
    format: str,
) -> None:
    """Show which product is valid when in COLLECTIONS, and the gaps between."""
    from cpplug.api.times import format_time

    with state.repository() as repo:
        if journal:
            names = [row.name for row in repo.flatten(collections)]
            entries = [row for name in names for row in repo.journal(name)]
            _emit_journal(entries, format)
            return
        rows = [
            row
            for row in repo.validity(list(collections), dataset_type)
            if detector is None or row.data_id.detector == detector
        ]
    table = [
        {"type": r.dataset_type, "instrument": r.data_id.instrument,
         "detector": r.data_id.detector,
         "physical_filter": r.data_id.physical_filter, "begin": format_time(r.begin),
         "end": format_time(r.end), "run": r.run, "collection": r.collection,
         "dataset": r.dataset, "sha256": r.sha256}
        for r in rows
    ]  # fmt: skip
    columns = ["type", "detector", "physical_filter", "begin", "end", "run", "collection"]
    columns = ["dataset"] if format == "ids" else with_instrument(table, columns)
    emit_table(table, columns, format)
    if timeline and format == "table" and rows:
        from cpplug.cli.timeline import draw

        click.echo()
        click.echo(draw(rows))


def _emit_journal(entries: list[Any], format: str) -> None:
    from cpplug.api.times import format_time

    table = [
        {"time": format_time(e.time, "utc"), "action": e.action, "type": e.dataset_type,
         "begin": format_time(e.begin), "end": format_time(e.end), "who": e.who,
         "reason": e.reason, "command": e.command, "collection": e.collection,
         "evidence": e.evidence}
        for e in sorted(entries, key=lambda e: e.time)
    ]  # fmt: skip
    emit_table(table, ["time", "action", "type", "begin", "end", "who", "reason"], format)


@click.command()
@click.argument("dataset_type", metavar="CALIB")
@click.option("--exposure", type=int, help="Exposure id; its middle is the time of the search.")
@click.option("--at", "moment", help="Search at this time instead.")
@click.option("--detector", required=True, metavar="ID|NAME", help="Detector.")
@click.option("--instrument", default=None, help="Instrument; needed when there are several.")
@click.option("-i", "--input", "inputs", multiple=True, help="Collections in search order.")
@format_option
@click.pass_obj
def which(
    state: State,
    dataset_type: str,
    exposure: int | None,
    moment: str | None,
    detector: str,
    instrument: str | None,
    inputs: tuple[str, ...],
    format: str,
) -> None:
    """Say which CALIB an exposure would get, and why: the search, step by step."""
    from cpplug.api.errors import CalibrationMissing, UnknownNameError, UsageError, nearest
    from cpplug.api.times import format_time
    from cpplug.engine.plan import default_inputs
    from cpplug.store.records import DataId

    if (exposure is None) == (moment is None):
        raise UsageError("The search needs one moment.", "Give either --exposure ID or --at TIME.")
    with state.repository() as repo:
        known = repo.instruments()
        if instrument is None and len(known) != 1:
            raise UsageError("Name the instrument.", f"--instrument {' or '.join(known)}")
        name = instrument or known[0]
        if name not in known:
            raise UnknownNameError(
                f"The instrument {name!r} is not registered in this repository.",
                nearest(name, known) or "Ingest raw frames of it first.",
            )
        filter_name = ""
        if exposure is not None:
            found = repo.exposures(
                "exposure = :number", instrument=name, binds={"number": exposure}
            )
            if not found:
                raise UnknownNameError(
                    f"The repository has no {name} exposure {exposure}.",
                    "See `cpplug query exposures`, or search with --at TIME.",
                )
            at, filter_name = found[0].middle, found[0].physical_filter
        else:
            at = _time(moment) or 0
        names = [part for item in inputs for part in item.split(",")] or default_inputs(repo, name)
        number = _detector_number(repo, name, detector)
        try:
            answer = repo.find(dataset_type, DataId(name, number, filter_name), names, at)
        except CalibrationMissing:
            if not repo.datasets(dataset_type):
                state.catalog.find_calibration(dataset_type)  # a mistyped name ends here
            raise
    row = {"id": answer.dataset.id, "type": dataset_type, "detector": number,
           "run": answer.dataset.run, "collection": answer.collection,
           "begin": format_time(answer.begin), "end": format_time(answer.end),
           "sha256": answer.dataset.sha256, "path": answer.dataset.path,
           "search": [f"{s.collection} ({s.kind}): {s.outcome}" for s in answer.trace]}  # fmt: skip
    emit_table([row], ["id", "type", "detector", "run", "collection", "begin", "end"], format)
    if format == "table":
        click.echo(f"\nSearched at {format_time(at)} TAI = {format_time(at, 'utc')}:")
        for number, step in enumerate(answer.trace, 1):
            click.echo(f"{number:3}. {step.collection} ({step.kind}): {step.outcome}")


def _detector_number(repo: Repository, instrument: str, key: str) -> int:
    """Return the id of a detector that was given by id or name."""
    from cpplug.api.errors import UnknownNameError

    rows = repo.detectors(instrument)
    for row in rows:
        if key in (str(row.id), row.name):
            return row.id
    known = ", ".join(f"{row.id} ({row.name})" for row in rows)
    raise UnknownNameError(f"{instrument} has no detector {key!r}.", f"Known: {known}.")
