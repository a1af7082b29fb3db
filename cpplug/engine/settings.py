"""Options of a run: five layers, later wins, and every value remembers where it came from.

Order: what the plugins declare < the instrument's defaults < the project's ``cpplug.toml`` <
``-C file.toml`` < ``-c TARGET:option=value``. Values live at dotted paths: ``isr.do_<step>``
switches a step, ``isr.<step>.<option>`` sets it up, ``combine.<option>`` rules the stack,
``<calibration>.<option>`` the recipe. A table ``[for.<calibration>. ...]`` in a file applies to
that calibration only. Unknown paths are errors that name the nearest known one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from cpplug.api.config import Config, at_least, doc, positive
from cpplug.api.errors import ConfigError, nearest
from cpplug.api.records import Calibration, Combiner, IsrStep, PlannedStep

T = TypeVar("T", bound=Config)
DEFAULT = "default"


class StackConfig(Config, frozen=True):
    """How frames are stacked, whatever the combiner."""

    mask: Annotated[
        tuple[str, ...], doc("mask planes that take an input pixel out of the stack")
    ] = ("SAT", "DETECTED", "INTRP", "BAD", "NO_DATA", "UNMASKEDNAN")
    max_inputs_for_input_variance: Annotated[
        int, at_least(0), doc("with fewer inputs, the output variance comes from theirs")
    ] = 5
    no_good_pixels_mask: Annotated[str, doc("plane set where no input was usable")] = "BAD"
    censor_mask_planes: Annotated[bool, doc("keep only that plane in the product")] = True
    memory: Annotated[
        float, positive, doc("memory for the combined image and the row blocks together, MB")
    ] = 512.0


class Names(Protocol):
    """What the settings need of the plugin catalog: names, without importing a plugin."""

    def names(self, kind: str) -> list[str]:
        """Return the registered names of a kind."""


class Value(msgspec.Struct, frozen=True):
    """An option's value and the layer that set it."""

    value: Any
    source: str


class Layer(msgspec.Struct, frozen=True):
    """One source of values: its label, and values by path or by what the user typed."""

    source: str
    values: dict[str, Any]
    strict: bool
    """True when a path that this run does not use is an error."""


def fold(name: str) -> str:
    """Turn ``doEmpiricalReadNoise`` into ``do_empirical_read_noise``; snake_case is left alone."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower().replace("-", "_")


def parse_override(text: str) -> tuple[str, str, str]:
    """Split ``TARGET:option=value`` of the command line.

    Raises
    ------
    ConfigError
        When a part is missing.
    """
    match = re.match(r"^\s*([\w./-]+)\s*:\s*([\w.]+)\s*=(.*)$", text, flags=re.DOTALL)
    if not match:
        raise ConfigError(
            f"-c {text!r} cannot be read.",
            "Write -c TARGET:option=value, as in isr:doDefect=False.",
        )
    return match[1], match[2], match[3].strip()


def read_layer(path: Path, *, strict: bool) -> Layer:
    """Read a TOML options file as a layer.

    Raises
    ------
    ConfigError
        When the file is missing or is not TOML.
    """
    import tomli

    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise ConfigError(
            f"Options file {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Name a TOML file with one table per target, such as [isr] do_overscan = false.",
        ) from None
    return Layer(str(path), dict(_flatten(document)), strict)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def steps_in_order(
    calibration: str, recipe: Sequence[str], layers: Sequence[Layer], overrides: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the ISR steps in order: the recipe's, unless ``isr.steps`` says others.

    A step that the recipe does not have, such as one of another package, is put in like this.

    Raises
    ------
    ConfigError
        When the value is not a list of names, or names one twice.
    """
    chosen: Any = tuple(recipe)
    source = "the recipe"
    for layer in layers:
        for path in ("isr.steps", f"for.{calibration}.isr.steps"):
            if path in layer.values:
                chosen, source = layer.values[path], layer.source
    for text in overrides:
        target, option, value = parse_override(text)
        if target == "isr" and fold(option) == "steps":
            chosen, source = value, f"-c {text}"
    names: tuple[str, ...] = _convert(tuple[str, ...], chosen, "isr.steps", source)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"isr.steps ({source}) names {twice[0]!r} twice.")
    return names


class _Option(msgspec.Struct, frozen=True):
    """A known path: its type, default and sentence."""

    type: Any
    default: Any
    text: str


def _options_of(config: type[Config], prefix: str) -> dict[str, _Option]:
    options = {}
    for field in msgspec.structs.fields(config):
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        options[f"{prefix}.{field.encode_name}"] = _Option(
            field.type, default, _sentence(field.type)
        )
    return options


def _sentence(annotation: Any) -> str:
    texts = [
        item.description
        for item in getattr(annotation, "__metadata__", ())
        if isinstance(item, msgspec.Meta) and item.description
    ]
    return texts[0] if texts else ""


class Settings:
    """The resolved options of one run.

    Parameters
    ----------
    calibration
        The recipe.
    chain, off
        Its ISR steps in order, and those that are off by default.
    combiners
        Loads a combiner by name.
    names
        The plugin names that exist, to tell a typing error from a plugin this run does not use.
    layers
        Files and defaults, weakest first.
    overrides
        ``-c`` texts, strongest, in order.
    """

    def __init__(
        self,
        calibration: Calibration,
        chain: Sequence[IsrStep],
        off: Iterable[str],
        combiners: Any,
        names: Names,
        layers: Sequence[Layer] = (),
        overrides: Sequence[str] = (),
    ) -> None:
        self.calibration = calibration
        self.chain = tuple(chain)
        self._names = names
        order = tuple(step.name for step in self.chain)
        self._known: dict[str, _Option] = {
            "isr.steps": _Option(tuple[str, ...], order, "the ISR steps in order")
        }
        for step in self.chain:
            self._known[f"isr.do_{step.name}"] = _Option(
                bool, step.name not in set(off), f"run the step: {step.summary.lower()}"
            )
            self._known.update(_options_of(step.config, f"isr.{step.name}"))
        self._known.update(_options_of(StackConfig, "combine"))
        self._known.update(_options_of(calibration.config, calibration.name))
        self.values = {path: Value(o.default, DEFAULT) for path, o in self._known.items()}
        typed = [(f"-c {text}", *parse_override(text)) for text in overrides]
        for late in (False, True):
            # The combiner is an option itself, so its own options are only known in a second pass.
            if late:
                self._add_combiner(combiners)
            for layer in layers:
                self._apply_layer(layer, late)
            for source, target, option, text in typed:
                self._apply_override(source, target, option, text, late)

    # ---- layering -----------------------------------------------------------------------------
    def _add_combiner(self, combiners: Any) -> None:
        self.combiner: Combiner | None = None
        chosen = self.values.get(f"{self.calibration.name}.combiner")
        if chosen is not None:
            self.combiner = combiners(chosen.value)
            extra = _options_of(self.combiner.config, "combine")
            self._known.update(extra)
            self.values.update({p: Value(o.default, DEFAULT) for p, o in extra.items()})

    def _apply_layer(self, layer: Layer, late: bool) -> None:
        general = {p: v for p, v in layer.values.items() if not p.startswith("for.")}
        special = f"for.{self.calibration.name}."
        scoped = {p[len(special) :]: v for p, v in layer.values.items() if p.startswith(special)}
        for path, value in [*general.items(), *scoped.items()]:
            folded = ".".join(fold(part) for part in path.split("."))
            folded = self._long_form(folded)
            if folded in self._known:
                self._set(folded, value, layer.source)
            elif late and not self._belongs_elsewhere(path, layer.strict):
                raise ConfigError(
                    f"Unknown option {path!r} in {layer.source}.", nearest(folded, self._known)
                )

    def _long_form(self, path: str) -> str:
        """Accept a step or the combiner as a top-level table: ``overscan.fit_type``."""
        head, _, rest = path.partition(".")
        if rest and path not in self._known:
            if any(head == step.name for step in self.chain):
                return f"isr.{path}"
            if self.combiner_name == head:
                return f"combine.{rest}"
            if head in {fold(word) for word in self.calibration.aliases}:
                return f"{self.calibration.name}.{rest}"
        return path

    @property
    def combiner_name(self) -> str:
        """Name of the chosen combiner; empty when the recipe has none."""
        chosen = self.values.get(f"{self.calibration.name}.combiner")
        return str(chosen.value) if chosen else ""

    def _belongs_elsewhere(self, path: str, strict: bool) -> bool:
        """Tell whether a file's path is for a plugin that exists but takes no part in this run."""
        if strict:
            return False
        parts = path.split(".")
        if parts[0] in {"campaign", "repository", "project"}:
            return True
        if parts[0] == "isr" and len(parts) > 1:
            step = fold(parts[1]).removeprefix("do_") if len(parts) == 2 else parts[1]
            mine = {s.name for s in self.chain}
            return step not in mine and step in self._names.names("isr_step")
        others = {"calibration", "combiner", "solver", "isr_step", "verifier", "listener"}
        return parts[0] != self.calibration.name and any(
            parts[0] in self._names.names(kind) for kind in others
        )

    def _apply_override(self, source: str, target: str, option: str, text: str, late: bool) -> None:
        path = self._find(target, fold(option) if "." not in option else option)
        if path is not None:
            self._set(path, text, source)
        elif late:
            self._unknown(source, target, option)

    def _find(self, target: str, option: str) -> str | None:
        calibration = self.calibration
        option = ".".join(fold(part) for part in option.split("."))
        words = {calibration.name, *calibration.aliases}
        if target in words:
            path = f"{calibration.name}.{option}"
            return path if path in self._known else self._find_isr(option)
        if target == "isr":
            return self._find_isr(option)
        if target in {"combine", self.combiner_name}:
            return f"combine.{option}" if f"combine.{option}" in self._known else None
        for step in self.chain:
            if target == step.name or target in step.aliases:
                path = f"isr.{step.name}.{option}"
                return path if path in self._known else None
        return None

    def _find_isr(self, option: str) -> str | None:
        if option.startswith("do_"):
            wanted = option.removeprefix("do_")
            for step in self.chain:
                if wanted == step.name or wanted in step.aliases:
                    return f"isr.do_{step.name}"
            option = wanted if f".{option}" not in "".join(self._known) else option
        if f"isr.{option}" in self._known:
            return f"isr.{option}"
        found = [
            f"isr.{step.name}.{name}"
            for step in self.chain
            for name in (option, f"do_{option}")
            if f"isr.{step.name}.{name}" in self._known
        ]
        if len(found) > 1:
            raise ConfigError(
                f"Option {option!r} belongs to several steps: {', '.join(found)}.",
                "Name the step: -c STEP:option=value.",
            )
        return found[0] if found else None

    def _unknown(self, source: str, target: str, option: str) -> None:
        targets = ["isr", "combine", self.calibration.name, *self.calibration.aliases]
        targets += [step.name for step in self.chain]
        if target not in targets:
            raise ConfigError(
                f"{source}: {target!r} is not part of this {self.calibration.name} run.",
                nearest(target, targets),
            )
        prefix = {"isr": "isr.", "combine": "combine."}.get(target)
        if prefix is None:
            known = any(target == step.name for step in self.chain)
            prefix = f"isr.{target}." if known else f"{self.calibration.name}."
        options = {path.removeprefix(prefix) for path in self._known if path.startswith(prefix)}
        if target == "isr":
            options |= {path.rsplit(".", 1)[-1] for path in options}
        raise ConfigError(
            f"{source}: {target} has no option {option!r}.", nearest(fold(option), options)
        )

    def _set(self, path: str, value: Any, source: str) -> None:
        self.values[path] = Value(_convert(self._known[path].type, value, path, source), source)

    # ---- reading ------------------------------------------------------------------------------
    def step_enabled(self, step: str) -> bool:
        """Tell whether a step runs."""
        return bool(self.values[f"isr.do_{step}"].value)

    def step_options(self, step: str) -> dict[str, Any]:
        """Return the options of a step, by name."""
        return self._under(f"isr.{step}.")

    def _under(self, prefix: str) -> dict[str, Any]:
        return {
            path.removeprefix(prefix): value.value
            for path, value in self.values.items()
            if path.startswith(prefix)
        }

    def steps(self) -> tuple[PlannedStep, ...]:
        """Return the chain in order, with the switch of each step and where it came from."""
        return tuple(
            PlannedStep(
                name=step.name,
                enabled=self.step_enabled(step.name),
                source=self.values[f"isr.do_{step.name}"].source,
                options=self.step_options(step.name),
            )
            for step in self.chain
        )

    def calibration_config(self) -> Config:
        """Return the recipe's options as its own struct."""
        return build(self.calibration.config, self._under(f"{self.calibration.name}."))

    def stack_config(self) -> StackConfig:
        """Return the options of the stack."""
        return build(StackConfig, self._only("combine.", StackConfig))

    def combiner_config(self, combiner: Combiner) -> Config:
        """Return the options of the combiner as its own struct."""
        return build(combiner.config, self._only("combine.", combiner.config))

    def _only(self, prefix: str, config: type[Config]) -> dict[str, Any]:
        names = set(config.__struct_fields__)
        return {name: value for name, value in self._under(prefix).items() if name in names}

    def table(self) -> list[dict[str, Any]]:
        """Return one row per option: path, value, source and sentence."""
        return [
            {
                "option": path,
                "value": _show(value.value),
                "source": value.source,
                "meaning": self._known[path].text,
            }
            for path, value in self.values.items()
        ]

    def schema(self) -> list[dict[str, Any]]:
        """Return one row per option: path, allowed values, default and sentence."""
        return [
            {
                "option": path,
                "type": _type_text(option.type),
                "default": _show(option.default),
                "meaning": option.text,
            }
            for path, option in self._known.items()
        ]

    def as_dict(self) -> dict[str, tuple[Any, str]]:
        """Return path to (value, source), JSON-safe."""
        return {p: (msgspec.to_builtins(v.value), v.source) for p, v in self.values.items()}

    def digest(self) -> str:
        """Return a hash of all values; the same options give the same digest."""
        values = {p: msgspec.to_builtins(v.value) for p, v in sorted(self.values.items())}
        values.pop("combine.memory", None)
        return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()


def build(config: type[T], options: Mapping[str, Any]) -> T:
    """Make an options struct from builtin values (as they travel to a worker)."""
    try:
        return msgspec.convert(dict(options), config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{config.__name__}: {error}.") from None


def _convert(kind: Any, value: Any, path: str, source: str) -> Any:
    """Convert a value, text included, to the type of its option."""
    tries = [value]
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            tries = [text[1:-1]]
        else:
            tries = [text]
            if text.lower() in {"none", "null"}:
                tries.insert(0, None)
            with contextlib.suppress(msgspec.DecodeError):
                tries.append(msgspec.json.decode(text.replace("'", '"')))
            tries.append([part.strip() for part in text.strip("[]()").split(",") if part.strip()])
    first: Exception | None = None
    for candidate in tries:
        try:
            return msgspec.convert(candidate, kind, strict=False)
        except msgspec.ValidationError as error:
            first = first or error
    raise ConfigError(
        f"{path} cannot be {value!r} ({source}): {first}.",
        "`cpplug config schema` prints the allowed values.",
    )


def _type_text(annotation: Any) -> str:
    """Say in words which values a type allows."""
    schema = msgspec.json.schema(annotation)
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    names = {"number": "number", "integer": "whole number", "boolean": "True | False"}
    kinds = schema.get("type") or [part.get("type") for part in schema.get("anyOf", [])]
    kinds = kinds if isinstance(kinds, list) else [kinds]
    text = " | ".join(
        names.get(str(kind), "text" if kind == "string" else str(kind)) for kind in kinds
    )
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return " ".join([text.replace("array", "list"), *limits])


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value) or "(none)"
    return str(value)
