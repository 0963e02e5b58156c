"""The input variable with which VS Code asks for the token. VS Code stores the answer in its secret storage.

The list `inputs` is at the top level of VS Code's file: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcp_seedream.install.clients import INPUT, INPUT_VARIABLE
from mcp_seedream.install.json_positions import parsed, value_at
from mcp_seedream.install.jsonc import with_item, without_item


def refers_to_input(value: Any) -> bool:
    """Whether any text in the value contains our input variable."""
    return any(INPUT_VARIABLE in text for text in _texts(value))


def with_input(text: str, inputs: str) -> str:
    """The text with our input variable in its list `inputs`, unless the list has one with the same id.

    Raises:
        ValueError: `inputs` is not a list.
    """
    existing = value_at(text, [inputs])
    names = [each.get("id") for each in existing if isinstance(each, Mapping)] if isinstance(existing, list) else []
    return text if INPUT["id"] in names else with_item(text, [inputs], INPUT)


def without_input(text: str, inputs: str) -> str:
    """The text without our input variable, if it is unused and the user has not changed it."""
    existing = value_at(text, [inputs])
    if not isinstance(existing, list) or INPUT not in existing or refers_to_input(parsed(text)):
        return text
    return without_item(text, [inputs], existing.index(INPUT))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(each)
