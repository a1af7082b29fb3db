"""The master bias: what it refuses, what it computes, and how it is subtracted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli

from cpplug.api import (
    Amplifier,
    AmplifierNoise,
    Block,
    Box,
    Combined,
    DataError,
    Detector,
    Exposure,
    ImageProduct,
    NoConfig,
    mask_bits,
)
from cpplug_bias import (
    BiasConfig,
    cpplug_calibrations,
    cpplug_isr_steps,
    cpplug_solvers,
    make_bias,
    subtract_bias,
)
from cpplug_bias.read_noise import PairsConfig, combine_pairs, difference_noise
from cpplug_combine import ClippedMeanConfig, clipped_mean, mean

BAD = mask_bits("BAD")
AMPLIFIERS = tuple(
    Amplifier(
        name=f"C0{i}",
        source=(Box(0, 0, 60, 80),),
        data=Box(0, 0, 60, 80),
        bbox=Box(60 * i, 0, 60, 80),
        gain=2.0,
    )
    for i in range(2)
)
TWO = Detector(id=0, name="two", amplifiers=AMPLIFIERS, width=120, height=80)
NOISE = {"C00": 4.0, "C01": 6.0}


class Stack:
    """Exposures in memory."""

    def __init__(self, exposures: list[Exposure]) -> None:
        self.exposures = exposures

    @property
    def infos(self):
        return [exposure.info for exposure in self.exposures]

    def __len__(self) -> int:
        return len(self.exposures)

    def __iter__(self):
        return iter(self.exposures)


class Bench:
    """A context with nothing but the two services."""

    detector = TWO

    def __init__(self, **options: object) -> None:
        self.config = BiasConfig(**options)
        self.solutions = []

    def require(self, condition, message, next_step="") -> None:
        if not condition:
            raise DataError(message, next_step)

    def solve(self, solver, data):
        assert solver == "read_noise/pairs"
        self.solutions.append(combine_pairs(data, PairsConfig()))
        return self.solutions[-1]

    def combine(self, exposures, combiner, *, scales=None, halves=False) -> Combined:
        images = np.stack([exposure.image for exposure in exposures])
        block = Block(
            images=images,
            masks=np.stack([exposure.mask for exposure in exposures]),
            variances=None,
            exclude=mask_bits("SAT"),
            no_good_bits=BAD,
        )
        plane = (
            clipped_mean(block, ClippedMeanConfig())
            if combiner == "clipped_mean"
            else mean(block, NoConfig())
        )
        return Combined(
            image=plane.image,
            variance=plane.variance,
            mask=plane.mask,
            used=plane.used,
            n_inputs=len(images),
            rejected_fraction=1 - plane.used.mean() / len(images),
            n_repaired=0,
            halves=images[::2].mean(axis=0) - images[1::2].mean(axis=0) if halves else None,
        )


@pytest.fixture
def biases(info):
    """Frames of a bias with structure, read noise by amplifier, row errors and a hit."""

    def build(n: int, seed: int = 3, **fields: object) -> Stack:
        rng = np.random.default_rng(seed)
        pattern = np.add.outer(np.arange(80) * 0.05, np.sin(np.arange(120)) * 3)
        noise = np.repeat([NOISE["C00"], NOISE["C01"]], 60)
        frames = []
        for i in range(n):
            image = pattern + rng.normal(0, 1, (80, 120)) * noise + rng.normal(0, 1, (80, 1))
            image[5 + i, 10] += 4000
            frames.append(Exposure(info(i + 1, **fields), TWO, image.astype(np.float32)))
        return Stack(frames)

    build.pattern = np.add.outer(np.arange(80) * 0.05, np.sin(np.arange(120)) * 3)
    return build


def test_the_master_is_the_structure_to_the_expected_noise(biases) -> None:
    product = make_bias([], biases(20), Bench())
    assert product.unit == "adu"
    assert product.image.dtype == product.variance.dtype == np.float32
    error = product.image - biases.pattern
    expected = {"C00": np.hypot(4, 1) / np.sqrt(20), "C01": np.hypot(6, 1) / np.sqrt(20)}
    for amp in AMPLIFIERS:
        box = amp.bbox.slices
        # clipping 20 Gaussian inputs at 3 sigma costs 3.6 % over the plain mean
        assert error[box].std() == pytest.approx(1.036 * expected[amp.name], rel=0.04)
        assert np.sqrt(np.median(product.variance[box])) == pytest.approx(
            expected[amp.name], rel=0.07
        )


def test_the_header_tells_about_every_amplifier(biases) -> None:
    stack = biases(20)
    product = make_bias([], stack, Bench())
    cards = product.metadata
    assert cards["COMBINER"] == "clipped_mean"
    assert cards["NINPUTS"] == 20
    assert 0 < cards["REJFRAC"] < 0.05
    for amp in AMPLIFIERS:
        image = product.image[amp.bbox.slices]
        prefix = f"CPP BIAS {amp.name}"
        assert cards[f"{prefix} MEAN"] == pytest.approx(image.mean(), abs=0.1)
        assert cards[f"{prefix} MEDIAN"] == pytest.approx(np.median(image), rel=1e-6)
        assert cards[f"{prefix} SIGMA"] == pytest.approx(image.std(), rel=0.05)
        for percent in (0, 5, 16, 50, 84, 95, 100):
            assert cards[f"{prefix} DISTRIBUTION {percent}-PCT"] == pytest.approx(
                np.percentile(image.astype(float), percent), rel=1e-5
            )
        assert cards[f"{prefix} BADPIX-NUM"] == 0
        # the row error (1 ADU) is no read noise, and the hits do not count
        assert cards[f"{prefix} READNOISE"] == pytest.approx(NOISE[amp.name], rel=0.015)
        assert cards[f"{prefix} READNOISE ERR"] < 0.05
        assert abs(cards[f"SPLIT {amp.name} MEAN"]) < 0.5
        assert cards[f"SPLIT {amp.name} SIGMA"] == pytest.approx(
            np.hypot(NOISE[amp.name], 1) * np.sqrt(2 / 10), rel=0.06
        )
    assert max(len(f"HIERARCH {key} = {value!r}") for key, value in cards.items()) <= 80


def test_a_pixel_without_input_is_counted_and_left_out(biases) -> None:
    stack = biases(6)
    for exposure in stack:
        exposure.mask[3, 3] = mask_bits("SAT")
    bench = Bench()
    product = make_bias([], stack, bench)
    assert product.metadata["CPP BIAS C00 BADPIX-NUM"] == 1
    assert product.metadata["CPP BIAS C01 BADPIX-NUM"] == 0
    assert np.isfinite(product.metadata["CPP BIAS C00 DISTRIBUTION 100-PCT"])
    assert [solution.n for solution in bench.solutions] == [3, 3]


def test_too_few_exposures_are_refused(biases) -> None:
    with pytest.raises(DataError, match="4 bias exposures of detector two are left") as caught:
        make_bias([], biases(4), Bench())
    assert "min_exposures=4" in caught.value.next_step
    assert make_bias([], biases(4), Bench(min_exposures=4)).metadata["NINPUTS"] == 4


def test_an_exposed_bias_is_refused_by_name(biases) -> None:
    stack = biases(6)
    stack.exposures[2] = biases(1, exposure_time=2.0).exposures[0]
    with pytest.raises(DataError, match=r"but these exposures do: 1\."):
        make_bias([], stack, Bench())


def test_the_combiner_is_a_choice(biases) -> None:
    stack = biases(6)
    plain = make_bias([], stack, Bench(combiner="mean"))
    assert plain.metadata["COMBINER"] == "mean"
    assert plain.image[5, 10] > 500, "a plain mean keeps the hit"


# ---- read noise from pairs -----------------------------------------------------------------------
def test_difference_noise_is_unbiased_for_few_columns() -> None:
    rng = np.random.default_rng(0)
    found = [
        difference_noise(
            (rng.normal(0, 3, (200, 8)) - rng.normal(0, 3, (200, 8))).astype(np.float32),
            np.zeros((200, 8), np.uint16),
        )[0]
        for _ in range(40)
    ]
    assert np.mean(found) == pytest.approx(3, rel=0.01)


def test_masked_pixels_do_not_make_noise() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0, np.sqrt(2), (50, 50)).astype(np.float32)
    mask = np.zeros((50, 50), np.uint16)
    difference[:, :20], mask[:, :20] = 10 * difference[:, :20], BAD
    sigma, n = difference_noise(difference, mask)
    assert sigma == pytest.approx(1, rel=0.05)
    assert n <= 1500
    lost, none = difference_noise(difference, np.full((50, 50), BAD, np.uint16))
    assert np.isnan(lost)
    assert none == 0


def test_pairs_are_averaged_and_judged() -> None:
    agree = combine_pairs({"sigma": [3.0, 3.01, 2.99], "n": [10000] * 3}, PairsConfig())
    assert agree.parameters["read_noise"] == pytest.approx(3)
    assert agree.errors["read_noise"] == pytest.approx(0.01 / np.sqrt(3))
    assert agree.chi2 == pytest.approx(2 * (0.01 / (3 / np.sqrt(20000))) ** 2)
    assert (agree.n, agree.flags) == (3, ())
    differ = combine_pairs({"sigma": [3.0, 4.0], "n": [10000] * 2}, PairsConfig())
    assert differ.flags == ("pairs_disagree",)
    single = combine_pairs({"sigma": [3.0], "n": [5000]}, PairsConfig())
    assert single.errors["read_noise"] == pytest.approx(0.03)
    assert single.flags == ("single_pair",)
    assert combine_pairs({"sigma": [], "n": []}, PairsConfig()).flags == ("no_pairs",)
    assert combine_pairs({"sigma": [0.0, 0.0], "n": [9, 9]}, PairsConfig()).chi2 == 0


# ---- subtraction ---------------------------------------------------------------------------------
class Found:
    def __init__(self, product: ImageProduct) -> None:
        self.product = product

    def image(self, dataset_type: str, like: Exposure | None = None) -> ImageProduct:
        assert dataset_type == "bias"
        return self.product


def bias_of(shape=(80, 120), unit="adu") -> ImageProduct:
    mask = np.zeros(shape, np.uint16)
    mask[1, 1] = BAD
    return ImageProduct(
        image=np.full(shape, 1, np.float32),
        mask=mask,
        variance=np.full(shape, 0.25, np.float32),
        unit=unit,
    )


@pytest.fixture
def ten(info) -> Exposure:
    exposure = Exposure(info(), TWO, np.full((80, 120), 10, np.float32))
    exposure.mask[0, 0] = mask_bits("SAT")
    return exposure


def test_subtracting_keeps_the_shot_noise_of_the_image_as_read(ten) -> None:
    ten.noise.update({amp.name: AmplifierNoise(2.0, 3.0) for amp in AMPLIFIERS})
    subtract_bias(ten, NoConfig(), Found(bias_of()))
    assert (ten.image == 9).all()
    assert np.allclose(ten.variance, 10 / 2 + 9 + 0.25)
    assert ten.mask[0, 0] == mask_bits("SAT")
    assert np.argwhere(ten.mask & BAD).tolist() == [[1, 1]]


def test_without_known_noise_there_is_no_variance(ten) -> None:
    subtract_bias(ten, NoConfig(), Found(bias_of()))
    assert (ten.image == 9).all()
    assert ten.variance is None


@pytest.mark.parametrize("bias", [bias_of(shape=(80, 60)), bias_of(unit="electron")])
def test_a_bias_that_does_not_fit_is_refused(ten, bias) -> None:
    with pytest.raises(DataError, match="bias of detector two"):
        subtract_bias(ten, NoConfig(), Found(bias))
    assert (ten.image == 10).all()


# ---- promises ------------------------------------------------------------------------------------
def test_the_recipe_names_only_plugins_that_are_declared() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    groups = tomli.loads(project.read_text())["project"]["entry-points"]
    (recipe,) = cpplug_calibrations()
    assert set(recipe.verify) == {
        name for name in groups["cpplug.verifier"] if name.startswith("bias.")
    }
    assert set(recipe.isr) | set(recipe.verify_isr) <= set(groups["cpplug.isr_step"])
    assert set(recipe.isr_off) <= set(recipe.isr)
    assert "bias" not in recipe.isr
    assert recipe.inputs.where() == (
        "exposure.observation_type = 'bias' AND exposure.exposure_time <= 0.0"
    )
    assert [step.name for step in cpplug_isr_steps()] == ["bias"]
    assert [solver.name for solver in cpplug_solvers()] == ["read_noise/pairs"]
