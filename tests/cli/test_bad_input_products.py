"""Products whose file is gone or changed, and names in the commands that judge them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from astropy.io import fits

VERIFY = ("verify", "bias", "--instrument", "simcam", "-i", "u/me/biasGen,simcam/raw/all")
CERTIFY = ("certify", "u/me/biasGen", "simcam/calib/daily", "bias")


def alter(path):
    with fits.open(path, mode="update") as hdus:
        hdus["IMAGE"].data[3, 3] += 100


SPOIL = {
    "changed": (alter, "has changed since it was registered"),
    "cut": (lambda path: os.truncate(path, 9000), "has changed since it was registered"),
    "gone": (lambda path: path.unlink(), "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("how", SPOIL)
def test_a_product_that_is_not_the_registered_one_is_neither_verified_nor_certified(built, how):
    spoil, sentence = SPOIL[how]
    (product,) = built.products()
    spoil(Path(product["path"]))
    runs = len(built.runs())
    for words in (VERIFY, CERTIFY):
        text = built.refuses(5, *words)
        assert sentence in text and product["id"] in text
    assert len(built.runs()) == runs
    assert not built("collections", "simcam/calib/daily", "--format", "ids").out


def test_a_calibration_that_changed_is_not_applied(built):
    (product,) = built.products()
    built(*CERTIFY)
    alter(Path(product["path"]))
    from cpplug.engine.calibs import CalibRef, ProductCache

    ref = CalibRef(
        dataset_type="bias", dataset=product["id"], path=product["path"],
        sha256=product["sha256"], collection="simcam/calib/daily",
    )  # fmt: skip
    with pytest.raises(Exception, match="has changed since it was registered"):
        ProductCache().get(ref)


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "isr:doBias=False"],
        ["-c", 'isr:steps=["saturation", "overscan", "assemble", "variance"]'],
    ],
)
def test_a_verification_that_would_not_apply_the_product_is_refused(built, words):
    runs = len(built.runs())
    text = built.refuses(2, *VERIFY, *words)
    assert "The bias under test would not be applied: step 'bias'" in text
    assert len(built.runs()) == runs


def test_a_verification_that_does_not_trust_the_read_noise_opens_no_gate_unasked(ready):
    ready("run", "bias", "--instrument", "simcam", "-d", "seq_num <= 20", "-o", "u/me/biasGen")
    ready(*VERIFY, "--bootstrap")
    text = ready.refuses(6, *CERTIFY)
    assert "strict+bootstrap" in text
    ready(*CERTIFY, "--bootstrap")
    rows = ready("validity", "simcam/calib/daily", "--journal", "--format", "json").rows
    (product,) = rows[0]["evidence"]["products"].values()
    assert product["profile"].startswith("strict+bootstrap@sha256:")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["certify", "u/me/biasGen", "x", "dark"], 4, "no dark to certify"),
        (["certify", "u/me/nix", "x", "bias"], 2, "'u/me/biasGen'"),
        (["certify", "u/me/biasGen", "u/me/biasGen", "bias"], 2, "CHAINED"),
        ([*CERTIFY, "--begin-date", "yesterday"], 2, "'yesterday' is not a date"),
        ([*CERTIFY, "--waivers", "none.toml"], 2, "none.toml"),
        ([*CERTIFY, "--accept-failures", "all fine"], 6, "'all fine'"),
        ([*CERTIFY, "--profile", "stict"], 2, "'strict'"),
        ([*VERIFY, "--profile", "stict"], 2, "'strict'"),
        ([*VERIFY, "-d", "seq_num > 100"], 4, "(seq_num > 100)   <- removed all"),
        ([*VERIFY, "--detectors", "9"], 2, "no detector 9"),
        ([*VERIFY, "-o", "simcam/raw/all"], 2, "is a RUN collection"),
        (["verify", "bias", "--instrument", "simcam", "-i", "simcam/raw/all"], 5, "no bias to"),
        (["which", "bias", "--detector", "0", "--at", "2021", "--instrument", "x"], 2, "'x'"),
        (["validity", "nowhere"], 2, "no collection 'nowhere'"),
        (["decertify", "simcam/raw/all", "bias"], 2, "RUN"),
        (["query", "exposures", "--order-by", "nix"], 2, "'nix'"),
        (["query", "exposures", "--instrument", "nix"], 2, "'nix'"),
        (["query", "products", "-i", "nix"], 2, "'nix'"),
        (["remove-run", "u/me/biasGen", "--no-confirm"], 2, "is CHAINED, not a RUN"),
        (["chain", "u/me/biasGen", "u/me/biasGen", "--mode", "extend"], 2, "part of itself"),
        (["chain", "u/me/biasGen", "7", "--mode", "pop"], 2, "index 7"),
        (["--with", "nix", *VERIFY], 2, "nix"),
        (["--log-level", "loud", *VERIFY], 2, "loud"),
        (["--log-file", "/nowhere/x.log", *VERIFY], 2, "/nowhere/x.log"),
        (["--plugin", "nix.py", *VERIFY], 8, "nix.py does not exist"),
        (["--no-plugin", "cpplug_isr", *VERIFY], 8, "blocked by 'cpplug_isr'"),
        ([*VERIFY, "--executor", "nix"], 2, "'nix'"),
        (["run", "bias", "--instrument", "simcam", "--executor", "nix"], 2, "'nix'"),
        ([*VERIFY, "-c", "isr:doAssemble=False"], 2, "assembl"),
        ([*VERIFY, "-c", "bias:combiner=medan"], 2, "'median'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_in_one_sentence(built, words, code, sentence):
    runs = len(built.runs())
    text = built.refuses(code, *words)
    assert sentence in text, text
    assert len(built.runs()) == runs
    assert len(built.products()) == 1
