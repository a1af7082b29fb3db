"""Frames and their truth on disk: whole files or none, and the same bytes every time.

``DIR/truth/truth.json`` holds the numbers of every detector, ``truth/static-det<N>.fits`` its
images (BIAS, DARK, HOT, MASK), ``truth/flat-det<N>-<filter>.fits`` its response in a filter (FLAT,
DUST), ``truth/fringe-det<N>.fits`` its fringe modes, and ``truth/exposures/<id>-det<N>.json`` what
one exposure had: its settings, hits, stars, dust, sky. A frame that is complete is not made again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
from astropy.io import fits

from cpplug.api import (
    Amplifier,
    Detector,
    ExposureInfo,
    Instrument,
    RepositoryError,
    SimulatedFrame,
    UsageError,
)
from cpplug_simulate import light
from cpplug_simulate.detector import (
    BRIGHT_COLUMN,
    DEAD_COLUMN,
    HOT,
    StaticDetector,
    static_detector,
    static_facts,
)
from cpplug_simulate.frame import Simulated, simulate_frame
from cpplug_simulate.settings import Settings
from cpplug_simulate.streams import STATIC

_STRUCTURE = frozenset({
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT",
    "BZERO", "BSCALE", "END", "EXTNAME",
})  # fmt: skip


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name when it is complete, or not at all.

    Raises
    ------
    RepositoryError
        When the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RepositoryError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the folder's permissions and the free space.",
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def in_file_order(
    amplifiers: Sequence[Amplifier], segments: dict[str, npt.NDArray[Any]], dtype: str
) -> npt.NDArray[Any]:
    """Return the pixels of one extension: the inverse of how the camera file says it is read.

    Parameters
    ----------
    amplifiers
        Those whose pixels lie in the extension.
    segments
        Read-out order, by amplifier name.
    dtype
        Pixel type. Pixels that belong to no amplifier are 0.
    """
    pieces = [piece for amplifier in amplifiers for piece in amplifier.source]
    shape = (max(p.y + p.height for p in pieces), max(p.x + p.width for p in pieces))
    image = np.zeros(shape, np.dtype(dtype))
    for amplifier in amplifiers:
        segment = segments[amplifier.name]
        segment = segment[
            :: -1 if amplifier.source_flip_y else 1, :: -1 if amplifier.source_flip_x else 1
        ]
        x = 0
        for piece in amplifier.source:
            image[piece.slices] = segment[:, x : x + piece.width]
            x += piece.width
    return image


def _put(header: Any, cards: Sequence[tuple[str, Any, str]]) -> None:
    for keyword, value, comment in cards:
        if keyword.upper() not in _STRUCTURE:
            long = len(keyword) > 8 or keyword != keyword.upper()
            header.append((f"HIERARCH {keyword}" if long else keyword, value, comment), end=True)


def raw_hdus(
    look: SimulatedFrame, detector: Detector, simulated: Simulated, compress: bool
) -> fits.HDUList:
    """Return the HDUs of a raw file, segments in the camera's own places and order."""
    groups: dict[str, list[Amplifier]] = {}
    for amplifier in detector.amplifiers:
        groups.setdefault(str(amplifier.hdu), []).append(amplifier)
    primary = fits.PrimaryHDU()
    if "0" in groups:
        if compress:
            raise UsageError(
                "This camera keeps its pixels in the primary HDU, which cannot be compressed.",
                "Leave --compress out.",
            )
        primary = fits.PrimaryHDU(in_file_order(groups.pop("0"), simulated.segments, look.dtype))
    _put(primary.header, look.primary)
    hdus = [primary]
    numbered = {int(name): name for name in groups if name.isdigit()}
    order = [name for name in look.segments if name in groups and name not in numbered.values()]
    order += [name for name in groups if name not in order and name not in numbered.values()]
    for position in range(1, len(groups) + len(numbered) + max(numbered, default=0) + 1):
        name = numbered.get(position) or (order.pop(0) if order else None)
        if name is None:
            if position > max(numbered, default=0):
                break
            hdus.append(fits.ImageHDU())
            continue
        pixels = in_file_order(groups[name], simulated.segments, look.dtype)
        label = None if name.isdigit() else name
        hdu = (
            fits.CompImageHDU(pixels, name=label, compression_type="RICE_1")
            if compress
            else fits.ImageHDU(pixels, name=label)
        )
        _put(hdu.header, look.segments.get(name, []))
        hdus.append(hdu)
    return fits.HDUList(hdus)


def write_frame(
    folder: Path,
    instrument: Instrument,
    info: ExposureInfo,
    detector: int,
    settings: Settings,
    seed: int,
    compress: bool = False,
) -> tuple[Path, bool]:
    """Write the raw file and the truth of one exposure of one detector, unless both are there.

    Returns
    -------
    path, made
        The raw file, and whether it was made now.

    Raises
    ------
    UsageError
        When the frame is there and was simulated with other settings.
    RepositoryError
        When the folder cannot be written.
    """
    look = instrument.simulated_frame(info, detector)
    compress = compress or look.compressed
    path = folder / look.file_name
    note = folder / "truth" / "exposures" / f"{info.exposure}-det{detector}.json"
    asked = {
        "file": look.file_name,
        "seed": seed,
        "compressed": compress,
        "settings": msgspec.to_builtins(settings),
        "info": msgspec.to_builtins(info),
    }
    if path.exists() and note.exists():
        written = msgspec.json.decode(note.read_bytes())
        if {key: written.get(key) for key in asked} != _plain(asked):
            raise UsageError(
                f"{path} exists and was simulated with other settings.",
                "Choose another folder with -o, or remove the file.",
            )
        return path, False
    simulated = simulate_frame(instrument, info, detector, settings, seed, look.dtype)
    # The truth first: a raw file without truth must not exist.
    with whole(note) as handle:
        handle.write(_json({**asked, "truth": simulated.facts}))
    hdus = raw_hdus(look, simulated.static.detector, simulated, compress)
    with whole(path) as handle:
        hdus.writeto(handle)
    return path, True


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


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
        facts = _plain(static_facts(static))
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
            handle.write(_json(content))


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


def simulate_night(
    folder: Path,
    instrument: Instrument,
    infos: Sequence[ExposureInfo],
    detectors: Sequence[int],
    settings: Settings,
    seed: int,
    *,
    processes: int = 1,
    compress: bool = False,
    tell: Callable[[Path, bool], None] = lambda path, made: None,
) -> list[Path]:
    """Write all frames of a plan and their truth.

    Parameters
    ----------
    folder
        Where the raw files go; the truth goes to ``truth`` in there.
    instrument, infos, detectors, settings, seed
        What to simulate.
    processes
        How many processes share the work; the files do not depend on it.
    compress
        Write tile-compressed segments (Rice).
    tell
        Called with each file, in order, and whether it was made now.

    Returns
    -------
    list of Path
        The raw files, in order of the plan.
    """
    write_static(folder, instrument, detectors, settings, seed, infos)
    units = [(info, detector) for detector in detectors for info in infos]
    paths = []
    for path, made in _each(folder, instrument, units, settings, seed, processes, compress):
        tell(path, made)
        paths.append(path)
    return paths


def _each(
    folder: Path,
    instrument: Instrument,
    units: Sequence[tuple[ExposureInfo, int]],
    settings: Settings,
    seed: int,
    processes: int,
    compress: bool,
) -> Iterator[tuple[Path, bool]]:
    common = (settings, seed, compress)
    if processes <= 1 or len(units) <= 1:
        for info, detector in units:
            yield write_frame(folder, instrument, info, detector, *common)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(min(processes, len(units)), mp_context=context) as pool:
        waiting = [
            pool.submit(write_frame, folder, instrument, info, detector, *common)
            for info, detector in units
        ]
        try:
            for future in waiting:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
