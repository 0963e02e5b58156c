"""Selection of the model for a call, and error messages for calls that no model supports.

All rules come from the capability table. An error names the broken rule and an alternative. If the caller names no
model, withdrawn models and models with a recent refusal are chosen last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mcp_seedream.catalog import dimensions
from mcp_seedream.catalog.references import kind_of, shortened
from mcp_seedream.catalog.table import ANY, Combination, Model, ModelTable, Operation, Value, area, or_list
from mcp_seedream.core.errors import InvalidArguments

Refusal = tuple[str, str | None]
"""A refusal by the upstream: a model's id, and the refused size, or None if the model itself was refused."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """A requested image, before a model is chosen.

    `size` is a named size or `WIDTHxHEIGHT`; with an `aspect_ratio` (`WIDTH:HEIGHT`) it is a named size or None.
    `options` holds plain values, without the objects and lists that the upstream wraps them in.
    """

    operation: Operation
    prompt: str = ""
    images: Sequence[str] = ()
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
    """Return the named model, or the first model that supports everything in the spec.

    Args:
        table: The capability table.
        spec: The requested image.
        model_id: An id, name or label from the table. A named model is never replaced by another.
        excluding: Refusals of this call. These models are not chosen.
        avoiding: Recent refusals of other calls. These models are chosen only if no other model fits.

    Raises:
        InvalidArguments: The spec breaks a rule of the named model, or of every model; names it and an alternative.
    """
    _check_combinations(table, spec)
    if model_id is not None:
        model = table.find(model_id)
        if model is None:
            names = or_list(table.by_id)
            raise InvalidArguments(f"`model` {shortened(model_id)} is not a model of Seedream. Use {names}.")
        if violation := next(_violations(table, model, spec), None):
            raise InvalidArguments(f"{model.id}: {violation.message}.{_alternative(table, spec, violation)}")
        return model
    capable = capable_models(table, spec)
    if not capable:
        raise InvalidArguments(_no_model_message(table, spec))
    candidates = [model for model in capable if not _is_refused(table, model, spec, excluding)]
    if not candidates:
        refused = or_list(dict.fromkeys(id_ for id_, _ in excluding))
        raise InvalidArguments(f"The upstream refuses {refused}, and no other model can serve this call.")
    # min() returns the first of several minima, so the table's order decides.
    return min(candidates, key=lambda model: _rank(table, model, spec, avoiding))


def sent_size(table: ModelTable, model: Model, spec: ImageSpec) -> str | None:
    """Return the `size` to send to a model that supports the spec."""
    return dimensions.size_for_ratio(table, model, spec.aspect_ratio, spec.size) if spec.aspect_ratio else spec.size


def with_set_size(table: ModelTable, spec: ImageSpec, images: int) -> tuple[ImageSpec, list[str]]:
    """Limit an image set whose size the caller left open to `images`; return the new spec and notes for the caller.

    Without a limit the upstream could generate and bill up to 15 images.
    """
    name = table.count_parameter
    needed = table.needed_with(name) if name else {}
    if name is None or not needed or spec.options.get(name):
        return spec, []
    if not all(_has_value(table, spec, other, value) for other, value in needed.items()):
        return spec, []
    limit = max(1, min(images, table.upstream_limits.images_in_and_out - len(spec.images)))
    note = f"`{name}` was left out, so the set was limited to {limit} image{'s' if limit > 1 else ''}."
    return replace(spec, options={**spec.options, name: limit}), [note]


def sent_options(table: ModelTable, model: Model, spec: ImageSpec) -> dict[str, Value]:
    """Return the options to send to a model: neutral values that it would reject are left out."""
    required = non_neutral_options(table, spec)
    return {
        name: value
        for name, value in spec.options.items()
        if name in required or (_accepts_option(table, model, spec, name) and not _is_excluded(table, spec, name))
    }


def capable_models(table: ModelTable, spec: ImageSpec) -> list[Model]:
    """Return the models that support everything in the spec, in the table's order."""
    return [model for model in table.models if next(_violations(table, model, spec), None) is None]


def accepts_shape(table: ModelTable, model: Model, spec: ImageSpec) -> bool:
    """Whether a model accepts the spec's size and aspect ratio, and the upstream is not known to refuse the size."""
    return spec.size not in model.refused_sizes and all(
        violation.argument not in ("size", "aspect_ratio") for violation in _violations(table, model, spec)
    )


def non_neutral_options(table: ModelTable, spec: ImageSpec) -> list[str]:
    """Return the names of the options whose values have an effect (see `neutral_values` in `models.toml`)."""
    return [name for name, value in spec.options.items() if not table.is_neutral(spec.operation, name, value)]


def requires_input_kind(table: ModelTable, spec: ImageSpec) -> bool:
    """Whether an option works only with certain kinds of input picture, so that pictures must keep their kind."""
    return any(rule.input_kinds and _applies(table, rule, spec) for rule in table.combinations)


def needs_alpha(table: ModelTable, spec: ImageSpec) -> str | None:
    """Return the options that need input pictures with an alpha channel, as text; None if there are none."""
    return next((_assignments(r.when) for r in table.combinations if r.input_alpha and _applies(table, r, spec)), None)


def _is_refused(table: ModelTable, model: Model, spec: ImageSpec, refusals: Collection[Refusal]) -> bool:
    return bool(refusals) and ((model.id, None) in refusals or (model.id, sent_size(table, model, spec)) in refusals)


def _rank(table: ModelTable, model: Model, spec: ImageSpec, avoiding: Collection[Refusal]) -> tuple[bool, bool, bool]:
    """Return the sort key of a model; the lowest is chosen."""
    size = sent_size(table, model, spec)
    sides = dimensions.pixels(size or "")
    wrong_multiple = sides is not None and any(side % model.side_multiple for side in sides)
    likely_refused = size in model.refused_sizes or wrong_multiple
    return model.withdrawn is not None, _is_refused(table, model, spec, avoiding), likely_refused


def _check_combinations(table: ModelTable, spec: ImageSpec) -> None:
    """Check the rules that hold for all models."""
    if not spec.prompt.strip() and not any(
        table.parameters[name].prompt_optional for name in non_neutral_options(table, spec)
    ):
        exceptions = [name for name in table.parameters_for(spec.operation) if table.parameters[name].prompt_optional]
        unless = f" It may be empty only with {or_list(exceptions)}." if exceptions else ""
        raise InvalidArguments(f"`prompt` is empty: describe the picture.{unless}")
    for rule in table.combinations:
        if not _applies(table, rule, spec):
            continue
        cause = _assignments(rule.when)
        for name, value in rule.needs.items():
            if not _has_value(table, spec, name, value):
                raise InvalidArguments(f"{cause} needs {_assignments({name: value})}: give both or neither.")
        for name, value in rule.excludes.items():
            if _has_value(table, spec, name, value):
                raise InvalidArguments(f"{cause} can't be combined with {_assignments({name: value})}: leave one out.")
        for position, image in enumerate(spec.images, 1):
            kind = kind_of(image)
            if rule.input_kinds and kind and kind not in rule.input_kinds:
                raise InvalidArguments(
                    f"{cause} needs {or_list(rule.input_kinds)}, but `image` number {position} is a {kind}."
                )
    inputs, limit = len(spec.images), table.upstream_limits.images_in_and_out
    for name, count in spec.options.items():
        if not (table.parameters[name].counts_outputs and isinstance(count, int)):
            continue
        if inputs and count and inputs + count > limit:
            raise InvalidArguments(
                f"{inputs} input images and {count} generated ones are more than {limit} together: "
                f"set `{name}` to {limit - inputs} or less, or give fewer images."
            )


def _accepts_option(table: ModelTable, model: Model, spec: ImageSpec, name: str) -> bool:
    """Whether a model accepts an option's value in the spec's operation, with the spec's number of input images."""
    rule = table.rule(model, name, spec.operation)
    if rule is None or rule.violation(spec.options[name]):
        return False
    return rule.max_images is None or len(spec.images) <= rule.max_images


def _is_excluded(table: ModelTable, spec: ImageSpec, name: str) -> bool:
    """Whether another option excludes this one, or an option that this one needs is missing."""
    for rule in table.combinations:
        if name in rule.excludes and _applies(table, rule, spec):
            return True
        if rule.when.get(name) in (ANY, spec.options[name]):
            return not all(_has_value(table, spec, other, value) for other, value in rule.needs.items())
    return False


class _Violation(NamedTuple):
    """A rule of a model that a spec breaks: the argument at fault, and a clause that describes the rule."""

    argument: str
    message: str


_OPERATION_NAMES = {"generate": "generate from text alone (edit_image edits with it)", "edit": "edit images"}


def _violations(table: ModelTable, model: Model, spec: ImageSpec) -> Iterator[_Violation]:
    """Yield the rules of a model that the spec breaks."""
    if not model.supports(spec.operation):
        yield _Violation("model", f"it can't {_OPERATION_NAMES[spec.operation]}")
    max_images, with_option = model.max_images, ""
    for name in non_neutral_options(table, spec):
        rule = table.rule(model, name, spec.operation)
        if rule is None:
            yield _Violation(name, f"`{name}` is not one of its parameters")
            continue
        if message := rule.violation(spec.options[name]):
            inside = table.parameters[name].object_key
            yield _Violation(name, f"`{name}{f'.{inside}' if inside else ''}` {message}")
        if rule.max_images is not None:
            max_images, with_option = min(max_images, rule.max_images), f" with `{name}`"
    if spec.operation == "edit" and len(spec.images) > max_images:
        plural = "s" if max_images > 1 else ""
        yield _Violation("image", f"it accepts at most {max_images} input image{plural}{with_option}")
    names, with_option = _size_names(table, model, spec)
    if spec.size is not None and spec.size not in (names if with_option else model.valid_sizes()):
        sides = dimensions.pixels(spec.size) if (model.pixels or model.sides) and not with_option else None
        message = dimensions.violation(table, model, *sides) if sides else f"must be {or_list(names)}"
        if message:
            yield _Violation("size", f"`size` {shortened(spec.size)} {message}{with_option}")
    elif spec.aspect_ratio and (with_option or sent_size(table, model, spec) is None):
        with_size = f" with `size` {spec.size}" if spec.size else ""
        yield _Violation("aspect_ratio", f"`aspect_ratio` {spec.aspect_ratio} does not fit{with_size}{with_option}")


def _size_names(table: ModelTable, model: Model, spec: ImageSpec) -> tuple[list[str], str]:
    """Return the names to list in a size error, and " with `option`" if an option restricts the sizes to them."""
    for name in reversed(non_neutral_options(table, spec)):
        rule = table.rule(model, name, spec.operation)
        if rule and rule.sizes is not None:
            return rule.sizes, f" with `{name}`"
    return [*model.sizes, "WIDTHxHEIGHT"], ""


def _alternative(table: ModelTable, spec: ImageSpec, violation: _Violation) -> str:
    """Return an alternative to the named model, as a sentence with a leading space; empty if there is none."""
    capable = capable_models(table, spec)
    if others := [model.id for model in capable if not model.withdrawn]:
        return f" {or_list(others)} can serve this call; or leave `model` out."
    if capable:
        withdrawn = or_list(f"{model.id} (withdrawn on {model.withdrawn})" for model in capable)
        return f" Only {withdrawn} can serve this call: leave out the arguments that need it."
    # The violation already lists the sizes of the named model.
    return "" if violation.argument == "size" else f" {_no_model_message(table, spec)}"


def _no_model_message(table: ModelTable, spec: ImageSpec) -> str:
    """Return the error for a spec that no model supports.

    It names the argument that the fewest models accept. If some models accept it, the call breaks another rule of each.
    """
    violations = {model: list(_violations(table, model, spec)) for model in table.models_for(spec.operation)}
    arguments = dict.fromkeys(violation.argument for each in violations.values() for violation in each)
    accepting = {
        argument: [model for model, each in violations.items() if all(v.argument != argument for v in each)]
        for argument in arguments
    }
    rarest = min(accepting, key=lambda argument: len(accepting[argument]))
    if accepting[rarest]:
        conflicts = _grouped({model: violations[model][0] for model in accepting[rarest]})
        return f"No model supports the whole call: `{rarest}` works only with {conflicts}. Leave one out."
    if rarest == "size" and dimensions.pixels(spec.size or "") is None:
        return _unknown_size_message(table, spec)
    first = {model: next(v for v in each if v.argument == rarest) for model, each in violations.items()}
    # Models that lack the parameter are left out, unless all models lack it.
    having = {m: v for m, v in first.items() if rarest not in table.parameters or table.rule(m, rarest, spec.operation)}
    return f"No model supports this call: {_grouped(having or first)}."


def _unknown_size_message(table: ModelTable, spec: ImageSpec) -> str:
    """Return the error for a size that no model has, with the sizes of the models that support the rest of the spec."""
    models = capable_models(table, replace(spec, size=None, aspect_ratio=None)) or table.models_for(spec.operation)
    models = [model for model in models if not model.withdrawn] or models
    names = [_size_names(table, model, spec) for model in models]
    sizes = {size for each, _ in names for size in each}
    words = sorted(sizes, key=lambda size: (size == "WIDTHxHEIGHT", area(size), size))
    return f"`size` {shortened(spec.size or '')} must be {or_list(words)}{names[0][1]}."


def _grouped(violations: Mapping[Model, _Violation]) -> str:
    """Group models with the same violation: "5.0, Lite (`size` must be ...); 4.0 (...)"."""
    groups: dict[str, list[str]] = {}
    for model, violation in violations.items():
        groups.setdefault(violation.message, []).append(model.label)
    return "; ".join(f"{', '.join(labels)} ({message})" for message, labels in groups.items())


def _applies(table: ModelTable, rule: Combination, spec: ImageSpec) -> bool:
    return all(_has_value(table, spec, name, value) for name, value in rule.when.items())


def _has_value(table: ModelTable, spec: ImageSpec, name: str, value: Value) -> bool:
    """Whether an option is given with a value; "*" matches every value that is not neutral."""
    if name not in spec.options:
        return False
    actual = spec.options[name]
    return not table.is_neutral(spec.operation, name, actual) if value == ANY else actual == value


def _assignments(values: Mapping[str, Value]) -> str:
    return " and ".join(f"`{k}`" if v == ANY else f"`{k}: {str(v).lower()}`" for k, v in values.items())
