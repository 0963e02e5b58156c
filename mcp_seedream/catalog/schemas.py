"""The tools' published schemas, computed from the capability table.

Input schemas are plain: one object, no combinators, no references, no null types, since large hosts and
model APIs refuse or mangle those. A description says in a few words which models a parameter is for.
`default` is never published as a keyword: clients that fill it in would ask for things nobody asked for.
"""

from __future__ import annotations

from typing import Any

from mcp_seedream.catalog.table import ANY, Model, ModelTable, Operation, Rule, Value, area, number

Schema = dict[str, Any]

MAX_WAIT_SECONDS = 600
MAX_TASK_IDS = 50
"""Tasks in one look-up request."""

_JSON_TYPES = {"boolean": "boolean", "integer": "integer", "number": "number", "string": "string", "url": "string"}


def image_schema(table: ModelTable, operation: Operation, wait_seconds: float, *, local: bool = False) -> Schema:
    """What `generate_image` or `edit_image` takes.

    Args:
        table: The capability table.
        operation: "generate" or "edit".
        wait_seconds: The default of `wait_seconds`, for its description.
        local: The server runs on the caller's machine: it reads and saves files.
    """
    models = table.models_for(operation)
    properties: Schema = {"prompt": {"type": "string", "description": _prompt_note(table, operation)}}
    if operation == "edit":
        properties["image"] = _image(models, local=local)
    properties["model"] = {
        "type": "string",
        "enum": [model.id for model in models],
        "description": _hints(models),
    }
    properties["size"] = _size(table, operation, models)
    properties["aspect_ratio"] = _aspect_ratio(table)
    for name, rules in table.parameters_for(operation).items():
        properties[name] = _parameter(table, operation, name, rules)
    properties |= _ours(wait_seconds, local=local)
    return _object(properties, ["image"] if operation == "edit" else ["prompt"])


def task_schema(wait_seconds: float, *, local: bool = False) -> Schema:
    """What `get_task` takes; `wait_seconds` is the default of that argument, `local` as for `image_schema`."""
    task_ids = {"type": "array", "items": {"type": "string"}, "maxItems": MAX_TASK_IDS}
    return _object(
        {
            "task_id": {"type": "string", "description": "From an earlier result"},
            "task_ids": task_ids,
            **_ours(wait_seconds, local=local),
        },
        [],
    )


def _ours(wait_seconds: float, *, local: bool) -> Schema:
    """The arguments that are not the upstream's."""
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


def _prompt_note(table: ModelTable, operation: Operation) -> str:
    if operation == "generate":
        return "What to show"
    free = [name for name in table.parameters_for(operation) if table.parameters[name].prompt_optional]
    return "What to change" + (f". Optional with {', '.join(free)}" if free else "")


def _image(models: list[Model], *, local: bool) -> Schema:
    counts = {model.label: model.max_images for model in models}
    return {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": max(counts.values()),
        "description": f"{'Paths, ' if local else ''}URLs, base64, data URIs or task:ID "
        f"(task:ID/2: its second picture). {_fewer(counts)}",
    }


def _hints(models: list[Model]) -> str:
    """What the models are for, those with the same hint together."""
    groups: dict[str, list[str]] = {}
    for model in models:
        if model.hint:
            groups.setdefault(model.hint, []).append(model.label)
    return "; ".join(f"{', '.join(labels)}: {hint}" for hint, labels in groups.items())


def _size(table: ModelTable, operation: Operation, models: list[Model]) -> Schema:
    current = [model for model in models if not model.withdrawn]
    named: dict[str, list[str]] = {}
    for model in current:
        for size in model.sizes:
            named.setdefault(size, []).append(model.label)
    notes = [
        f"{size}{_only(labels, current)}" for size, labels in sorted(named.items(), key=lambda item: area(item[0]))
    ]
    for name, rules in table.parameters_for(operation).items():
        extra = {size for rule in rules.values() for size in rule.sizes or () if size not in named}
        named.update((size, []) for size in sorted(extra))
        notes += [f"{size} (with {name})" for size in sorted(extra)]
    return {
        "type": "string",
        "description": f"An area whose shape the model chooses: {', '.join(notes)}; or WIDTHxHEIGHT",
    }


def _aspect_ratio(table: ModelTable) -> Schema:
    most = number(table.upstream_limits.aspect_ratio)
    return {"type": "string", "description": f"{', '.join(table.aspect_ratios)}, 16:9 or any up to {most}:1"}


def _parameter(table: ModelTable, operation: Operation, name: str, rules: dict[str, Rule]) -> Schema:
    parameter = table.parameters[name]
    value: Schema = {"type": _JSON_TYPES[parameter.type]}
    if values := list(dict.fromkeys(v for rule in rules.values() for v in rule.values or ())):
        value["enum"] = values
    value |= _bounds(rules)
    if parameter.inside:
        value = {"type": "object", "properties": {parameter.inside: value}}
    if parameter.listed:
        value = {"type": "array", "items": value}
    note = " ".join([parameter.hint, *_notes(table, operation, name, rules)]).strip(" .")
    return {**value, "description": note} if note else value


def _bounds(rules: dict[str, Rule]) -> Schema:
    low = [rule.minimum for rule in rules.values() if rule.minimum is not None]
    high = [rule.maximum for rule in rules.values() if rule.maximum is not None]
    bounds: Schema = {"minimum": min(low)} if low else {}
    if high:
        bounds["maximum"] = max(high)
    return {key: int(bound) if bound == int(bound) else bound for key, bound in bounds.items()}


def _notes(table: ModelTable, operation: Operation, name: str, rules: dict[str, Rule]) -> list[str]:
    """Which models it is for, its default, and what it excludes: only what is not true of all."""
    models = table.models_for(operation)
    notes = []
    implied = any(
        n in table.parameters_for(operation) and table.parameters_for(operation)[n].keys() == rules.keys()
        for c in table.combinations
        if name in c.when
        for n in c.needs
    )
    only = "" if implied else _only([table.by_id[id_].label for id_ in rules], models).strip(" ()")
    if only:
        notes.append(f"{only[0].upper()}{only[1:]}." if only.startswith("not") else f"Only {only}.")
    supporters = [table.by_id[id_] for id_ in rules]
    for value in dict.fromkeys(v for rule in rules.values() for v in rule.values or ()):
        having = [table.by_id[id_].label for id_, rule in rules.items() if value in (rule.values or ())]
        if only := _only(having, supporters):
            notes.append(f"{value}{only}.")
    defaults = {rule.default for rule in rules.values()}
    first = (None, *table.parameters[name].neutral, *(rule.values[0] for rule in rules.values() if rule.values))
    if len(defaults) == 1 and (default := defaults.pop()) not in first:
        notes.append(f"Default {spelled(default)}.")
    for rule in table.combinations:
        if name in rule.when:
            notes += [f"Needs {_assigned(n, v)}." for n, v in rule.needs.items()]
            possible = {n: v for n, v in rule.excludes.items() if any(table.rule(m, n) for m in supporters)}
            if possible:
                notes.append(f"Not with {', '.join(_assigned(n, v) for n, v in possible.items())}.")
    return notes


def _only(labels: list[str], models: list[Model]) -> str:
    """A note such as (5.0, 4.5) or (not 4.0), whichever is shorter; empty when it is all of them.

    Withdrawn models are named only where no other has it.
    """
    if current := [model for model in models if not model.withdrawn and model.label in labels]:
        labels, models = [model.label for model in current], [model for model in models if not model.withdrawn]
    others = [model.label for model in models if model.label not in labels]
    if not others:
        return ""
    having, lacking = ", ".join(labels), f"not {', '.join(others)}"
    return f" ({having if len(having) <= len(lacking) else lacking})"


def _fewer(counts: dict[str, int]) -> str:
    """Who takes fewer than the most, which `maxItems` tells: "SeedEdit: 1, Pro: 10"."""
    return ", ".join(f"{label}: {count}" for label, count in counts.items() if count < max(counts.values()))


def _assigned(name: str, value: Value) -> str:
    return name if value in (ANY, True) else f"{name} {spelled(value)}"


def spelled(value: Value | None) -> str:
    """A value as JSON has it: true, not True."""
    return str(value).lower() if isinstance(value, bool) else str(value)
