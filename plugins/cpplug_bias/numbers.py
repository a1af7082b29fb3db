"""Numbers about a master bias, written into its header for every amplifier."""

from __future__ import annotations

import math

import numpy as np

from cpplug.api import (
    Detector,
    Image,
    ImageProduct,
    Mask,
    clipped,
    good_pixels,
    mask_bits,
    quantiles,
)

PERCENTILES = (0, 5, 16, 50, 84, 95, 100)
Cards = dict[str, str | int | float | bool]


def describe(product: ImageProduct, detector: Detector) -> Cards:
    """Return clipped mean and sigma, median, percentiles and number of BAD pixels per amplifier.

    Values are ADU, over the pixels that are not BAD; the keys are those of :func:`make_bias`.
    """
    cards: Cards = {}
    bad = mask_bits("BAD")
    for amp in detector.amplifiers:
        rows, columns = amp.bbox.slices
        image, mask = product.image[rows, columns], product.mask[rows, columns]
        good = good_pixels(image, mask, bad)
        stats = clipped(image, good)
        spread = quantiles(image, tuple(p / 100 for p in PERCENTILES), good)
        prefix = f"CPP BIAS {amp.name}"
        values = {
            "MEAN": stats.mean,
            "MEDIAN": float(spread[PERCENTILES.index(50)]),
            "SIGMA": stats.sigma,
            **{f"DISTRIBUTION {p}-PCT": float(v) for p, v in zip(PERCENTILES, spread, strict=True)},
        }
        cards.update(_finite({f"{prefix} {key}": value for key, value in values.items()}))
        cards[f"{prefix} BADPIX-NUM"] = int(np.count_nonzero(mask & mask.dtype.type(bad)))
    return cards


def describe_halves(halves: Image, mask: Mask, detector: Detector) -> Cards:
    """Return clipped mean and sigma of the difference of the half stacks per amplifier, ADU."""
    cards: Cards = {}
    for amp in detector.amplifiers:
        rows, columns = amp.bbox.slices
        good = good_pixels(halves[rows, columns], mask[rows, columns], mask_bits("BAD"))
        stats = clipped(halves[rows, columns], good)
        name = f"SPLIT {amp.name}"
        cards.update(_finite({f"{name} MEAN": stats.mean, f"{name} SIGMA": stats.sigma}))
    return cards


def _finite(values: dict[str, float]) -> Cards:
    """Drop what a header cannot hold and round to what float32 pixels support."""
    return {key: float(f"{value:.7g}") for key, value in values.items() if math.isfinite(value)}
