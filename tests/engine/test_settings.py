"""Options: five layers, sources, spellings, and errors that name the nearest option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest

from cpplug.api import (
    Calibration,
    Combiner,
    Config,
    ConfigError,
    ExposureQuery,
    IsrStep,
    at_least,
    doc,
)
from cpplug.engine.settings import (
    Layer,
    Settings,
    fold,
    parse_override,
    read_layer,
    steps_in_order,
)


class LevelConfig(Config, frozen=True):
    fit_type: Annotated[Literal["MEDIAN", "MEDIAN_PER_ROW"], doc("how the level is found")] = (
        "MEDIAN"
    )
    order: Annotated[int, at_least(0)] = 1
    mask_planes: tuple[str, ...] = ("BAD",)


class NoiseConfig(Config, frozen=True):
    empirical_read_noise: bool = False
    order: int = 0


class RecipeConfig(Config, frozen=True):
    combiner: str = "clipped_mean"
    min_exposures: int = 5


class ClipConfig(Config, frozen=True):
    clip: float = 3.0


def _nothing(*args: object) -> None:
    raise AssertionError("planning must not call a plugin's function")


STEPS = (
    IsrStep(
        name="overscan", summary="Level", level="amplifier", apply=_nothing, config=LevelConfig
    ),
    IsrStep(name="variance", summary="Noise", level="detector", apply=_nothing, config=NoiseConfig),
    IsrStep(name="defects", summary="Mask", level="detector", apply=_nothing, aliases=("defect",)),
)
RECIPE = Calibration(
    name="bias",
    summary="",
    inputs=ExposureQuery(),
    isr=("overscan", "variance", "defects"),
    reduce=_nothing,
    config=RecipeConfig,
    aliases=("cpBias", "verifyBiasApply"),
)


class Names:
    def names(self, kind: str) -> list[str]:
        known = {"isr_step": ["overscan", "dark"], "calibration": ["bias", "dark"]}
        return known.get(kind, [])


def make(*overrides: str, layers: tuple[Layer, ...] = ()) -> Settings:
    return Settings(
        RECIPE,
        STEPS,
        ("defects",),
        lambda name: Combiner(name=name, summary="", combine=_nothing, config=ClipConfig),
        Names(),
        layers,
        overrides,
    )


def test_defaults_come_from_the_plugins() -> None:
    settings = make()
    assert settings.step_enabled("overscan") and not settings.step_enabled("defects")
    assert {value.source for value in settings.values.values()} == {"default"}
    assert settings.combiner_config(settings.combiner) == ClipConfig(clip=3.0)


def test_later_layers_win_and_say_so() -> None:
    weak = Layer("camera.toml", {"isr.overscan.order": 2, "bias.min_exposures": 3}, False)
    strong = Layer("mine.toml", {"isr.overscan.order": 4}, True)
    settings = make("overscan:order=7", layers=(weak, strong))
    assert settings.values["isr.overscan.order"].value == 7
    assert settings.values["isr.overscan.order"].source == "-c overscan:order=7"
    assert settings.values["bias.min_exposures"].source == "camera.toml"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("isr:doDefect=True", "isr.do_defects", True),
        ("isr:doDefects=True", "isr.do_defects", True),
        ("isr:do_overscan=False", "isr.do_overscan", False),
        ("isr:doEmpiricalReadNoise=True", "isr.variance.empirical_read_noise", True),
        ("variance:empirical_read_noise=yes", None, None),
        ("verifyBiasApply:doDefect=True", "isr.do_defects", True),
        ("cpBias:minExposures=2", "bias.min_exposures", 2),
        ("bias:combiner=median", "bias.combiner", "median"),
        ("overscan:fitType=MEDIAN_PER_ROW", "isr.overscan.fit_type", "MEDIAN_PER_ROW"),
        ("isr:overscan.fitType=MEDIAN_PER_ROW", "isr.overscan.fit_type", "MEDIAN_PER_ROW"),
        ("isr:maskPlanes=[BAD, SAT]", "isr.overscan.mask_planes", ("BAD", "SAT")),
        ("isr:maskPlanes=['BAD','SAT']", "isr.overscan.mask_planes", ("BAD", "SAT")),
        ("combine:mask=SAT", "combine.mask", ("SAT",)),
        ("combine:clip=2.5", "combine.clip", 2.5),
        ("clipped_mean:clip=2.5", "combine.clip", 2.5),
    ],
)
def test_spellings(text: str, path: str | None, value: object) -> None:
    if path is None:
        with pytest.raises(ConfigError, match="cannot be 'yes'"):
            make(text)
        return
    assert make(text).values[path].value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isr:doDefekt=1", "do_defects"),
        ("overscan:ordr=3", "'order'"),
        ("overscan:order=-1", ">= 0"),
        ("overscan:fit_type=MEAN_OF_ALL", "fit_type"),
        ("flat:x=1", "not part of this bias run"),
        ("bias:combinr=mean", "'combiner'"),
        ("isr:order=3", "several steps"),
        ("nonsense", "TARGET:option=value"),
    ],
)
def test_errors_name_what_was_meant(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_may_speak_of_plugins_that_take_no_part() -> None:
    layer = Layer("p.toml", {"dark.min_time": 1, "isr.dark.x": 2, "isr.do_dark": False}, False)
    assert make(layers=(layer,)).digest() == make().digest()
    with pytest.raises(ConfigError, match=r"p\.toml"):
        make(layers=(Layer("p.toml", {"dark.min_time": 1}, True),))


def test_unknown_key_in_a_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"isr\.overscan\.order"):
        make(layers=(Layer("p.toml", {"isr.overscan.ordr": 1}, False),))


def test_a_table_for_one_calibration_only() -> None:
    mine = Layer("p.toml", {"for.bias.isr.do_defects": True}, False)
    other = Layer("p.toml", {"for.dark.isr.do_defects": True}, False)
    assert make(layers=(mine,)).step_enabled("defects")
    assert not make(layers=(other,)).step_enabled("defects")


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "o.toml"
    path.write_text('[overscan]\nfit_type = "MEDIAN_PER_ROW"\n[combine]\nclip = 4\n')
    settings = make(layers=(read_layer(path, strict=True),))
    assert settings.step_options("overscan")["fit_type"] == "MEDIAN_PER_ROW"
    assert settings.combiner_config(settings.combiner) == ClipConfig(clip=4.0)
    path.write_text("not toml")
    with pytest.raises(ConfigError, match=r"o\.toml"):
        read_layer(path, strict=True)


def test_digest_depends_on_values_not_on_sources() -> None:
    assert make("overscan:order=1").digest() == make().digest()
    assert make("overscan:order=2").digest() != make().digest()
    assert make("combine:memory=99").digest() == make().digest()


def test_table_and_schema_list_every_option() -> None:
    settings = make()
    assert {row["option"] for row in settings.table()} == set(settings.values)
    types = {row["option"]: row["type"] for row in settings.schema()}
    assert types["isr.overscan.order"] == "whole number >= 0"
    assert types["isr.overscan.fit_type"] == "MEDIAN | MEDIAN_PER_ROW"
    assert types["isr.do_defects"] == "True | False"


def test_small_parts() -> None:
    assert fold("doEmpiricalReadNoise") == "do_empirical_read_noise"
    assert fold("do_defects") == "do_defects"
    assert parse_override(" isr : doDefect = False ") == ("isr", "doDefect", "False")


def test_the_order_of_steps_can_be_said() -> None:
    recipe = ("overscan", "variance")
    layer = Layer("p.toml", {"isr.steps": ["variance", "overscan"]}, False)
    assert steps_in_order("bias", recipe, (), ()) == recipe
    assert steps_in_order("bias", recipe, (layer,), ()) == ("variance", "overscan")
    mine = steps_in_order("bias", recipe, (layer,), ("isr:steps=[overscan, mine, variance]",))
    assert mine == ("overscan", "mine", "variance")
    with pytest.raises(ConfigError, match="twice"):
        steps_in_order("bias", recipe, (), ("isr:steps=[overscan, overscan]",))
    assert (
        make("isr:steps=[overscan, variance, defects]").values["isr.steps"].source.startswith("-c")
    )
