"""Products on disk, of whichever kind: an image with mask and variance, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cpplug.api.errors import DataError
from cpplug.api.product import ImageProduct, MetaValue, Product
from cpplug.engine import fits
from cpplug.engine.files import sha256_of


def write_product(path: Path, product: Product, cards: Mapping[str, MetaValue]) -> tuple[str, int]:
    """Write a product with its provenance cards; return its SHA-256 and its size in bytes."""
    if isinstance(product, ImageProduct):
        return fits.write_image_product(path, product, cards)
    return fits.write_table_product(path, product, cards)


def check_unchanged(path: Path, sha256: str, what: str) -> None:
    """Make sure that a product's file is the very one that was registered.

    Parameters
    ----------
    path, sha256
        The file, and the checksum in the registry.
    what
        What people call the product: ``bias 3ff15a35...``.

    Raises
    ------
    DataError
        When the file is gone, cannot be read, or has another checksum.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(
            f"The file of {what}, {path}, cannot be read: {error.strerror or error}.",
            "Restore it from a backup, or build the product again.",
        ) from None
    if found != sha256:
        raise DataError(
            f"The file of {what}, {path}, has changed since it was registered (sha256 "
            f"{found[:12]}, registered {sha256[:12]}).",
            "Restore it from a backup, or build the product again.",
        )


def read_product(path: Path) -> Product:
    """Read a product.

    Raises
    ------
    DataError
        When the file is missing, damaged or not a product of cpplug.
    """
    kind = str(fits.read_headers(path)[0].get("KIND", ""))
    if kind.startswith("image"):
        return fits.read_image_product(path)
    if kind.startswith("table"):
        return fits.read_table_product(path)
    raise DataError(f"{path} is not a product of cpplug: its header has no KIND.")
