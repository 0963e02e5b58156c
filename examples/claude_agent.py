"""A picture with the Claude Agent SDK.

pip install claude-agent-sdk
ANTHROPIC_API_KEY=… python claude_agent.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, SystemMessage, query

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
LOCAL = {"command": SERVER, "args": [] if TOKEN else ["--sandbox"]}
HOSTED = {"type": "http", "url": SERVER, "headers": HEADERS}


async def main(prompt: str) -> None:
    options = ClaudeAgentOptions(
        system_prompt="Make the picture you are asked for, and answer with its link.",
        mcp_servers={"seedream": HOSTED if SERVER.startswith("http") else LOCAL},
        tools=[],  # no built-in tools
        allowed_tools=["mcp__seedream__generate_image", "mcp__seedream__get_task"],
        setting_sources=[],
    )
    async for message in query(prompt=prompt, options=options):
        if isinstance(message, SystemMessage) and message.subtype == "init":
            states = {server["name"]: server["status"] for server in message.data["mcp_servers"]}
            if states["seedream"] in ("failed", "needs-auth"):  # the agent would continue without tools
                raise ConnectionError(f"Seedream's server can't be reached: {SERVER}")
        if isinstance(message, ResultMessage):
            print(message.result)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
