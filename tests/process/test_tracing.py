"""Spans, as a collector gets them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.telemetry.tracing import span_name
from tests.conftest import serving, submits

pytestmark = pytest.mark.anyio
KNOWN = ["tools/call", "tools/call generate_image", "prompts/get", "notifications/cancelled"]


async def test_upstream_requests_are_spans_of_their_call(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Children of the SDK's span for the tool call; no prompt and no key among their attributes."""
    spans: list[Span] = []

    async def collect(request: Request) -> Response:
        sent = ExportTraceServiceRequest.FromString(await request.body())
        spans.extend(span for r in sent.resource_spans for scope in r.scope_spans for span in scope.spans)
        return Response(status_code=200)

    with serving(Starlette(routes=[Route("/v1/traces", collect, methods=["POST"])])) as collector:
        env = {
            "ACEDATACLOUD_API_BASE_URL": upstream,
            "ACEDATACLOUD_API_TOKEN": "a-secret-key",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "SEEDREAM_JOURNAL": str(tmp_path / "tasks"),
        }
        server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_seedream"], env=env)
        async with Client(server) as client:
            with suppress(MCPError):
                await client.call_tool("a secret tool", {})
            await client.call_tool("generate_image", {"prompt": "a secret prompt"})
            with anyio.fail_after(20):
                while not any(span.name == "tools/call generate_image" for span in spans):  # noqa: ASYNC110
                    await anyio.sleep(0.05)
    named = {span.name: span for span in spans}
    submit = named["seedream submit"]
    assert submit.kind == Span.SPAN_KIND_CLIENT
    assert submit.parent_span_id == named["tools/call generate_image"].span_id
    assert "a secret prompt" not in str(spans)
    assert "a-secret-key" not in str(spans)
    assert not any("secret" in name for name in named)
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("tools/call generate_image", "tools/call generate_image"),
        ("tools/call x", "tools/call"),
        ("prompts/get x", "prompts/get"),
        ("notifications/cancelled", "notifications/cancelled"),
        ("x generate_image", "other"),
        ("tools/call2", "other"),
        ("seedream submit", "seedream submit"),
    ],
)
def test_names_of_spans_are_few(given: str, name: str) -> None:
    """A caller can't make new ones."""
    assert span_name(given, KNOWN) == name


def test_without_a_collector_there_is_nothing() -> None:
    """Not even an import."""
    code = (
        "import sys; from mcp_seedream.assembly import set_up_process; from mcp_seedream.core.settings import Settings;"
        "set_up_process(Settings(_env_file=None)); sys.exit('opentelemetry.sdk' in sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
