"""A picture with the official MCP client, without a model.

pip install mcp
python mcp_client.py "a red fox in the snow"
"""

import os
import sys

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

SERVER = os.environ.get("MCP_SEEDREAM", "mcp-seedream")  # the program, or the address of a hosted server
TOKEN = os.environ.get("ACEDATACLOUD_API_TOKEN")
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}


async def main(prompt: str) -> None:
    # The client has no time-out, but the HTTP client below would have one of 5 s without data.
    timeout = httpx2.Timeout(30, read=300)
    async with httpx2.AsyncClient(headers=HEADERS, timeout=timeout) as http:
        if SERVER.startswith("http"):
            server = streamable_http_client(SERVER, http_client=http)
        else:
            arguments = [] if TOKEN else ["--sandbox"]
            server = StdioServerParameters(command=SERVER, args=arguments, env=dict(os.environ))
        async with Client(server) as seedream:
            result = await seedream.call_tool("generate_image", {"prompt": prompt})
            while result.structured_content["status"] == "pending":
                task = {"task_id": result.structured_content["task_id"]}
                result = await seedream.call_tool("get_task", task)
    print(result.content[0].text)


anyio.run(main, " ".join(sys.argv[1:]) or "a red fox in the snow")
