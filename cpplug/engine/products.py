"""Products on disk, of whichever kind: an image with mask and variance, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cpplug.api.errors import DataError
from cpplug.api.product import ImageProduct, MetaValue, Product
from cpplug.engine import fits


def write_product(path: Path, product: Product, cards: Mapping[str, MetaValue]) -> tuple[str, int]:
    """Write a product with its provenance cards; return its SHA-256 and its size in bytes."""
    if isinstance(product, ImageProduct):
        return fits.write_image_product(path, product, cards)
    return fits.write_table_product(path, product, cards)


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
