"""Chooses the model of a call, and says why a model can't serve one.

Every rule checked here comes from the capability table; an error names the rule, and what would work. Where the caller
names no model, models that are withdrawn, or that refused this call's model or size lately, come last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.references import kind_of, shortened
from mcp_seedream.catalog.table import ANY, Combination, Model, ModelTable, Operation, Value, either
from mcp_seedream.core.errors import InvalidArguments

Refusal = tuple[str, str | None]
"""What production refused: a model's id, and the size that it refused; None: the model itself."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What a caller asks for, before a model is chosen.

    `size` is a named size or `WIDTHxHEIGHT`; with an `aspect_ratio` (`WIDTH:HEIGHT`) it is a named size or None.
    Values of `options` are bare: without the upstream's wrapping objects.
    """

    operation: Operation
    prompt: str = ""
    images: tuple[str, ...] = ()
    size: str | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    aspect_ratio: str | None = None


def choose(
    table: ModelTable,
    spec: ImageSpec,
    model_id: str | None = None,
    *,
    excluding: Collection[Refusal] = (),
    avoiding: Collection[Refusal] = (),
) -> Model:
    """The model that serves a call: the one named, or the first that supports all of it.

    Args:
        table: The capability table.
        spec: What is asked for.
        model_id: An id, name or label of the table; it is never swapped for another.
        excluding: What production refused of this very call.
        avoiding: What production refused lately: chosen only where nothing else fits.

    Raises:
        InvalidArguments: With the rule that is broken, and what would work.
    """
    _check_combinations(table, spec)
    if model_id is not None:
        model = _named(table, model_id)
        if objection := next(_objections(table, model, spec), None):
            raise InvalidArguments(f"{model.id}: {objection.complaint}. {_advice(table, spec)}")
        return model
    able = able_models(table, spec)
    if not able:
        raise InvalidArguments(_why_nobody(table, spec))
    left = [model for model in able if not _is_refused(table, model, spec, excluding)]
    if not left:
        refused = either(dict.fromkeys(id_ for id_, _ in excluding))
        raise InvalidArguments(f"The upstream refuses {refused}, and no other model can serve this call.")
    # The sort is stable: the table's order decides among equals.
    return min(left, key=lambda model: _reluctance(table, model, spec, avoiding))


def sent_size(table: ModelTable, model: Model, spec: ImageSpec) -> str | None:
    """The `size` that is sent to a model that serves the call."""
    return dimensions.shaped(table, model, spec.aspect_ratio, spec.size) if spec.aspect_ratio else spec.size


def with_set_size(table: ModelTable, spec: ImageSpec, images: int) -> tuple[ImageSpec, list[str]]:
    """The call with a size for its set, where it asks for one and leaves the size open, and a note that says so.

    Without a size the upstream would make up to fifteen pictures, each of them billed.
    """
    name = table.counting
    if name is None or not all(_given(table, spec, other, value) for other, value in table.needed_with(name).items()):
        return spec, []
    if spec.options.get(name) or not table.needed_with(name):
        return spec, []
    most = max(1, min(images, table.upstream_limits.images_in_and_out - len(spec.images)))
    note = f"A set of at most {most} image{'s' if most > 1 else ''} was asked for, since `{name}` was left out."
    return replace(spec, options={**spec.options, name: most}), [note]


def sent_options(table: ModelTable, model: Model, spec: ImageSpec) -> dict[str, Value]:
    """The options that are sent to a model: a value that asks for nothing is left out where it would not be taken."""
    asked = asked_options(table, spec)
    return {
        name: value
        for name, value in spec.options.items()
        if name in asked or (_takes(table, model, spec, name) and not _is_excluded(table, spec, name))
    }


def able_models(table: ModelTable, spec: ImageSpec) -> list[Model]:
    """The models that support everything a call asks for, in the table's order."""
    return [model for model in table.models if next(_objections(table, model, spec), None) is None]


def takes_shape(table: ModelTable, model: Model, spec: ImageSpec) -> bool:
    """Whether a model takes the size and shape of a call, and production is not known to refuse it."""
    return spec.size not in model.refused_sizes and all(
        objection.about not in ("size", "aspect_ratio") for objection in _objections(table, model, spec)
    )


def asked_options(table: ModelTable, spec: ImageSpec) -> list[str]:
    """The options whose values ask for something."""
    return [name for name, value in spec.options.items() if not table.is_neutral(spec.operation, name, value)]


def _is_refused(table: ModelTable, model: Model, spec: ImageSpec, refused: Collection[Refusal]) -> bool:
    return bool(refused) and ((model.id, None) in refused or (model.id, sent_size(table, model, spec)) in refused)


def _reluctance(
    table: ModelTable, model: Model, spec: ImageSpec, avoiding: Collection[Refusal]
) -> tuple[bool, bool, bool]:
    """How little a model is to be chosen; the least wins."""
    size = sent_size(table, model, spec)
    sides = dimensions.pixels(size or "")
    uneven = sides is not None and any(side % model.side_multiple for side in sides)
    return model.withdrawn is not None, _is_refused(table, model, spec, avoiding), size in model.refused_sizes or uneven


def keeps_kinds(table: ModelTable, spec: ImageSpec) -> bool:
    """Whether something asked for works only on pictures of certain kinds, so that theirs must be kept."""
    return any(rule.input_kinds and _applies(table, rule, spec) for rule in table.combinations)


def needs_alpha(table: ModelTable, spec: ImageSpec) -> str | None:
    """What asks for pictures with an alpha channel, in words; None: nothing does."""
    return next((_assignments(r.when) for r in table.combinations if r.input_alpha and _applies(table, r, spec)), None)


def _named(table: ModelTable, model_id: str) -> Model:
    if model := table.find(model_id):
        return model
    raise InvalidArguments(f"`model` {shortened(model_id)} is not a model of Seedream. Use {either(table.by_id)}.")


def _check_combinations(table: ModelTable, spec: ImageSpec) -> None:
    if not spec.prompt.strip() and not any(
        table.parameters[name].prompt_optional for name in asked_options(table, spec)
    ):
        free = [name for name in table.parameters_for(spec.operation) if table.parameters[name].prompt_optional]
        unless = f" It may be empty only with {either(free)}." if free else ""
        raise InvalidArguments(f"`prompt` is empty: say what the picture should show.{unless}")
    for rule in table.combinations:
        if not _applies(table, rule, spec):
            continue
        cause = _assignments(rule.when)
        for name, value in rule.needs.items():
            if not _given(table, spec, name, value):
                raise InvalidArguments(f"{cause} needs {_assignments({name: value})}: add that, or drop it.")
        for name, value in rule.excludes.items():
            if _given(table, spec, name, value):
                raise InvalidArguments(
                    f"{cause} can't be combined with {_assignments({name: value})}: drop one of them."
                )
        for position, image in enumerate(spec.images, 1):
            found = kind_of(image)
            if rule.input_kinds and found and found not in rule.input_kinds:
                raise InvalidArguments(
                    f"{cause} takes {either(rule.input_kinds)}, and `image` number {position} is a {found}."
                )
    for name, value in spec.options.items():
        if table.parameters[name].counts_outputs and isinstance(value, int):
            _check_set_size(table, spec, name, value)


def _check_set_size(table: ModelTable, spec: ImageSpec, name: str, count: int) -> None:
    given, most = len(spec.images), table.upstream_limits.images_in_and_out
    if given and count and given + count > most:
        raise InvalidArguments(
            f"{given} input images and {count} generated ones are more than {most} together: "
            f"set `{name}` to {most - given} or less, or give fewer images."
        )


def _takes(table: ModelTable, model: Model, spec: ImageSpec, name: str) -> bool:
    """Whether a model takes an option's value in this operation, with so many pictures."""
    rule = table.rule(model, name, spec.operation)
    if rule is None or rule.complaint(spec.options[name]):
        return False
    return rule.max_images is None or len(spec.images) <= rule.max_images


def _is_excluded(table: ModelTable, spec: ImageSpec, name: str) -> bool:
    """Whether another option leaves no place for this one, or one that it needs is not given."""
    for rule in table.combinations:
        if name in rule.excludes and _applies(table, rule, spec):
            return True
        if rule.when.get(name) in (ANY, spec.options[name]):
            return not all(_given(table, spec, other, value) for other, value in rule.needs.items())
    return False


def _objections(table: ModelTable, model: Model, spec: ImageSpec) -> Iterator[_Objection]:
    """Why `model` does not serve the spec."""
    if not model.does(spec.operation):
        yield _Objection("model", f"it can't {_DOES[spec.operation]}")
    sizes, most, because = model.taken_sizes(), model.max_images, ""
    own_sizes = sizes
    for name in asked_options(table, spec):
        rule = table.rule(model, name, spec.operation)
        if rule is None:
            yield _Objection(name, f"`{name}` is not one of its parameters")
            continue
        if complaint := rule.complaint(spec.options[name]):
            inside = table.parameters[name].inside
            yield _Objection(name, f"`{name}{f'.{inside}' if inside else ''}` {complaint}")
        if rule.sizes is not None:
            sizes, because = rule.sizes, f" with `{name}`"
        if rule.max_images is not None:
            most, because = min(most, rule.max_images), f" with `{name}`"
    if spec.operation == "edit" and len(spec.images) > most:
        yield _Objection("image", f"it takes at most {most} input image{'s' if most > 1 else ''}{because}")
    if spec.size is not None and spec.size not in sizes:
        complaint = f"must be {either(sizes)}" if sizes is not own_sizes else _size_complaint(table, model, spec.size)
        if complaint:
            yield _Objection("size", f"`size` {shortened(spec.size)} {complaint}{because}")
    elif spec.aspect_ratio and (sizes is not own_sizes or sent_size(table, model, spec) is None):
        with_size = f" with `size` {spec.size}" if spec.size else ""
        yield _Objection("aspect_ratio", f"`aspect_ratio` {spec.aspect_ratio} does not fit{with_size}{because}")


def _size_complaint(table: ModelTable, model: Model, size: str) -> str | None:
    sides = dimensions.pixels(size) if model.pixels or model.sides else None
    if sides is None:
        return f"must be {either([*model.sizes, 'WIDTHxHEIGHT'])}"
    return dimensions.complaint(table, model, *sides)


def _advice(table: ModelTable, spec: ImageSpec) -> str:
    """What would work instead of the model that was named."""
    able = able_models(table, spec)
    if others := [model.id for model in able if not model.withdrawn]:
        return f"{either(others)} can serve this call; or leave `model` out."
    if able:
        gone = either(f"{model.id} (withdrawn on {model.withdrawn})" for model in able)
        return f"Only {gone} could serve this call: leave out what only it takes."
    return _why_nobody(table, spec)


def _why_nobody(table: ModelTable, spec: ImageSpec) -> str:
    """Either one demand that no model meets, or the rarest one, with what stands against it there."""
    found = {model: list(_objections(table, model, spec)) for model in table.models_for(spec.operation)}
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


def _applies(table: ModelTable, rule: Combination, spec: ImageSpec) -> bool:
    return all(_given(table, spec, name, value) for name, value in rule.when.items())


def _given(table: ModelTable, spec: ImageSpec, name: str, value: Value) -> bool:
    """Whether an option has a value; "*" is any that asks for something."""
    if name not in spec.options:
        return False
    given = spec.options[name]
    return not table.is_neutral(spec.operation, name, given) if value == ANY else given == value


def _assignments(values: Mapping[str, Value]) -> str:
    return " and ".join(f"`{k}`" if v == ANY else f"`{k}: {str(v).lower()}`" for k, v in values.items())
