"""`cpplug run bias` on N full-size raw frames, against merely reading them with two processes.

Raw frames are simulated once, plain and tile-compressed. Wall and CPU time come from the operating
system; peak memory is the largest sum over all processes of what each has for itself and its share
of what they share (PSS), sampled ten times a second.
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
import threading
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
FIRST = 2021012000001
READ = """
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
def read(path):
    from cpplug.engine.fits import read_headers, read_raw
    from cpplug.host.catalog import Catalog
    instrument = Catalog().get("instrument", "LATISS")
    header = instrument.header_of(path, read_headers(path))
    raw = read_raw(path, instrument.translate(header), instrument.camera.detectors[0])
    return float(next(iter(raw.segments.values()))[0, 0])
if __name__ == "__main__":
    paths = [Path(p) for p in sys.argv[1:]]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(read, paths))
"""


def pss_mb(root: int) -> float:
    """Return the memory of a process and its descendants, MB."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def measure(name: str, command: list[str], n: int, **env: str) -> dict[str, float | str]:
    """Run a command; return wall, CPU and peak memory of all its processes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **env}
    )
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], pss_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    over.set()
    watcher.join()
    if status:
        raise SystemExit(f"{name}: {said}")
    return {
        "work": name,
        "n": n,
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak[0],
    }


def main() -> None:
    """Simulate, measure, print, and keep the figures as dated JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, nargs="+", default=[20, 50], help="how many frames")
    parser.add_argument("--folder", type=Path, help="where the frames are, or go")
    options = parser.parse_args()
    cpplug = str(Path(sys.executable).with_name("cpplug"))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for kind, flags in (("plain", []), ("RICE", ["--compress"])):
            raw, repo = folder / f"raw-{kind}", folder / f"repo-{kind}"
            count = str(max(options.n))
            simulate = [cpplug, "simulate", "bias", "--instrument", "LATISS", "--count", count]
            simulate += ["--first-exposure", str(FIRST), "-j", "2", "-o", str(raw), *flags]
            subprocess.run(simulate, check=True, capture_output=True)
            if not repo.exists():
                subprocess.run([cpplug, "init", str(repo)], check=True, capture_output=True)
                ingest = [cpplug, "-b", str(repo), "ingest", str(raw), "-j", "2"]
                subprocess.run(ingest, check=True, capture_output=True)
            for n in options.n:
                files = [str(path) for path in sorted(raw.glob("*.fits"))[:n]]
                run = [cpplug, "-b", str(repo), "run", "bias", "--instrument", "LATISS"]
                run += ["-d", f"exposure < {FIRST + n}"]
                mine = [
                    measure("read, 2 processes", [sys.executable, "-c", READ, *files], n),
                    measure("cpplug run bias -j 1", [*run, "-j", "1"], n),
                    measure("cpplug run bias -j 2", [*run, "-j", "2"], n),
                ]
                print(f"{kind}, N = {n}{'':8}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'ratio':>7}")
                for row in mine:
                    row["raws"] = kind
                    ratio = row["wall_s"] / mine[0]["wall_s"]
                    print(
                        f"{row['work']:22}{row['wall_s']:8.2f}{row['cpu_s']:8.2f}"
                        f"{row['peak_mb']:9.0f}{ratio:7.1f}",
                        flush=True,
                    )
                rows += mine
    RESULTS.mkdir(exist_ok=True)
    today = dt.date.today().isoformat()
    content = {
        "benchmark": "main_job",
        "date": today,
        "machine": {"processors": os.cpu_count(), "python": platform.python_version()},
        "figures": rows,
    }
    path = RESULTS / f"{today}-main-job.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"kept in {path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
