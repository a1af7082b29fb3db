"""Decides what a run will do before any pixel is read.

A plan names the exposures (and those left out, with the reason), groups them, fixes the ISR chain
with the source of every switch, and finds the calibration of every step for every exposure. What is
missing, ambiguous or impossible is said here, so that a run which starts can end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from cpplug.api.errors import (
    CalibrationMissing,
    ConfigError,
    DataError,
    NothingMatched,
    UnknownNameError,
)
from cpplug.api.instrument import ExposureInfo, Instrument
from cpplug.api.records import Calibration, ExposureQuery, IsrStep, PlannedStep, PlanView, Problem
from cpplug.engine.calibs import CalibRef
from cpplug.engine.chains import Chain, load_chain
from cpplug.engine.isr import check_chain
from cpplug.engine.lookup import Lookup
from cpplug.engine.settings import Layer, Settings, read_layer, steps_in_order
from cpplug.engine.siblings import Sibling
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DatasetRow


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for."""

    instrument: str
    calibration: str = ""
    chain: str = ""
    """A named chain of ISR steps, in place of a calibration."""
    inputs: tuple[str, ...] = ()
    where: str = ""
    binds: dict[str, Any] = {}
    exposures: tuple[int, ...] = ()
    detectors: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    option_files: tuple[str, ...] = ()
    verify: bool = False


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One exposure of one detector in a group."""

    info: ExposureInfo
    raw: str
    sha256: str
    calibs: tuple[CalibRef, ...] = ()
    siblings: tuple[Sibling, ...] = ()
    """The other detectors of the exposure, where a step looks at them."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The units that become one product."""

    detector: int
    detector_name: str
    physical_filter: str
    units: tuple[Unit, ...]
    rejected: tuple[tuple[int, str], ...] = ()

    @property
    def label(self) -> str:
        """What people call the group."""
        return self.detector_name + (f" {self.physical_filter}" if self.physical_filter else "")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run will do."""

    calibration: str
    instrument: str
    inputs: tuple[str, ...]
    where: str
    steps: tuple[PlannedStep, ...]
    groups: tuple[Group, ...]
    rejected: tuple[tuple[int, str], ...]
    config_digest: str

    @property
    def n_units(self) -> int:
        """Exposures times detectors."""
        return sum(len(group.units) for group in self.groups)

    def exposures(self) -> tuple[int, ...]:
        """All exposure ids, sorted, each once."""
        return tuple(sorted({u.info.exposure for g in self.groups for u in g.units}))

    def digest(self) -> str:
        """Return a hash of what decides the products: options, inputs, calibrations."""
        content = [
            self.calibration,
            self.instrument,
            self.config_digest,
            [
                (g.detector, g.physical_filter, [_content(unit) for unit in g.units])
                for g in self.groups
            ],
        ]
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _content(unit: Unit) -> list[Any]:
    siblings = [sibling.content() for sibling in unit.siblings]
    return [unit.sha256, sorted(calib.sha256 for calib in unit.calibs), *siblings]


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with the live objects that carry it out."""

    plan: Plan
    settings: Any
    recipe: Any
    instrument: Any


def make_settings(
    catalog: Catalog, request: Request, repository_root: Path | None
) -> tuple[Calibration, Instrument, Settings]:
    """Resolve the options of a request.

    Layers: plugin defaults, the instrument's defaults file, ``cpplug.toml`` of the repository and
    of the current folder, ``-C`` files, ``-c`` overrides.
    """
    layers: list[Layer] = []
    if request.chain:
        recipe, layer = _recipe_of(load_chain(request.chain))
        layers.append(layer)
    else:
        recipe = catalog.find_calibration(request.calibration)
    instrument: Instrument = catalog.get("instrument", request.instrument)
    names = recipe.verify_isr if request.verify else recipe.isr
    if request.verify and not names:
        raise ConfigError(f"Calibration {recipe.name!r} has no verification.")
    off = recipe.verify_isr_off if request.verify else recipe.isr_off
    if instrument.defaults_file:
        layer = read_layer(instrument.folder() / instrument.defaults_file, strict=False)
        layers.append(Layer(f"{instrument.name} {instrument.defaults_file}", layer.values, False))
    roots = [root for root in (repository_root, Path.cwd()) if root is not None]
    projects = dict.fromkeys((root / "cpplug.toml").resolve() for root in roots)
    layers += [read_layer(path, strict=False) for path in projects if path.is_file()]
    layers += [read_layer(Path(file), strict=True) for file in request.option_files]
    names = steps_in_order(recipe.name, names, layers, request.overrides)
    chain: list[IsrStep] = [catalog.get("isr_step", name) for name in names]
    settings = Settings(
        recipe,
        chain,
        off,
        lambda name: catalog.get("combiner", name),
        catalog,
        layers,
        request.overrides,
    )
    check_chain([step for step in chain if settings.step_enabled(step.name)])
    return recipe, instrument, settings


def _recipe_of(chain: Chain) -> tuple[Calibration, Layer]:
    """Return a chain as a recipe that only corrects, and its options as a layer."""

    def nothing_to_make(*_: object) -> NoReturn:
        raise DataError(f"Chain {chain.name} corrects exposures; it makes no calibration.")

    recipe = Calibration(
        name=chain.name,
        summary=chain.summary,
        inputs=ExposureQuery(),
        isr=tuple(step.name for step in chain.steps),
        isr_off=tuple(step.name for step in chain.steps if not step.on),
        reduce=nothing_to_make,
    )
    options = {
        f"isr.{step.name}.{option}": value
        for step in chain.steps
        for option, value in step.options.items()
    }
    return recipe, Layer(f"chain {chain.name}", options, True)


def make_plan(
    repo: Repository,
    catalog: Catalog,
    request: Request,
    *,
    candidate: Mapping[int, DatasetRow] | None = None,
) -> Prepared:
    """Plan a run, or the verification of candidates.

    Parameters
    ----------
    repo, catalog, request
        Where, with what, and what was asked.
    candidate
        For verification: by detector, the product under test, which takes the place of whatever the
        input collections hold of its type.

    Raises
    ------
    NothingMatched
        When no exposure is left; the message says which term removed all.
    CalibrationMissing, CalibrationAmbiguous
        When a step that is on lacks its calibration.
    ConfigError, UnknownNameError, DataError
        When options, names or inputs make no sense.
    """
    recipe, instrument, settings = make_settings(catalog, request, repo.root)
    inputs = request.inputs or default_inputs(repo, instrument.name)
    if request.where.strip():  # on its own, so that a mistake is shown where the user made it
        repo.count_exposures(request.where, instrument=instrument.name, binds=request.binds)
    steps = settings.steps()
    where = _selection(recipe, request)
    wanted = _wanted_detectors(instrument, request, candidate)
    rejected: dict[int, str] = {}
    elsewhere: set[int] = set()
    groups: list[Group] = []
    lookup = Lookup(repo, instrument.name, inputs, candidate or {})
    for detector in wanted:
        scoped = f"({where}) AND detector = {detector.id}"
        infos = repo.exposures(scoped, instrument=instrument.name, binds=request.binds)
        infos = _listed(infos, request, repo, instrument, rejected)
        infos = _present(infos, lookup, detector.id, elsewhere)
        infos = _usable(infos, rejected)
        for name, members in _split(infos, recipe).items():
            units = _units(lookup, catalog, instrument, detector.id, members, steps)
            groups.append(
                Group(
                    detector=detector.id,
                    detector_name=detector.name,
                    physical_filter=name,
                    units=units,
                )
            )
    groups = [group for group in groups if group.units]
    if elsewhere and not groups:
        raise NothingMatched(
            f"{len(elsewhere)} {instrument.name} exposures match, and none of their raw frames is "
            f"in {', '.join(inputs)}.",
            "Add their collection to --input; `cpplug collections` shows who holds what.",
        )
    if not groups:
        raise NothingMatched(*_why_nothing(repo, request, instrument, where, rejected))
    if request.exposures:
        rejected |= dict.fromkeys(elsewhere, "its raw frame is in none of the input collections")
    plan = Plan(
        calibration=recipe.name,
        instrument=instrument.name,
        inputs=tuple(inputs),
        where=where,
        steps=steps,
        groups=tuple(groups),
        rejected=tuple(sorted(rejected.items())),
        config_digest=settings.digest(),
    )
    _ask_plugins(catalog, plan, settings, "verify" if candidate is not None else "build")
    return Prepared(plan=plan, settings=settings, recipe=recipe, instrument=instrument)


def default_inputs(repo: Repository, instrument: str) -> tuple[str, ...]:
    """Return the instrument's usual input collections, as far as they exist."""
    usual = (f"{instrument}/raw/all", f"{instrument}/calib")
    existing = {row.name for row in repo.collections(f"{instrument}/*")}
    return tuple(name for name in usual if name in existing)


def _selection(recipe: Calibration, request: Request) -> str:
    """Join the recipe's selection and the user's; verification takes what construction takes."""
    terms = [term for term in (recipe.inputs.where(), request.where) if term.strip()]
    return " AND ".join(f"({term})" for term in terms) or "1 = 1"


def _wanted_detectors(
    instrument: Instrument, request: Request, candidate: Mapping[int, DatasetRow] | None
) -> list[Any]:
    camera = instrument.camera
    if request.detectors:
        keys = [int(key) if key.isdigit() else key for key in request.detectors]
        return [camera.detector(key) for key in keys]
    if candidate is not None:
        return [camera.detector(key) for key in sorted(candidate)]
    return list(camera.detectors)


def _listed(
    infos: list[ExposureInfo],
    request: Request,
    repo: Repository,
    instrument: Instrument,
    rejected: dict[int, str],
) -> list[ExposureInfo]:
    """Keep the exposures that were listed by id; say why a listed one is not among them."""
    if not request.exposures:
        return infos
    listed = set(request.exposures)
    chosen = [info for info in infos if info.exposure in listed]
    missing = sorted(listed - {info.exposure for info in chosen})
    if missing:
        known = {
            info.exposure: info
            for info in repo.exposures(
                "exposure IN (ids)", instrument=instrument.name, binds={"ids": missing}
            )
        }
        unknown = [number for number in missing if number not in known]
        if unknown:
            some = ", ".join(str(number) for number in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownNameError(
                f"The repository has no {instrument.name} exposure {some}{more}.",
                "See `cpplug query exposures`, or ingest the files first.",
            )
        for number in missing:
            info = known[number]
            rejected[number] = (
                f"listed, but not in the selection ({info.observation_type}, "
                f"{info.exposure_time:g} s, {info.physical_filter})"
            )
    return chosen


def _present(
    infos: list[ExposureInfo], lookup: Lookup, detector: int, elsewhere: set[int]
) -> list[ExposureInfo]:
    """Keep the exposures whose raw frame lies in the input collections; note the others."""
    lookup.prepare([detector], [info.exposure for info in infos])
    here = [info for info in infos if lookup.raw(detector, info.exposure) is not None]
    elsewhere.update({info.exposure for info in infos} - {info.exposure for info in here})
    return here


def _usable(infos: list[ExposureInfo], rejected: dict[int, str]) -> list[ExposureInfo]:
    """Refuse a mixture of binnings; it cannot be combined and a guess would be wrong."""
    binnings = {info.binning for info in infos}
    if len(binnings) > 1:
        counts = {b: sum(i.binning == b for i in infos) for b in sorted(binnings)}
        text = ", ".join(f"{n} binned {b[0]}x{b[1]}" for b, n in counts.items())
        raise DataError(
            f"The selected exposures differ in binning: {text}.",
            "Narrow the selection with -d or --exposures so that one binning is left.",
        )
    return sorted(infos, key=lambda info: info.exposure)


def _split(infos: Sequence[ExposureInfo], recipe: Calibration) -> dict[str, list[ExposureInfo]]:
    """Split exposures by filter where the recipe makes one product per filter."""
    if "physical_filter" not in recipe.per:
        return {"": list(infos)}
    groups: dict[str, list[ExposureInfo]] = {}
    for info in infos:
        groups.setdefault(info.physical_filter, []).append(info)
    return dict(sorted(groups.items()))


def _units(
    lookup: Lookup,
    catalog: Catalog,
    instrument: Instrument,
    detector: int,
    infos: Sequence[ExposureInfo],
    steps: Sequence[PlannedStep],
) -> tuple[Unit, ...]:
    chain = [catalog.get("isr_step", step.name) for step in steps if step.enabled]
    needed = {need: step.name for step in chain for need in step.needs}
    others: list[int] = []
    before: list[str] = []
    looking = [number for number, step in enumerate(chain) if step.siblings]
    if looking:
        others = [one.id for one in instrument.camera if one.id != detector]
        before = list(dict.fromkeys(n for step in chain[: looking[-1]] for n in step.needs))
    lookup.prepare([detector, *others], [info.exposure for info in infos])
    units = []
    for info in infos:
        calibs = []
        for dataset_type, step in needed.items():
            try:
                calibs.append(lookup.calib(dataset_type, detector, info))
            except CalibrationMissing as error:
                raise CalibrationMissing(
                    f"Step {step!r} needs a {dataset_type} for exposure {info.exposure}, detector "
                    f"{detector}, and none was found. {error.message}",
                    f"Build one, add its collection to --input, or use -c isr:do_{step}=False.",
                ) from None
        raw = lookup.raw(detector, info.exposure)
        assert raw is not None  # others were left out
        found = [lookup.sibling(other, info, before) for other in others]
        units.append(
            Unit(
                info=info,
                raw=str(raw.path),
                sha256=raw.sha256,
                calibs=tuple(calibs),
                siblings=tuple(one for one in found if one is not None),
            )
        )
    return tuple(units)


def _why_nothing(
    repo: Repository,
    request: Request,
    instrument: Instrument,
    where: str,
    rejected: Mapping[int, str],
) -> tuple[str, str]:
    if rejected:
        number, reason = next(iter(rejected.items()))
        return (
            f"None of the {len(rejected)} listed exposures can be used; {number}: {reason}.",
            "Compare the list with `cpplug query exposures`.",
        )
    detail = repo.explain_empty(where, instrument=instrument.name, binds=request.binds)
    return (f"No {instrument.name} exposure matches. {detail}", "Widen -d, or ingest files first.")


def _ask_plugins(
    catalog: Catalog, plan: Plan, settings: Settings, purpose: Literal["build", "verify"]
) -> None:
    view = PlanView(
        calibration=plan.calibration,
        instrument=plan.instrument,
        purpose=purpose,
        steps=plan.steps,
        exposures=plan.exposures(),
        detectors=tuple(group.detector for group in plan.groups),
        options={path: value.value for path, value in settings.values.items()},
    )
    for plugin, problem in catalog.check_plan(view):
        assert isinstance(problem, Problem)
        if problem.severity == "error":
            raise DataError(f"{plugin} objects: {problem.message}", problem.next_step)
        import logging

        logging.getLogger("cpplug.plan").warning("%s: %s", plugin, problem.message)
