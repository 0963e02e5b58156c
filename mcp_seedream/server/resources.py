"""The resources: what a client can read about models and prompts, rendered from the capability table."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, get_args

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from mcp_seedream.catalog.references import shortened
from mcp_seedream.catalog.schemas import as_json
from mcp_seedream.catalog.table import Model, ModelTable, Operation, Rule, number
from mcp_seedream.generation.journal import Journal
from mcp_seedream.server.prompt_guide import prompt_guide
from mcp_seedream.server.results import listed

MODEL = "seedream://models/{id}"
"""The resource template of one model."""


def add_guide(server: MCPServer, table: ModelTable) -> None:
    """Register the resources that are rendered from the table: models, one model, and how to write prompts."""
    resource = partial(server.resource, mime_type="text/markdown")

    @resource(
        "seedream://models",
        name="models",
        title="Seedream models",
        description="Every model: what it is best for, its sizes, limits and parameters",
    )
    def models() -> str:
        return f"# Models\n\n{models_markdown(table)}\n# Parameters\n\n{parameters_markdown(table)}"

    @resource(
        "seedream://models.json",
        name="models.json",
        title="Seedream models, as JSON",
        description="The same for programs",
        mime_type="application/json",
    )
    def as_json() -> str:
        return json.dumps(models_json(table), ensure_ascii=False)

    @resource(MODEL, name="model", title="One Seedream model", description="One model, by its id, name or short name")
    def model(id: str) -> str:  # noqa: A002  (the template's own word)
        if found := table.find(id):
            return model_markdown(table, found)
        near = table.nearest(id)
        raise ResourceNotFoundError(
            f"There is no model {shortened(id)}. The nearest is {near.name} ({near.id}); seedream://models lists all."
        )

    @resource(
        "seedream://guide",
        name="guide",
        title="Writing prompts",
        description="How to word prompts: new pictures, edits, sets, text in pictures, Chinese and English",
    )
    def guide() -> str:
        return prompt_guide(table)


def add_journal(server: MCPServer, journal: Journal) -> None:
    """Register the resource `seedream://tasks`: the newest tasks, as the journal has them."""

    @server.resource(
        "seedream://tasks",
        name="tasks",
        title="Newest tasks",
        description="Tasks made on this machine in the last 30 days: prompts, links, saved files",
        mime_type="text/plain",
    )
    async def tasks() -> str:
        return listed(await journal.newest())


def models_markdown(table: ModelTable) -> str:
    """The models as a Markdown table, in order of preference."""
    head = "| | model | best for | from text | edits | sizes | WIDTHxHEIGHT | takes about | costs about | parameters |"
    rows = [head, "|" + " --- |" * (head.count("|") - 1)]
    for model in table.models:
        edits = f"up to {model.max_images}" if model.max_images else "no"
        name, parameters = f"{model.name}<br>`{model.id}`", ", ".join(f"`{n}`" for n in model.parameters)
        cells = [
            model.label, name, _best_for(model), "yes" if model.generate else "no", edits, _sizes(model),
            _dimensions(model), f"{number(model.typical_seconds)} s", _price(model), parameters,
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    shared = [f"`{name}`" for name, parameter in table.parameters.items() if parameter.every_model]
    limits = table.upstream_limits
    return "\n".join(rows) + (
        f"\n\nEvery model takes {', '.join(shared)}. A `WIDTHxHEIGHT` is at most {number(limits.aspect_ratio)} times "
        f"as long as it is wide. Input images and generated ones are at most {limits.images_in_and_out} together. "
        "A named size is an area whose shape the model chooses: 2K is the area of 2048x2048 pixels. A call that names "
        "no model gets the first of this table that supports everything it asks for.\n"
    )


def parameters_markdown(table: ModelTable) -> str:
    """The optional parameters as a Markdown table: what each does, and which models take what."""
    rows = ["| parameter | what it does | models |", "| --- | --- | --- |"]
    for name, parameter in table.parameters.items():
        takers: dict[str, list[str]] = {}
        for model in table.models:
            if rule := table.rule(model, name):
                takers.setdefault(_rule(rule), []).append(model.label)
        texts = [
            f"{'all' if len(labels) == len(table.models) else ', '.join(labels)}{f': {text}' if text else ''}"
            for text, labels in takers.items()
        ]
        rows.append(f"| `{name}` | {parameter.about} | {'<br>'.join(texts)} |")
    return "\n".join(rows) + "\n"


def model_markdown(table: ModelTable, model: Model) -> str:
    """One model as Markdown, with every parameter it takes."""
    ratio = (
        f", at most {number(table.upstream_limits.aspect_ratio)} times as long as wide"
        if model.pixels or model.sides
        else ""
    )
    rows = [
        f"| `{name}` | {parameter.about} | {_rule(rule) or 'any'} |"
        for name, parameter in table.parameters.items()
        if (rule := table.rule(model, name))
    ]
    lines = [
        f"# {model.name}",
        "",
        f"`{model.id}`, for short {model.label}: {_best_for(model)}.",
        "",
        f"- Pictures from text: {'yes' if model.generate else 'no'}",
        f"- Edits: {f'up to {model.max_images} input images' if model.max_images else 'no'}",
        f"- Sizes: {_sizes(model)}",
        f"- WIDTHxHEIGHT: {_dimensions(model)}{ratio}",
        f"- Takes about {number(model.typical_seconds)} s; costs about {_price(model)}",
        "",
        "| parameter | what it does | values |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def models_json(table: ModelTable) -> dict[str, Any]:
    """The models and parameters for programs; what a model or parameter does not have is left out."""
    parameters = {
        name: {
            "about": parameter.about,
            "type": "string" if parameter.type == "url" else parameter.type,
            "tasks": [operation for operation in get_args(Operation) if name in table.parameters_for(operation)],
            **({"inside": parameter.inside} if parameter.inside else {}),
            **({"list": True} if parameter.listed else {}),
        }
        for name, parameter in table.parameters.items()
    }
    limits = {
        "aspect_ratio": _plain(table.upstream_limits.aspect_ratio),
        "images_in_and_out": table.upstream_limits.images_in_and_out,
    }
    return {"models": [_model(table, model) for model in table.models], "parameters": parameters, "limits": limits}


def _model(table: ModelTable, model: Model) -> dict[str, Any]:
    rules = {name: rule for name in table.parameters if (rule := table.rule(model, name))}
    found = {
        "id": model.id,
        "name": model.name,
        "label": model.label,
        "best_for": model.best_for,
        "tasks": [operation for operation in get_args(Operation) if model.supports(operation)],
        "withdrawn": model.withdrawn and str(model.withdrawn),
        "sizes": model.sizes,
        "refused_sizes": model.refused_sizes or None,
        "pixels": model.pixels and dict(zip(("minimum", "maximum"), model.pixels, strict=True)),
        "sides": model.sides and dict(zip(("minimum", "maximum"), model.sides, strict=True)),
        "input_images": model.max_images,
        "typical_seconds": _plain(model.typical_seconds),
        "price": model.price and model.price.model_dump(mode="json"),
        "parameters": {name: _taken(rule) for name, rule in rules.items()},
    }
    return {key: value for key, value in found.items() if value is not None}


def _taken(rule: Rule) -> dict[str, Any]:
    """A rule with the names that `models_json` has for its parts."""
    found = rule.model_dump(exclude_none=True)
    if len(operations := found.pop("operations")) == 1:
        found["tasks"] = operations
    if "max_images" in found:
        found["input_images"] = found.pop("max_images")
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sizes(model: Model) -> str:
    needed = {s: name for name, rule in model.parameters.items() for s in rule.sizes or () if s not in model.sizes}
    taken = ", ".join([*model.sizes, *(f"{size} (with `{name}`)" for size, name in needed.items())])
    refused = f"by name also {', '.join(model.refused_sizes)}, which production refuses" if model.refused_sizes else ""
    return "; ".join(filter(None, (taken, refused)))


def _best_for(model: Model) -> str:
    gone = f" (withdrawn by the vendor on {model.withdrawn}: taken by name, and chosen last)" if model.withdrawn else ""
    return model.best_for + gone


def _price(model: Model) -> str:
    if model.price is None:
        return "unknown"
    return f"US$ {' to '.join(f'{usd:.3f}' for usd in model.price.usd)} ({model.price.date:%Y-%m})"


def _dimensions(model: Model) -> str:
    if model.pixels:
        return f"{model.pixels[0]:,} to {model.pixels[1]:,} pixels"
    return f"sides {model.sides[0]} to {model.sides[1]}" if model.sides else "no"


def _rule(rule: Rule) -> str:
    parts = []
    if rule.values:
        parts.append(", ".join(rule.values))
    if rule.minimum is not None or rule.maximum is not None:
        parts.append(f"{number(rule.minimum)} to {number(rule.maximum)}")
    if rule.default is not None:
        parts.append(f"default {as_json(rule.default)}")
    if rule.max_images is not None:
        parts.append(f"{rule.max_images} input image{'s' if rule.max_images > 1 else ''}")
    return "; ".join(parts)
