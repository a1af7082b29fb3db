"""One amplifier of one exposure: what was measured, and what the noise model says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cpplug.api import Amplifier, Evidence, FrameEvidence
from cpplug_verify.decide import ALPHA, family_limit
from cpplug_verify.noise_model import (
    combiner_kind,
    level_variance,
    membership_factor,
    overscan_bias,
    overscan_kind,
    product_noise,
)


class Unusable(Exception):
    """Data that cannot answer; the message is the reason of the INCONCLUSIVE row."""


def option(evidence: Evidence, name: str, default: Any) -> Any:
    """Return an option of the run, else of the profile, else the default."""
    return evidence.options.get(name, evidence.threshold.options.get(name, default))


def z_limit(evidence: Evidence, looks: int = 1) -> float:
    """Return the family-wise limit of the run, in standard errors.

    ``looks`` says of how many deviations the one that is judged is the largest.
    """
    alpha = float(option(evidence, "alpha_family", ALPHA))
    return family_limit(evidence.n_comparisons * looks, alpha)


@dataclass(frozen=True)
class Reading:
    """What was measured on one amplifier of one exposure, and the model's numbers for it."""

    evidence: Evidence
    frame: FrameEvidence
    amplifier: Amplifier

    def __getitem__(self, name: str) -> float:
        """Return a measured number; Unusable when it is missing or not finite."""
        value = self.frame.values.get(self.amplifier.name, {}).get(name, math.nan)
        if not math.isfinite(value):
            raise Unusable(f"{name.replace('_', ' ')} was not measured or is not a number")
        return value

    def get(self, name: str, default: float) -> float:
        """Return a measured number, or the default."""
        return self.frame.values.get(self.amplifier.name, {}).get(name, default)

    @property
    def n_good(self) -> int:
        """Good pixels."""
        return int(self.get("n_good", self.frame.n_good.get(self.amplifier.name, 0)))

    @property
    def factor(self) -> float:
        """Variance of this frame minus the product, over that of a frame."""
        product = self.evidence.product
        return membership_factor(product.n_inputs, combiner_kind(product), self.frame.membership)

    @property
    def common(self) -> float:
        """Share of that variance that all independent frames have in common: the product's."""
        product = self.evidence.product
        return product_noise(product.n_inputs, combiner_kind(product)) / self.factor

    @property
    def overscan_columns(self) -> float:
        """Columns that the overscan level of a row rests on."""
        return self.get("overscan_columns", float(self.evidence.product.overscan_columns))

    @property
    def overscan_kind(self) -> str:
        """``mean`` or ``median``."""
        return overscan_kind(self.evidence.product)

    @property
    def rows(self) -> float:
        """Variance of the level subtracted from each row over that of a pixel; 0 for a curve."""
        if not self.get("row_levels", 1.0):
            return 0.0
        return level_variance(self.overscan_columns, self.overscan_kind)

    @property
    def columns(self) -> float:
        """The same for levels subtracted from each column."""
        return level_variance(self.get("parallel_rows", 0.0), self.overscan_kind)

    @property
    def level(self) -> float:
        """Variance of the mean overscan level over that of a pixel."""
        if self.get("row_levels", 1.0):
            return self.rows / self["n_rows"]
        return level_variance(self.get("overscan_pixels", 0.0), self.overscan_kind)

    @property
    def pixel_noise(self) -> float:
        """Noise of a residual pixel without the share of its row's and column's level, electron."""
        return self["sigma"] / math.sqrt(1 + self.rows + self.columns)

    @property
    def overscan_noise(self) -> float:
        """Read noise that the overscan shows, electron."""
        bias = overscan_bias(self.overscan_columns, self.overscan_kind)
        if not self.get("row_levels", 1.0) or bias <= 0:
            bias = 1.0
        return self["overscan_sigma"] / math.sqrt(bias)

    @property
    def read_noise(self) -> float:
        """Read noise that residuals are held against: the camera's, or the overscan's if asked."""
        if empirical(self.evidence):
            return self.overscan_noise
        if not self.amplifier.read_noise > 0:
            raise Unusable("the camera file gives no read noise for this amplifier")
        return self.amplifier.read_noise

    def check_usable(self) -> None:
        """Raise Unusable when there is nothing, or too little, to judge."""
        if self.frame.error:
            raise Unusable(self.frame.error)
        total = self["n_total"]
        if not self.n_good:
            raise Unusable("no good pixel")
        if self.n_good < self.evidence.min_good_fraction * total:
            raise Unusable(f"only {self.n_good / total:.0%} of the pixels are good")


def empirical(evidence: Evidence) -> bool:
    """Tell whether the overscan's own read noise is the reference."""
    return bootstrap(evidence) or bool(option(evidence, "empirical_read_noise", False))


def bootstrap(evidence: Evidence) -> bool:
    """Tell whether the camera's read noises are not to be trusted at all."""
    return bool(option(evidence, "bootstrap", False))
