"""A toy camera with raw files on disk, for tests of the engine that need no real plugin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

HERE = Path(__file__).parent


class ToyWorld:
    """A folder with the toy plugin and raw files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = folder / "toy_plugin.py"
        text = (HERE / "toy_plugin.py.txt").read_text()
        # Files of the same content are one module; each test wants its own.
        self.plugin.write_text(f"{text}\n# {folder}\n")
        self.raw = folder / "raw"
        self.raw.mkdir()

    def catalog(self):
        from cpplug.host.catalog import Catalog

        return Catalog(files=(self.plugin,))

    def order(self, exposure: int, what: str) -> None:
        """Tell the misbehaving step what to do for one exposure."""
        (self.folder / f"order-{exposure}").write_text(what)

    def forgive(self, exposure: int) -> None:
        (self.folder / f"order-{exposure}").unlink(missing_ok=True)

    def write(self, exposure: int, value: float = 10.0, kind: str = "bias", **cards) -> Path:
        """Write a raw file: the value, plus the exposure's last digits as a signature."""
        primary = fits.PrimaryHDU()
        primary.header["INSTRUME"] = cards.pop("INSTRUME", "toy")
        primary.header["EXPID"] = exposure
        primary.header["IMGTYPE"] = kind
        for key, card in cards.items():
            primary.header[key] = card
        image = np.full((6, 10), value, np.float32) + exposure % 100
        hdu = fits.ImageHDU(image.astype(np.int32), name="A")
        path = self.raw / f"toy_{exposure}.fits"
        fits.HDUList([primary, hdu]).writeto(path, overwrite=True)
        return path

    def fill(self, n: int, first: int = 2021010100001) -> list[int]:
        """Write n bias files; return their exposure ids."""
        ids = list(range(first, first + n))
        for number in ids:
            self.write(number)
        return ids

    def repository(self, n: int = 6):
        """Create a repository with n ingested bias exposures."""
        from cpplug.engine.ingest import find_files, ingest
        from cpplug.store import Repository

        ids = self.fill(n)
        repo = Repository.create(self.folder / "repo", None)
        outcomes = ingest(repo, self.catalog(), find_files([self.raw]), instrument="toy")
        assert [outcome.status for outcome in outcomes] == ["ingested"] * n
        return repo, ids


@pytest.fixture
def toy(tmp_path: Path) -> ToyWorld:
    return ToyWorld(tmp_path)
