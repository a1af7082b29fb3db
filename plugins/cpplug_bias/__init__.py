"""Master bias.

A bias frame has no exposure time: it shows what the electronics add to every image. Each exposure
loses its overscan level and is assembled; the master is the clipped mean of the exposures, pixel by
pixel, and shows the structure that stays the same from frame to frame. Subtracting it removes that
structure from other images. The scatter between the frames gives the read noise on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from cpplug.api import (
    Calibration,
    Calibs,
    Config,
    Context,
    DataError,
    Exposure,
    ExposureQuery,
    Exposures,
    ImageProduct,
    IsrStep,
    Measured,
    NoConfig,
    PlanView,
    Problem,
    Solver,
    at_least,
    doc,
    hookimpl,
)
from cpplug_bias.numbers import describe, describe_halves
from cpplug_bias.read_noise import PairsConfig, combine_pairs, pair_noise

ISR = ("saturation", "overscan", "parallel_overscan", "assemble", "variance")
VERIFIERS = (
    "mean", "noise", "noise_floor", "cr_consistency", "cr_rate", "corner", "rowcol", "lines",
    "shifts", "ampcorr", "depth", "rn_consistent", "split", "compat.MEAN", "compat.NOISE",
    "compat.CR_NOISE", "compat.PROCESSING", "compat.READ_NOISE_CONSISTENT",
)  # fmt: skip


class BiasConfig(Config, frozen=True):
    """How the stack is collapsed."""

    combiner: Annotated[str, doc("how the exposures are combined: name of a combiner")] = (
        "clipped_mean"
    )
    min_exposures: Annotated[int, at_least(1), doc("fewest exposures that make a master bias")] = 5


def make_bias(
    measurements: Sequence[Measured], exposures: Exposures, ctx: Context[BiasConfig]
) -> ImageProduct:
    """Collapse overscan-subtracted zero-second exposures into one image, ADU.

    Header cards per amplifier: ``CPP BIAS <amp> MEAN``, ``MEDIAN``, ``SIGMA`` (clipped),
    ``DISTRIBUTION <p>-PCT``, ``BADPIX-NUM``; ``READNOISE`` and ``READNOISE ERR`` (ADU) from pairs
    of consecutive exposures; ``SPLIT <amp> MEAN`` and ``SIGMA`` of odd minus even exposures (ADU).

    Raises
    ------
    DataError
        When there are too few exposures, or one of them was exposed.
    """
    need, found = ctx.config.min_exposures, len(exposures)
    ctx.require(
        found >= need,
        f"{found} bias exposures of detector {ctx.detector.name} are left; a master needs {need}.",
        f"Select more exposures, or accept fewer with -c bias:min_exposures={max(found, 1)}.",
    )
    exposed = [str(info.exposure) for info in exposures.infos if info.exposure_time != 0]
    ctx.require(
        not exposed,
        f"A bias has no exposure time, but these exposures do: {', '.join(exposed)}.",
        "Leave them out of the selection.",
    )
    combined = ctx.combine(exposures, ctx.config.combiner, halves=True)
    product = ImageProduct(
        image=combined.image, mask=combined.mask, variance=combined.variance, unit="adu"
    )
    product.metadata.update(
        COMBINER=ctx.config.combiner,
        NINPUTS=combined.n_inputs,
        REJFRAC=round(combined.rejected_fraction, 8),
        NREPAIR=combined.n_repaired,
    )
    product.metadata.update(describe(product, ctx.detector))
    if combined.halves is not None:
        product.metadata.update(describe_halves(combined.halves, combined.mask, ctx.detector))
    for amp, pairs in pair_noise(exposures, ctx.detector).items():
        solution = ctx.solve("read_noise/pairs", pairs)
        if solution.n:
            product.metadata[f"CPP BIAS {amp} READNOISE"] = round(
                solution.parameters["read_noise"], 6
            )
            product.metadata[f"CPP BIAS {amp} READNOISE ERR"] = round(
                solution.errors["read_noise"], 6
            )
    return product


def subtract_bias(exposure: Exposure, config: NoConfig, calibs: Calibs) -> Exposure:
    """Subtract the master bias; its variance adds to that of the image, its mask to the mask.

    Raises
    ------
    DataError
        When the bias has another size or unit than the image.
    """
    bias = calibs.image("bias", like=exposure)
    name = exposure.detector.name
    if bias.image.shape != exposure.image.shape:
        raise DataError(
            f"The bias of detector {name} has {bias.image.shape} rows and columns, the image "
            f"{exposure.image.shape}.",
            "Build a bias with the same binning and camera file.",
        )
    if bias.unit != exposure.unit:
        raise DataError(
            f"The bias of detector {name} is in {bias.unit}, the image in {exposure.unit}.",
            "Put the bias step before the one that changes the unit.",
        )
    if exposure.variance is not None or exposure.noise:
        # The plane must be made before the image changes: it follows from the image as read.
        variance = exposure.variance_plane()
        variance += bias.variance
    exposure.image -= bias.image
    exposure.mask |= bias.mask
    return exposure


@hookimpl
def cpplug_check_plan(plan: PlanView) -> Iterator[Problem]:
    """Object to a master bias of too few exposures before any of them is read."""
    need = plan.options.get("bias.min_exposures", 0)
    found = len(plan.exposures)
    if plan.calibration == "bias" and plan.purpose == "build" and found < need:
        yield Problem(
            severity="error",
            message=f"{found} bias exposures are selected; a master needs {need}.",
            next_step=f"Select more, or accept fewer with -c bias:min_exposures={max(found, 1)}.",
        )


@hookimpl
def cpplug_calibrations() -> Iterator[Calibration]:
    """Offer the master bias."""
    yield Calibration(
        name="bias",
        summary="Clipped mean of overscan-corrected zero-second exposures",
        inputs=ExposureQuery(observation_type="bias", max_exposure_time=0.0),
        isr=(*ISR, "defects"),
        isr_off=("parallel_overscan", "defects"),
        reduce=make_bias,
        config=BiasConfig,
        verify=tuple(f"bias.{name}" for name in VERIFIERS),
        verify_isr=(*ISR, "bias", "defects"),
        verify_isr_off=("parallel_overscan", "defects"),
        aliases=("cpBias", "verifyBias", "verifyBiasApply", "biasGen"),
    )


@hookimpl
def cpplug_isr_steps() -> Iterator[IsrStep]:
    """Offer the subtraction of the master bias."""
    yield IsrStep(
        name="bias",
        summary="Subtract the master bias",
        level="detector",
        apply=subtract_bias,
        needs=("bias",),
        after=("assemble",),
    )


@hookimpl
def cpplug_solvers() -> Iterator[Solver]:
    """Offer the read noise from pairs."""
    yield Solver(
        name="read_noise/pairs",
        summary="Read noise from the differences of pairs of frames",
        solve=combine_pairs,
        config=PairsConfig,
    )
