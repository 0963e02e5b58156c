"""What anybody may read of a hosted server: what it is and how to connect, and its card for clients."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from string import Template
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mcp_seedream import __version__
from mcp_seedream.core.errors import TOKEN_PAGE
from mcp_seedream.core.settings import Settings
from mcp_seedream.hosting.middleware import ENDPOINT

CARD = "/.well-known/mcp/server-card.json"
_ALONE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def welcome(server: MCPServer[Any], settings: Settings) -> list[Route]:
    """`/`: for people who open the server's address in a browser."""
    page = Template(files("mcp_seedream.hosting").joinpath("welcome.html").read_text("utf-8"))

    async def show(request: Request) -> Response:
        endpoint = _origin(request, settings) + ENDPOINT
        tools = "".join(
            f"<dt><code>{html.escape(tool.name)}</code></dt><dd>{html.escape(tool.description or '')}</dd>"
            for tool in await server.list_tools()
        )
        client = {"url": endpoint, "headers": {"Authorization": "Bearer your-token"}}
        config = json.dumps({"mcpServers": {"seedream": client}}, indent=2)
        known = {"endpoint": endpoint, "config": config, "version": __version__, "token_page": TOKEN_PAGE}
        return HTMLResponse(
            page.substitute({name: html.escape(text) for name, text in known.items()}, tools=tools), headers=_ALONE
        )

    return [Route("/", show)]


def server_card(server: MCPServer[Any], settings: Settings) -> list[Route]:
    """The server card: what a client or a catalogue wants to know before it connects, from the registered tools."""

    async def card(request: Request) -> Response:
        found = {
            "name": server.name,
            "title": server.title,
            "version": __version__,
            "description": "Generate and edit pictures with ByteDance's Seedream models through AceDataCloud.",
            "instructions": server.instructions,
            "protocolVersions": [*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS],
            "transport": {"type": "streamable-http", "endpoint": _origin(request, settings) + ENDPOINT},
            "authentication": {
                "required": True,
                "schemes": ["bearer", *(["oauth2"] if settings.public_url else [])],
            },
            "tools": [_plain(tool) for tool in await server.list_tools()],
            "resources": [_plain(resource) for resource in await server.list_resources()],
            "resourceTemplates": [_plain(template) for template in await server.list_resource_templates()],
            "prompts": [_plain(prompt) for prompt in await server.list_prompts()],
        }
        kept = "public, max-age=300" if settings.public_url else "no-store"  # else the address is the request's own
        return JSONResponse(found, headers={"Access-Control-Allow-Origin": "*", "Cache-Control": kept})

    return [Route(CARD, card)]


def elsewhere(settings: Settings) -> dict[int, Any]:
    """What is answered where nothing is, by status: where the endpoint is, as its client may show it to people."""

    async def show(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        endpoint = _origin(request, settings) + ENDPOINT
        words = f"The MCP endpoint of this server, for streamable HTTP, is {endpoint}; it is not here."
        body = {"error": error.detail.lower().replace(" ", "_"), "error_description": words}
        return JSONResponse(body, error.status_code, error.headers)

    return {404: show, 405: show}


def _origin(request: Request, settings: Settings) -> str:
    """Where people reach this server: as the operator says, or else as this request did."""
    return settings.public_url or f"{request.url.scheme}://{request.url.netloc}"


def _plain(listed: Any) -> dict[str, Any]:
    found: dict[str, Any] = listed.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found
