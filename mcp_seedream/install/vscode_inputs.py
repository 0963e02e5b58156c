"""What a client asks people for by itself: its settings say what, and refer to the answer, which it keeps elsewhere.

VS Code's is `inputs`, a list at the top of its file: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcp_seedream.install.clients import ASKED, INPUT
from mcp_seedream.install.json_positions import parsed, value_at
from mcp_seedream.install.jsonc import with_item, without_item


def asks_for_ours(value: Any) -> bool:
    """Whether anything in there refers to the answer to our question."""
    return any(ASKED in text for text in _texts(value))


def with_question(text: str, inputs: str) -> str:
    """The text with our question in its list `inputs`, unless one of that name is there: then that one is asked.

    Raises:
        ValueError: `inputs` is something else than a list.
    """
    asked = value_at(text, [inputs])
    names = [each.get("id") for each in asked if isinstance(each, Mapping)] if isinstance(asked, list) else []
    return text if INPUT["id"] in names else with_item(text, [inputs], INPUT)


def without_question(text: str, inputs: str) -> str:
    """The text without our question, if nothing refers to it any more, and it is as we write it."""
    asked = value_at(text, [inputs])
    if not isinstance(asked, list) or INPUT not in asked or asks_for_ours(parsed(text)):
        return text
    return without_item(text, [inputs], asked.index(INPUT))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(each)
