"""``cpplug run``, ``cpplug verify`` and ``cpplug config``: build, test, and look at options."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cpplug.cli.output import emit_table, format_option
from cpplug.cli.query import selection, selection_options
from cpplug.cli.state import State

if TYPE_CHECKING:
    from cpplug.engine.plan import Prepared, Request
    from cpplug.engine.run import RunResult
    from cpplug.store import Repository

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path, dir_okay=False)


def _exposure_ids(texts: tuple[str, ...]) -> tuple[int, ...]:
    """Read ``--exposures``: numbers with commas, blanks or lines between, or ``@file``."""
    from cpplug.api.errors import UsageError

    ids: list[int] = []
    for text in texts:
        content = text
        if text.startswith("@"):
            try:
                content = Path(text[1:]).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"--exposures {text}: the file cannot be read "
                    f"({getattr(error, 'strerror', None) or error}).",
                    "Name a file with exposure ids, separated by commas or line breaks.",
                ) from None
            content = re.sub(r"#.*", "", content)
        for word in re.split(r"[\s,\\]+", content.strip(" \t\n\\(),'\"")):
            if not word.isdigit():
                raise UsageError(
                    f"--exposures: {word!r} is not an exposure id.",
                    "Write numbers separated by commas, or @FILE.",
                )
            ids.append(int(word))
    return tuple(dict.fromkeys(ids))


def _work_options(command: F) -> F:
    """Options that building and verification share."""
    options = [
        click.argument("calibration", metavar="CALIB"),
        click.option("--instrument", required=True, help="Instrument by name, such as LATISS."),
        click.option("-i", "--input", "inputs", multiple=True, metavar="COLL[,COLL]",
                     help="Where raw frames and calibrations are, in order of search; default "
                          "INSTRUMENT/raw/all,INSTRUMENT/calib."),
        click.option("-o", "--output", default="", metavar="NAME",
                     help="Chain that gets the new run in front; default u/USER/CALIBGen, "
                     "of a verification u/USER/verifyCALIB."),
        selection_options,
        click.option("--exposures", "exposures", multiple=True, metavar="IDS|@FILE",
                     help="Only these exposure ids."),
        click.option("--detectors", multiple=True, metavar="ID|NAME", help="Only these detectors."),
        click.option("-c", "--config", "overrides", multiple=True, metavar="TARGET:option=value",
                     help="Set an option, such as isr:doDefect=False."),
        click.option("-C", "--config-file", "option_files", multiple=True, type=_PATH,
                     help="TOML file of options."),
        click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True,
                     help="Exposures worked on at a time."),
        click.option("--executor", default="", metavar="NAME",
                     help="Where: processes (default), threads, serial, or a plugin's."),
        click.option("--plan", "plan_only", is_flag=True, help="Print what would be done."),
        format_option,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _request(options: dict[str, Any], *, verify: bool) -> Request:
    from cpplug.engine.plan import Request

    where, binds = selection(options["where"], options["where_file"], options["binds"])
    inputs = tuple(part.strip() for text in options["inputs"] for part in text.split(",") if part)
    detectors = tuple(part for text in options["detectors"] for part in text.split(",") if part)
    return Request(
        calibration=options["calibration"],
        instrument=options["instrument"],
        inputs=inputs,
        where=where,
        binds=binds,
        exposures=_exposure_ids(options["exposures"]),
        detectors=detectors,
        overrides=options["overrides"],
        option_files=tuple(str(path) for path in options["option_files"]),
        verify=verify,
    )


@click.command()
@_work_options
@click.option("--resume", is_flag=True, help="Go on with the last run of this plan that broke off.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first exposure that fails.")
@click.option(
    "--max-failed",
    default="10%",
    show_default=True,
    metavar="N|N%",
    help="How many exposures of a product may fail.",
)
@click.option("--keep-scratch", is_flag=True, help="Keep the corrected frames.")
@click.pass_obj
def run(state: State, /, format: str, plan_only: bool, **options: Any) -> int:
    """Build the calibration CALIB from exposures.

    Example: cpplug run bias --instrument LATISS -d "day_obs = 20210120" -j 2
    """
    from cpplug.engine.plan import make_plan
    from cpplug.engine.run import Driver, RunOptions

    request = _request(options, verify=False)
    with state.repository() as repo:
        prepared = make_plan(repo, state.catalog, request)
        if plan_only:
            show_plan(prepared, request, format)
            return 0
        driver = Driver(
            repo,
            state.catalog,
            prepared,
            RunOptions(
                output=options["output"] or f"u/{getpass.getuser()}/{prepared.plan.calibration}Gen",
                jobs=options["jobs"],
                executor=options["executor"],
                resume=options["resume"],
                fail_fast=options["fail_fast"],
                max_failed=options["max_failed"],
                keep_scratch=options["keep_scratch"],
                command=state.command_text,
            ),
            state.listeners(),
        )
        try:
            result = driver.carry_out()
        except KeyboardInterrupt:
            click.echo("Finished exposures are kept; go on with --resume.", err=True)
            raise
        _show_products(repo, result, format)
    return 7 if result.failed else 0


def _show_products(repo: Repository, result: RunResult, format: str) -> None:
    if result.nothing_to_do:
        click.echo(f"Nothing left to do: {result.run} is complete.", err=True)
    rows = [
        {"id": p.id, "type": p.dataset_type, "detector": p.data_id.detector,
         "physical_filter": p.data_id.physical_filter, "run": p.run, "sha256": p.sha256,
         "path": str(repo.root / p.path)}
        for p in result.products
    ]  # fmt: skip
    emit_table(rows, ["id", "type", "detector", "run", "path"], format)
    for line in result.failed:
        click.echo(f"failed: {line}", err=True)


def show_plan(prepared: Prepared, request: Request, format: str) -> None:
    """Print a plan: exposures, steps with their switches, calibrations."""
    from cpplug.engine.plan_text import plan_rows

    plan = plan_rows(prepared, request)
    if format == "ids":
        emit_table([{"id": n} for g in plan["exposures"] for n in g["ids"]], ["id"], format)
        return
    if format != "table":
        emit_table([plan], list(plan), "json" if format == "csv" else format)
        return
    click.echo(f"{plan['calibration']} of {plan['instrument']}, inputs {', '.join(plan['inputs'])}")
    for group in plan["exposures"]:
        ids = ", ".join(str(number) for number in group["ids"])
        click.echo(f"detector {group['detector']}: {group['n']} exposures: {ids}")
        if group["siblings"]:
            click.echo(f"  beside it, as far as a step asks: {', '.join(group['siblings'])}")
    for row in plan["rejected"]:
        click.echo(f"left out: {row['exposure']}: {row['reason']}")
    click.echo()
    emit_table(
        plan["steps"], ["n", "step", "runs", "switch", "options"], title="ISR steps in order"
    )
    click.echo()
    if plan["calibrations"]:
        columns = ["type", "dataset", "collection", "begin", "end", "exposures"]
        emit_table(plan["calibrations"], columns, title="Calibrations found")
    else:
        click.echo("Calibrations found: none needed.")


@click.command()
@_work_options
@click.option(
    "--profile",
    default="strict",
    show_default=True,
    help="Limits of the tests: strict, upstream-compat, or a TOML file.",
)
@click.option(
    "--bootstrap",
    is_flag=True,
    help="The camera's read noise is not trusted yet: use the measured one.",
)
@click.pass_obj
def verify(
    state: State, /, format: str, plan_only: bool, profile: str, bootstrap: bool, **options: Any
) -> int:
    """Test the first CALIB product found in the input collections.

    Exposures that went into the product are marked as members; the verdict rests on the others.
    """
    from cpplug.engine.verify import Verification, VerifyOptions, candidates

    request = _request(options, verify=True)
    user = getpass.getuser()
    with state.repository() as repo:
        found, request = candidates(repo, state.catalog, request, fallback=f"u/{user}/")
        verification = Verification(
            repo,
            state.catalog,
            request,
            found,
            VerifyOptions(
                output=options["output"],
                user=user,
                jobs=options["jobs"],
                executor=options["executor"],
                profile=profile,
                bootstrap=bootstrap,
                command=state.command_text,
            ),
            state.listeners,
        )
        if plan_only:
            show_plan(verification.prepared, request, format)
            return 0
        outcome = verification.carry_out()
    emit_table(outcome.table, outcome.columns, format)
    click.echo(outcome.banner, err=format != "table")
    return 0 if outcome.verdict in {"PASS", "WARN"} else 3


@click.group()
def config() -> None:
    """Show options, their values and where they come from."""


def _settings(
    state: State,
    calibration: str,
    instrument: str,
    for_verify: bool,
    overrides: tuple[str, ...],
    files: tuple[Path, ...],
) -> Any:
    from cpplug.engine.plan import Request, make_settings

    request = Request(
        calibration=calibration,
        instrument=instrument,
        overrides=overrides,
        option_files=tuple(str(path) for path in files),
        verify=for_verify,
    )
    return make_settings(state.catalog, request, state.repo)[2]


def _config_options(command: F) -> F:
    options = [
        click.argument("calibration", metavar="CALIB"),
        click.option("--instrument", required=True, help="Instrument by name."),
        click.option("--for-verify", is_flag=True, help="The options of `cpplug verify`."),
        click.option("-c", "--config", "overrides", multiple=True, metavar="TARGET:option=value"),
        click.option("-C", "--config-file", "files", multiple=True, type=_PATH),
        format_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@config.command()
@_config_options
@click.pass_obj
def show(state: State, /, format: str, **options: Any) -> None:
    """Print every option of a run with its value and the place that set it."""
    emit_table(_settings(state, **options).table(), ["option", "value", "source"], format)


@config.command()
@_config_options
@click.pass_obj
def schema(state: State, /, format: str, **options: Any) -> None:
    """Print every option of a run with its type, range and meaning."""
    rows = _settings(state, **options).schema()
    emit_table(rows, ["option", "type", "default", "meaning"], format)
