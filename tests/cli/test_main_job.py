"""The main job, from raw frames to a certified master bias, through the command line.

On LATISS-mini in every run of the tests, on full-size LATISS frames with ``make test-full``. The
master is held against the simulator's truth, and its noise against theory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from cpplug.cli.main import _run
from cpplug.cli.state import State

FIRST, N_BUILD, N_MORE = 2021012000019, 20, 8
LAST_BUILD = FIRST + N_BUILD - 1


@dataclass
class Night:
    folder: Path
    instrument: str

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    def __call__(self, capfd, *words: str, code: int = 0) -> str:
        """Run a command and return what it printed to the standard output."""
        capfd.readouterr()
        line = ["-b", str(self.repo), "--no-progress", *words]
        got = _run(line, State(command_line=["cpplug", *line]))
        out, err = capfd.readouterr()
        assert got == code, f"exit code {got}\n{out}\n{err}"
        self.err = err
        return out


def _prepare(folder: Path, instrument: str) -> Night:
    night = Night(folder, instrument)
    raw = str(folder / "raw")
    for words in (
        ["simulate", "bias", "--instrument", instrument, "--count", str(N_BUILD + N_MORE),
         "--first-exposure", str(FIRST), "--seed", "1", "-o", raw],
        ["init", str(night.repo)],
        ["-b", str(night.repo), "ingest", raw, "-j", "2"],
        ["-b", str(night.repo), "--no-progress", "run", "bias", "--instrument", instrument,
         "-d", f"exposure <= {LAST_BUILD}", "-o", "u/test/biasGen", "-j", "2"],
    ):  # fmt: skip
        assert _run(words, State(command_line=["cpplug", *words])) == 0
    return night


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return _prepare(tmp_path_factory.mktemp("mini"), "LATISS-mini")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return _prepare(tmp_path_factory.mktemp("full"), "LATISS")


def clip_loss(n: int, trials: int = 40_000) -> float:
    """Return the noise of the reference's clipped mean over that of the mean, for n Gaussians.

    Written out pixel by pixel, apart from the code under test: three passes over all points, first
    around the median with 0.7413 times the quartile range, then around the last mean.
    """
    rng = np.random.default_rng(5)
    values = rng.standard_normal((trials, n))
    low, centre, high = np.percentile(values, [25, 50, 75], axis=1)
    half = 3 * 0.741301109252802 * (high - low)
    for _ in range(3):
        keep = np.abs(values - centre[:, None]) <= half[:, None]
        count = keep.sum(axis=1)
        centre = (values * keep).sum(axis=1) / count
        spread = (keep * (values - centre[:, None]) ** 2).sum(axis=1) / (count - 1)
        half = 3 * np.sqrt(spread)
    return float(centre.std() * np.sqrt(n))


def _compare_with_truth(night: Night, capfd) -> list[tuple[str, float, float, float]]:
    """Return, per amplifier: rms over expected noise, its standard error, mean over its error."""
    from cpplug.host.catalog import Catalog

    path = json.loads(night(capfd, "query", "products", "bias", "--format", "json"))[0]["path"]
    truth = json.loads((night.folder / "raw/truth/truth.json").read_text())["detectors"]["0"]
    camera = Catalog().get("instrument", night.instrument).camera
    loss = clip_loss(N_BUILD)
    rows = []
    with fits.open(path) as product, fits.open(night.folder / "raw/truth/static-det0.fits") as true:
        for amp in camera.detectors[0].amplifiers:
            part = amp.bbox.slices
            good = (product["MASK"].data[part] == 0) & (true["MASK"].data[part] == 0)
            difference = (product["IMAGE"].data[part] - true["BIAS"].data[part])[good]
            noise = (
                truth["read_noise_electron"][amp.name] / truth["gain_electron_per_adu"][amp.name]
            )
            columns = amp.serial_overscan.width
            level = np.pi / (2 * columns + 2.7)  # variance of a median of so many Gaussians
            expected = noise * loss / np.sqrt(N_BUILD) * np.sqrt(1 + level)
            height = amp.data.height
            error = np.sqrt(1 / (2 * difference.size) + level**2 / (2 * height))
            mean_error = noise * np.sqrt(level / height + 1 / difference.size) / np.sqrt(N_BUILD)
            rows.append(
                (amp.name, difference.std() / expected, error, difference.mean() / mean_error)
            )
            assert np.count_nonzero(product["MASK"].data[part]) == 0
    return rows


def test_master_is_as_good_as_its_noise_allows(mini: Night, capfd) -> None:
    rows = _compare_with_truth(mini, capfd)
    assert len(rows) == 16
    for name, ratio, error, _ in rows:
        assert abs(ratio - 1) < 0.03 + 2 * error, name
    assert abs(np.mean([row[1] for row in rows]) - 1) < 0.01
    assert np.std([row[3] for row in rows]) < 2 and abs(np.mean([row[3] for row in rows])) < 1


@pytest.mark.full
def test_full_size_master_is_as_good_as_its_noise_allows(full: Night, capfd) -> None:
    for name, ratio, _, pull in _compare_with_truth(full, capfd):
        assert abs(ratio - 1) < 0.03, f"{name}: rms / expected {ratio:.4f}"
        assert abs(pull) < 5, f"{name}: mean / error {pull:+.2f}"


def test_null_verification_has_no_fail_and_few_warnings(mini: Night, capfd) -> None:
    _verify_null(mini, capfd)


@pytest.mark.full
def test_full_size_null_verification(full: Night, capfd) -> None:
    _verify_null(full, capfd)


def _verify_null(night: Night, capfd) -> None:
    night(
        capfd, "verify", "bias", "--instrument", night.instrument,
        "-i", f"u/test/biasGen,{night.instrument}/raw/all", "-o", "u/test/verifyBias", "-j", "2",
    )  # fmt: skip
    rows = json.loads(night(capfd, "query", "checks", "--format", "json"))
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count("FAIL") == 0
    assert verdicts.count("WARN") <= 0.01 * len(verdicts)
    members = {row["exposure"] for row in rows if row["membership"] == "member"}
    assert members == set(range(FIRST, LAST_BUILD + 1))


def test_certified_for_a_range_and_found(mini: Night, capfd) -> None:
    run, where = "u/test/biasGen", f"{mini.instrument}/calib/DM-1"
    dates = ("--begin_date", "2021-01-01", "--end-date", "2022-01-01")
    if not mini(capfd, "query", "runs", "u/test/verifyBias", "--format", "ids"):
        mini(capfd, "certify", run, where, "bias", *dates, code=6)
        assert "has no verification" in mini.err
        _verify_null(mini, capfd)
    product = mini(capfd, "certify", run, where, "bias", *dates, "--format", "ids").strip()
    assert "2021-01-01T00:00:00, 2022-01-01T00:00:00) TAI" in mini.err
    mini(capfd, "chain", f"{mini.instrument}/calib", where, "--mode", "prepend")
    found = mini(
        capfd, "which", "bias", "--exposure", str(LAST_BUILD), "--detector", "0", "--format", "json"
    )
    row = json.loads(found)[0]
    assert row["id"] == product and row["collection"] == where
    shown = mini(capfd, "validity", where)
    assert "no gaps" in shown and "2022-01-01" in shown
    mini(capfd, "certify", run, where, "bias", *dates)
    assert "before" in mini.err
    mini(capfd, "certify", run, where, "bias", "--begin-date", "2021-06-01", code=6)
    newest = mini(capfd, "collections", run, "--flatten", "--format", "ids").strip()
    mini(capfd, "remove-run", newest, "--no-confirm", code=6)


def test_options_of_a_verification_stand_in_its_banner(mini: Night, capfd) -> None:
    out = mini(
        capfd, "verify", "bias", "--instrument", mini.instrument, "-o", "u/test/verifyMore",
        "-i", f"u/test/biasGen,{mini.instrument}/raw/all",
        "-d", f"exposure > {LAST_BUILD}", "-d", f"exposure <= {LAST_BUILD + 4}",
        "-c", "isr:doEmpiricalReadNoise=True",
    )  # fmt: skip
    assert "with isr:doEmpiricalReadNoise=True" in out and "4 independent exposures" in out
    listed = mini(capfd, "query", "checks", "--where", "test = 'bias.depth'", "--format", "json")
    assert {row["test"] for row in json.loads(listed)} == {"bias.depth"}


def test_picture_is_drawn(mini: Night, capfd) -> None:
    product = mini(capfd, "query", "products", "bias", "--format", "ids").split()[0]
    target = mini.folder / "bias.png"
    assert mini(capfd, "picture", product, "-o", str(target)).strip() == str(target)
    assert target.read_bytes()[:4] == b"\x89PNG"


def test_plan_shows_exposures_steps_sources_and_calibrations(mini: Night, capfd) -> None:
    text = mini(
        capfd, "run", "bias", "--instrument", mini.instrument,
        "--exposures", ",".join(str(FIRST + i) for i in range(5)), "-c", "isr:doDefect=False",
        "-c", "isr:doEmpiricalReadNoise=True", "--plan",
    )  # fmt: skip
    assert f"5 exposures: {FIRST}, {FIRST + 1}, " in text
    assert "-c isr:doDefect=False" in text
    assert "empirical_read_noise=True (-c isr:doEmpiricalReadNoise=True)" in text
    order = [text.index(step) for step in ("saturation", "overscan", "assemble", "variance")]
    assert order == sorted(order)
    assert "Calibrations found" in text


def test_provenance_is_complete(mini: Night, capfd) -> None:
    from cpplug.store import Repository

    row = json.loads(mini(capfd, "query", "products", "bias", "--format", "json"))[0]
    with Repository.open(mini.repo) as repo:
        origin = repo.provenance(row["id"])
    assert [item["exposure"] for item in origin["inputs"]] == list(range(FIRST, LAST_BUILD + 1))
    assert all(len(item["sha256"]) == 64 for item in origin["inputs"])
    assert origin["command"].startswith("cpplug ") and "bias" in origin["command"]
    assert origin["config"]["isr.do_overscan"] == [True, "default"]
    assert any(name.startswith("isr_step:overscan") for name in origin["plugins"])
    header = fits.getheader(row["path"])
    assert header["CPP_ID"] == row["id"] and header["CPP_NINP"] == N_BUILD
    assert header["CPP_INPUT_0"] == FIRST


# ---- faults that strict verification must catch ------------------------------------------------
FAULTS = {
    "noise": (["--set", "read_noise.factors.C05=1.3"], "bias.noise", "C05"),
    "dead": (["--set", "read_noise.factors.C03=0.01"], "bias.noise_floor", "C03"),
    "offset": (["--set", "bias_structure.offsets.C07=4.0"], "bias.mean", "C07"),
    "hot": (["--set", "hot_pixels.density=3000", "--set", "hot_pixels.high=200000"],
            "bias.cr_rate", ""),
}  # fmt: skip
FULL_FAULTS = {
    "noise": (["--set", "read_noise.factors.C05=1.08"], "bias.noise", "C05"),
    "dead": (["--set", "read_noise.factors.C03=0.0125"], "bias.noise_floor", "C03"),
    "offset": (["--set", "bias_structure.offsets.C07=0.6"], "bias.mean", "C07"),
}


def _verify_faulty(night: Night, capfd, name: str, settings: list[str], profile: str) -> list:
    """Simulate six frames with a fault, and verify the good master on them alone."""
    number = 100 + 10 * sorted(FAULTS).index(name)
    first = FIRST // 100000 * 100000 + number
    raw = night.folder / f"raw-{name}"
    if not raw.exists():
        night(
            capfd, "simulate", "bias", "--instrument", night.instrument, "--count", "6",
            "--first-exposure", str(first), "--seed", "1", "-o", str(raw), *settings,
        )  # fmt: skip
        night(capfd, "ingest", str(raw))
    run = f"u/test/fault-{name}-{profile}"
    line = [
        "-b", str(night.repo), "verify", "bias", "--instrument", night.instrument,
        "-i", f"u/test/biasGen,{night.instrument}/raw/all", "-o", run, "--profile", profile,
        "-d", f"exposure >= {first} AND exposure < {first + 6}", "-j", "2",
    ]  # fmt: skip
    code = _run(line, State(command_line=["cpplug", *line]))
    newest = night(capfd, "collections", run, "--flatten", "--format", "ids").strip()
    rows = json.loads(night(capfd, "query", "checks", "--run", newest, "--format", "json"))
    failed = [row for row in rows if row["verdict"] == "FAIL" and row["severity"] == "required"]
    open_rows = [r for r in rows if r["verdict"] == "INCONCLUSIVE" and r["severity"] == "required"]
    assert code == (3 if failed or open_rows else 0)
    return failed


@pytest.mark.parametrize("name", FAULTS)
def test_strict_catches_faults(mini: Night, capfd, name: str) -> None:
    settings, test, amplifier = FAULTS[name]
    failed = _verify_faulty(mini, capfd, name, settings, "strict")
    assert test in {row["test"] for row in failed}
    if amplifier:
        assert {row["amplifier"] for row in failed if row["test"] == test} == {amplifier}


@pytest.mark.full
@pytest.mark.parametrize("name", FULL_FAULTS)
def test_strict_catches_small_faults_on_full_frames(full: Night, capfd, name: str) -> None:
    settings, test, amplifier = FULL_FAULTS[name]
    failed = _verify_faulty(full, capfd, name, settings, "strict")
    assert amplifier in {row["amplifier"] for row in failed if row["test"] == test}


@pytest.mark.full
def test_compat_passes_the_offset_that_strict_fails(full: Night, capfd) -> None:
    settings, _, _ = FULL_FAULTS["offset"]
    failed = _verify_faulty(full, capfd, "offset", settings, "upstream-compat")
    assert not [row for row in failed if row["test"] == "bias.compat.MEAN"]
