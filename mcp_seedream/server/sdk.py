"""The private attributes of the MCP SDK that this project uses.

Each function says why it needs one, and which public hook of the SDK would replace it. No other module touches a
private attribute of the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from mcp.server.mcpserver import MCPServer


def lowlevel_server(server: MCPServer[Any]) -> Server[Any]:
    """The protocol server inside an `MCPServer`.

    `StreamableHTTPSessionManager` takes it. `MCPServer` only gives out an app that it has put together itself, with
    its own middleware and lifespan. A public property of `MCPServer` would replace this.
    """
    return server._lowlevel_server  # noqa: SLF001
