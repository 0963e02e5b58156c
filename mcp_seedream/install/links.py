"""Links that put a server into a client when they are clicked."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mcp_seedream.install.clients import ASKED, CLIENTS, INPUT, TOKEN


def cursor_links(name: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """For web pages, and for Cursor itself; as https://cursor.com/docs/mcp/install-links has them."""
    config = base64.b64encode(_compact(entry).encode()).decode()
    query = urlencode({"name": name, "config": config}, quote_via=quote)
    return f"https://cursor.com/en/install-mcp?{query}", f"cursor://anysphere.cursor-deeplink/mcp/install?{query}"


def vscode_links(name: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """For web pages, and for VS Code itself, which asks for the token if the entry wants one.

    From https://code.visualstudio.com/api/extension-guides/ai/mcp and the handler in VS Code's source.
    """
    inputs = [INPUT] if ASKED in _compact(entry) else []
    query = {"name": name, **({"inputs": _compact(inputs)} if inputs else {}), "config": _compact(entry)}
    whole = {"name": name, **entry, **({"inputs": inputs} if inputs else {})}
    return (
        f"https://insiders.vscode.dev/redirect/mcp/install?{urlencode(query, quote_via=quote)}",
        f"vscode:mcp/install?{quote(_compact(whole), safe='')}",
    )


def entry_without_secret(client: str, command: list[str] | None, url: str, *, token: bool) -> dict[str, Any]:
    """An entry that may stand in a link: where a token belongs is what the client puts one in place of.

    Cursor has no prompts: a local server's token comes from its environment, and at a hosted one people sign in.

    Args:
        client: `cursor` or `vscode`.
        command: The local server; None for the one at `url`.
        url: The hosted server.
        token: Whether a token is wanted; not in the sandbox.
    """
    about = CLIENTS[client]
    asked = ASKED if about.asks else f"${{env:{TOKEN}}}" if command else None
    here = asked if token else None
    return about.local_entry(command, {TOKEN: here} if here else {}) if command else about.remote_entry(url, here)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
