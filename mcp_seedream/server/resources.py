"""The resources: documents about models, prompts and earlier tasks for clients.

Models and parameters are rendered from the capability table, as Markdown and as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from typing import Any, get_args

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from mcp_seedream.catalog.references import shortened
from mcp_seedream.catalog.schemas import as_json
from mcp_seedream.catalog.table import Model, ModelTable, Operation, Rule, number
from mcp_seedream.generation.journal import Journal
from mcp_seedream.server.results import history_text

MODEL = "seedream://models/{id}"
"""The resource template of one model."""


def add_resources(server: MCPServer, table: ModelTable, journal: Journal | None) -> None:
    """Register the resources; `seedream://tasks` is one of them if there is a journal."""
    resource = partial(server.resource, mime_type="text/markdown")

    @resource(
        "seedream://models",
        name="models",
        title="Seedream models",
        description="Every model: its purpose, sizes, limits and parameters",
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
    def models_as_json() -> str:
        return json.dumps(models_json(table), ensure_ascii=False)

    @resource(MODEL, name="model", title="One Seedream model", description="One model, by its id, name or short name")
    def model(id: str) -> str:  # noqa: A002  (the variable of the template)
        if known := table.find(id):
            return model_markdown(table, known)
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

    if journal:
        _add_tasks(server, journal)


def _add_tasks(server: MCPServer, journal: Journal) -> None:
    @server.resource(
        "seedream://tasks",
        name="tasks",
        title="Newest tasks",
        description="Tasks made on this machine in the last 30 days: prompts, links, saved files",
        mime_type="text/plain",
    )
    async def tasks() -> str:
        return history_text(await journal.newest())


def prompt_guide(table: ModelTable) -> str:
    """How to write prompts, as Markdown: `guide.md` with models, parameters and limits from the table."""
    by_limit: dict[int, list[Model]] = {}
    for model in table.models_for("edit"):
        by_limit.setdefault(model.max_images, []).append(model)
    without_prompt = [name for name, parameter in table.parameters.items() if parameter.prompt_optional]
    text = files("mcp_seedream.server").joinpath("guide.md").read_text("utf-8")
    return text.format(
        inputs=", ".join(f"{limit} ({_names(models)})" for limit, models in by_limit.items()),
        optional="".join(_guide_without_prompt(table, name) for name in without_prompt),
        sets=_guide_to_sets(table),
    )


def _guide_without_prompt(table: ModelTable, name: str) -> str:
    models = [model for model in table.models if table.rule(model, name)]
    return f"- With `{name}` ({_names(models)}) the prompt may be left out.\n" if models else ""


def _guide_to_sets(table: ModelTable) -> str:
    name = table.count_parameter
    if name is None:
        return ""
    needed = ", ".join(f"`{n}: {as_json(v)}`" for n, v in table.needed_with(name).items())
    return (
        "## Sets of images\n\n"
        "- Give the number of pictures in the prompt, what they share and how they differ: "
        '"Four pictures of the same fox,\n  one for each season, in the same watercolour style."\n'
        f"- {_names(table.models_for_sets())} make sets{f', with {needed}' if needed else ''}. "
        f"`{name}` is the largest number, not the exact one.\n"
        f"- Input and output pictures are at most {table.upstream_limits.images_in_and_out} together.\n\n"
    )


def _names(models: Iterable[Model]) -> str:
    return ", ".join(model.name for model in models)


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
        f"\n\nEvery model accepts {', '.join(shared)}. The aspect ratio of a `WIDTHxHEIGHT` is at most "
        f"{number(limits.aspect_ratio)}:1. Input images and generated ones are at most {limits.images_in_and_out} "
        "together. A named size is an area whose shape the model chooses: 2K is the area of 2048x2048 pixels. A call "
        "that names no model uses the first model of this table that supports the whole call.\n"
    )


def parameters_markdown(table: ModelTable) -> str:
    """The optional parameters as a Markdown table: the effect of each, and the values that each model accepts."""
    rows = ["| parameter | effect | models |", "| --- | --- | --- |"]
    for name, parameter in table.parameters.items():
        labels_by_text: dict[str, list[str]] = {}
        for model in table.models:
            if rule := table.rule(model, name):
                labels_by_text.setdefault(_rule_text(rule), []).append(model.label)
        texts = [
            f"{'all' if len(labels) == len(table.models) else ', '.join(labels)}{f': {text}' if text else ''}"
            for text, labels in labels_by_text.items()
        ]
        rows.append(f"| `{name}` | {parameter.about} | {'<br>'.join(texts)} |")
    return "\n".join(rows) + "\n"


def model_markdown(table: ModelTable, model: Model) -> str:
    """One model as Markdown, with every parameter that it accepts."""
    ratio = (
        f", aspect ratio at most {number(table.upstream_limits.aspect_ratio)}:1" if model.pixels or model.sides else ""
    )
    rows = [
        f"| `{name}` | {parameter.about} | {_rule_text(rule) or 'any'} |"
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
        "| parameter | effect | values |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def models_json(table: ModelTable) -> dict[str, Any]:
    """The models and parameters for programs, without null values."""
    parameters = {
        name: {
            "about": parameter.about,
            "type": "string" if parameter.type == "url" else parameter.type,
            "tasks": [operation for operation in get_args(Operation) if name in table.parameters_for(operation)],
            **({"inside": parameter.object_key} if parameter.object_key else {}),
            **({"list": True} if parameter.in_list else {}),
        }
        for name, parameter in table.parameters.items()
    }
    limits = {
        "aspect_ratio": _whole_number(table.upstream_limits.aspect_ratio),
        "images_in_and_out": table.upstream_limits.images_in_and_out,
    }
    return {"models": [_model_json(table, model) for model in table.models], "parameters": parameters, "limits": limits}


def _model_json(table: ModelTable, model: Model) -> dict[str, Any]:
    rules = {name: rule for name in table.parameters if (rule := table.rule(model, name))}
    fields = {
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
        "typical_seconds": _whole_number(model.typical_seconds),
        "price": model.price and model.price.model_dump(mode="json"),
        "parameters": {name: _rule_json(rule) for name, rule in rules.items()},
    }
    return {key: value for key, value in fields.items() if value is not None}


def _rule_json(rule: Rule) -> dict[str, Any]:
    """A rule with the field names of `models_json`."""
    fields = rule.model_dump(exclude_none=True)
    if len(operations := fields.pop("operations")) == 1:
        fields["tasks"] = operations
    if "max_images" in fields:
        fields["input_images"] = fields.pop("max_images")
    return {key: _whole_number(value) for key, value in fields.items()}


def _whole_number(value: Any) -> Any:
    """The value, as an integer if it is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sizes(model: Model) -> str:
    needs = {s: name for name, rule in model.parameters.items() for s in rule.sizes or () if s not in model.sizes}
    usable = ", ".join([*model.sizes, *(f"{size} (with `{name}`)" for size, name in needs.items())])
    refused = (
        f"by name also {', '.join(model.refused_sizes)}, which the upstream refuses" if model.refused_sizes else ""
    )
    return "; ".join(filter(None, (usable, refused)))


def _best_for(model: Model) -> str:
    withdrawn = (
        f" (withdrawn by the vendor on {model.withdrawn}: accepted by name, and chosen last)" if model.withdrawn else ""
    )
    return model.best_for + withdrawn


def _price(model: Model) -> str:
    if model.price is None:
        return "unknown"
    return f"US$ {' to '.join(f'{usd:.3f}' for usd in model.price.usd)} ({model.price.date:%Y-%m})"


def _dimensions(model: Model) -> str:
    if model.pixels:
        return f"{model.pixels[0]:,} to {model.pixels[1]:,} pixels"
    return f"sides {model.sides[0]} to {model.sides[1]}" if model.sides else "no"


def _rule_text(rule: Rule) -> str:
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
