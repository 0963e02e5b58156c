"""The texts and icons that clients get before a call: the server's instructions, and each tool's description and icon.

Texts are short, because models read them in every conversation. Since protocol revision 2026-07-28, every response
includes the server's icon.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mcp_types import Icon, ToolAnnotations

from mcp_seedream import __version__

NAME = "seedream"
"""The server's name in MCP."""
_INSTRUCTIONS = """\
Seedream makes pictures; each generation is billed.
- generate_image: a picture or a set from text alone. edit_image: whenever there is a picture to start from; task:ID \
in `image` is one made here.
- Leave out `model` and `size` unless the user asked for one: the first suitable model is used.
- A result whose status is pending has not failed: get_task with its task_id waits for it, free of charge. Generating \
again would be billed again.
- Resources: seedream://guide on writing prompts, seedream://models on models, sizes and parameters."""
_JOURNAL_INSTRUCTIONS = "\n- get_task without an id lists the newest tasks made on this machine."
LISTING = " Without an id: the newest tasks."
"""The end of the description of `get_task` if there is a journal."""


def _icon(path: str) -> Icon:
    """An SVG path on a canvas of 16 by 16 as a data URI, in a colour that is visible on light and dark backgrounds."""
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0,0,16,16'><path fill='teal' d='{path}'/></svg>"
    return Icon(src="data:image/svg+xml," + quote(svg, safe="=:/',-"))


SERVER_ICON = _icon("M8,15q1-5-1-7-5,0-6-6,5,0,7,5,1-5,7-5,0,6-6,6,0,3,0,7z")  # a seedling
_BILLED = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
TOOLS: dict[str, dict[str, Any]] = {
    "generate_image": {
        "title": "Generate an image",
        "description": (
            "Make a picture from text with Seedream. Leave model and size out unless asked for. Waits and returns "
            "links; if it takes longer, a task id for get_task. Each call is billed."
        ),
        "annotations": _BILLED,
        "icons": [_icon("M8,0q0,8,8,8-8,0-8,8,0-8-8-8,8,0,8-8")],  # a spark
    },
    "edit_image": {
        "title": "Edit images",
        "description": (
            "Change, combine or extend given pictures with Seedream, or split one into layers. "
            "Leave model and size out unless asked for. Waits like generate_image. Each call is billed."
        ),
        "annotations": _BILLED,
        "icons": [_icon("M1,15,2,10,11,1,15,5,6,14z")],  # a pencil
    },
    "get_task": {
        "title": "Get a task's result",
        "description": "Result of an earlier call by its task id, waiting for it if it still runs. Free.",
        "annotations": ToolAnnotations(read_only_hint=True, open_world_hint=True),
        "icons": [_icon("M3,1H13L3,15H13z")],  # an hourglass
    },
}
"""Fields of the SDK's `Tool`, by the tool's name."""


def server_description(*, with_journal: bool) -> dict[str, Any]:
    """Fields of the SDK's `MCPServer` that clients see; with a journal, `get_task` lists the newest tasks."""
    return {
        "name": NAME,
        "title": "Seedream",
        "version": __version__,
        "icons": [SERVER_ICON],
        "instructions": _INSTRUCTIONS + (_JOURNAL_INSTRUCTIONS if with_journal else ""),
    }
