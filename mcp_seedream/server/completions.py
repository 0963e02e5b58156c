"""Completions: models and sizes for whoever fills in a prompt or the resource template of a model."""

from __future__ import annotations

from collections.abc import Iterable

from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_seedream.catalog.references import shortened
from mcp_seedream.catalog.table import Model, ModelTable, area
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.server.prompts import Prompts
from mcp_seedream.server.resources import MODEL

_MOST = 100  # values in one answer, by the protocol


def add_completions(server: MCPServer, table: ModelTable, prompts: Prompts) -> None:
    """Answer `completion/complete`."""

    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        models = _models(table, prompts, ref)
        if argument.name == ("model" if isinstance(ref, PromptReference) else "id"):
            return _matching(argument.value, [word for model in models for word in (model.name, model.id)])
        if argument.name == "size" and isinstance(ref, PromptReference):
            chosen = table.find(((context and context.arguments) or {}).get("model", ""))
            able = [model for model in models if model == chosen] or models
            return _matching(argument.value, sorted({size for model in able for size in model.sizes}, key=area))
        return Completion(values=[])

    server.completion()(complete)  # type: ignore[no-untyped-call]


def _models(table: ModelTable, prompts: Prompts, ref: PromptReference | ResourceTemplateReference) -> list[Model]:
    """Those that can do the prompt's task, or all for the template."""
    if isinstance(ref, PromptReference):
        try:
            return prompts.template(ref.name).models
        except InvalidArguments as error:
            raise MCPError(INVALID_PARAMS, error.message) from error
    if ref.uri != MODEL:
        raise MCPError(INVALID_PARAMS, f"There is no resource template {shortened(ref.uri)}, only {MODEL}.")
    return table.models


def _matching(typed: str, words: Iterable[str]) -> Completion:
    """The words with what was typed in them, each once: first those that begin with it."""
    wanted = typed.strip().casefold()
    found = [word for word in dict.fromkeys(words) if wanted in word.casefold()]
    found.sort(key=lambda word: not word.casefold().startswith(wanted))
    return Completion(values=found[:_MOST], total=len(found), has_more=len(found) > _MOST)
