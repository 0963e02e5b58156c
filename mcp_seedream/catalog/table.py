"""The capability table as objects: the models, their parameters and their limits.

The table (`models.toml`, or the file named by SEEDREAM_MODELS_FILE) is the only source of facts about models. Model
choice, schemas, documents and the sandbox's rules are computed from these objects. `table_file` reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Literal, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Operation = Literal["generate", "edit"]
Value = bool | int | float | str
ANY = "*"
"""In a combination: any value that is not neutral."""


class _Frozen(BaseModel):
    # Only the validator of the whole table is needed, and it includes the others.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Rule(_Frozen):
    """The values of one parameter that one model accepts.

    `operations` lists the operations in which the model has the parameter. `sizes` and `max_images` replace the
    model's own values while the parameter is used.
    """

    values: Annotated[list[str], Field(min_length=1)] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: Value | None = None
    operations: Annotated[list[Operation], Field(min_length=1)] = ["generate", "edit"]
    sizes: Annotated[list[str], Field(min_length=1)] | None = None
    max_images: Annotated[int, Field(ge=1)] | None = None

    def violation(self, value: Value) -> str | None:
        """Return how `value` breaks the rule ("must be ..."), or None if it does not."""
        if self.values is not None and value not in self.values:
            return f"must be {or_list(self.values)}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.minimum, self.maximum
            if (low is not None and value < low) or (high is not None and value > high):
                return f"must be from {number(low)} to {number(high)}"
        return None


class Parameter(_Frozen):
    """One optional field of the upstream's request; `models.toml` describes each attribute."""

    type: Literal["boolean", "integer", "number", "string", "url"]
    about: str
    hint: str = ""
    object_key: str | None = None
    in_list: bool = False
    neutral_values: list[Value] = []
    every_model: Rule | None = None
    prompt_optional: bool = False
    counts_outputs: bool = False
    makes_repeatable: bool = False


class Combination(_Frozen):
    """A rule between parameters, in effect while all values in `when` are given.

    `needs` must be given as well, `excludes` must not, and input pictures must be of `input_kinds` and, with
    `input_alpha`, have an alpha channel.
    """

    when: dict[str, Value]
    needs: dict[str, Value] = {}
    excludes: dict[str, Value] = {}
    input_kinds: list[str] = []
    input_alpha: bool = False


class Price(_Frozen):
    """The price of one picture in US dollars (one value, or lowest and highest), and the date of its publication."""

    usd: Annotated[list[float], Field(min_length=1, max_length=2)]
    date: date


class Model(_Frozen):
    """One model of the upstream; `models.toml` describes each attribute."""

    id: Annotated[str, Field(min_length=1)]
    label: str
    name: str
    best_for: str
    hint: str | None = None
    withdrawn: date | None = None
    generate: bool
    max_images: Annotated[int, Field(ge=0)]
    sizes: list[str]
    refused_sizes: list[str] = []
    pixels: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    sides: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    side_multiple: Annotated[int, Field(ge=1)] = 1
    input_megapixels: Annotated[float, Field(gt=0)] | None = None
    input_aspect_ratio: Annotated[float, Field(ge=1)] | None = None
    typical_seconds: Annotated[float, Field(gt=0)] = 30
    price: Price | None = None
    parameters: dict[str, Rule] = {}

    def __hash__(self) -> int:
        return hash(self.id)

    def valid_sizes(self) -> list[str]:
        """Return the named sizes that a caller may request, those that the upstream accepts today first."""
        return [*self.sizes, *self.refused_sizes]

    def all_sizes(self) -> list[str]:
        """Return the valid sizes, and those that are valid only together with a parameter."""
        extra = [size for rule in self.parameters.values() for size in rule.sizes or ()]
        return list(dict.fromkeys([*self.valid_sizes(), *extra]))

    def names(self) -> list[str]:
        """Return its id, label and name, casefolded; a caller may use any of them."""
        return [self.id.casefold(), self.label.casefold(), self.name.casefold()]

    def supports(self, operation: Operation) -> bool:
        return self.generate if operation == "generate" else self.max_images > 0


class UpstreamLimits(_Frozen):
    """Limits of the upstream for all models; `models.toml` describes each attribute."""

    aspect_ratio: Annotated[float, Field(ge=1)]
    images_in_and_out: Annotated[int, Field(ge=1)]
    image_bytes: Annotated[int, Field(ge=1)]
    image_side: Annotated[int, Field(ge=1)]
    image_megapixels: Annotated[float, Field(gt=0)]
    image_aspect_ratio: Annotated[float, Field(ge=1)]
    link_hours: Annotated[float, Field(gt=0)]
    prompt_characters: Annotated[int, Field(ge=1)] = 20_000


class NamedSizes(_Frozen):
    """The named sizes with a special meaning: the default, and the size with which the model chooses the shape.

    Sides that are computed from an aspect ratio are multiples of `side_multiple`.
    """

    default: str
    any_shape: str
    side_multiple: Annotated[int, Field(ge=1)]


class OtherArgument(_Frozen):
    """Lower-case argument names of other image tools, and the advice that an error gives for them."""

    names: Annotated[list[str], Field(min_length=1)]
    instead: str


class ModelTable(_Frozen):
    """The whole table; `models` are in order of preference."""

    upstream_limits: UpstreamLimits = Field(validation_alias=AliasChoices("limits", "upstream_limits"))
    named_sizes: NamedSizes
    aspect_ratios: dict[str, str] = {}
    other_arguments: list[OtherArgument] = []
    parameters: dict[str, Parameter]
    combinations: list[Combination] = []
    models: Annotated[list[Model], Field(min_length=1)]

    @cached_property
    def by_id(self) -> dict[str, Model]:
        return {model.id: model for model in self.models}

    @cached_property
    def sizes(self) -> list[str]:
        """The named sizes of all models."""
        return list(dict.fromkeys(size for model in self.models for size in model.all_sizes()))

    def models_for(self, operation: Operation) -> list[Model]:
        return [model for model in self.models if model.supports(operation)]

    def find(self, name: str) -> Model | None:
        """Return the model with an id, name or label; None if no model or several models match.

        Spelling variants such as "seedream-4.5" and "5.0 pro" match as well.
        """
        exact = name.strip().casefold()
        match = next((model for model in self.models if exact in model.names()), None)
        return match or self._by_normalized_name.get(_normalized(name))

    @cached_property
    def _by_normalized_name(self) -> dict[str, Model]:
        """Models by the normalized variants of their names, without those that match several models."""
        by_name: dict[str, set[Model]] = {}
        for model in self.models:
            undated = re.sub(r"\W?\d{6}$", "", model.id)
            family, _, version = model.name.partition(" ")
            names = [*model.names(), undated, version, f"{family} {model.label}"]
            for name in (*names, *(re.sub(r"\.0\b", "", name) for name in names)):
                by_name.setdefault(_normalized(name), set()).add(model)
        by_name.pop("", None)
        return {name: models.pop() for name, models in by_name.items() if len(models) == 1}

    @cached_property
    def families(self) -> set[str]:
        """Casefolded first words that several model names share, such as "seedream"; they identify no single model."""
        first_words = [model.name.partition(" ")[0].casefold() for model in self.models]
        return {word for word in first_words if first_words.count(word) > 1}

    def nearest(self, name: str) -> Model:
        """Return the model whose id, name or label is most similar to `name`."""
        by_name = {known: model for model in self.models for known in model.names()}
        return by_name[get_close_matches(name[:60].casefold(), by_name, n=1, cutoff=0)[0]]

    @cached_property
    def count_parameter(self) -> str | None:
        """The parameter for the number of pictures in a set; None if no model generates sets from text."""
        counts = (name for name, parameter in self.parameters.items() if parameter.counts_outputs)
        return next((name for name in counts if any(self.rule(m, name) for m in self.models_for("generate"))), None)

    def models_for_sets(self) -> list[Model]:
        """Return the models that generate sets from text."""
        return [m for m in self.models_for("generate") if self.count_parameter and self.rule(m, self.count_parameter)]

    def needed_with(self, name: str) -> dict[str, Value]:
        """Return the parameters, with their values, that must be given together with a parameter."""
        return {key: value for c in self.combinations if name in c.when for key, value in c.needs.items()}

    def rule(self, model: Model, name: str, operation: Operation | None = None) -> Rule | None:
        """Return the model's rule for a parameter; None if the model, or the operation, does not have it."""
        rule = model.parameters.get(name) or self.parameters[name].every_model
        return rule if rule and (operation is None or operation in rule.operations) else None

    def is_neutral(self, operation: Operation, name: str, value: Value) -> bool:
        """Whether a value has no effect: the table lists it as neutral, or it is the default of all models."""
        # An identity check for booleans, since True == 1.
        if any(
            value is each if isinstance(value, bool) else value == each for each in self.parameters[name].neutral_values
        ):
            return True
        defaults = {rule.default for rule in self.parameters_for(operation).get(name, {}).values()}
        return len(defaults) == 1 and None not in defaults and value in defaults

    def parameters_for(self, operation: Operation) -> dict[str, dict[str, Rule]]:
        """Return the rules of an operation as {parameter: {model id: rule}}, in the table's order."""
        return self._parameters_by_operation[operation]

    @cached_property
    def _parameters_by_operation(self) -> dict[Operation, dict[str, dict[str, Rule]]]:
        by_operation: dict[Operation, dict[str, dict[str, Rule]]] = {}
        for operation in get_args(Operation):
            models = self.models_for(operation)
            rules = {
                name: {m.id: r for m in models if (r := self.rule(m, name, operation))} for name in self.parameters
            }
            by_operation[operation] = {name: by_model for name, by_model in rules.items() if by_model}
        return by_operation


def side(size: str) -> int | None:
    """Return the side in pixels of the square with a named size's area ("2K" is 2048); None for other sizes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)K", size)
    return int(float(match[1]) * 1024) if match else None


def area(size: str) -> int:
    """Return the area of a named size in pixels; 0 for other sizes."""
    square = side(size) or 0
    return square * square


def or_list(words: Iterable[str]) -> str:
    """Join words with commas and "or": "a", "a or b", "a, b or c"."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def number(value: float | None) -> str:
    """Format a bound: "10", "2.5", or "any" for None."""
    return "any" if value is None else f"{value:.15g}"


def _normalized(text: str) -> str:
    """Reduce a model's name to its casefolded letters and digits, without a leading vendor's name.

    Other services write `bytedance/seedream-4.5`, `ByteDance Seedream 4.0` and `fal-ai/bytedance/seedream/v4`.
    """
    bare = re.sub(r"^(?:.*/)?(?:doubao|bytedance)[\W_]*", "", text.strip().casefold())
    return re.sub(r"[\W_]|(?<![^\W_])v(?=\d)", "", bare)
