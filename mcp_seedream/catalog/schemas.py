"""The tools' input schemas, computed from the capability table.

Schemas are plain: one object, without combinators, references or null types, since some MCP hosts and model APIs
reject or change those. A description says which models have a parameter. The `default` keyword is not used, since
some clients then send the default as if the user had asked for it.
"""

from __future__ import annotations

from typing import Any

from mcp_seedream.catalog.table import ANY, Model, ModelTable, Operation, Rule, Value, area, number

Schema = dict[str, Any]

MAX_WAIT_SECONDS = 600
MAX_TASK_IDS = 50
"""Largest number of tasks in one lookup request."""

_JSON_TYPES = {"boolean": "boolean", "integer": "integer", "number": "number", "string": "string", "url": "string"}


def image_schema(table: ModelTable, operation: Operation, wait_seconds: float, *, local: bool = False) -> Schema:
    """Return the input schema of `generate_image` or `edit_image`.

    Args:
        table: The capability table.
        operation: "generate" or "edit".
        wait_seconds: The default of `wait_seconds`.
        local: The server runs on the caller's machine, so it can read and save files.
    """
    models = table.models_for(operation)
    properties: Schema = {"prompt": _prompt(table, operation)}
    if operation == "edit":
        properties["image"] = _image(models, local=local)
    properties["model"] = {
        "type": "string",
        "enum": [model.id for model in models],
        "description": _model_hints(models),
    }
    properties["size"] = _size(table, operation, models)
    properties["aspect_ratio"] = _aspect_ratio(table)
    for name, rules in table.parameters_for(operation).items():
        properties[name] = _parameter(table, operation, name, rules)
    properties |= _server_arguments(wait_seconds, local=local)
    return _object(properties, ["image"] if operation == "edit" else ["prompt"])


def task_schema(wait_seconds: float, *, local: bool = False) -> Schema:
    """Return the input schema of `get_task`; for the arguments see `image_schema`."""
    task_ids = {"type": "array", "items": {"type": "string"}, "maxItems": MAX_TASK_IDS}
    return _object(
        {
            "task_id": {"type": "string", "description": "From an earlier result"},
            "task_ids": task_ids,
            **_server_arguments(wait_seconds, local=local),
        },
        [],
    )


def _server_arguments(wait_seconds: float, *, local: bool) -> Schema:
    """Return the arguments, common to all tools, that this server adds to the upstream's."""
    wait = {
        "type": "number",
        "minimum": 0,
        "maximum": MAX_WAIT_SECONDS,
        "description": f"Default {number(wait_seconds)}, then pending",
    }
    save = {"type": "string", "description": "Folder or file"}
    return {"wait_seconds": wait, "save_to": save} if local else {"wait_seconds": wait}


def _object(properties: Schema, required: list[str]) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def _prompt(table: ModelTable, operation: Operation) -> Schema:
    exceptions = [name for name in table.parameters_for(operation) if table.parameters[name].prompt_optional]
    note = "What to show" if operation == "generate" else "What to change"
    if exceptions and operation == "edit":
        note += f". Optional with {', '.join(exceptions)}"
    return {"type": "string", "maxLength": table.upstream_limits.prompt_characters, "description": note}


def _image(models: list[Model], *, local: bool) -> Schema:
    counts = {model.label: model.max_images for model in models}
    return {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": max(counts.values()),
        "description": f"{'Paths, ' if local else ''}URLs, base64, data URIs or task:ID "
        f"(task:ID/2: its second picture). {_lower_counts(counts)}",
    }


def _model_hints(models: list[Model]) -> str:
    """Return the models' hints, with models that share a hint grouped."""
    groups: dict[str, list[str]] = {}
    for model in models:
        if model.hint:
            groups.setdefault(model.hint, []).append(model.label)
    return "; ".join(f"{', '.join(labels)}: {hint}" for hint, labels in groups.items())


def _size(table: ModelTable, operation: Operation, models: list[Model]) -> Schema:
    current = [model for model in models if not model.withdrawn]
    labels: dict[str, list[str]] = {}
    for model in current:
        for size in model.sizes:
            labels.setdefault(size, []).append(model.label)
    notes = [f"{size}{_model_note(labels[size], current)}" for size in sorted(labels, key=area)]
    for name, rules in table.parameters_for(operation).items():
        extra = {size for rule in rules.values() for size in rule.sizes or () if size not in labels}
        labels.update((size, []) for size in sorted(extra))
        notes += [f"{size} (with {name})" for size in sorted(extra)]
    return {
        "type": "string",
        "description": f"An area whose shape the model chooses: {', '.join(notes)}; or WIDTHxHEIGHT",
    }


def _aspect_ratio(table: ModelTable) -> Schema:
    limit = number(table.upstream_limits.aspect_ratio)
    return {"type": "string", "description": f"{', '.join(table.aspect_ratios)}, 16:9 or any up to {limit}:1"}


def _parameter(table: ModelTable, operation: Operation, name: str, rules: dict[str, Rule]) -> Schema:
    parameter = table.parameters[name]
    value: Schema = {"type": _JSON_TYPES[parameter.type]}
    if values := list(dict.fromkeys(v for rule in rules.values() for v in rule.values or ())):
        value["enum"] = values
    value |= _bounds(rules)
    if parameter.object_key:
        value = {"type": "object", "properties": {parameter.object_key: value}}
    if parameter.in_list:
        value = {"type": "array", "items": value}
    note = " ".join([parameter.hint, *_parameter_notes(table, operation, name, rules)]).strip(" .")
    return {**value, "description": note} if note else value


def _bounds(rules: dict[str, Rule]) -> Schema:
    low = [rule.minimum for rule in rules.values() if rule.minimum is not None]
    high = [rule.maximum for rule in rules.values() if rule.maximum is not None]
    bounds: Schema = {"minimum": min(low)} if low else {}
    if high:
        bounds["maximum"] = max(high)
    return {key: int(bound) if bound == int(bound) else bound for key, bound in bounds.items()}


def _parameter_notes(table: ModelTable, operation: Operation, name: str, rules: dict[str, Rule]) -> list[str]:
    """Return notes on a parameter: its models, values that few models have, its default, and its combinations."""
    notes = []
    supporters = [table.by_id[id_] for id_ in rules]
    # A parameter that needs another one with the same models does not repeat their names.
    implied = any(
        n in table.parameters_for(operation) and table.parameters_for(operation)[n].keys() == rules.keys()
        for c in table.combinations
        if name in c.when
        for n in c.needs
    )
    models = _model_note([model.label for model in supporters], table.models_for(operation)).strip(" ()")
    if models and not implied:
        notes.append(f"{models[0].upper()}{models[1:]}." if models.startswith("not") else f"Only {models}.")
    for value in dict.fromkeys(v for rule in rules.values() for v in rule.values or ()):
        having = [table.by_id[id_].label for id_, rule in rules.items() if value in (rule.values or ())]
        if models := _model_note(having, supporters):
            notes.append(f"{value}{models}.")
    defaults = {rule.default for rule in rules.values()}
    obvious = (
        None,
        *table.parameters[name].neutral_values,
        *(rule.values[0] for rule in rules.values() if rule.values),
    )
    if len(defaults) == 1 and (default := defaults.pop()) not in obvious:
        notes.append(f"Default {as_json(default)}.")
    for rule in table.combinations:
        if name in rule.when:
            notes += [f"Needs {_assignment(n, v)}." for n, v in rule.needs.items()]
            possible = {n: v for n, v in rule.excludes.items() if any(table.rule(m, n) for m in supporters)}
            if possible:
                notes.append(f"Not with {', '.join(_assignment(n, v) for n, v in possible.items())}.")
    return notes


def _model_note(labels: list[str], models: list[Model]) -> str:
    """Return `labels` as a note: the shorter of " (5.0, 4.5)" and " (not 4.0)"; empty for all models.

    Withdrawn models are left out, unless all of the labels are withdrawn.
    """
    if current := [model for model in models if not model.withdrawn and model.label in labels]:
        labels, models = [model.label for model in current], [model for model in models if not model.withdrawn]
    others = [model.label for model in models if model.label not in labels]
    if not others:
        return ""
    included, excluded = ", ".join(labels), f"not {', '.join(others)}"
    return f" ({included if len(included) <= len(excluded) else excluded})"


def _lower_counts(counts: dict[str, int]) -> str:
    """Return the counts below the maximum, which `maxItems` has: "SeedEdit: 1, Pro: 10"."""
    return ", ".join(f"{label}: {count}" for label, count in counts.items() if count < max(counts.values()))


def _assignment(name: str, value: Value) -> str:
    return name if value in (ANY, True) else f"{name} {as_json(value)}"


def as_json(value: Value | None) -> str:
    """Format a value as in JSON: true, not True; strings are not quoted."""
    return str(value).lower() if isinstance(value, bool) else str(value)
