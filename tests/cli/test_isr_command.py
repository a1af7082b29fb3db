"""``cpplug isr``: one exposure, a named chain, the calibrations that a search finds."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from astropy.io import fits

from cpplug.api import ImageProduct
from cpplug.engine.products import write_product
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRecord

EXPOSURE = 2021012000023
WITHOUT = [
    word
    for step in ("bad_amplifiers", "linearize", "defects", "dark", "flat", "fringe")
    for word in ("-c", f"isr:do_{step}=False")
]
HERE = (
    "--instrument",
    "simcam",
    "--detector",
    "0",
    "-i",
    "u/me/biasGen,simcam/raw/all,simcam/calib",
)


def add_product(repo: Repository, kind: str, value: float, unit: str, **cards) -> str:
    """Register a flat image as a product in the run u/me/given."""
    shape = Catalog().get("instrument", "simcam").camera.detectors[0].shape
    product = ImageProduct(
        image=np.full(shape, value, np.float32),
        mask=np.zeros(shape, np.uint16),
        variance=np.zeros(shape, np.float32),
        unit=unit,
        metadata=dict(cards),
    )
    path = f"datasets/given/{kind}.fits"
    sha256, size = write_product(repo.root / path, product, {"OBSTYPE": kind})
    identity = str(uuid.uuid4())
    info = repo.exposures("exposure = number", instrument="simcam", binds={"number": EXPOSURE})[0]
    data_id = DataId("simcam", 0, info.physical_filter if kind == "flat" else "")
    repo.add_datasets([
        DatasetRecord(
            id=identity, dataset_type=kind, run="u/me/given", data_id=data_id, path=path,
            sha256=sha256, size=size, created=0, is_calibration=True, provenance={},
        )
    ])  # fmt: skip
    return identity


@pytest.fixture
def shell(built):
    return built


def test_the_bias_is_removed(shell, tmp_path) -> None:
    target = tmp_path / "out.fits"
    row = shell("isr", EXPOSURE, *HERE, *WITHOUT, "-o", target, "--format", "json").rows[0]
    assert row["unit"] == "adu" and row["chain"] == "isr-2021"
    with fits.open(target) as made:
        header, image, variance = made[0].header, made["IMAGE"].data, made["VARIANCE"].data
    assert header["EXPID"] == EXPOSURE and header["CPP_CHN"] == "isr-2021"
    assert header["CPP_CALIB_0"].startswith("bias ")
    assert header["CPP_STEP"].split()[:3] == ["saturation", "overscan", "assemble"]
    for amplifier in Catalog().get("instrument", "simcam").camera.detectors[0].amplifiers:
        part = image[amplifier.bbox.slices]
        noise = amplifier.read_noise / amplifier.gain
        assert abs(np.median(part)) < 1.2 and 0.9 < part.std() / noise < 1.2
        assert 0.8 < np.median(variance[amplifier.bbox.slices]) / noise**2 < 1.5


def test_a_missing_calibration_is_named_before_a_pixel_is_read(shell, tmp_path) -> None:
    said = shell.refuses(5, "isr", EXPOSURE, *HERE, *WITHOUT[2:], "-o", tmp_path / "out.fits")
    assert "needs a defects" in said and "isr:do_bad_amplifiers=False" in said
    assert not (tmp_path / "out.fits").exists()


def test_dark_and_flat_are_found_and_used(shell, tmp_path) -> None:
    with Repository.open(shell.repo) as repo:
        repo.make_run("u/me/given")
        dark = add_product(repo, "dark", 0.0, "adu/s", DARKTIME=1.0)
        flat = add_product(repo, "flat", 2.0, "1")
    with_both = [w for w in WITHOUT if w not in ("isr:do_dark=False", "isr:do_flat=False")]
    with_both = [w for i, w in enumerate(with_both) if w != "-c" or with_both[i + 1] != "-c"]
    inputs = ("-i", "u/me/given,u/me/biasGen,simcam/raw/all,simcam/calib")
    plain, halved = tmp_path / "plain.fits", tmp_path / "halved.fits"
    shell("isr", EXPOSURE, *HERE, *WITHOUT, "-o", plain)
    shell("isr", EXPOSURE, *HERE[:4], *inputs, *with_both, "-o", halved)
    with fits.open(plain) as one, fits.open(halved) as two:
        np.testing.assert_allclose(two["IMAGE"].data, one["IMAGE"].data / 2, rtol=1e-5, atol=1e-5)
        used = {two[0].header[f"CPP_CALIB_{i}"] for i in range(3)}
    assert {f"dark {dark}", f"flat {flat}"} <= used
    shown = shell("isr", EXPOSURE, *HERE[:4], *inputs, *with_both, "--plan").out
    assert flat in shown and "u/me/given" in shown


def test_words_that_mean_nothing(shell, tmp_path) -> None:
    out = ("-o", tmp_path / "x.fits")
    assert "isr-2021" in shell.refuses(2, "isr", EXPOSURE, *HERE, "--chain", "isr-2012", *out)
    said = shell.refuses(2, "isr", EXPOSURE, *HERE, "-c", "isr:doDarkk=False", *out)
    assert "do_dark" in said
    assert "no simcam exposure 17" in shell.refuses(2, "isr", 17, *HERE, *WITHOUT, *out)
    assert shell.refuses(2, "isr", EXPOSURE, *HERE[:2], "--detector", "7", *WITHOUT, *out)
