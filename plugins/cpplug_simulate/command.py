"""The command ``cpplug simulate``: raw frames of any camera, with the truth beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpplug.api import UnknownNameError, UsageError, nearest

if TYPE_CHECKING:
    from cpplug.api import Instrument, Toolbox

_RECIPES = ("bias", "dark", "flat", "ptc", "science")
_DEFAULT_COUNT = {"bias": 10, "dark": 10, "flat": 10, "ptc": 20, "science": 5}


@click.command()
@click.argument("recipe", type=click.Choice(_RECIPES))
@click.option("--instrument", "instrument_name", metavar="NAME", help="Camera to simulate.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The camera."
)
@click.option(
    "--count", type=click.IntRange(min=1), help="Exposures per time and filter; pairs for ptc."
)
@click.option("--first-exposure", type=int, metavar="ID", help="Id of the first exposure.")
@click.option("--date", metavar="YYYYMMDD", help="Observing day; the first exposure is number 1.")
@click.option("--exposures", metavar="ID,ID|@FILE", help="Ids of the exposures, one by one.")
@click.option("--exposure-time", "times", type=float, multiple=True, metavar="S", help="Seconds.")
@click.option("--filter", "filters", multiple=True, metavar="NAME", help="Physical filter.")
@click.option("--detector", "detectors", type=int, multiple=True, metavar="N", help="Default: all.")
@click.option("--effect", "effects", multiple=True, metavar="NAME=on|off", help="Switch an effect.")
@click.option("--set", "options", multiple=True, metavar="NAME.KEY=VALUE", help="Set an option.")
@click.option("--compress", is_flag=True, help="Write tile-compressed segments (Rice).")
@click.option("-j", "--processes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--format", "form", type=click.Choice(["paths", "json"]), default="paths")
@click.option("--list-effects", is_flag=True, help="List effects, options and defaults, and stop.")
@click.pass_context
def simulate(
    ctx: click.Context,
    /,
    recipe: str,
    instrument_name: str | None,
    output: Path | None,
    seed: int,
    list_effects: bool,
    effects: tuple[str, ...],
    options: tuple[str, ...],
    detectors: tuple[int, ...],
    processes: int,
    compress: bool,
    form: str,
    **selection: Any,
) -> None:
    """Write simulated raw frames of a camera, and their truth beside them.

    RECIPE is bias, dark, flat, ptc (pairs of flats of rising level) or science. The same seed is
    the same camera; the same command writes the same bytes. The truth goes to OUTPUT/truth.
    """
    from cpplug_simulate.settings import settings_for

    settings = settings_for(recipe, _changes(effects, options))
    if list_effects:
        _list(settings)
        return
    if instrument_name is None or output is None:
        raise UsageError("Say which camera and where to.", "Give --instrument NAME and -o FOLDER.")
    toolbox: Toolbox = ctx.obj
    instrument = toolbox.instrument(instrument_name)
    _check_amplifiers(settings, instrument)

    from cpplug_simulate.recipes import plan
    from cpplug_simulate.write import simulate_night

    infos = plan(
        instrument,
        recipe,
        _ids(recipe, **selection),
        settings=settings,
        seed=seed,
        times=selection["times"],
        filters=selection["filters"],
    )
    numbers = [instrument.camera.detector(n).id for n in detectors] or [
        detector.id for detector in instrument.camera
    ]
    total, made_now = len(infos) * len(numbers), []

    def tell(path: Path, made: bool) -> None:
        made_now.append(made)
        if sys.stderr.isatty():
            end = "\n" if len(made_now) == total else "\r"
            click.echo(f"{len(made_now)}/{total} {path.name}{end}", nl=False, err=True)

    paths = simulate_night(
        output,
        instrument,
        infos,
        numbers,
        settings,
        seed,
        processes=processes,
        compress=compress,
        tell=tell,
    )
    click.echo(
        f"{total} {recipe} frames of {instrument.name}, {sum(made_now)} made now; truth in "
        f"{output / 'truth'}",
        err=True,
    )
    _print(paths, form, instrument=instrument.name, recipe=recipe, seed=seed, made=sum(made_now))


def _check_amplifiers(settings: Any, instrument: Instrument) -> None:
    """Refuse an option of an amplifier that the camera does not have."""
    known = {a.name for detector in instrument.camera for a in detector.amplifiers}
    for path in ("bias_structure.offsets", "read_noise.factors", "gain.factors"):
        effect, _, option = path.partition(".")
        for name in getattr(getattr(settings, effect), option):
            if name not in known:
                raise UnknownNameError(
                    f"{path}.{name}: {instrument.name} has no amplifier {name!r}.",
                    nearest(name, sorted(known)),
                )


def _print(paths: list[Path], form: str, **facts: Any) -> None:
    import msgspec

    if form == "json":
        click.echo(msgspec.json.encode({**facts, "files": [str(path) for path in paths]}).decode())
    else:
        for path in paths:
            click.echo(str(path))


def _changes(effects: tuple[str, ...], options: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in effects:
        name, _, state = text.partition("=")
        if state not in {"on", "off"}:
            raise UsageError(f"--effect {text} is not a switch.", "Write --effect NAME=on or =off.")
        changes[f"{name.strip()}.on"] = state == "on"
    for text in options:
        path, equals, value = text.partition("=")
        if not equals or "." not in path:
            raise UsageError(f"--set {text} sets nothing.", "Write --set NAME.OPTION=VALUE.")
        changes[path.strip()] = value.strip()
    return changes


def _ids(
    recipe: str,
    *,
    exposures: str | None,
    first_exposure: int | None,
    date: str | None,
    count: int | None,
    times: tuple[float, ...],
    filters: tuple[str, ...],
) -> list[int]:
    ways = [value is not None for value in (exposures, first_exposure, date)]
    if sum(ways) != 1:
        raise UsageError(
            "The exposures need ids.",
            "Give exactly one of --first-exposure, --date and --exposures.",
        )
    if exposures is not None:
        if count is not None:
            raise UsageError("--count and --exposures contradict each other.", "Give one of them.")
        return _listed(exposures)
    if date is not None:
        if not date.replace("-", "").isdigit():
            raise UsageError(f"--date {date} is not a day.", "Write YYYYMMDD.")
        first_exposure = int(date.replace("-", "")) * 100_000 + 1
    each = count or _DEFAULT_COUNT[recipe]
    number = each * max(len(times), 1) * max(len(filters), 1)
    if recipe == "ptc":
        number *= 2
    return list(range(first_exposure or 0, (first_exposure or 0) + number))


def _listed(text: str) -> list[int]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--exposures {text} cannot be read: {error.strerror}.") from None
    words = text.replace(",", " ").split()
    if not words or not all(word.isdigit() for word in words):
        raise UsageError(
            "--exposures holds something that is no exposure id.",
            "Give ids with commas or blanks between them.",
        )
    return [int(word) for word in words]


def _list(settings: Any) -> None:
    from cpplug_simulate.settings import describe

    for effect, option, value, text in describe(settings):
        if option:
            shown = "none" if value is None else value
            click.echo(f"    {effect}.{option} = {shown}  ({text})")
        else:
            click.echo(f"{effect} [{'on' if value else 'off'}]  {text}")
