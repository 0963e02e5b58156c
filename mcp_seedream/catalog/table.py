"""What each model can do: the capability table as objects.

The table (`models.toml`, or the file that SEEDREAM_MODELS_FILE names) is the only place that knows a
model. Choices, schemas, documents and the sandbox's rules are computed from the objects of this module;
`table_file` reads and validates the file.
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
"""In a combination: whatever the value is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_Frozen):
    """What one model takes of one parameter, in `operations`; `sizes` and `max_images` hold while it is used."""

    values: Annotated[list[str], Field(min_length=1)] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: Value | None = None
    operations: Annotated[list[Operation], Field(min_length=1)] = ["generate", "edit"]
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
    neutral: list[Value] = []
    every_model: Rule | None = None
    prompt_optional: bool = False
    counts_outputs: bool = False
    repeats: bool = False


class Combination(_Frozen):
    """While `when` is given, `needs` must be too, `excludes` must not, and input pictures are of `input_kinds`."""

    when: dict[str, Value]
    needs: dict[str, Value] = {}
    excludes: dict[str, Value] = {}
    input_kinds: list[str] = []
    input_alpha: bool = False


class Price(_Frozen):
    """What a picture costs in US dollars, from and to, as the vendor published it on a day."""

    usd: Annotated[list[float], Field(min_length=1, max_length=2)]
    date: date


class Model(_Frozen):
    """One model of the upstream: an entry of the table. The head of `models.toml` explains each field."""

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

    def taken_sizes(self) -> list[str]:
        """The named sizes that it takes by name, first those that production takes."""
        return [*self.sizes, *self.refused_sizes]

    def all_sizes(self) -> list[str]:
        """Its named sizes, those included that need a parameter."""
        extra = [size for rule in self.parameters.values() for size in rule.sizes or ()]
        return list(dict.fromkeys([*self.taken_sizes(), *extra]))

    def called(self) -> list[str]:
        """The names that a caller may give it, casefolded."""
        return [self.id.casefold(), self.label.casefold(), self.name.casefold()]

    def does(self, operation: Operation) -> bool:
        return self.generate if operation == "generate" else self.max_images > 0


class UpstreamLimits(_Frozen):
    """Limits that hold for all models: of a picture's shape, of input images, and of a link's life in hours."""

    aspect_ratio: Annotated[float, Field(ge=1)]
    images_in_and_out: Annotated[int, Field(ge=1)]
    image_bytes: Annotated[int, Field(ge=1)]
    image_side: Annotated[int, Field(ge=1)]
    image_megapixels: Annotated[float, Field(gt=0)]
    image_aspect_ratio: Annotated[float, Field(ge=1)]
    link_hours: Annotated[float, Field(gt=0)]


class NamedSizes(_Frozen):
    """Named sizes: the default, the one that leaves the shape to the model, and the step of computed sides."""

    default: str
    any_shape: str
    side_multiple: Annotated[int, Field(ge=1)]


class OtherArgument(_Frozen):
    """Names that other image tools have for an argument, in small letters, and what does the same here."""

    names: Annotated[list[str], Field(min_length=1)]
    instead: str


class ModelTable(_Frozen):
    """The whole table, models in order of preference."""

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
        """Every named size of any model."""
        return list(dict.fromkeys(size for model in self.models for size in model.all_sizes()))

    def models_for(self, operation: Operation) -> list[Model]:
        return [model for model in self.models if model.does(operation)]

    def find(self, name: str) -> Model | None:
        """The model that a name can only mean: its id, name or label, in any spelling ("seedream-4.5", "5.0 pro")."""
        exact = name.strip().casefold()
        found = next((model for model in self.models if exact in model.called()), None)
        return found or self._by_spelling.get(_plain(name))

    @cached_property
    def _by_spelling(self) -> dict[str, Model]:
        """Models by the letters and digits of their names; a spelling that could mean two models is left out."""
        found: dict[str, set[Model]] = {}
        for model in self.models:
            undated = re.sub(r"\W?\d{6}$", "", model.id)
            family, _, version = model.name.partition(" ")
            names = [*model.called(), undated, version, f"{family} {model.label}"]
            for name in (*names, *(re.sub(r"\.0\b", "", name) for name in names)):
                found.setdefault(_plain(name), set()).add(model)
        found.pop("", None)
        return {spelling: models.pop() for spelling, models in found.items() if len(models) == 1}

    @cached_property
    def families(self) -> set[str]:
        """The names that several models share, casefolded ("seedream"): they name none of them."""
        first = [model.name.partition(" ")[0].casefold() for model in self.models]
        return {name for name in first if first.count(name) > 1}

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

    def rule(self, model: Model, name: str, operation: Operation | None = None) -> Rule | None:
        """What `model` takes of the parameter `name` (in an operation); None: it does not have it."""
        rule = model.parameters.get(name) or self.parameters[name].every_model
        return rule if rule and (operation is None or operation in rule.operations) else None

    def is_neutral(self, operation: Operation, name: str, value: Value) -> bool:
        """Whether a value asks for nothing: it is named so in the table, or is the default of all who have it."""
        if any(value is each if isinstance(value, bool) else value == each for each in self.parameters[name].neutral):
            return True
        defaults = {rule.default for rule in self.parameters_for(operation).get(name, {}).values()}
        return len(defaults) == 1 and None not in defaults and value in defaults

    def parameters_for(self, operation: Operation) -> dict[str, dict[str, Rule]]:
        """The parameters some model has for the operation: name → model id → rule, in the table's order."""
        return self._parameters_by_operation[operation]

    @cached_property
    def _parameters_by_operation(self) -> dict[Operation, dict[str, dict[str, Rule]]]:
        found: dict[Operation, dict[str, dict[str, Rule]]] = {operation: {} for operation in get_args(Operation)}
        for operation in get_args(Operation):
            models = self.models_for(operation)
            taken = {
                name: {m.id: r for m in models if (r := self.rule(m, name, operation))} for name in self.parameters
            }
            found[operation] = {name: rules for name, rules in taken.items() if rules}
        return found


def side(size: str) -> int | None:
    """The pixels of one side of a square of a named size: so many K are so many times 1024; None: it names none."""
    thousands = re.fullmatch(r"(\d+(?:\.\d+)?)K", size)
    return int(float(thousands[1]) * 1024) if thousands else None


def area(size: str) -> int:
    """The pixels of a named size; 0: it names no area."""
    square = side(size) or 0
    return square * square


def either(words: Iterable[str]) -> str:
    """Words as a list in prose: "a", "a or b", "a, b or c"."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def number(value: float | None) -> str:
    """A bound as people write it: 10, 2.5, "any" where there is none."""
    return "any" if value is None else f"{value:.15g}"


def _plain(text: str) -> str:
    """The letters and digits of a model's name, casefolded, without what is written before them.

    Other services write `bytedance/seedream-4.5`, `ByteDance Seedream 4.0`, and `fal-ai/bytedance/seedream/v4`.
    """
    bare = re.sub(r"^(?:.*/)?(?:doubao|bytedance)[\W_]*", "", text.strip().casefold())
    return re.sub(r"[\W_]|(?<![^\W_])v(?=\d)", "", bare)
