"""A picture with LangChain.

pip install langchain langchain-mcp-adapters langchain-openai
OPENAI_API_KEY=… python langchain_agent.py "a red fox in the snow"
"""

import asyncio
import os
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
LOCAL = {
    "transport": "stdio",
    "command": SERVER,
    "args": [] if TOKEN else ["--sandbox"],
    "env": dict(os.environ),
}
HOSTED = {"transport": "streamable_http", "url": SERVER, "headers": HEADERS}


async def main(prompt: str) -> None:
    client = MultiServerMCPClient({"seedream": HOSTED if SERVER.startswith("http") else LOCAL})
    # One session for the whole conversation: `client.get_tools()` would start a server for every call.
    async with client.session("seedream") as session:
        painter = create_agent(
            # OpenAI's older API refuses pictures in tool results, and each result has a preview.
            ChatOpenAI(model="gpt-5.6-luna", use_responses_api=True),
            await load_mcp_tools(session),
            system_prompt="Make the picture you are asked for, and answer with its link.",
        )
        result = await painter.ainvoke({"messages": [{"role": "user", "content": prompt}]})
    print(result["messages"][-1].text)


asyncio.run(main(" ".join(sys.argv[1:]) or "a red fox in the snow"))
