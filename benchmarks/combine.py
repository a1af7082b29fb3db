"""Combine N frames: cpplug against ccdproc, astropy, a plain mean, and merely reading and adding.

Every candidate runs in a fresh process on the same frames (noise, a level, cosmic rays; the page
cache is warm), and is timed from outside: wall, CPU and peak memory. Ratios are to "read and add".
Results are checked: the clipped means must agree with the truth and with each other, otherwise the
row says so. Run with ``make bench``; ``python benchmarks/combine.py --help`` shows the options.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPE = (4000, 4072)
LEVEL, NOISE = 100.0, 8.0
RESULTS = Path(__file__).resolve().parent / "results"


def make_frames(folder: Path, n: int, shape: tuple[int, int]) -> None:
    """Write n frames twice: as scratch arrays, and as FITS for those who read FITS."""
    from astropy.io import fits

    for i in range(n):
        plain = folder / f"{i:03d}.npy"
        if plain.exists():
            continue
        rng = np.random.default_rng([7, i])
        frame = rng.standard_normal(shape, dtype=np.float32) * np.float32(NOISE) + np.float32(LEVEL)
        hits = rng.integers(0, frame.size, frame.size // 5000)
        frame.ravel()[hits] += rng.uniform(100, 5000, hits.size).astype(np.float32)
        fits.PrimaryHDU(frame).writeto(folder / f"{i:03d}.fits", overwrite=True)
        np.save(plain, frame)


# ---- candidates: each returns the combined image ------------------------------------------------
def read_and_add(folder: Path, n: int) -> np.ndarray:
    """Read every frame and add: the floor. No rejection."""
    total = None
    for i in range(n):
        frame = np.load(folder / f"{i:03d}.npy")
        total = frame if total is None else np.add(total, frame, out=total)
    return total / n


def numpy_mean(folder: Path, n: int) -> np.ndarray:
    """Mean of a stack in memory. No rejection."""
    return np.mean([np.load(folder / f"{i:03d}.npy") for i in range(n)], axis=0, dtype=np.float32)


def cpplug_clip(folder: Path, n: int) -> np.ndarray:
    """Do what `cpplug run` does: exact reference clip, two threads, 512 MB of blocks."""
    from cpplug.api import camera_from
    from cpplug.engine.settings import StackConfig
    from cpplug.engine.stack import stack
    from cpplug.host.catalog import Catalog

    class Plain:
        def __init__(self, path: Path) -> None:
            self.path = path
            with path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(stream)
                self.start = stream.tell()

        def image_into(self, first: int, last: int, out: np.ndarray) -> None:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(self.start + first * self.shape[1] * 4)
                stream.readinto(memoryview(out).cast("B"))

        def mask_rows(self, first: int, last: int) -> None:
            return None

        def variance_rows(self, first: int, last: int) -> np.ndarray:
            return np.ones((last - first, self.shape[1]), np.float32)

    frames = [Plain(folder / f"{i:03d}.npy") for i in range(n)]
    rows, columns = frames[0].shape
    box = [0, 0, columns, rows]
    amplifier = {"name": "A", "source": box, "data": box, "bbox": box}
    camera = camera_from(
        {"name": "b", "detector": [{"id": 0, "name": "D", "amplifiers": [amplifier]}]}
    )
    combiner = Catalog().get("combiner", "clipped_mean")
    config = combiner.config()
    made = stack(
        frames,
        lambda block: combiner.combine(block, config),
        StackConfig(),
        camera.detectors[0],
        workers=2,
    )
    return made.image


def ccdproc_best(folder: Path, n: int) -> np.ndarray:
    """Let ccdproc.combine work as fast as it can: float32, and memory for all frames."""
    import ccdproc

    files = [str(folder / f"{i:03d}.fits") for i in range(n)]
    combined = ccdproc.combine(
        files,
        method="average",
        unit="adu",
        dtype=np.float32,
        mem_limit=16e9,
        sigma_clip=True,
        sigma_clip_low_thresh=3,
        sigma_clip_high_thresh=3,
        sigma_clip_func=np.ma.median,
        sigma_clip_dev_func=np.ma.std,
    )
    return np.asarray(combined.data)


def astropy_clip(folder: Path, n: int) -> np.ndarray:
    """astropy.stats.sigma_clip of a stack, then the mean."""
    from astropy.stats import sigma_clip

    cube = np.array([np.load(folder / f"{i:03d}.npy") for i in range(n)])
    clipped = sigma_clip(cube, sigma=3, maxiters=3, axis=0, masked=False, copy=False)
    return np.nanmean(clipped, axis=0)


CANDIDATES: dict[str, tuple[Callable[[Path, int], np.ndarray], bool]] = {
    "read and add": (read_and_add, False),
    "numpy mean": (numpy_mean, False),
    "cpplug": (cpplug_clip, True),
    "ccdproc": (ccdproc_best, True),
    "astropy": (astropy_clip, True),
}
"""Name to function, and whether it rejects outliers."""


def measure(name: str, folder: Path, n: int) -> dict[str, float | str]:
    """Run one candidate in a fresh process; return its figures."""
    out = folder / "result.npy"
    command = [sys.executable, __file__, "--only", name, "--folder", str(folder), "-n", str(n)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status != 0:
        return {"candidate": name, "n": n, "error": process.stderr.read().strip()[-200:]}
    image = np.load(out)
    return {
        "candidate": name,
        "n": n,
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "rms": float(np.std(image - LEVEL)),
        "bias": float(np.mean(image) - LEVEL),
    }


def table(rows: list[dict], n: int) -> str:
    """Return the rows of one N as text, with ratios to the floor."""
    mine = [row for row in rows if row["n"] == n]
    floor = next((r["wall_s"] for r in mine if r["candidate"] == "read and add"), float("nan"))
    lines = [f"N = {n}", f"{'':14}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'ratio':>7}  result"]
    for row in mine:
        if "error" in row:
            lines.append(f"{row['candidate']:14}  {row['error']}")
            continue
        rejects = CANDIDATES[row["candidate"]][1]
        good = abs(row["rms"] / (NOISE / np.sqrt(n)) - 1) < 0.1 and abs(row["bias"]) < 0.2
        said = ("agrees" if good else "DIFFERS") if rejects else "no rejection"
        lines.append(
            f"{row['candidate']:14}{row['wall_s']:8.2f}{row['cpu_s']:8.2f}{row['peak_mb']:9.0f}"
            f"{row['wall_s'] / floor:7.1f}  {said}, rms {row['rms']:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and keep the figures as dated JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, nargs="+", default=[10, 20, 50], help="stack depths")
    parser.add_argument("--only", choices=CANDIDATES, help="run one candidate in this process")
    parser.add_argument("--folder", type=Path, help="where the frames are, or go")
    parser.add_argument("--rows", type=int, default=SHAPE[0], help="rows of a frame")
    options = parser.parse_args()
    if options.only:
        image = CANDIDATES[options.only][0](options.folder, options.n[0])
        np.save(options.folder / "result.npy", np.asarray(image, np.float32))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for n in options.n:
            make_frames(folder, n, (options.rows, SHAPE[1]))
            for name in CANDIDATES:
                measure("read and add", folder, n) if name == "read and add" else None
                rows.append(measure(name, folder, n))
            print(table(rows, n), flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": "combine",
        "date": dt.date.today().isoformat(),
        "rows": options.rows,
        "columns": SHAPE[1],
        "machine": {"processors": os.cpu_count(), "python": platform.python_version()},
        "figures": rows,
    }
    path = RESULTS / f"{content['date']}-combine.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"kept in {path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
