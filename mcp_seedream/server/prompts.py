"""The prompts that users pick from a client's menu and fill in, and the completions of their arguments.

A prompt becomes a message that asks the model to call one tool with certain arguments. The arguments are checked with
the tool's own checks, so that users see errors at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from mcp_seedream.catalog.table import Model, ModelTable, Operation, area, or_list
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.server.resources import MODEL
from mcp_seedream.upstream.types import wrapped

_MAX_COMPLETIONS = 100  # in one response, according to the protocol
_TOOLS: dict[Operation, str] = {"generate": "generate_image", "edit": "edit_image"}
_LINES = {"text": 'Text in the picture: "{}"', "keep": "Keep as it is: {}", "count": "Number of images: {}"}
"""Arguments that become separate lines of the prompt."""
_MESSAGE = """\
Call the tool `{tool}` once, with exactly these arguments, and show me the result:

```json
{arguments}
```

If the result's status is pending, it has not failed: get_task with its task_id waits for it, free of charge. \
Calling `{tool}` again would be billed again."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt and the call that it asks for.

    Attributes:
        published: The prompt that clients see.
        operation: What the tool does.
        models: The models that support it.
        fixed: Arguments of the tool that do not depend on the user's input.
        count_parameter: The parameter for the prompt's `count`.
    """

    published: Prompt
    operation: Operation
    models: list[Model]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    count_parameter: str | None = None


class Prompts:
    """The prompts and completions of one server.

    Args:
        table: The capability table.
        local: Whether the server runs on the caller's machine, and reads files.
    """

    def __init__(self, table: ModelTable, *, local: bool = False) -> None:
        self._table = table
        self._local = local
        templates = [_create_image(table), _edit_photo(table, local=local)]
        if table.count_parameter:
            templates.append(_image_set(table, table.count_parameter))
        self._templates = {template.published.name: template for template in templates}

    def definitions(self) -> list[Prompt]:
        """The prompts that clients see."""
        return [template.published for template in self._templates.values()]

    def _template(self, name: str) -> Template:
        """The prompt with this name.

        Raises:
            InvalidArguments: It does not exist.
        """
        if name not in self._templates:
            raise InvalidArguments(f"There is no prompt {shortened(name)}, only {', '.join(self._templates)}.")
        return self._templates[name]

    def render(self, name: str, arguments: Mapping[str, str]) -> GetPromptResult:
        """The message of a filled-in prompt.

        Raises:
            InvalidArguments: There is no such prompt, or the tool would refuse the call.
        """
        template = self._template(name)
        filled = _checked_arguments(template, arguments)
        tool_arguments = json.dumps(self._tool_arguments(template, filled), ensure_ascii=False, indent=2)
        text = _MESSAGE.format(tool=_TOOLS[template.operation], arguments=tool_arguments)
        message = PromptMessage(role="user", content=TextContent(type="text", text=text))
        return GetPromptResult(description=template.published.description, messages=[message])

    def _tool_arguments(self, template: Template, filled: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of the tool for a filled-in prompt."""
        lines = [line.format(filled[name]) for name, line in _LINES.items() if name in filled]
        extra = dict(template.fixed)
        if (count := template.count_parameter) and "count" in filled:
            extra[count] = wrapped(self._table, count, int(filled["count"]))
        others = {key: filled[key] for key in ("image", "model", "size") if key in filled}
        raw = {"prompt": "\n".join([filled["prompt"], *lines]), **others, **extra}
        origin: CallOrigin = "local" if self._local else "hosted"
        call = image_call(self._table, template.operation, raw, wait_seconds=0, origin=origin)
        model = choose(self._table, call.spec, call.model)
        checked = {
            "prompt": call.spec.prompt,
            "image": list(call.spec.images),
            "model": model.id if call.model else None,
            "size": call.spec.size,
        }
        return {key: value for key, value in checked.items() if value} | extra

    async def complete(
        self,
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        """Models and sizes for an argument of a prompt, or for the resource template of a model.

        Raises:
            MCPError: There is no such prompt or template.
        """
        models = self._models_for(ref)
        if argument.name == ("model" if isinstance(ref, PromptReference) else "id"):
            return _matching(argument.value, [word for model in models for word in (model.name, model.id)])
        if argument.name == "size" and isinstance(ref, PromptReference):
            chosen = self._table.find(((context and context.arguments) or {}).get("model", ""))
            candidates = [model for model in models if model == chosen] or models
            return _matching(argument.value, sorted({size for model in candidates for size in model.sizes}, key=area))
        return Completion(values=[])

    def _models_for(self, ref: PromptReference | ResourceTemplateReference) -> list[Model]:
        """The models that support a prompt's operation; all of them for the resource template."""
        if isinstance(ref, PromptReference):
            try:
                return self._template(ref.name).models
            except InvalidArguments as error:
                raise MCPError(INVALID_PARAMS, error.message) from error
        if ref.uri != MODEL:
            raise MCPError(INVALID_PARAMS, f"There is no resource template {shortened(ref.uri)}, only {MODEL}.")
        return self._table.models


def _matching(typed: str, values: Iterable[str]) -> Completion:
    """The values that contain the typed text, without duplicates; values that begin with it come first."""
    start = typed.strip().casefold()
    matches = [value for value in dict.fromkeys(values) if start in value.casefold()]
    matches.sort(key=lambda value: not value.casefold().startswith(start))
    return Completion(values=matches[:_MAX_COMPLETIONS], total=len(matches), has_more=len(matches) > _MAX_COMPLETIONS)


def _checked_arguments(template: Template, arguments: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a prompt, without empty ones: clients send an empty field as an empty string."""
    known = template.published.arguments or []
    filled = {name: text.strip() for name, text in arguments.items() if text.strip()}
    if unknown := sorted(filled.keys() - {argument.name for argument in known}):
        names = or_list(argument.name for argument in known)
        raise InvalidArguments(f"{shortened(unknown[0])} is not an argument of this prompt. Use {names}.")
    for argument in known:
        if argument.required and argument.name not in filled:
            raise InvalidArguments(f"`{argument.name}` is missing: {argument.description}.")
    if "count" in filled and not re.fullmatch("[0-9]{1,6}", filled["count"]):
        raise InvalidArguments(f"`count` must be a whole number, not {shortened(filled['count'])}.")
    return filled


def _create_image(table: ModelTable) -> Template:
    arguments = [
        _argument("prompt", "What to show", "What the picture shows, and in which style", required=True),
        _argument("text", "Text in the picture", "Text to show in the picture, exactly as written"),
        *_model_and_size(),
    ]
    published = Prompt(
        name="create_image", title="Create an image", description="A new picture from words", arguments=arguments
    )
    return Template(published, "generate", table.models_for("generate"))


def _edit_photo(table: ModelTable, *, local: bool) -> Template:
    sources = f"{'A path, a' if local else 'A'} link, or task:ID of an earlier result; several as a JSON list"
    arguments = [
        _argument("image", "Photo", sources, required=True),
        _argument("prompt", "What to change", "What to change, and into what", required=True),
        _argument("keep", "What to keep", "What must stay the same"),
        *_model_and_size(),
    ]
    published = Prompt(
        name="edit_photo", title="Edit a photo", description="Change or combine given pictures", arguments=arguments
    )
    return Template(published, "edit", table.models_for("edit"))


def _image_set(table: ModelTable, count_parameter: str) -> Template:
    arguments = [
        _argument("prompt", "What to show", "What the pictures share, and what differs between them", required=True),
        _argument("count", "How many", "Number of pictures; by default, the model decides"),
        *_model_and_size(),
    ]
    published = Prompt(
        name="image_set",
        title="Create a set of images",
        description="Pictures that belong together: a series, a story, variants",
        arguments=arguments,
    )
    return Template(published, "generate", table.models_for_sets(), table.needed_with(count_parameter), count_parameter)


def _model_and_size() -> list[PromptArgument]:
    """The optional arguments of every prompt."""
    return [
        _argument("model", "Model", "Id or name; by default, the first suitable model"),
        _argument("size", "Size", "A named size, WIDTHxHEIGHT, or a shape such as 16:9; by default, the model's own"),
    ]


def _argument(name: str, title: str, description: str, *, required: bool = False) -> PromptArgument:
    return PromptArgument(name=name, title=title, description=description, required=required)
