"""Frames and their truth on disk: whole files or none, and the same bytes every time.

Beside the truth of the detectors (see ``cpplug_simulate.truth``), every frame has a note
``DIR/truth/exposures/<id>-det<N>.json``: its settings, hits, stars, dust, sky. A frame that is
complete is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from cpplug.api import ExposureInfo, Instrument, UsageError
from cpplug_simulate.files import as_json, plain, raw_hdus, whole
from cpplug_simulate.frame import simulate_frame
from cpplug_simulate.settings import Settings
from cpplug_simulate.truth import write_static


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
        if {key: written.get(key) for key in asked} != plain(asked):
            raise UsageError(
                f"{path} exists and was simulated with other settings.",
                "Choose another folder with -o, or remove the file.",
            )
        return path, False
    simulated = simulate_frame(instrument, info, detector, settings, seed, look.dtype)
    # The truth first: a raw file without truth must not exist.
    with whole(note) as handle:
        handle.write(as_json({**asked, "truth": simulated.facts}))
    hdus = raw_hdus(look, simulated.static.detector, simulated.segments, compress)
    with whole(path) as handle:
        hdus.writeto(handle)
    return path, True


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
