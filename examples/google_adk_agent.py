"""A picture with Google's Agent Development Kit.

pip install "google-adk[mcp]"
GOOGLE_API_KEY=… python google_adk_agent.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from google.adk.agents import Agent
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams, StreamableHTTPConnectionParams
from mcp import StdioServerParameters

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
PATIENCE = 120  # seconds for a tool call; the default is 5, and the server waits up to 45 for a picture


def connection() -> StdioConnectionParams | StreamableHTTPConnectionParams:
    if SERVER.startswith("http"):
        return StreamableHTTPConnectionParams(url=SERVER, headers=HEADERS)
    # ADK passes pictures to the model as text, 40,000 characters of base64: turn previews off.
    settings = {**os.environ, "SEEDREAM_PREVIEW": "off"}
    local = StdioServerParameters(command=SERVER, args=[] if TOKEN else ["--sandbox"], env=settings)
    return StdioConnectionParams(server_params=local, timeout=PATIENCE)


async def main(prompt: str) -> None:
    seedream = McpToolset(connection_params=connection())
    painter = Agent(
        name="painter",
        model="gemini-3.5-flash",
        instruction="Make the picture you are asked for, and answer with its link.",
        tools=[seedream],
    )
    await seedream.get_tools()  # fails if there is no server; the agent would continue without tools
    async with InMemoryRunner(painter) as runner:
        events = await runner.run_debug(prompt, quiet=True)
    print(events[-1].content.parts[-1].text)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
