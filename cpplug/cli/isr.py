"""``cpplug isr``: correct one exposure with a named chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpplug.cli.output import emit_table, format_option
from cpplug.cli.run import show_plan
from cpplug.cli.state import State

if TYPE_CHECKING:
    from cpplug.api.events import Event


@click.command()
@click.argument("exposure", type=int)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="FITS file to write; default EXPOSURE-DETECTOR.fits in this folder.",
)
@click.option("--instrument", required=True, help="Instrument by name.")
@click.option("--detector", required=True, help="Detector id or name.")
@click.option("--chain", default="isr-2021", show_default=True, help="Which steps, in which order.")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="COLL[,COLL]",
    help="Where calibrations are searched; default INSTRUMENT/calib.",
)
@click.option(
    "-c",
    "--config",
    "overrides",
    multiple=True,
    metavar="TARGET:option=value",
    help="Set an option, such as isr:doFlat=False.",
)
@click.option(
    "-C",
    "--config-file",
    "option_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of options.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done.")
@format_option
@click.pass_obj
def isr(state: State, /, format: str, exposure: int, **options: Any) -> None:
    """Remove the instrument's signature from EXPOSURE and write it to a file.

    The calibrations are those that `cpplug which` finds; one that is missing is named before any
    pixel is read.
    """  # fmt: skip
    from cpplug.engine.plan import Request, make_plan
    from cpplug.engine.single import correct, write_exposure

    request = Request(
        instrument=options["instrument"],
        chain=options["chain"],
        inputs=tuple(part for text in options["inputs"] for part in text.split(",") if part),
        exposures=(exposure,),
        detectors=(options["detector"],),
        overrides=options["overrides"],
        option_files=tuple(str(path) for path in options["option_files"]),
    )
    bus = state.bus(f"isr {exposure}")
    with state.repository() as repo:
        prepared = make_plan(repo, state.catalog, request)
    if options["plan_only"]:
        show_plan(prepared, request, format)
        return
    (group,) = prepared.plan.groups
    (unit,) = group.units
    where: dict[str, Any] = {
        "instrument": prepared.plan.instrument,
        "detector": group.detector,
        "exposure": exposure,
    }

    def emit(event: Event) -> None:
        bus.emit(event, **where)

    frame = correct(prepared, group, unit, state.catalog, emit)
    target = options["output"] or Path(f"{exposure}-{group.detector_name}.fits")
    sha256, size = write_exposure(target, frame, prepared.plan, unit, state.command_text)
    row = {
        "path": str(target),
        "exposure": exposure,
        "detector": group.detector_name,
        "chain": options["chain"],
        "unit": frame.unit,
        "sha256": sha256,
        "bytes": size,
    }
    emit_table([row], ["path", "exposure", "detector", "chain", "unit"], format)
