"""Corrects single exposures with a named chain, and writes each as a FITS file.

For whoever wants to look at a corrected exposure, or to use one elsewhere: the calibrations are
those that a search finds for it, and the file says which they were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cpplug.api.events import Event
from cpplug.api.exposure import Exposure
from cpplug.api.product import ImageProduct, MetaValue
from cpplug.engine import fits
from cpplug.engine.calibs import FoundCalibs, ProductCache
from cpplug.engine.isr import run_chain
from cpplug.engine.plan import Group, Plan, Prepared, Unit
from cpplug.engine.products import write_product
from cpplug.engine.siblings import Others, Sibling
from cpplug.host.catalog import Catalog


def correct(
    prepared: Prepared, group: Group, unit: Unit, catalog: Catalog, emit: Callable[[Event], None]
) -> Exposure:
    """Read one exposure and run the planned chain on it.

    Raises
    ------
    CpplugError
        When the raw file or a calibration cannot be used, or a step refuses the exposure.
    """
    detector = prepared.instrument.camera.detector(group.detector)
    raw = fits.read_raw(Path(unit.raw), unit.info, detector)
    cache = ProductCache()
    others = Others(
        camera=prepared.instrument.camera,
        info=unit.info,
        steps=prepared.plan.steps,
        executor=catalog,
        cache=cache,
        own=Sibling(detector=group.detector, raw=unit.raw, calibs=unit.calibs),
        siblings=unit.siblings,
    )
    calibs = FoundCalibs(unit.calibs, cache)
    return run_chain(raw, prepared.plan.steps, calibs, catalog, emit, others.at)


def write_exposure(
    path: Path, exposure: Exposure, plan: Plan, unit: Unit, command: str
) -> tuple[str, int]:
    """Write a corrected exposure with mask and variance; return its SHA-256 and size in bytes.

    Header cards name the chain, the steps that ran, the calibrations, and every number that a step
    measured (``ISR <QUANTITY> <scope>``).
    """
    info = exposure.info
    cards: dict[str, MetaValue] = {
        "INSTRUME": info.instrument,
        "EXPID": info.exposure,
        "OBSID": info.obs_id,
        "DETNAME": exposure.detector.name,
        "DETECTOR": exposure.detector.id,
        "OBSTYPE": info.observation_type,
        "EXPTIME": info.exposure_time,
        "DARKTIME": info.dark_time,
        "FILTER": info.physical_filter,
        "CPP_CHN": plan.calibration,
        "CPP_CONF": plan.config_digest,
        "CPP_STEP": " ".join(step.name for step in plan.steps if step.enabled),
        "CPP_CMD": command,
    }
    for number, calib in enumerate(unit.calibs):
        cards[f"CPP_CALIB_{number}"] = f"{calib.dataset_type} {calib.dataset}"
    for item in exposure.measurements:
        cards[f"ISR {item.name.upper()} {item.scope}"] = item.value
    product = ImageProduct(
        image=exposure.image,
        mask=exposure.mask,
        variance=exposure.variance_plane(),
        unit=exposure.unit,
    )
    return write_product(path, product, cards)
