"""The truth that belongs to the detectors, written once per folder.

``truth.json`` holds the numbers of every detector, ``static-det<N>.fits`` its images (BIAS, DARK,
HOT, MASK), ``flat-det<N>-<filter>.fits`` its response in a filter (FLAT, DUST) and
``fringe-det<N>.fits`` its fringe modes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from astropy.io import fits

from cpplug.api import ExposureInfo, Instrument, UsageError
from cpplug_simulate import light
from cpplug_simulate.born import BRIGHT_COLUMN, DEAD_COLUMN, HOT
from cpplug_simulate.detector import StaticDetector, static_detector, static_facts
from cpplug_simulate.files import as_json, plain, whole
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import STATIC


def write_static(
    folder: Path,
    instrument: Instrument,
    detectors: Sequence[int],
    settings: Settings,
    seed: int,
    infos: Sequence[ExposureInfo],
) -> None:
    """Write the truth that belongs to the detectors; what is there already must agree.

    Raises
    ------
    UsageError
        When the folder holds frames of another camera, seed or strength of a detector's effects.
    RepositoryError
        When the folder cannot be written.
    """
    truth = folder / "truth"
    note = truth / "truth.json"
    known: dict[str, Any] = {}
    if note.exists():
        known = msgspec.json.decode(note.read_bytes())
    if known and known.get("instrument") != instrument.name:
        raise UsageError(
            f"{folder} holds frames of {known.get('instrument')}, not of {instrument.name}.",
            "Choose another folder with -o.",
        )
    described = dict(known.get("detectors", {}))
    for number in detectors:
        dtype = instrument.simulated_frame(infos[0], number).dtype
        static = static_detector(instrument.camera.detector(number), settings, seed, dtype)
        facts = plain(static_facts(static))
        before = described.get(str(number))
        if before is not None and before != facts:
            raise UsageError(
                f"{folder} holds frames of another simulated detector ({_differ(before, facts)}).",
                "Choose another folder with -o, or use the same seed and strengths.",
            )
        described[str(number)] = facts
        _write_images(truth, static, settings, infos)
    content = {
        "about": "BIAS: mean over noise of a data pixel less the overscan level of its row, ADU. "
        "DARK: smooth dark current, electron/s; HOT: pixels with more, added to it. "
        "MASK: 1 hot pixel, 2 bright column, 4 dead column. FLAT: response without dust; DUST: "
        "transmission of the dust before it moves. Images are assembled detectors.",
        "instrument": instrument.name,
        "versions": {"cpplug": version("cpplug"), "numpy": np.__version__},
        "detectors": described,
    }
    if known.get("detectors") != described:
        with whole(note) as handle:
            handle.write(as_json(content))


def _differ(before: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in now if before.get(key) != now[key]]
    if "seed" in keys:
        return f"seed {before.get('seed')}, asked for {now['seed']}"
    if "settings" in keys:
        effects = [k for k, v in now["settings"].items() if before["settings"].get(k) != v]
        return "other options of " + ", ".join(effects)
    return "other " + ", ".join(keys)


def _write_images(
    truth: Path, static: StaticDetector, settings: Settings, infos: Sequence[ExposureInfo]
) -> None:
    number = static.detector.id
    path = truth / f"static-det{number}.fits"
    if not path.exists():
        y, x, rate = static.hot
        table = np.zeros(rate.size, [("x", "i4"), ("y", "i4"), ("rate", "f8")])
        table["x"], table["y"], table["rate"] = x, y, rate
        mask = fits.ImageHDU(static.mask, name="MASK")
        for keyword, bit in (("HOT", HOT), ("BRIGHT", BRIGHT_COLUMN), ("DEAD", DEAD_COLUMN)):
            mask.header[keyword] = bit
        images = [
            _image("BIAS", static.bias, "adu"),
            _image("DARK", static.dark, "electron/s"),
            fits.BinTableHDU(table, name="HOT"),
            mask,
        ]
        _write_hdus(path, images)
    where = (settings, static.seed, number, static.detector.shape)
    lit = settings.lamp.on or settings.sky.on or settings.stars.on
    filters = dict.fromkeys(info.physical_filter for info in infos if info.exposure_time > 0)
    for name in filters if lit else ():
        path = truth / f"flat-det{number}-{re.sub('[^A-Za-z0-9_.~+-]', '_', name)}.fits"
        if not path.exists():
            dust = light.dust(static.detector.shape, light.donuts(*where, STATIC))
            _write_hdus(path, [_image("FLAT", static.response(name)), _image("DUST", dust)])
    if settings.fringes.on and settings.sky.on:
        path = truth / f"fringe-det{number}.fits"
        if not path.exists():
            modes = light.fringe_modes(*where)
            _write_hdus(path, [_image(f"MODE{k}", mode) for k, mode in enumerate(modes)])


def _image(name: str, data: npt.NDArray[Any], unit: str = "") -> fits.ImageHDU:
    hdu = fits.ImageHDU(data, name=name)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _write_hdus(path: Path, hdus: list[Any]) -> None:
    with whole(path) as handle:
        primary = fits.PrimaryHDU()
        primary.header["KIND"] = ("truth", "of a simulation, not a raw frame")
        fits.HDUList([primary, *hdus]).writeto(handle)
