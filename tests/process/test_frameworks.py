"""Each example with its framework, as its reader runs it; minutes, so only with `--frameworks` (`make frameworks`)."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import TOKEN, submits
from tests.support.frameworks import NAMES, PATIENCE, SERVER, Example, Run, environment, installed
from tests.support.services import free_port, replica_running

LATE = 13
"""Seconds for a picture: longer than any framework waits that gives up early."""
BLIND = {"google_adk_agent", "mcp_client"}
"""The first would hand its model a picture as text, so it asks for none; the other has no model."""
NEEDED = [
    ("agno_agent", "stdio", ", timeout_seconds=PATIENCE"),
    ("agno_agent", "http", ", timeout_seconds=PATIENCE"),
    ("google_adk_agent", "stdio", ", timeout=PATIENCE"),
    ("mcp_client", "http", ", timeout=timeout"),
    ("openai_agents", "stdio", ", client_session_timeout_seconds=PATIENCE"),
    ("openai_agents", "http", ", client_session_timeout_seconds=PATIENCE"),
]
"""What an example says about time, without which it would get no picture that is late."""


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Example:
    if not request.config.getoption("--frameworks"):
        pytest.skip("installing frameworks takes minutes: pytest tests/process/test_frameworks.py --frameworks")
    return installed(request.param)


@contextmanager
def reachable(transport: str, upstream: str) -> Iterator[str]:
    """Where an example finds the server: a program that it starts, or the address of one that runs."""
    if transport == "stdio":
        yield str(SERVER)
        return
    port = free_port()
    with replica_running(port, ACEDATACLOUD_API_BASE_URL=upstream):
        yield f"http://127.0.0.1:{port}/mcp"


def is_picture(run: Run) -> bool:
    """The sandbox has what the printed link names."""
    assert run.status == 0, run.errors
    assert run.link, run.output
    with Image.open(io.BytesIO(httpx.get(run.link).raise_for_status().content)) as picture:
        picture.load()
        return picture.format == "JPEG" and min(picture.size) >= 1024


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_a_late_picture(example: Example, transport: str, upstream: str, sandbox: Sandbox) -> None:
    """Waited for in one call, paid once, and shown to the model where its framework can do that."""
    with reachable(transport, upstream) as server:
        run = example.run(f"a red fox [sandbox:slow={LATE}]", upstream, server)
    assert is_picture(run)
    assert len(submits(sandbox)) == 1
    assert run.calls == (["generate_image"] if example.name != "mcp_client" else [])
    assert ("I was shown it." in run.output) == (transport == "stdio" and example.name not in BLIND)


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_a_pending_picture(example: Example, upstream: str, sandbox: Sandbox) -> None:
    """A server that waits shorter than the picture takes: it is looked up until it is there, and paid once."""
    run = example.run("a red fox [sandbox:slow=6]", upstream, SEEDREAM_WAIT_SECONDS="2")
    assert is_picture(run)
    assert len(submits(sandbox)) == 1
    if example.name != "mcp_client":
        assert run.calls[:2] == ["generate_image", "get_task"]
        assert set(run.calls[1:]) == {"get_task"}


@pytest.mark.parametrize(("example", "transport", "setting"), NEEDED, indirect=["example"])
def test_its_setting_is_needed(example: Example, transport: str, setting: str, upstream: str, sandbox: Sandbox) -> None:
    """What the README says of a framework's patience: without the example's setting there is no late picture."""
    with reachable(transport, upstream) as server:
        run = example.run(f"a red fox [sandbox:slow={LATE}]", upstream, server, without=setting)
    assert run.link is None
    assert len(submits(sandbox)) == 1


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_a_refused_picture(example: Example, upstream: str) -> None:
    """The reason comes through to whoever asked."""
    run = example.run("a red fox [sandbox:content_refused]", upstream)
    assert run.link is None
    assert "sensitive information" in run.output
    assert run.status == 0


@pytest.mark.parametrize("server", ["/nowhere/mcp-seedream", "http://127.0.0.1:9/mcp"])
@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_no_server(example: Example, server: str, upstream: str) -> None:
    """It ends with an error, whose last line is about the connection; no agent goes on without tools."""
    run = example.run("a red fox", upstream, server)
    assert run.status == 1
    assert run.calls == []
    assert run.output == ""


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("client", ["fastmcp", "pydantic-ai"])
def test_clients_that_follow_tasks(
    client: str, transport: str, upstream: str, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    """Given a task at once, they ask until the picture is there; it is paid once."""
    if not request.config.getoption("--frameworks"):
        pytest.skip("installing clients takes minutes: pytest tests/process/test_frameworks.py --frameworks")
    followers = Path(__file__).parent / "followers"
    python = environment(followers / "requirements.txt")
    with reachable(transport, upstream) as server:
        done = subprocess.run(
            [
                python,
                followers / "follow.py",
                client,
                "a red fox [sandbox:slow=4]",
            ],
            env={
                **os.environ,
                "MCP_SEEDREAM": server,
                "ACEDATACLOUD_API_BASE_URL": upstream,
                "ACEDATACLOUD_API_TOKEN": TOKEN,
                "SEEDREAM_JOURNAL": "off",
            },
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
    assert is_picture(Run(done.returncode, done.stdout, done.stderr, []))
    assert len(submits(sandbox)) == 1
