"""The main job on real frames: three biases become a master bias, and are verified."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

DATA = Path(__file__).parent / "data"
SIDES = {"left": (slice(0, 1024), slice(2051, 2077)), "right": (slice(1024, 2048),
                                                               slice(2083, 2109))}  # fmt: skip
NOISE = {"left": 2.85, "right": 2.70}


def cpplug(*words, code=0):
    """Run the command as a user does; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cpplug", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kast") / "repository"
    cpplug("init", folder)
    cpplug("ingest", folder, DATA)
    cpplug("-b", folder, "run", "bias", "--instrument", "Kast-blue")
    return folder


@pytest.fixture(scope="module")
def product(repository):
    rows = json.loads(cpplug("-b", repository, "query", "products", "--format", "json"))
    assert len(rows) == 1
    path = next(repository.rglob("bias_Kast-blue*.fits"))
    with fits.open(path, checksum=True) as hdus:
        return {hdu.name: hdu.data.copy() for hdu in hdus[1:]} | {"header": hdus[0].header.copy()}


def test_only_the_biases_were_used(repository):
    listing = cpplug("-b", repository, "query", "exposures", "--format", "json")
    kinds = [row["observation_type"] for row in json.loads(listing)]
    assert sorted(kinds) == ["bias", "bias", "bias", "flat"]


@pytest.mark.parametrize("side", SIDES)
def test_the_master_is_what_plain_numpy_makes_of_the_frames(product, side):
    """Mean over frames of data minus mean overscan; the clip touches few of three values."""
    data, overscan = SIDES[side]
    frames = [fits.getdata(DATA / f"b2{i}.fits.gz").astype(float) for i in (1, 2, 3)]
    plain = np.mean([frame[:, data] - frame[:, overscan].mean() for frame in frames], axis=0)
    difference = product["IMAGE"][:, data] - plain
    assert np.median(difference) == pytest.approx(0, abs=0.1)
    assert np.mean(np.abs(difference) < 0.2) > 0.99


@pytest.mark.parametrize("side", SIDES)
def test_the_noise_of_the_master(product, side):
    """The scatter is the read noise over the root of three, and 0.4 ADU of fixed structure."""
    image = product["IMAGE"][:, SIDES[side][0]]
    steps = (image[:, 2:-1] - image[:, 1:-2]) / np.sqrt(2)
    scatter = steps[np.abs(steps) < 5 * steps.std()].std()
    assert scatter == pytest.approx(np.hypot(NOISE[side] / np.sqrt(3), 0.4), rel=0.02)
    variance = np.median(product["VARIANCE"][:, SIDES[side][0]])
    assert np.sqrt(variance) == pytest.approx(NOISE[side] / np.sqrt(3), rel=0.1)


def test_nothing_is_masked_without_reason(product):
    assert product["MASK"].shape == (350, 2048)
    assert np.mean(product["MASK"] != 0) < 1e-3


def test_the_verification_finds_only_that_three_frames_are_few(repository):
    text = cpplug("-b", repository, "verify", "bias", "--instrument", "Kast-blue", code=3)
    assert "FAIL" in text
    rows = json.loads(cpplug("-b", repository, "query", "checks", "--format", "json"))
    failed = {row["test"] for row in rows if row["verdict"] == "FAIL"}
    assert failed == {"bias.depth"}
    assert {row["amplifier"] for row in rows} >= {"left", "right"}
