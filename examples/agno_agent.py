"""A picture with Agno.

pip install "agno[mcp,openai]"
OPENAI_API_KEY=… python agno_agent.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from agno.agent import Agent
from agno.models.openai import OpenAIChat
from agno.tools.mcp import MCPTools
from mcp import StdioServerParameters

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
PATIENCE = 120  # seconds for a tool call; the default is 10, and the server waits up to 45 for a picture
NEWEST = "auto"  # protocol revision: with older ones, a hosted server is not told that a call timed out


def connection() -> MCPTools:
    if SERVER.startswith("http"):
        return MCPTools(url=SERVER, headers=HEADERS, protocol_mode=NEWEST, timeout_seconds=PATIENCE)
    local = StdioServerParameters(command=SERVER, args=[] if TOKEN else ["--sandbox"], env=dict(os.environ))
    return MCPTools(server_params=local, protocol_mode=NEWEST, timeout_seconds=PATIENCE)


async def main(prompt: str) -> None:
    async with connection() as seedream:
        painter = Agent(
            model=OpenAIChat("gpt-5.6-luna"),
            instructions="Make the picture you are asked for, and answer with its link.",
            tools=[seedream],
        )
        result = await painter.arun(prompt)
    print(result.content)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
