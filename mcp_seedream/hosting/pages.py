"""Public pages: the welcome page for people, the server card for clients, and the body of 404 and 405."""

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
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def welcome_page(server: MCPServer[Any], settings: Settings) -> Route:
    """The page at `/`: a description of the server and how to connect, for people with a browser."""
    template = Template(files("mcp_seedream.hosting").joinpath("welcome.html").read_text("utf-8"))

    async def show(request: Request) -> Response:
        endpoint = _origin(request, settings) + ENDPOINT
        tools = "".join(
            f"<dt><code>{html.escape(tool.name)}</code></dt><dd>{html.escape(tool.description or '')}</dd>"
            for tool in await server.list_tools()
        )
        client = {"url": endpoint, "headers": {"Authorization": "Bearer your-token"}}
        config = json.dumps({"mcpServers": {"seedream": client}}, indent=2)
        values = {"endpoint": endpoint, "config": config, "version": __version__, "token_page": TOKEN_PAGE}
        return HTMLResponse(
            template.substitute({name: html.escape(text) for name, text in values.items()}, tools=tools),
            headers=_SECURITY_HEADERS,
        )

    return Route("/", show)


def server_card(server: MCPServer[Any], settings: Settings) -> Route:
    """The server card: tools, resources, prompts and authentication, for clients and catalogues to read."""

    async def card(request: Request) -> Response:
        content = {
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
            "tools": [_as_json(tool) for tool in await server.list_tools()],
            "resources": [_as_json(resource) for resource in await server.list_resources()],
            "resourceTemplates": [_as_json(template) for template in await server.list_resource_templates()],
            "prompts": [_as_json(prompt) for prompt in await server.list_prompts()],
        }
        # Without a public address, the card contains the address of this request.
        cache = "public, max-age=300" if settings.public_url else "no-store"
        return JSONResponse(content, headers={"Access-Control-Allow-Origin": "*", "Cache-Control": cache})

    return Route(CARD, card)


def not_found_handlers(settings: Settings) -> dict[int, Any]:
    """Handlers of 404 and 405, by status. The body has the endpoint's address, since clients may show it to people."""

    async def show(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        endpoint = _origin(request, settings) + ENDPOINT
        message = f"The MCP endpoint of this server (streamable HTTP) is {endpoint}, not this address."
        body = {"error": error.detail.lower().replace(" ", "_"), "error_description": message}
        return JSONResponse(body, error.status_code, error.headers)

    return {404: show, 405: show}


def _origin(request: Request, settings: Settings) -> str:
    """The origin of this server: the configured one, or that of the request."""
    return settings.public_url or f"{request.url.scheme}://{request.url.netloc}"


def _as_json(item: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = item.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
