"""A picture by a client that has the Tasks extension: `python follow.py fastmcp|pydantic-ai PROMPT` prints its link.

Either ends with an error where the server does not answer with a task.
"""

import asyncio
import os
import re
import sys

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp_tasks import call_tool_task
from pydantic_ai.mcp import MCPToolset

SERVER, TOKEN = os.environ["MCP_SEEDREAM"], os.environ["ACEDATACLOUD_API_TOKEN"]
CONNECTION = SERVER if SERVER.startswith("http") else StdioTransport(SERVER, [], env=dict(os.environ))


async def fastmcp(prompt: str) -> str:
    async with Client(CONNECTION, auth=TOKEN if SERVER.startswith("http") else None) as client:
        task = await call_tool_task(client, "generate_image", {"prompt": prompt})
        result = await task.result()
        again = await client.call_tool("get_task", {"task_id": task.task_id})
    assert again.structured_content["images"] == result.structured_content["images"]
    return result.structured_content["images"][0]["url"]


async def pydantic_ai(prompt: str) -> str:
    async with MCPToolset(CONNECTION, **({"auth": TOKEN} if SERVER.startswith("http") else {})) as tools:
        result = await tools.direct_call_tool("generate_image", {"prompt": prompt}, use_task=True)
    return re.search(r"http://[^\s'\"]+", str(result))[0]


print(asyncio.run({"fastmcp": fastmcp, "pydantic-ai": pydantic_ai}[sys.argv[1]](sys.argv[2])))
