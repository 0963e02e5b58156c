"""What each model can do: the capability table, read and validated.

The table (`models.toml`, or the file that SEEDREAM_MODELS_FILE names) is the only place that knows a
model. Choices, schemas, documents and the sandbox's rules are computed from the objects of this module.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_seedream.errors import ConfigurationError, why_invalid

Operation = Literal["generate", "edit"]
Value = bool | int | float | str
ANY = "*"
"""In a combination: whatever the value is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_Frozen):
    """What one model takes of one parameter; `sizes` and `max_images` hold while it is used."""

    values: Annotated[list[str], Field(min_length=1)] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: Value | None = None
    sizes: Annotated[list[str], Field(min_length=1)] | None = None
    max_images: Annotated[int, Field(ge=1)] | None = None

    def complaint(self, value: Value) -> str | None:
        """Why `value` breaks the rule ("must be …"), or None."""
        if self.values is not None and value not in self.values:
            return f"must be {either(self.values)}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.minimum, self.maximum
            if (low is not None and value < low) or (high is not None and value > high):
                return f"must be from {number(low)} to {number(high)}"
        return None


class Parameter(_Frozen):
    """One optional field of the upstream's request; see the head of `models.toml`."""

    type: Literal["boolean", "integer", "number", "string", "url"]
    about: str
    hint: str = ""
    inside: str | None = None
    listed: bool = False
    neutral: Value | None = None
    operations: list[Operation] = ["generate", "edit"]
    every_model: Rule | None = None
    prompt_optional: bool = False
    counts_outputs: bool = False
    repeats: bool = False

    def asks_something(self, value: Value) -> bool:
        return self.neutral is None or value != self.neutral


class Combination(_Frozen):
    """While `when` is given, `needs` must be too, `excludes` must not, and input pictures are of `input_kinds`."""

    when: dict[str, Value]
    needs: dict[str, Value] = {}
    excludes: dict[str, Value] = {}
    input_kinds: list[str] = []
    input_alpha: bool = False


class Model(_Frozen):
    """One model of the upstream: an entry of the table."""

    id: Annotated[str, Field(min_length=1)]
    label: str
    name: str
    best_for: str
    hint: str | None = None
    generate: bool
    max_images: Annotated[int, Field(ge=0)]
    sizes: list[str]
    pixels: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    sides: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    parameters: dict[str, Rule] = {}

    def __hash__(self) -> int:
        return hash(self.id)

    def all_sizes(self) -> list[str]:
        """Its named sizes, those included that need a parameter."""
        extra = [size for rule in self.parameters.values() for size in rule.sizes or ()]
        return list(dict.fromkeys([*self.sizes, *extra]))

    def called(self) -> list[str]:
        """What a caller may name it by, casefolded."""
        return [self.id.casefold(), self.label.casefold(), self.name.casefold()]

    def does(self, operation: Operation) -> bool:
        return self.generate if operation == "generate" else self.max_images > 0


class Limits(_Frozen):
    """Limits that hold for all models: bytes and pixels of one input image, hours that a link to a result lives."""

    aspect_ratio: Annotated[float, Field(ge=1)]
    images_in_and_out: Annotated[int, Field(ge=1)]
    image_bytes: Annotated[int, Field(ge=1)]
    image_sides: Annotated[list[int], Field(min_length=2, max_length=2)]
    link_hours: Annotated[float, Field(gt=0)]


class ModelTable(_Frozen):
    """The whole table, models in order of preference."""

    limits: Limits
    parameters: dict[str, Parameter]
    combinations: list[Combination] = []
    models: Annotated[list[Model], Field(min_length=1)]

    @cached_property
    def by_id(self) -> dict[str, Model]:
        return {model.id: model for model in self.models}

    @cached_property
    def sizes(self) -> list[str]:
        """Every named size of any model."""
        return list(dict.fromkeys(size for model in self.models for size in model.all_sizes()))

    def models_for(self, operation: Operation) -> list[Model]:
        return [model for model in self.models if model.does(operation)]

    def find(self, name: str) -> Model | None:
        """The model of that id, name or label; letter case is not held against it."""
        wanted = name.strip().casefold()
        return next((model for model in self.models if wanted in model.called()), None)

    def nearest(self, name: str) -> Model:
        """The model whose id, name or label is most like a text."""
        called = {spelling: model for model in self.models for spelling in model.called()}
        return called[get_close_matches(name[:60].casefold(), called, n=1, cutoff=0)[0]]

    @cached_property
    def counting(self) -> str | None:
        """The parameter that says how many pictures a set may have, if some model makes sets from text."""
        counts = (name for name, parameter in self.parameters.items() if parameter.counts_outputs)
        return next((name for name in counts if any(self.rule(m, name) for m in self.models_for("generate"))), None)

    def models_for_sets(self) -> list[Model]:
        """Those that make sets from text."""
        return [m for m in self.models_for("generate") if self.counting and self.rule(m, self.counting)]

    def needed_with(self, name: str) -> dict[str, Value]:
        """What must be given together with a parameter."""
        return {key: value for c in self.combinations if name in c.when for key, value in c.needs.items()}

    def rule(self, model: Model, name: str) -> Rule | None:
        """What `model` takes of the parameter `name`; None: it does not have it."""
        return model.parameters.get(name) or self.parameters[name].every_model

    def parameters_for(self, operation: Operation) -> dict[str, dict[str, Rule]]:
        """The parameters some model has for the operation: name → model id → rule, in the table's order."""
        found: dict[str, dict[str, Rule]] = {}
        for name, parameter in self.parameters.items():
            if operation in parameter.operations:
                rules = {m.id: rule for m in self.models_for(operation) if (rule := self.rule(m, name))}
                if rules:
                    found[name] = rules
        return found


def side(size: str) -> int | None:
    """The pixels of one side of a square of a named size: so many K are so many times 1024; None: it names none."""
    thousands = re.fullmatch(r"(\d+(?:\.\d+)?)K", size)
    return int(float(thousands[1]) * 1024) if thousands else None


def either(words: Iterable[str]) -> str:
    """Words as a list in prose: "a", "a or b", "a, b or c"."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def number(value: float | None) -> str:
    """A bound as people write it: 10, 2.5, "any" where there is none."""
    return "any" if value is None else f"{value:.15g}"


def read_table(path: Path | None = None) -> ModelTable:
    """Read and validate the table: the built-in one, or the file at `path`.

    Raises:
        ConfigurationError: The file can't be read, or is not such a table; names the line at fault.
    """
    source = str(path) if path else "models.toml"
    try:
        text = path.read_text("utf-8") if path else files(__package__).joinpath("models.toml").read_text("utf-8")
        table = ModelTable.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"The model table {source} can't be read: {error}") from error
    except ValidationError as error:
        # A misspelt key makes two errors, one of them "missing": the misspelling is the one to show.
        found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        fault: _Fault | None = (found["loc"], why_invalid(found))
    else:
        fault = next(_faults(table), None)
    if fault:
        location, message = fault
        where, line = ".".join(str(part) for part in location), _line_of(text, location)
        raise ConfigurationError(f"The model table {source} is wrong at line {line}: {where}: {message}")
    return table


_Location = tuple[int | str, ...]
_Fault = tuple[_Location, str]


def _faults(table: ModelTable) -> Iterator[_Fault]:
    """What is wrong with a table whose every part is well-formed: names and bounds that don't agree."""
    for operation in get_args(Operation):
        if not table.models_for(operation):
            yield ("models",), f"no model can {operation}"
    names: set[str] = set()
    for index, model in enumerate(table.models):
        # A caller may name a model by any of these; within one model they may be the same.
        known = dict(zip(("id", "label", "name"), model.called(), strict=True))
        for key, name in known.items():
            if name in names:
                yield ("models", index, key), f"{name} stands twice"
        names |= set(known.values())
        yield from _model_faults(table, index, model)
    yield from _combination_faults(table)


def _model_faults(table: ModelTable, index: int, model: Model) -> Iterator[_Fault]:
    if not (model.generate or model.max_images):
        yield ("models", index, "generate"), "it neither generates nor edits"
    for key, bounds in (("pixels", model.pixels), ("sides", model.sides)):
        if bounds and not 0 < bounds[0] <= bounds[1]:
            yield ("models", index, key), "the smaller bound comes first"
    for name, rule in model.parameters.items():
        at: _Location = ("models", index, "parameters", name)
        if name not in table.parameters:
            yield at, "is not one of [parameters]"
        elif complaint := _rule_fault(table.parameters[name], rule):
            yield at, complaint


def _combination_faults(table: ModelTable) -> Iterator[_Fault]:
    for index, combination in enumerate(table.combinations):
        for key in ("when", "needs", "excludes"):
            for name in getattr(combination, key):
                if name not in table.parameters:
                    yield ("combinations", index, key), f"{name} is not one of [parameters]"


def _rule_fault(parameter: Parameter, rule: Rule) -> str | None:
    """What does not fit together in one rule, or between it and the type of its parameter."""
    numeric = parameter.type in ("integer", "number")
    if rule.values is not None and parameter.type != "string":
        return f"only a string has values, not a {parameter.type}"
    if (rule.minimum is not None or rule.maximum is not None) and not numeric:
        return f"only a number has bounds, not a {parameter.type}"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        return "minimum is above maximum"
    if rule.default is None:
        return None
    fits = {"boolean": bool, "integer": int, "number": int | float}.get(parameter.type, str)
    if not isinstance(rule.default, fits) or (numeric and isinstance(rule.default, bool)):
        return f"default is not a {parameter.type}"
    return f"default {complaint}" if (complaint := rule.complaint(rule.default)) else None


def _line_of(text: str, location: _Location) -> int:
    """The line where the value at `location` stands, or the nearest thing above it that exists."""
    best, depth = 1, 0
    here: _Location = ()
    seen: dict[str, int] = {}
    for number_, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.\"-]+?)\s*\]", line):
            names = [name.strip('"') for name in header[2].split(".")]
            if header[1] == "[[":
                seen[names[0]] = seen.get(names[0], -1) + 1
            here = (names[0], seen[names[0]], *names[1:]) if names[0] in seen else tuple(names)
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            key_path = (*here, key[1])
            if location[: len(key_path)] == key_path and len(key_path) > depth:
                best, depth = number_, len(key_path)
            continue
        if here and location[: len(here)] == here and len(here) > depth:
            best, depth = number_, len(here)
    return best
