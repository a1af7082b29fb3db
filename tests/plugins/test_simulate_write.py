"""Simulated files: the inverse of reading, whole or absent, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from cpplug.api import Camera, CpplugError, Instrument, RepositoryError, UsageError, camera_from
from cpplug.engine.fits import read_headers, read_raw
from cpplug_simcam import SimCam
from cpplug_simulate import plan, settings_for, simulate_frame, simulate_night, write_frame
from cpplug_simulate.command import simulate

FIRST = 2021012000019
SIMCAM = SimCam()


class Toolbox:
    """What the command finds in its context."""

    def instrument(self, name: str) -> Instrument:
        assert name == "simcam"
        return SIMCAM

    def instruments(self) -> tuple[str, ...]:
        return ("simcam",)


def run(*words: str) -> click.testing.Result:
    return CliRunner().invoke(simulate, list(words), obj=Toolbox())


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def night(folder: Path, recipe: str = "bias", count: int = 3, seed: int = 1, **options: object):
    settings = settings_for(recipe, options.pop("changes", None))
    infos = plan(SIMCAM, recipe, range(FIRST, FIRST + count), settings=settings, seed=seed)
    return simulate_night(folder, SIMCAM, infos, [0], settings, seed, **options)


# ---- geometry --------------------------------------------------------------------------------
def odd_camera(hdus: tuple[object, object, object]) -> Camera:
    """Three amplifiers: one in pieces, all flips."""
    common = {"data": [1, 0, 12, 9], "serial_overscan": [13, 0, 3, 9]}
    amps = [
        {"name": "a", "source": [[0, 0, 4, 10], [24, 0, 12, 10]], "bbox": [0, 0, 12, 9]},
        {"name": "b", "source": [4, 0, 16, 10], "source_flip_x": True, "bbox": [12, 0, 12, 9]},
        {
            "name": "c",
            "source": [[3, 11, 10, 10], [15, 11, 6, 10]],
            "source_flip_x": True,
            "source_flip_y": True,
            "flip_y": True,
            "bbox": [24, 0, 12, 9],
        },
    ]
    for amp, hdu in zip(amps, hdus, strict=True):
        amp.update(common, hdu=hdu, gain=2.0, read_noise=5.0)
    return camera_from({"name": "odd", "detector": [{"id": 3, "name": "D", "amplifiers": amps}]})


@pytest.mark.parametrize(
    "hdus", [(0, 0, 0), ("X", "X", "X"), (1, 1, 3), ("left", "right", "right"), (2, "mid", "mid")]
)
@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back(tmp_path, hdus, compress):
    class Odd(SimCam):
        name = "odd"
        camera = odd_camera(hdus)

    odd = Odd()
    settings = settings_for("flat", {"crosstalk.on": False})
    info = plan(odd, "flat", [FIRST], settings=settings, seed=4)[0]
    if compress and 0 in hdus:
        with pytest.raises(UsageError, match="primary HDU"):
            write_frame(tmp_path, odd, info, 3, settings, 4, compress)
        return
    path, made = write_frame(tmp_path, odd, info, 3, settings, 4, compress)
    assert made
    expected = simulate_frame(odd, info, 3, settings, 4)
    raw = read_raw(path, info, odd.camera.detector(3))
    for name, segment in expected.segments.items():
        assert (raw.segments[name] == segment).all(), name
    with fits.open(path) as file:
        assert any(isinstance(hdu, fits.CompImageHDU) for hdu in file) == compress


def test_the_plain_header_is_translated_back(tmp_path):
    settings = settings_for("science")
    info = plan(SIMCAM, "science", [FIRST], settings=settings, seed=1, filters=["r"])[0]
    path, _ = write_frame(tmp_path, SIMCAM, info, 0, settings, 1)
    header = SIMCAM.header_of(path, read_headers(path))
    assert SIMCAM.claims(header)
    assert SIMCAM.translate(header) == info
    assert [h.get("EXTNAME") for h in read_headers(path)] == [None, "AMP-L", "AMP-R"]


# ---- repeatability ---------------------------------------------------------------------------
def test_the_same_command_gives_the_same_bytes_in_any_number_of_processes(tmp_path):
    one = night(tmp_path / "one", "science", 3)
    night(tmp_path / "two", "science", 3, processes=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert [path.name for path in one] == [f"simcam_20210120_{n:06d}.fits" for n in (19, 20, 21)]
    before = digests(tmp_path / "one")
    told = []
    night(tmp_path / "one", "science", 3, tell=lambda path, made: told.append(made))
    assert told == [False] * 3
    assert digests(tmp_path / "one") == before


def test_what_a_killed_run_left_is_completed(tmp_path):
    night(tmp_path, count=3)
    before = digests(tmp_path)
    (tmp_path / "simcam_20210120_000020.fits").unlink()
    (tmp_path / "truth" / "exposures" / f"{FIRST + 2}-det0.json").unlink()
    (tmp_path / "truth" / "static-det0.fits").unlink()
    told = []
    night(tmp_path, count=3, tell=lambda path, made: told.append(made))
    assert told == [False, True, True]
    assert digests(tmp_path) == before


def test_recipes_share_a_folder_and_a_camera(tmp_path):
    night(tmp_path, "bias", 1)
    static = (tmp_path / "truth" / "static-det0.fits").read_bytes()
    settings = settings_for("flat", {"fringes.on": True, "sky.on": True})
    infos = plan(SIMCAM, "flat", [FIRST + 50], settings=settings, seed=1, filters=["y"])
    simulate_night(tmp_path, SIMCAM, infos, [0], settings, 1)
    assert (tmp_path / "truth" / "static-det0.fits").read_bytes() == static
    names = {path.name for path in (tmp_path / "truth").iterdir()}
    assert {"truth.json", "flat-det0-y.fits", "fringe-det0.fits", "exposures"} <= names
    with fits.open(tmp_path / "truth" / "fringe-det0.fits") as file:
        assert [hdu.name for hdu in file[1:]] == ["MODE0", "MODE1", "MODE2"]


@pytest.mark.parametrize(
    ("seed", "changes", "message"),
    [
        (2, {}, "seed 1, asked for 2"),
        (1, {"bias_structure.columns": 2.0}, "bias_structure"),
        (1, {"cti.cti": 1e-5}, "cti"),
        (1, {"row_drift.rms": 3.0}, "exists and was simulated with other settings"),
    ],
)
def test_another_camera_in_the_same_folder_is_refused(tmp_path, seed, changes, message):
    night(tmp_path, count=1)
    before = digests(tmp_path)
    with pytest.raises(UsageError, match=message):
        night(tmp_path, count=1, seed=seed, changes=changes)
    assert digests(tmp_path) == before


def test_the_truth_on_disk_is_that_of_the_frame(tmp_path):
    night(tmp_path, "science", 1, changes={"stars.density": 5000})
    settings = settings_for("science", {"stars.density": 5000})
    info = plan(SIMCAM, "science", [FIRST], settings=settings, seed=1)[0]
    frame = simulate_frame(SIMCAM, info, 0, settings, 1)
    with fits.open(tmp_path / "truth" / "static-det0.fits") as file:
        assert (file["BIAS"].data == frame.static.bias).all()
        assert (file["DARK"].data == frame.static.dark).all()
        assert (file["MASK"].data == frame.static.mask).all()
        assert (file["HOT"].data["rate"] == frame.static.hot[2]).all()
        assert (file["MASK"].header["HOT"], file["MASK"].header["DEAD"]) == (1, 4)
    with fits.open(tmp_path / "truth" / "flat-det0-empty.fits") as file:
        assert np.allclose(file["FLAT"].data * file["DUST"].data, frame.response)
    note = json.loads((tmp_path / "truth" / "exposures" / f"{FIRST}-det0.json").read_text())
    assert note["truth"] == frame.facts
    assert note["truth"]["stars"]
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    facts = truth["detectors"]["0"]
    assert truth["instrument"] == "simcam"
    assert facts["gain_electron_per_adu"] == {"L": 1.2, "R": 1.5}
    assert facts["crosstalk_source_target"] == frame.static.crosstalk.tolist()
    assert facts["a_matrix_per_electron"][0][0] == -2.4e-6
    assert facts["bias_level_adu"] == frame.static.level


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot be written"):
        night(blocked / "sub", count=1)


# ---- the command -----------------------------------------------------------------------------
def test_the_command_writes_frames_and_prints_their_paths(tmp_path):
    out = tmp_path / "night"
    result = run(
        "bias", "--instrument", "simcam", "--count", "2", "--first-exposure", str(FIRST),
        "--seed", "1", "-o", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    files = [out / "simcam_20210120_000019.fits", out / "simcam_20210120_000020.fits"]
    assert result.stdout.splitlines() == [str(path) for path in files]
    assert "2 bias frames of simcam, 2 made now" in result.stderr
    night(tmp_path / "api", count=2)
    assert digests(out) == digests(tmp_path / "api")


def test_the_command_takes_ids_from_a_file_and_answers_in_json(tmp_path):
    ids = [2021012000020, 2021012100060, 2021060900049]
    (tmp_path / "ids").write_text(",\n".join(str(i) for i in ids))
    result = run(
        "dark", "--instrument", "simcam", "--exposures", f"@{tmp_path / 'ids'}", "-o",
        str(tmp_path / "out"), "--exposure-time", "10", "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["recipe"], answer["made"], answer["seed"]) == ("dark", 3, 1)
    seen = [SIMCAM.translate(read_headers(Path(path))[0]) for path in answer["files"]]
    assert [info.exposure for info in seen] == ids
    assert {info.exposure_time for info in seen} == {10.0}


def test_the_command_counts_per_time_and_filter_and_switches_effects(tmp_path):
    result = run(
        "flat", "--instrument", "simcam", "--date", "2021-01-20", "--count", "2",
        "--exposure-time", "0.1", "--exposure-time", "0.2", "--filter", "r", "--filter", "g",
        "--effect", "cosmic_rays=off", "--set", "lamp.rate=1000", "-o", str(tmp_path), "-j", "2",
        "--compress",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 8
    note = json.loads((tmp_path / "truth" / "exposures" / "2021012000001-det0.json").read_text())
    assert note["settings"]["lamp"]["rate"] == 1000
    assert "cosmic_rays" not in note["truth"]["effects"]
    assert note["info"]["physical_filter"] == "r"


def test_the_command_makes_photon_transfer_pairs(tmp_path):
    result = run(
        "ptc", "--instrument", "simcam", "--first-exposure", str(FIRST), "--count", "3",
        "-o", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    times = [SIMCAM.translate(read_headers(path)[0]).exposure_time for path in paths]
    assert len(times) == 6
    assert times[0::2] == times[1::2]


def test_the_command_lists_effects_with_units():
    result = run("bias", "--list-effects")
    assert result.exit_code == 0
    assert "read_noise [on]" in result.stdout
    assert "stars [off]" in result.stdout
    assert "dark_current.rate = 0.02" in result.stdout
    assert "electron/s/pixel" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--instrument", "simcam", "--date", "20210120"], "where to"),
        (["-o", "x", "--instrument", "simcam"], "exactly one"),
        (["-o", "x", "--instrument", "simcam", "--exposures", "1,b"], "no exposure id"),
        (["-o", "x", "--instrument", "simcam", "--exposures", "@none"], "cannot be read"),
        (["-o", "x", "--instrument", "simcam", "--exposures", "1", "--count", "2"], "contradict"),
        (["-o", "x", "--instrument", "simcam", "--date", "May"], "not a day"),
        (["--effect", "stars"], "not a switch"),
        (["--set", "stars=3"], "sets nothing"),
        (["--set", "stars.fhwm=3"], "fwhm"),
        (
            [
                "-o",
                "x",
                "--instrument",
                "simcam",
                "--date",
                "20210120",
                "--set",
                "gain.factors.Q=2",
            ],
            "no amplifier 'Q'",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_named(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run("bias", *words)
    assert isinstance(result.exception, CpplugError)
    assert result.exception.exit_code == 2
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())
