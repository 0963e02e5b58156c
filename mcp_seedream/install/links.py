"""Links that add a server to a client."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mcp_seedream.install.clients import CLIENTS, INPUT, INPUT_VARIABLE, TOKEN


def cursor_links(name: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """A link for web pages, and one that opens Cursor. Source: https://cursor.com/docs/mcp/install-links."""
    config = base64.b64encode(_compact(entry).encode()).decode()
    query = urlencode({"name": name, "config": config}, quote_via=quote)
    return f"https://cursor.com/en/install-mcp?{query}", f"cursor://anysphere.cursor-deeplink/mcp/install?{query}"


def vscode_links(name: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """A link for web pages, and one that opens VS Code, which asks for the token if the entry has the input variable.

    Source: https://code.visualstudio.com/api/extension-guides/ai/mcp and the handler in VS Code's source.
    """
    inputs = [INPUT] if INPUT_VARIABLE in _compact(entry) else []
    query = {"name": name, **({"inputs": _compact(inputs)} if inputs else {}), "config": _compact(entry)}
    settings = {"name": name, **entry, **({"inputs": inputs} if inputs else {})}
    return (
        f"https://insiders.vscode.dev/redirect/mcp/install?{urlencode(query, quote_via=quote)}",
        f"vscode:mcp/install?{quote(_compact(settings), safe='')}",
    )


def entry_without_secret(client: str, command: list[str] | None, url: str, *, token: bool) -> dict[str, Any]:
    """An entry for a link: instead of a token, it has a variable that the client replaces.

    Cursor does not ask for tokens: a local server gets the token from the environment, and a hosted one by sign-in.

    Args:
        client: `cursor` or `vscode`.
        command: The command of the local server; None for the hosted server.
        url: The address of the hosted server.
        token: Whether the server needs a token; the sandbox does not.
    """
    mcp_client = CLIENTS[client]
    variable = INPUT_VARIABLE if mcp_client.inputs else f"${{env:{TOKEN}}}" if command else None
    secret = variable if token else None
    return (
        mcp_client.local_entry(command, {TOKEN: secret} if secret else {})
        if command
        else mcp_client.remote_entry(url, secret)
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
