"""Frames and selections that cannot be used: one sentence, the right exit code, nothing lost."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

BUILD = ("run", "bias", "--instrument", "simcam")


def frames(shell):
    return sorted(shell.raw.glob("*.fits"))


def change(path, cards=None, pixels=None, drop=None):
    """Rewrite a frame: cards of its primary header, pixels by extension, or without one."""
    with fits.open(path) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus if hdu.name != drop])
    hdus[0].header.update(cards or {})
    for name, value in (pixels or {}).items():
        hdus[name].data = np.full(hdus[name].data.shape, value, type(value))
    hdus.writeto(path, overwrite=True)


def outcome_of(shell, path, code=5):
    """Ingest everything; return what became of one file. All others must go in."""
    rows = shell("ingest", shell.raw, "--format", "json", code=code).rows
    by_path = {row["path"]: row for row in rows}
    mine = by_path.pop(str(path))
    assert {row["status"] for row in by_path.values()} == {"ingested"}
    assert path.exists()
    return mine


# ---- files that cannot be registered -------------------------------------------------------------
def test_a_truncated_file_is_named_and_the_others_go_in(empty):
    bad = frames(empty)[2]
    with bad.open("r+b") as file:
        file.truncate(bad.stat().st_size - 5760)
    row = outcome_of(empty, bad)
    assert row["status"] == "rejected"
    assert "truncated: extension 2 needs" in row["reason"]
    table = empty("ingest", empty.raw, code=5)
    assert str(bad) in table.out and "rejected" in table.out
    assert "4 present" in table.err and "1 rejected" in table.err


def test_an_empty_file_and_one_that_is_not_fits(empty):
    nothing, text = frames(empty)[:2]
    nothing.write_bytes(b"")
    text.write_text("not at all\n" * 1000)
    rows = empty("ingest", empty.raw, "--format", "json", code=5).rows
    assert [row["status"] for row in rows] == ["rejected"] * 2 + ["ingested"] * 3
    assert all("FITS" in row["reason"] for row in rows[:2]), rows[:2]


def test_a_missing_segment(empty):
    bad = frames(empty)[0]
    change(bad, drop="AMP-R")
    assert "extension 'AMP-R' of amplifier R is missing" in outcome_of(empty, bad)["reason"]


def test_the_wrong_instrument(empty):
    bad = frames(empty)[0]
    change(bad, {"INSTRUME": "OtherCam"})
    reason = outcome_of(empty, bad)["reason"]
    assert reason == "no installed instrument claims it (INSTRUME is 'OtherCam')"


def test_the_wrong_instrument_by_name(empty):
    rows = empty("ingest", empty.raw, "--instrument", "LATISS", "--format", "json", code=5).rows
    assert {row["reason"] for row in rows} == {
        "it was not written by LATISS (INSTRUME is 'simcam')"
    }


def test_a_header_that_makes_no_sense(empty):
    bad = frames(empty)[0]
    change(bad, {"DATE-OBS": "yesterday"})
    reason = outcome_of(empty, bad)["reason"]
    assert "makes no sense" in reason and "yesterday" in reason


def test_a_file_of_another_size(empty):
    bad = frames(empty)[0]
    with fits.open(bad) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    hdus["AMP-L"].data = hdus["AMP-L"].data[:-3]
    hdus.writeto(bad, overwrite=True)
    assert "is 52 x 65 pixels, and S0 has 52 x 68" in outcome_of(empty, bad)["reason"]


def test_fail_fast_stops_at_the_first_bad_file_and_names_it(empty):
    bad = frames(empty)[0]
    bad.write_bytes(b"")
    text = empty.refuses(5, "ingest", empty.raw, "--fail-fast")
    assert str(bad) in text


def test_paths_without_frames(empty, tmp_path):
    assert "no file or folder" in empty.refuses(5, "ingest", tmp_path / "nowhere").lower()
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    assert f"No FITS file was found in {hollow}" in empty.refuses(4, "ingest", hollow)


# ---- frames that changed or went after they were registered --------------------------------------
@pytest.fixture
def own(empty):
    """Five registered frames that a test may spoil."""
    empty("ingest", empty.raw, "-t", "direct")
    return empty


def test_a_frame_that_was_cut_later_fails_alone(own):
    bad = frames(own)[3]
    with bad.open("r+b") as file:
        file.truncate(9000)
    answer = own(*BUILD, "-c", "bias:min_exposures=4", "--max-failed", "1", code=7)
    (product,) = own.products()
    assert product["type"] == "bias"
    failed = [line for line in answer.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and "truncated" in failed[0] and "2021012000004" in failed[0]


def test_a_frame_that_has_gone(own):
    frames(own)[0].unlink()
    text = own.refuses(7, *BUILD)
    assert "does not exist" in text and "2021012000001" in text
    assert own.products() == []


def test_fewer_inputs_than_the_minimum_are_refused_before_anything_is_read(ready):
    text = ready.refuses(5, *BUILD, "-d", "seq_num <= 3")
    assert "3 bias exposures are selected; a master needs 5." in text
    assert "-c bias:min_exposures=3" in text
    assert ready.products() == [] and ready.runs() == []


def test_fewer_inputs_than_the_minimum_after_failures(own):
    frames(own)[0].unlink()
    text = own.refuses(5, *BUILD, "--max-failed", "2")
    assert "4 bias exposures of detector S0 are left; a master needs 5." in text
    assert own.products() == []
    assert [row["status"] for row in own.runs()] == ["failed"]


def image_of(shell, collection="u/me/biasGen"):
    words = ("query", "products", "bias", "-i", collection, "--format", "json")
    (product,) = shell(*words).rows
    with fits.open(product["path"]) as hdus:
        return {hdu.name: hdu.data.copy() for hdu in hdus[1:]}


LOST = [np.float32(np.nan), np.float32(200_000)]
LEFT = (slice(None), slice(0, 32))
"""Rows and columns of amplifier L in the assembled image."""


def as_float(path):
    with fits.open(path) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    for hdu in hdus[1:]:
        hdu.data = hdu.data.astype(np.float32)
    hdus.writeto(path, overwrite=True)


@pytest.mark.parametrize("value", LOST, ids=["nan", "saturated"])
def test_an_amplifier_lost_in_one_frame_is_named_and_does_not_touch_the_stack(empty, value):
    for path in frames(empty):
        as_float(path)
    change(frames(empty)[1], pixels={"AMP-L": value})
    empty("ingest", empty.raw, "-t", "direct")
    answer = empty(*BUILD)
    warning = "WARNING amplifier L of exposure 2021012000002 has no usable pixel"
    assert answer.err.count("has no usable pixel") == 1 and warning in answer.err
    spoiled = image_of(empty)
    ids = ",".join(str(2021012000000 + n) for n in (1, 3, 4, 5))
    empty(*BUILD, "--exposures", ids, "-c", "bias:min_exposures=4", "-o", "u/me/without")
    without = image_of(empty, "u/me/without")
    for name in ("IMAGE", "MASK"):
        np.testing.assert_array_equal(spoiled[name][LEFT], without[name][LEFT])


@pytest.mark.parametrize("value", LOST, ids=["nan", "saturated"])
def test_an_amplifier_lost_in_all_frames_is_bad_in_the_product_and_never_passes(empty, value):
    for path in frames(empty):
        as_float(path)
        change(path, pixels={"AMP-L": value})
    empty("ingest", empty.raw, "-t", "direct")
    answer = empty(*BUILD)
    assert "WARNING amplifier L of the bias of S0 has no usable pixel" in answer.err
    planes = image_of(empty)
    assert (planes["MASK"][LEFT] & 1).all() and not (planes["MASK"][:, 32:] & 1).any()
    assert np.isfinite(planes["IMAGE"]).all()
    verdict = empty("verify", "bias", "--instrument", "simcam", code=3)
    assert "May not be certified" in verdict.out


# ---- selections ----------------------------------------------------------------------------------
def test_an_unknown_exposure(ready):
    text = ready.refuses(2, *BUILD, "--exposures", "2021012000001,2021012099999")
    assert "has no simcam exposure 2021012099999." in text


def test_an_exposure_id_that_is_none(ready):
    assert "'abc' is not an exposure id" in ready.refuses(2, *BUILD, "--exposures", "abc")
    assert "cannot be read" in ready.refuses(2, *BUILD, "--exposures", "@nowhere.txt")


def test_no_exposure_matches_and_the_term_is_named(ready):
    query = "day_obs = 20210120 AND target_name = 'Park positon' AND seq_num > 3"
    text = ready.refuses(4, *BUILD, "-d", query)
    assert "0 left after target_name = 'Park positon'   <- removed all (alone it fits 0)" in text
    assert "'Park position'" in text
    assert ready.runs() == []
    listing = ready("query", "exposures", "-d", query)
    assert "removed all" in listing.err


def test_a_listed_exposure_outside_the_selection(ready):
    text = ready.refuses(4, *BUILD, "--exposures", "2021012000001", "-d", "seq_num > 5")
    assert "2021012000001: listed, but not in the selection" in text


def test_mixed_binning(empty):
    for path in frames(empty)[3:]:
        change(path, {"XBIN": 2, "YBIN": 2})
    empty("ingest", empty.raw, "-t", "direct")
    text = empty.refuses(5, *BUILD)
    assert "differ in binning: 3 binned 1x1, 2 binned 2x2." in text
    assert empty.runs() == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-d", "exposure_tim = 0"], 2, "exposure_time"),
        (["-d", "seq_num = = 3"], 2, "(character 11 of the where expression)"),
        (["-c", "isr:doOverscn=False"], 2, "verscan"),
        (["-c", "bias:min_exposure=3"], 2, "min_exposures"),
        (["-c", "bias:min_exposures=many"], 2, "min_exposures"),
        (["-c", "nonsense"], 2, "nonsense"),
        (["-C", "nowhere.toml"], 2, "nowhere.toml"),
        (["-i", "simcam/rwa/all"], 2, "simcam/raw/all"),
        (["--detectors", "7"], 2, "7"),
        (["--max-failed", "half"], 2, "half"),
        (["--bind", "x"], 2, "--bind 'x'"),
        (["-o", "../outside"], 2, "../outside"),
        (["-o", "simcam/raw/all"], 2, "simcam/raw/all"),
        (["-j", "0"], 2, "0"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing(ready, words, code, sentence):
    text = ready.refuses(code, *BUILD, *words)
    assert sentence in text, text
    assert ready.runs() == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["run", "bis", "--instrument", "simcam"], 2, "'bias'"),
        (["run", "bias", "--instrument", "simcan"], 2, "'simcam'"),
        (["run", "bias", "--instrument", "LATISS"], 2, "not registered"),
        (["rnu", "bias"], 2, "'run'"),
        (["run", "bias"], 2, "--instrument"),
        (["run", "bias", "--instrument", "simcam", "--plna"], 2, "--plan"),
        (["verify", "bias", "--instrument", "simcam", "--profile", "stict"], 5, "bias"),
        (["which", "bias", "--detector", "0"], 2, "--exposure"),
        (["which", "bias", "--detector", "0", "--exposure", "7"], 2, "simcam exposure 7."),
        (["which", "bias", "--detector", "0", "--exposure", "2021012000001"], 5, "bias"),
        (["which", "bais", "--detector", "0", "--exposure", "2021012000001"], 2, "'bias'"),
        (["which", "bias", "--detector", "7", "--exposure", "2021012000001"], 2, "Known: 0 (S0)"),
        (["chain", "simcam/calib"], 2, "left as it is"),
        (["collections", "nowhere*", "--kind", "RUM"], 2, "'run'"),
        (["remove-run", "u/me/nowhere", "--no-confirm"], 2, "u/me/nowhere"),
        (["events", "u/me/nowhere"], 2, "u/me/nowhere"),
        (["chain", "x", "u/me/nowhere"], 2, "u/me/nowhere"),
        (["config", "show", "bias", "--instrument", "simcan"], 2, "'simcam'"),
    ],
)  # fmt: skip
def test_names_that_are_not_there(ready, words, code, sentence):
    text = ready.refuses(code, *words)
    assert sentence in text, text


@pytest.mark.parametrize(("answer", "code"), [("", 2), ("n\n", 0)])
def test_a_run_is_not_removed_unless_someone_agrees(ready, monkeypatch, answer, code):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    said = ready("remove-run", "simcam/raw/all", code=code).err
    assert "othing was deleted" in said
    assert ("--no-confirm" in said) == (code == 2)
    assert len(ready("query", "exposures", "--format", "json").rows) == 26
