"""What a client can read about the models: rendered from the capability table."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from mcp_seedream.capabilities import Model, ModelTable, Rule, number
from mcp_seedream.journal import Journal
from mcp_seedream.results import listed
from mcp_seedream.schemas import spelled


def add_guide(server: MCPServer, table: ModelTable) -> None:
    """Register the resource `seedream://models`: the table as Markdown, models and parameters."""

    @server.resource(
        "seedream://models",
        name="models",
        title="Seedream models",
        description="Every model: what it is best for, its sizes, limits and parameters",
        mime_type="text/markdown",
    )
    def models() -> str:
        return f"# Models\n\n{models_markdown(table)}\n# Parameters\n\n{parameters_markdown(table)}"


def add_tasks(server: MCPServer, journal: Journal) -> None:
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
    head = "| | model | best for | from text | edits | sizes | WIDTHxHEIGHT | parameters |"
    rows = [head, "|" + " --- |" * (head.count("|") - 1)]
    for model in table.models:
        edits = f"up to {model.max_images}" if model.max_images else "no"
        rows.append(
            f"| {model.label} | {model.name}<br>`{model.id}` | {model.best_for} | {'yes' if model.generate else 'no'} "
            f"| {edits} | {_sizes(model)} | {_dimensions(model)} | {', '.join(f'`{n}`' for n in model.parameters)} |"
        )
    shared = [f"`{name}`" for name, parameter in table.parameters.items() if parameter.every_model]
    limits = table.limits
    return "\n".join(rows) + (
        f"\n\nEvery model takes {', '.join(shared)}. A `WIDTHxHEIGHT` is at most {number(limits.aspect_ratio)} times "
        f"as long as it is wide. Input images and generated ones are at most {limits.images_in_and_out} together. "
        "A call that names no model gets the first of this table that supports everything it asks for.\n"
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


def _sizes(model: Model) -> str:
    needed = {s: name for name, rule in model.parameters.items() for s in rule.sizes or () if s not in model.sizes}
    return ", ".join([*model.sizes, *(f"{size} (with `{name}`)" for size, name in needed.items())])


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
        parts.append(f"default {spelled(rule.default)}")
    if rule.max_images is not None:
        parts.append(f"{rule.max_images} input image{'s' if rule.max_images > 1 else ''}")
    return "; ".join(parts)
