"""Which model serves a wish, and in words why one does not.

Every rule checked here comes from the capability table; an error names the rule, and what would work.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from mcp_seedream.capabilities import ANY, Combination, Model, ModelTable, Operation, Value, either, number
from mcp_seedream.errors import InvalidArguments
from mcp_seedream.references import kind_of, shortened

_DIMENSIONS = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for, before a model is settled. Values are bare: no wrapping objects."""

    operation: Operation
    prompt: str = ""
    images: tuple[str, ...] = ()
    size: str | None = None
    options: Mapping[str, Value] = field(default_factory=dict)


def choose(table: ModelTable, wish: Wish, model_id: str | None = None, excluding: Collection[str] = ()) -> Model:
    """The model that serves the wish: the one named, or the first that supports all of it.

    Args:
        table: The capability table.
        wish: What is asked for.
        model_id: An id, name or label of the table; it is never swapped for another.
        excluding: Ids that the upstream has refused already.

    Raises:
        InvalidArguments: With the rule that is broken, and what would work.
    """
    _check_combinations(table, wish)
    if model_id is not None:
        model = _named(table, model_id)
        if objection := next(_objections(table, model, wish), None):
            raise InvalidArguments(f"{model.id}: {objection.complaint}. {_advice(table, wish)}")
        return model
    able = [model for model in table.models if next(_objections(table, model, wish), None) is None]
    if not able:
        raise InvalidArguments(_why_nobody(table, wish))
    for model in able:
        if model.id not in excluding:
            return model
    raise InvalidArguments(f"The upstream refuses {either(excluding)}, and no other model can serve this call.")


def keeps_kinds(table: ModelTable, wish: Wish) -> bool:
    """Whether something asked for works only on pictures of certain kinds, so that theirs must be kept."""
    return any(rule.input_kinds and _applies(rule, wish) for rule in table.combinations)


def needs_alpha(table: ModelTable, wish: Wish) -> str | None:
    """What asks for pictures with an alpha channel, in words; None: nothing does."""
    return next((_assignments(r.when) for r in table.combinations if r.input_alpha and _applies(r, wish)), None)


def _named(table: ModelTable, model_id: str) -> Model:
    if model := table.find(model_id):
        return model
    raise InvalidArguments(f"`model` {shortened(model_id)} is not a model of Seedream. Use {either(table.by_id)}.")


def _check_combinations(table: ModelTable, wish: Wish) -> None:
    if not wish.prompt.strip() and not any(table.parameters[name].prompt_optional for name in _asked(table, wish)):
        free = [name for name, p in table.parameters.items() if p.prompt_optional and wish.operation in p.operations]
        unless = f" It may be empty only with {either(free)}." if free else ""
        raise InvalidArguments(f"`prompt` is empty: say what the picture should show.{unless}")
    for rule in table.combinations:
        if not _applies(rule, wish):
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
        for position, image in enumerate(wish.images, 1):
            found = kind_of(image)
            if rule.input_kinds and found and found not in rule.input_kinds:
                raise InvalidArguments(
                    f"{cause} takes {either(rule.input_kinds)}, and `image` number {position} is a {found}."
                )
    for name, value in wish.options.items():
        if table.parameters[name].counts_outputs and isinstance(value, int):
            _check_set_size(table, wish, name, value)


def _check_set_size(table: ModelTable, wish: Wish, name: str, count: int) -> None:
    given, most = len(wish.images), table.limits.images_in_and_out
    if given and count and given + count > most:
        raise InvalidArguments(
            f"{given} input images and {count} generated ones are more than {most} together: "
            f"set `{name}` to {most - given} or less, or give fewer images."
        )


def _asked(table: ModelTable, wish: Wish) -> list[str]:
    return [name for name, value in wish.options.items() if table.parameters[name].asks_something(value)]


def _objections(table: ModelTable, model: Model, wish: Wish) -> Iterator[_Objection]:
    """Why `model` does not serve the wish."""
    if not model.does(wish.operation):
        yield _Objection("model", f"it can't {_DOES[wish.operation]}")
    sizes, most, because = model.sizes, model.max_images, ""
    for name in _asked(table, wish):
        rule = table.rule(model, name)
        if rule is None or wish.operation not in table.parameters[name].operations:
            yield _Objection(name, f"`{name}` is not one of its parameters")
            continue
        if complaint := rule.complaint(wish.options[name]):
            inside = table.parameters[name].inside
            yield _Objection(name, f"`{name}{f'.{inside}' if inside else ''}` {complaint}")
        if rule.sizes is not None:
            sizes, because = rule.sizes, f" with `{name}`"
        if rule.max_images is not None:
            most, because = min(most, rule.max_images), f" with `{name}`"
    if wish.operation == "edit" and len(wish.images) > most:
        yield _Objection("image", f"it takes at most {most} input image{'s' if most > 1 else ''}{because}")
    if wish.size is not None and wish.size not in sizes:
        dimensions = sizes is model.sizes and (model.pixels or model.sides)
        if complaint := _size_complaint(table, model, wish.size) if dimensions else f"must be {either(sizes)}":
            yield _Objection("size", f"`size` {shortened(wish.size)} {complaint}{because}")


def _size_complaint(table: ModelTable, model: Model, size: str) -> str | None:
    match = _DIMENSIONS.fullmatch(size)
    if match is None:
        return f"must be {either([*model.sizes, 'WIDTHxHEIGHT'])}"
    width, height = int(match[1]), int(match[2])
    if model.sides and not (model.sides[0] <= min(width, height) and max(width, height) <= model.sides[1]):
        return f"must have sides from {model.sides[0]} to {model.sides[1]} pixels"
    if model.pixels and not model.pixels[0] <= width * height <= model.pixels[1]:
        return f"must have from {model.pixels[0]:,} to {model.pixels[1]:,} pixels, width x height"
    if max(width, height) > table.limits.aspect_ratio * min(width, height):
        return f"must not be more than {number(table.limits.aspect_ratio)} times as long as it is wide"
    return None


def _advice(table: ModelTable, wish: Wish) -> str:
    """What would work instead of the model that was named."""
    if others := [m.id for m in table.models if next(_objections(table, m, wish), None) is None]:
        return f"{either(others)} can serve this call; or leave `model` out."
    return _why_nobody(table, wish)


def _why_nobody(table: ModelTable, wish: Wish) -> str:
    """Either one demand that no model meets, or the rarest one, with what stands against it there."""
    found = {model: list(_objections(table, model, wish)) for model in table.models_for(wish.operation)}
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


def _applies(rule: Combination, wish: Wish) -> bool:
    return all(_given(wish, name, value) for name, value in rule.when.items())


def _given(wish: Wish, name: str, value: Value) -> bool:
    return name in wish.options and (value == ANY or wish.options[name] == value)


def _assignments(values: Mapping[str, Value]) -> str:
    return " and ".join(f"`{k}`" if v == ANY else f"`{k}: {str(v).lower()}`" for k, v in values.items())
