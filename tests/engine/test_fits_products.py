"""Products on disk: they come back as they went, are deterministic, and whole or absent."""

import errno
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import MASK_PLANES, DataError, ImageProduct, RepositoryError, TableProduct
from cpplug.engine import files
from cpplug.engine.fits import (
    read_image_product,
    read_table_product,
    sha256_of,
    write_image_product,
    write_table_product,
)


def product(**more):
    rng = np.random.default_rng(7)
    image = rng.normal(0, 1, (5, 7)).astype(np.float32)
    image[0, 0] = np.nan
    mask = rng.integers(0, 1 << 14, (5, 7)).astype(np.uint16)
    mask[0, 1] = 1 << 15
    return ImageProduct(image=image, mask=mask, variance=image**2, unit="adu", **more)


def test_an_image_product_comes_back(tmp_path):
    made = product(metadata={"NINPUT": 20, "read_noise.C10": 8.25, "GOOD": True, "n_in": "x"})
    digest, size = write_image_product(tmp_path / "deep" / "p.fits", made, {"RUN": "u/me/1"})
    path = tmp_path / "deep" / "p.fits"
    assert (digest, size) == (sha256_of(path), path.stat().st_size)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    back = read_image_product(path)
    np.testing.assert_array_equal(back.image, made.image)
    np.testing.assert_array_equal(back.variance, made.variance)
    np.testing.assert_array_equal(back.mask, made.mask)
    assert (back.image.dtype, back.mask.dtype) == (np.float32, np.uint16)
    assert back.unit == "adu"
    assert back.metadata == {**made.metadata, "RUN": "u/me/1"}


def test_other_tools_can_read_it(tmp_path):
    path = tmp_path / "p.fits"
    write_image_product(path, product(), {"NAME": "x"})
    with astropy_fits.open(path, checksum=True) as hdus:  # a wrong checksum warns: an error here
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE"]
        assert hdus["IMAGE"].header["BUNIT"] == "adu"
        assert hdus["VARIANCE"].header["BUNIT"] == "(adu)^2"
        assert all("CHECKSUM" in hdu.header for hdu in hdus)
        planes = {key[3:]: value for key, value in hdus["MASK"].header.items() if key[:3] == "MP_"}
        assert planes == MASK_PLANES
        np.testing.assert_array_equal(hdus["MASK"].data, product().mask)


def test_equal_content_gives_equal_bytes(tmp_path):
    cards = {"A": 1, "long.name.of.an.option": "x" * 100}
    first = write_image_product(tmp_path / "a.fits", product(), cards)
    assert write_image_product(tmp_path / "b.fits", product(), cards) == first
    assert write_image_product(tmp_path / "c.fits", product(), {**cards, "A": 2})[0] != first[0]


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,30}", fullmatch=True).filter(
            lambda key: key.upper() not in {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "KIND", "END",
                                            "COMMENT", "HISTORY", "CONTINUE", "HIERARCH"}
        ),
        st.one_of(
            st.booleans(),
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False, width=32),
            st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_metadata_comes_back(metadata):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.fits"
        write_image_product(path, product(metadata=metadata), {})
        back = read_image_product(path).metadata
    assert list(back) == list(metadata)
    for key, value in metadata.items():
        close = pytest.approx(value, rel=1e-11, abs=0) if isinstance(value, float) else value
        assert back[key] == close
    assert {key: type(value) for key, value in back.items()} == {
        key: type(value) for key, value in metadata.items()
    }


def test_values_that_fits_cannot_hold(tmp_path):
    path = tmp_path / "p.fits"
    cards = {"NOISE": math.nan, "TEXT": "två\nrader", "GAIN": np.float64(1.5)}
    write_image_product(path, product(), cards)
    back = read_image_product(path).metadata
    assert math.isnan(back["NOISE"])
    assert (back["TEXT"], back["GAIN"]) == ("tv\\xe5 rader", 1.5)
    with pytest.raises(DataError, match="'NAXIS'"):
        write_image_product(path, product(), {"NAXIS": 3})


def test_mask_bits_follow_their_names(tmp_path):
    """A file whose planes have other numbers is read by name."""
    path = tmp_path / "p.fits"
    write_image_product(path, product(), {})
    with astropy_fits.open(path) as hdus:
        header = hdus["MASK"].header
        for key in [key for key in header if key.startswith("MP_")]:
            del header[key]
        header["MP_SAT"], header["MP_BAD"], header["MP_OLD"] = 0, 5, 1
        hdus["MASK"].data = np.array([[1, 32, 33, 2]], np.uint16)
        hdus.writeto(tmp_path / "q.fits")
    bad, sat = 1 << MASK_PLANES["BAD"], 1 << MASK_PLANES["SAT"]
    assert read_image_product(tmp_path / "q.fits").mask.tolist() == [[sat, bad, bad | sat, 0]]


def test_a_table_product_comes_back(tmp_path):
    made = TableProduct(
        columns={
            "amplifier": np.array(["C10", "C11"]),
            "gain": np.array([1.0, np.nan]),
            "n": np.array([3, 4], np.int32),
            "ok": np.array([True, False]),
            "curve": np.arange(6.0).reshape(2, 3),
        },
        units={"gain": "electron/adu"},
        metadata={"METHOD": "pairs"},
    )
    first = write_table_product(tmp_path / "t.fits", made, {"RUN": "r"})
    assert write_table_product(tmp_path / "u.fits", made, {"RUN": "r"}) == first
    back = read_table_product(tmp_path / "t.fits")
    assert list(back.columns) == list(made.columns)
    for name, column in made.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
        assert back.columns[name].dtype.kind == column.dtype.kind
        assert back.columns[name].dtype.isnative
    assert back.units == made.units
    assert back.metadata == {"METHOD": "pairs", "RUN": "r"}


def test_tables_that_make_no_sense(tmp_path):
    uneven = TableProduct(columns={"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(DataError, match="differ in length"):
        write_table_product(tmp_path / "t.fits", uneven, {})
    objects = TableProduct(columns={"a": np.array([{}, []], dtype=object)})
    with pytest.raises(DataError, match="holds objects"):
        write_table_product(tmp_path / "t.fits", objects, {})
    empty = TableProduct(columns={"a": np.zeros(0)})
    write_table_product(tmp_path / "e.fits", empty, {})
    assert len(read_table_product(tmp_path / "e.fits").columns["a"]) == 0
    assert not (tmp_path / "t.fits").exists()


def test_products_of_the_wrong_kind_or_shape(tmp_path):
    write_table_product(tmp_path / "t.fits", TableProduct(columns={"a": np.zeros(1)}), {})
    with pytest.raises(DataError, match="no extension IMAGE"):
        read_image_product(tmp_path / "t.fits")
    write_image_product(tmp_path / "p.fits", product(), {})
    with pytest.raises(DataError, match="no extension TABLE"):
        read_table_product(tmp_path / "p.fits")
    odd = product()
    odd.mask = odd.mask[:2]
    with pytest.raises(DataError, match="differ in shape"):
        write_image_product(tmp_path / "o.fits", odd, {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, number):
    path = tmp_path / "p.fits"
    before = write_image_product(path, product(), {"N": 1})

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(RepositoryError, match="could not be written") as caught:
        write_image_product(path, product(), {"N": 2})
    assert os.strerror(number) in caught.value.message
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.fits"]
    assert sha256_of(path) == before[0]


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryError, match="could not be written"):
        write_image_product(tmp_path / "file" / "p.fits", product(), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RepositoryError, match="Permission denied"):
            write_image_product(tmp_path / "p.fits", product(), {})
    finally:
        tmp_path.chmod(0o700)


def test_an_interruption_leaves_nothing(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
