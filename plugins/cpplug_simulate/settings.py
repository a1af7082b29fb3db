"""What a simulation is like: which effects are on, and how strong, for each recipe.

``settings_for(recipe, changes)`` gives the table of a recipe with the user's changes; a bias frame,
say, is made without the effects that only light can show, so that it is quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from cpplug.api import Config, ConfigError, UnknownNameError, nearest
from cpplug_simulate.effects import (
    Adc,
    BadColumns,
    BiasLevel,
    BiasStructure,
    BrighterFatter,
    CosmicRays,
    Crosstalk,
    Cti,
    DarkCurrent,
    Donuts,
    Fringes,
    Gain,
    HotPixels,
    Lamp,
    Nonlinearity,
    PhotonNoise,
    Prnu,
    QeGradient,
    ReadNoise,
    RowDrift,
    RowTransient,
    Saturation,
    Sky,
    Stars,
    Vignetting,
)


class Settings(Config, frozen=True):
    """All effects of the simulator, in the order in which the light meets them."""

    lamp: Lamp = Lamp()
    sky: Sky = Sky()
    fringes: Fringes = Fringes()
    stars: Stars = Stars()
    qe_gradient: QeGradient = QeGradient()
    prnu: Prnu = Prnu()
    donuts: Donuts = Donuts()
    vignetting: Vignetting = Vignetting()
    photon_noise: PhotonNoise = PhotonNoise()
    brighter_fatter: BrighterFatter = BrighterFatter()
    dark_current: DarkCurrent = DarkCurrent()
    hot_pixels: HotPixels = HotPixels()
    bad_columns: BadColumns = BadColumns()
    cosmic_rays: CosmicRays = CosmicRays()
    saturation: Saturation = Saturation()
    cti: Cti = Cti()
    gain: Gain = Gain()
    nonlinearity: Nonlinearity = Nonlinearity()
    crosstalk: Crosstalk = Crosstalk()
    bias_level: BiasLevel = BiasLevel()
    bias_structure: BiasStructure = BiasStructure()
    row_transient: RowTransient = RowTransient()
    row_drift: RowDrift = RowDrift()
    read_noise: ReadNoise = ReadNoise()
    adc: Adc = Adc()


EFFECTS: Final = tuple(Settings.__struct_fields__)
STATIC: Final = (
    "gain", "bias_level", "bias_structure", "row_transient", "dark_current", "hot_pixels",
    "bad_columns", "qe_gradient", "prnu", "vignetting", "read_noise", "adc",
)  # fmt: skip
"""Effects whose truth belongs to the detector: switches and strengths must agree within a folder.
Of the other effects, the strengths that :func:`static_facts` names must agree, the switch not."""

_NO_LIGHT = ("photon_noise", "brighter_fatter")
_ELECTRONICS_OF_LIGHT = ("saturation", "cti", "nonlinearity", "crosstalk")
RECIPES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "bias": {"on": (), "off": _NO_LIGHT + _ELECTRONICS_OF_LIGHT},
    "dark": {"on": ("cosmic_rays",), "off": _NO_LIGHT},
    "flat": {"on": ("lamp", "cosmic_rays"), "off": ()},
    "ptc": {"on": ("lamp", "cosmic_rays"), "off": ()},
    "science": {"on": ("sky", "stars", "cosmic_rays"), "off": ()},
}
"""Which effects a recipe switches on and off; all others stand as in :class:`Settings`."""


def settings_for(recipe: str, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a recipe with the user's changes.

    Parameters
    ----------
    recipe
        One of :data:`RECIPES`.
    changes
        Dotted names to values: ``{"read_noise.on": False, "cti.cti": "3e-6"}``. Strings are
        converted to the type of the option.

    Raises
    ------
    UnknownNameError
        When a recipe, an effect or an option does not exist.
    ConfigError
        When a value has the wrong type or lies outside its range.
    """
    if recipe not in RECIPES:
        raise UnknownNameError(
            f"There is no simulation recipe {recipe!r}.", nearest(recipe, RECIPES)
        )
    flat: dict[str, Any] = {f"{name}.on": True for name in RECIPES[recipe]["on"]}
    flat |= {f"{name}.on": False for name in RECIPES[recipe]["off"]}
    tree: dict[str, Any] = {}
    for path, value in {**flat, **(changes or {})}.items():
        effect, _, option = path.partition(".")
        if effect not in EFFECTS:
            raise UnknownNameError(
                f"The simulator has no effect {effect!r}.",
                nearest(effect, EFFECTS) or "See --list-effects.",
            )
        known = getattr(Settings(), effect).__struct_fields__
        option, _, key = option.partition(".")
        if option not in known:
            raise UnknownNameError(
                f"Effect {effect} has no option {option!r}.",
                nearest(option, known) or f"It has {', '.join(known)}.",
            )
        table = tree.setdefault(effect, {})
        if key:
            table.setdefault(option, {})[key] = value
        else:
            table[option] = None if value == "none" else value
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"A simulator option cannot be used: {error}.", "See --list-effects."
        ) from None


def describe(settings: Settings) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (effect, option, value, sentence) of every option; the option is "" for the effect."""
    from typing import get_type_hints

    for name in EFFECTS:
        effect = getattr(settings, name)
        yield name, "", effect.on, (type(effect).__doc__ or "").strip().splitlines()[0]
        hints = get_type_hints(type(effect), include_extras=True)
        for option in effect.__struct_fields__:
            if option != "on":
                metas = getattr(hints[option], "__metadata__", ())
                text = " ".join(m.description for m in metas if getattr(m, "description", None))
                yield name, option, getattr(effect, option), text
