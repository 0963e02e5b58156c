"""The prompts, which a person picks from a client's menu and fills in, and completions of their arguments.

Each is rendered to a message that has one tool called with certain arguments. They are checked as the tool itself
checks them, so that whoever fills in a prompt hears at once what can't work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
)

from mcp_seedream.catalog.arguments import CallOrigin, image_call
from mcp_seedream.catalog.references import shortened
from mcp_seedream.catalog.selection import choose
from mcp_seedream.catalog.table import Model, ModelTable, Operation, area, either
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.server.resources import MODEL
from mcp_seedream.upstream.types import wrapped

_MOST_COMPLETIONS = 100  # values in one answer, by the protocol
_TOOLS: dict[Operation, str] = {"generate": "generate_image", "edit": "edit_image"}
_LINES = {"text": 'Text in the picture: "{}"', "keep": "Keep as it is: {}", "count": "Number of images: {}"}
"""Arguments that are told in the prompt, each on a line of its own."""
_MESSAGE = """\
Call the tool `{tool}` once, with exactly these arguments, and show me what comes of it:

```json
{arguments}
```

If the result's status is pending, nothing has failed: get_task with its task_id waits for it, at no cost. \
Calling `{tool}` again would be billed again."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt; `always` are arguments of the tool that it gives each time, `counting` the one that takes `count`."""

    published: Prompt
    operation: Operation
    models: list[Model]
    always: Mapping[str, Any] = field(default_factory=dict)
    counting: str | None = None


class Prompts:
    """The prompts of one server.

    Args:
        table: The capability table.
        local: The server runs on the caller's machine: it reads files.
    """

    def __init__(self, table: ModelTable, *, local: bool = False) -> None:
        self._table = table
        self._local = local
        made = [_create(table), _edit(table, local=local)]
        if table.count_parameter:
            made.append(_set(table, table.count_parameter))
        self._templates = {template.published.name: template for template in made}

    def listed(self) -> list[Prompt]:
        return [template.published for template in self._templates.values()]

    def template(self, name: str) -> Template:
        """The prompt of that name.

        Raises:
            InvalidArguments: There is none.
        """
        if name not in self._templates:
            raise InvalidArguments(f"There is no prompt {shortened(name)}, only {', '.join(self._templates)}.")
        return self._templates[name]

    def rendered(self, name: str, given: Mapping[str, str]) -> GetPromptResult:
        """The message of a prompt that was filled in.

        Raises:
            InvalidArguments: There is no such prompt, or the tool would refuse the call.
        """
        template = self.template(name)
        filled = _filled(template, given)
        arguments = json.dumps(self._arguments(template, filled), ensure_ascii=False, indent=2)
        text = _MESSAGE.format(tool=_TOOLS[template.operation], arguments=arguments)
        message = PromptMessage(role="user", content=TextContent(type="text", text=text))
        return GetPromptResult(description=template.published.description, messages=[message])

    def _arguments(self, template: Template, filled: Mapping[str, str]) -> dict[str, Any]:
        """What the tool is to be called with."""
        words = [line.format(filled[name]) for name, line in _LINES.items() if name in filled]
        extra = dict(template.always)
        if template.counting and "count" in filled:
            extra[template.counting] = wrapped(self._table, template.counting, int(filled["count"]))
        given = {key: filled[key] for key in ("image", "model", "size") if key in filled}
        raw = {"prompt": "\n".join([filled["prompt"], *words]), **given, **extra}
        origin: CallOrigin = "local" if self._local else "hosted"
        call = image_call(self._table, template.operation, raw, wait_seconds=0, origin=origin)
        model = choose(self._table, call.spec, call.model)
        settled = {
            "prompt": call.spec.prompt,
            "image": list(call.spec.images),
            "model": model.id if call.model else None,
            "size": call.spec.size,
        }
        return {key: value for key, value in settled.items() if value} | extra


def add_completions(server: MCPServer, table: ModelTable, prompts: Prompts) -> None:
    """Answer `completion/complete`: models and sizes, for a prompt's arguments and the resource template of a model."""

    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        models = _models_for(table, prompts, ref)
        if argument.name == ("model" if isinstance(ref, PromptReference) else "id"):
            return _matching(argument.value, [word for model in models for word in (model.name, model.id)])
        if argument.name == "size" and isinstance(ref, PromptReference):
            chosen = table.find(((context and context.arguments) or {}).get("model", ""))
            able = [model for model in models if model == chosen] or models
            return _matching(argument.value, sorted({size for model in able for size in model.sizes}, key=area))
        return Completion(values=[])

    server.completion()(complete)  # type: ignore[no-untyped-call]


def _models_for(table: ModelTable, prompts: Prompts, ref: PromptReference | ResourceTemplateReference) -> list[Model]:
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
    return Completion(values=found[:_MOST_COMPLETIONS], total=len(found), has_more=len(found) > _MOST_COMPLETIONS)


def _filled(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """What was filled in; clients send an empty field as an empty text."""
    known = template.published.arguments or []
    filled = {name: text.strip() for name, text in given.items() if text.strip()}
    if unknown := sorted(filled.keys() - {argument.name for argument in known}):
        names = either(argument.name for argument in known)
        raise InvalidArguments(f"{shortened(unknown[0])} is not an argument of this prompt: it takes {names}.")
    for argument in known:
        if argument.required and argument.name not in filled:
            raise InvalidArguments(f"`{argument.name}` is missing: {argument.description}.")
    if "count" in filled and not re.fullmatch("[0-9]{1,6}", filled["count"]):
        raise InvalidArguments(f"`count` must be a whole number, not {shortened(filled['count'])}.")
    return filled


def _create(table: ModelTable) -> Template:
    arguments = [
        _argument("prompt", "What to show", "What the picture shows, and in which style", required=True),
        _argument("text", "Text in the picture", "Words to be read in the picture, exactly as they are written"),
        *_choices(),
    ]
    published = Prompt(
        name="create_image", title="Create an image", description="A new picture from words", arguments=arguments
    )
    return Template(published, "generate", table.models_for("generate"))


def _edit(table: ModelTable, *, local: bool) -> Template:
    sources = f"{'A path, a' if local else 'A'} link, or task:ID of an earlier result; several as a JSON list"
    arguments = [
        _argument("image", "Photo", sources, required=True),
        _argument("prompt", "What to change", "What to change, and into what", required=True),
        _argument("keep", "What to keep", "What has to stay as it is"),
        *_choices(),
    ]
    published = Prompt(
        name="edit_photo", title="Edit a photo", description="Change or combine given pictures", arguments=arguments
    )
    return Template(published, "edit", table.models_for("edit"))


def _set(table: ModelTable, counting: str) -> Template:
    arguments = [
        _argument("prompt", "What to show", "What the pictures share, and what differs between them", required=True),
        _argument("count", "How many", "How many pictures; left out, the model decides"),
        *_choices(),
    ]
    published = Prompt(
        name="image_set",
        title="Create a set of images",
        description="Pictures that belong together: a series, a story, variants",
        arguments=arguments,
    )
    return Template(published, "generate", table.models_for_sets(), table.needed_with(counting), counting)


def _choices() -> list[PromptArgument]:
    """What every prompt can leave to the tool."""
    return [
        _argument("model", "Model", "Id or name; left out, the first that can do it"),
        _argument("size", "Size", "A named size, WIDTHxHEIGHT, or a shape such as 16:9; left out, the model's own"),
    ]


def _argument(name: str, title: str, description: str, *, required: bool = False) -> PromptArgument:
    return PromptArgument(name=name, title=title, description=description, required=required)
