"""A picture with the OpenAI Agents SDK.

pip install openai-agents
OPENAI_API_KEY=… python openai_agents.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from agents import Agent, Runner
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
PATIENCE = 120  # seconds for a tool call; the default is 5, and the server waits up to 45 for a picture


def connection() -> MCPServerStdio | MCPServerStreamableHttp:
    if SERVER.startswith("http"):
        hosted = {"url": SERVER, "headers": HEADERS}
        return MCPServerStreamableHttp(hosted, client_session_timeout_seconds=PATIENCE)
    local = {"command": SERVER, "args": [] if TOKEN else ["--sandbox"], "env": dict(os.environ)}
    return MCPServerStdio(local, client_session_timeout_seconds=PATIENCE)


async def main(prompt: str) -> None:
    async with connection() as seedream:
        painter = Agent(
            name="Painter",
            instructions="Make the picture you are asked for, and answer with its link.",
            mcp_servers=[seedream],
        )
        result = await Runner.run(painter, prompt)
    print(result.final_output)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
