"""What each model can do: reads the capability table, and answers questions about it.

The table (`models.toml`, or the file that SEEDREAM_MODELS_FILE names) is the only place that knows a
model. `read_table` validates it; `ModelTable.choose` decides which model serves a wish and says in
words why one does not. Documents and schemas are computed from the same objects elsewhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_seedream.errors import ConfigurationError, InvalidArguments

Task = Literal["generate", "edit"]
Value = bool | int | float | str
ANY = "*"
"""In a combination: whatever the value is."""

_DIMENSIONS = re.compile(r"(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for, before a model is settled. Values are bare: no wrapping objects."""

    task: Task
    prompt: str = ""
    images: tuple[str, ...] = ()
    size: str | None = None
    options: Mapping[str, Value] = field(default_factory=dict)


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
    description: str
    inside: str | None = None
    listed: bool = False
    neutral: Value | None = None
    tasks: list[Task] = ["generate", "edit"]
    every_model: Rule | None = None
    prompt_optional: bool = False
    counts_outputs: bool = False

    def asks_something(self, value: Value) -> bool:
        return self.neutral is None or value != self.neutral


class Combination(_Frozen):
    """While every value of `when` is given, `needs` must be given too and `excludes` must not."""

    when: dict[str, Value]
    needs: dict[str, Value] = {}
    excludes: dict[str, Value] = {}


class Model(_Frozen):
    """One model of the upstream: an entry of the table."""

    id: Annotated[str, Field(min_length=1)]
    label: str
    name: str
    best_for: str
    generate: bool
    max_images: Annotated[int, Field(ge=0)]
    sizes: list[str]
    pixels: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    sides: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    parameters: dict[str, Rule] = {}

    def __hash__(self) -> int:
        return hash(self.id)

    def does(self, task: Task) -> bool:
        return self.generate if task == "generate" else self.max_images > 0


class Limits(_Frozen):
    """Limits that hold for all models; `image_bytes` is bytes of one decoded input image."""

    aspect_ratio: Annotated[float, Field(ge=1)]
    images_in_and_out: Annotated[int, Field(ge=1)]
    image_bytes: Annotated[int, Field(ge=1)]
    layers: Annotated[int, Field(ge=1)]


class ModelTable(_Frozen):
    """The whole table, models in order of preference."""

    limits: Limits
    parameters: dict[str, Parameter]
    combinations: list[Combination] = []
    models: Annotated[list[Model], Field(min_length=1)]

    @cached_property
    def by_id(self) -> dict[str, Model]:
        return {model.id: model for model in self.models}

    def models_for(self, task: Task) -> list[Model]:
        return [model for model in self.models if model.does(task)]

    def rule(self, model: Model, name: str) -> Rule | None:
        """What `model` takes of the parameter `name`; None: it does not have it."""
        return model.parameters.get(name) or self.parameters[name].every_model

    def parameters_for(self, task: Task) -> dict[str, dict[str, Rule]]:
        """The parameters some model of the task has: name → model id → rule, in the table's order."""
        found: dict[str, dict[str, Rule]] = {}
        for name, parameter in self.parameters.items():
            if task in parameter.tasks:
                rules = {m.id: rule for m in self.models_for(task) if (rule := self.rule(m, name))}
                if rules:
                    found[name] = rules
        return found

    def choose(self, wish: Wish, model_id: str | None = None, excluding: Collection[str] = ()) -> Model:
        """The model that serves the wish: the one named, or the first that supports all of it.

        Args:
            wish: What is asked for.
            model_id: An id, name or label of the table; it is never swapped for another.
            excluding: Ids that the upstream has refused already.

        Raises:
            InvalidArguments: With the rule that is broken, and what would work.
        """
        self._check_combinations(wish)
        if model_id is not None:
            model = self._named(model_id)
            if objection := next(self._objections(model, wish), None):
                raise InvalidArguments(f"{model.id}: {objection.complaint}. {self._advice(objection, wish)}")
            return model
        for model in self.models:
            if model.id not in excluding and next(self._objections(model, wish), None) is None:
                return model
        raise InvalidArguments(self._why_nobody(wish))

    def _named(self, model_id: str) -> Model:
        wanted = model_id.strip().casefold()
        for model in self.models:
            if wanted in (model.id.casefold(), model.name.casefold(), model.label.casefold()):
                return model
        raise InvalidArguments(f"{model_id!r} is not a model of Seedream. Use {either(self.by_id)}.")

    def _check_combinations(self, wish: Wish) -> None:
        if not wish.prompt.strip() and not any(self.parameters[name].prompt_optional for name in self._asked(wish)):
            free = [name for name, p in self.parameters.items() if p.prompt_optional and wish.task in p.tasks]
            unless = f" It may be empty only with {either(free)}." if free else ""
            raise InvalidArguments(f"`prompt` is empty: say what the picture should show.{unless}")
        for rule in self.combinations:
            if not all(_given(wish, name, value) for name, value in rule.when.items()):
                continue
            cause = _assignments(rule.when)
            for name, value in rule.needs.items():
                if not _given(wish, name, value):
                    raise InvalidArguments(f"{cause} needs {_assignments({name: value})}: add that, or drop it.")
            for name, value in rule.excludes.items():
                if _given(wish, name, value):
                    raise InvalidArguments(
                        f"{cause} can't be combined with {_assignments({name: value})}: drop one of them."
                    )
        for name, value in wish.options.items():
            if self.parameters[name].counts_outputs and isinstance(value, int):
                self._check_set_size(wish, name, value)

    def _check_set_size(self, wish: Wish, name: str, count: int) -> None:
        given, most = len(wish.images), self.limits.images_in_and_out
        if given and count and given + count > most:
            raise InvalidArguments(
                f"{given} input images and {count} generated ones are more than {most} together: "
                f"set `{name}` to {most - given} or less, or give fewer images."
            )

    def _asked(self, wish: Wish) -> list[str]:
        return [name for name, value in wish.options.items() if self.parameters[name].asks_something(value)]

    def _objections(self, model: Model, wish: Wish) -> Iterator[_Objection]:
        """Why `model` does not serve the wish."""
        if not model.does(wish.task):
            yield _Objection("task", f"it can't {_DOES[wish.task]}")
        sizes, most, because = model.sizes, model.max_images, ""
        for name in self._asked(wish):
            rule = self.rule(model, name)
            if rule is None or wish.task not in self.parameters[name].tasks:
                yield _Objection(name, f"`{name}` is not one of its parameters")
                continue
            if complaint := rule.complaint(wish.options[name]):
                inside = self.parameters[name].inside
                yield _Objection(name, f"`{name}{f'.{inside}' if inside else ''}` {complaint}")
            if rule.sizes is not None:
                sizes, because = rule.sizes, f" with `{name}`"
            if rule.max_images is not None:
                most, because = min(most, rule.max_images), f" with `{name}`"
        if wish.task == "edit" and len(wish.images) > most:
            yield _Objection("image", f"it takes at most {most} input image{'s' if most > 1 else ''}{because}")
        if wish.size is not None and wish.size not in sizes:
            dimensions = sizes is model.sizes and (model.pixels or model.sides)
            if complaint := self._size_complaint(model, wish.size) if dimensions else f"must be {either(sizes)}":
                yield _Objection("size", f"`size` {wish.size!r} {complaint}{because}")

    def _size_complaint(self, model: Model, size: str) -> str | None:
        match = _DIMENSIONS.fullmatch(size)
        if match is None:
            return f"must be {either([*model.sizes, 'WIDTHxHEIGHT'])}"
        width, height = int(match[1]), int(match[2])
        if model.sides and not (model.sides[0] <= min(width, height) and max(width, height) <= model.sides[1]):
            return f"must have sides from {model.sides[0]} to {model.sides[1]} pixels"
        if model.pixels and not model.pixels[0] <= width * height <= model.pixels[1]:
            return f"must have from {model.pixels[0]:,} to {model.pixels[1]:,} pixels, width x height"
        if max(width, height) > self.limits.aspect_ratio * min(width, height):
            return f"must not be more than {number(self.limits.aspect_ratio)} times as long as it is wide"
        return None

    def _advice(self, objection: _Objection, wish: Wish) -> str:
        """What would work instead of the model that was named."""
        if others := [m.id for m in self.models if next(self._objections(m, wish), None) is None]:
            return f"{either(others)} can serve this call; or leave `model` out."
        return self._why_nobody(wish)

    def _why_nobody(self, wish: Wish) -> str:
        """Either one demand that no model meets, or the rarest one, with what stands against it there."""
        found = {model: list(self._objections(model, wish)) for model in self.models_for(wish.task)}
        demands = dict.fromkeys(objection.about for each in found.values() for objection in each)
        able = {about: [m for m, each in found.items() if all(o.about != about for o in each)] for about in demands}
        rarest = min(able, key=lambda about: len(able[about]))
        if able[rarest]:
            there = _grouped({model: found[model][0] for model in able[rarest]})
            return f"No model supports all of this: `{rarest}` works only with {there}. Drop one of them."
        against = {model: next(o for o in each if o.about == rarest) for model, each in found.items()}
        telling = {model: o for model, o in against.items() if o.complaint != f"`{rarest}` is not one of its parameters"}
        return f"No model can do this: {_grouped(telling or against)}."


@dataclass(frozen=True, slots=True)
class _Objection:
    about: str
    complaint: str


_DOES = {"generate": "generate from text alone (edit_image edits with it)", "edit": "edit images"}


def _grouped(objections: Mapping[Model, _Objection]) -> str:
    """Models with the same complaint together: "5.0, 5.0 Lite (`size` must be …); 4.0 (…)"."""
    groups: dict[str, list[str]] = {}
    for model, objection in objections.items():
        groups.setdefault(objection.complaint, []).append(model.label)
    return "; ".join(f"{', '.join(labels)} ({complaint})" for complaint, labels in groups.items())


def _given(wish: Wish, name: str, value: Value) -> bool:
    return name in wish.options and (value == ANY or wish.options[name] == value)


def _assignments(values: Mapping[str, Value]) -> str:
    return " and ".join(f"`{k}`" if v == ANY else f"`{k}: {str(v).lower()}`" for k, v in values.items())


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
        fault: _Fault | None = (found["loc"], found["msg"])
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
    ids: set[str] = set()
    for index, model in enumerate(table.models):
        if model.id in ids:
            yield ("models", index, "id"), f"{model.id} stands twice"
        ids.add(model.id)
        for key, bounds in (("pixels", model.pixels), ("sides", model.sides)):
            if bounds and not 0 < bounds[0] <= bounds[1]:
                yield ("models", index, key), "the smaller bound comes first"
        for name, rule in model.parameters.items():
            at: _Location = ("models", index, "parameters", name)
            if name not in table.parameters:
                yield at, "is not one of [parameters]"
            elif rule.default is not None and (complaint := rule.complaint(rule.default)):
                yield (*at, "default"), complaint
    for index, combination in enumerate(table.combinations):
        for key in ("when", "needs", "excludes"):
            for name in getattr(combination, key):
                if name not in table.parameters:
                    yield ("combinations", index, key), f"{name} is not one of [parameters]"


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
