"""A bare server of the SDK, with one tool that sleeps: over stdio, or over HTTP with a port as argument."""

from __future__ import annotations

import sys

import anyio
from mcp.server.mcpserver import MCPServer


def build() -> MCPServer:
    """As short as a server can be."""
    server = MCPServer("bare")

    @server.tool()
    async def sleep(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "slept"

    return server


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build().run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
    else:
        build().run("stdio")
