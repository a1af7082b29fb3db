"""The calibrations that were found for one exposure, as steps see them.

Planning decides which file serves which exposure (``CalibRef``); a worker opens it when a step
asks, checks that it fits, and keeps the last few in memory: the next exposure usually wants them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cpplug.api.errors import CalibrationMissing, DataError, PluginError
from cpplug.api.exposure import Exposure
from cpplug.api.product import ImageProduct, Product, TableProduct
from cpplug.api.records import Frame
from cpplug.engine.products import check_unchanged, read_product


class CalibRef(msgspec.Struct, frozen=True, kw_only=True):
    """Where a calibration is, and how it was found."""

    dataset_type: str
    dataset: str
    path: str
    sha256: str
    collection: str
    begin: int | None = None
    end: int | None = None
    detector: int = 0
    physical_filter: str = ""


class ProductCache:
    """The last few calibrations opened by this process, by content."""

    def __init__(self, size: int = 6) -> None:
        self._size = size
        self._products: OrderedDict[str, Product] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, ref: CalibRef) -> Product:
        """Return a product, reading it if it is not among the last few.

        Raises
        ------
        DataError
            When the file is gone, damaged, or not the one that was registered.
        """
        with self._lock:
            if ref.sha256 in self._products:
                self._products.move_to_end(ref.sha256)
                return self._products[ref.sha256]
            name = f"{ref.dataset_type} {ref.dataset}"
            check_unchanged(Path(ref.path), ref.sha256, name)
            product = read_product(Path(ref.path))
            self._products[ref.sha256] = product
            while len(self._products) > self._size:
                self._products.popitem(last=False)
            return product


class FoundCalibs:
    """The ``Calibs`` that a step is handed."""

    def __init__(self, refs: Sequence[CalibRef], cache: ProductCache) -> None:
        self._refs = {ref.dataset_type: ref for ref in refs}
        self._cache = cache

    def has(self, dataset_type: str) -> bool:
        """Tell whether a calibration of this type was found."""
        return dataset_type in self._refs

    def sibling(self, detector: str) -> Frame | None:
        """Refuse: only a step that announced it is handed other detectors (``engine.siblings``).

        Raises
        ------
        PluginError
            Always.
        """
        raise PluginError(
            f"The frame of detector {detector} was asked for without notice.",
            "Tell its author: only a step whose record says siblings=True may ask.",
        )

    def _product(self, dataset_type: str) -> Product:
        if dataset_type not in self._refs:
            raise CalibrationMissing(
                f"No {dataset_type} was found for this exposure.",
                "Build and certify one, or add its collection to --input.",
            )
        return self._cache.get(self._refs[dataset_type])

    def image(self, dataset_type: str, like: Exposure | None = None) -> ImageProduct:
        """Return an image calibration, checked against the exposure it is meant for.

        Raises
        ------
        CalibrationMissing
            When none was found.
        DataError
            When it is a table, or of another detector or size.
        """
        product = self._product(dataset_type)
        if not isinstance(product, ImageProduct):
            raise DataError(f"The {dataset_type} of this exposure is a table, not an image.")
        if like is not None:
            detector = self._refs[dataset_type].detector
            if detector != like.detector.id:
                raise DataError(
                    f"The {dataset_type} is of detector {detector}, not {like.detector.id}."
                )
            if product.image.shape != like.image.shape:
                raise DataError(
                    f"The {dataset_type} has {product.image.shape} pixels (rows, columns), "
                    f"the exposure {like.image.shape}."
                )
        return product

    def table(self, dataset_type: str) -> TableProduct:
        """Return a table calibration; CalibrationMissing when none was found."""
        product = self._product(dataset_type)
        if not isinstance(product, TableProduct):
            raise DataError(f"The {dataset_type} of this exposure is an image, not a table.")
        return product
