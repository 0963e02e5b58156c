"""A picture with Pydantic AI.

pip install "pydantic-ai-slim[mcp,openai]"
OPENAI_API_KEY=… python pydantic_ai_agent.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")


def connection() -> MCPToolset:
    if SERVER.startswith("http"):
        return MCPToolset(SERVER, auth=TOKEN, include_instructions=True)
    local = StdioTransport(SERVER, [] if TOKEN else ["--sandbox"], env=dict(os.environ))
    return MCPToolset(local, include_instructions=True)


async def main(prompt: str) -> None:
    painter = Agent(
        "openai:gpt-5.6-luna",
        instructions="Make the picture you are asked for, and answer with its link.",
        toolsets=[connection()],
    )
    async with painter:
        result = await painter.run(prompt)
    print(result.output)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
