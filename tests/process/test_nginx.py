"""deploy/nginx.conf in a real nginx: the forwarded requests, and the calls while one of two replicas is stopped."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from mcp_seedream import __version__
from mcp_seedream.doctor.endpoint_checks import EndpointChecks
from mcp_seedream.doctor.findings import Result, run_checks
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import answer, submits
from tests.support.manifests import DEPLOY
from tests.support.services import free_port, listens, program, replica_running, started

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")]
NAME = "seedream.example.com"
PATIENCE = 60
MAIN = """
daemon off; pid {folder}/pid; {user}
events {{ worker_connections 256; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/seedream.conf;
}}
"""


@dataclass
class Front:
    """nginx on loopback, with two replicas behind it."""

    address: str
    trust: ssl.SSLContext
    folder: Path
    ports: list[int]
    replicas: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.folder / "access.log").read_text()

    @asynccontextmanager
    async def client(self, token: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token}", "Host": NAME}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE, verify=self.trust) as web,
            Client(streamable_http_client(f"{self.address}/mcp", http_client=web)) as client,
        ):
            yield client

    async def call(self, token: str, prompt: str, **arguments: Any) -> CallToolResult:
        async with self.client(token) as client:
            return await client.call_tool("generate_image", {"prompt": prompt, **arguments})

    async def port_of(self, token: str) -> int:
        """The port of the replica that serves this caller, from nginx's log."""
        headers = {"Authorization": f"Bearer {token}", "Host": NAME}
        async with httpx.AsyncClient(verify=self.trust) as web:
            response = await web.post(f"{self.address}/mcp", headers=headers)
        id_ = response.headers["x-request-id"]
        await until(lambda: id_ in self.log)
        [line] = [line for line in self.log.splitlines() if line.endswith(id_)]
        return int(line.split()[-2].rpartition(":")[2])

    async def answer_to(self, head: str) -> int:
        """The status of the response to a request's headers alone."""
        port = httpx.URL(self.address).port or 0
        how: dict[str, Any] = {"ssl_context": self.trust, "tls_hostname": NAME, "tls_standard_compatible": False}
        async with await anyio.connect_tcp("127.0.0.1", port, **how) as stream:
            await stream.send(f"{head}\r\n\r\n".encode())
            return int((await stream.receive()).split()[1])


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not true():  # noqa: ASYNC110  (something in another process)
            await anyio.sleep(0.05)


def set_up(folder: Path, ports: list[int]) -> tuple[int, int]:
    """The configuration with other ports and paths, and a certificate; returns the ports of http and https."""
    plain, front = free_port(), free_port()
    certificate = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    names = ["-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1", "-keyout", "privkey.pem", "-out", "fullchain.pem"]
    subprocess.run([program("openssl"), *certificate, *names], cwd=folder, check=True, capture_output=True)
    given = (DEPLOY / "nginx.conf").read_text("utf-8")
    changes = {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl": f"listen 127.0.0.1:{front} ssl",
        "127.0.0.1:8001": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
        r"127\.0\.0\.1:8001": rf"127\.0\.0\.1:{ports[0]}",
        "/etc/ssl/seedream": str(folder),
        "/var/log/nginx/seedream.log": f"{folder}/access.log",
    }
    for here, there in changes.items():
        assert here in given
        given = given.replace(here, there)
    (folder / "seedream.conf").write_text(given)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
    return plain, front


@contextmanager
def fronted(folder: Path, upstream: str) -> Iterator[Front]:
    nginx = [program("nginx"), "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    ports = [free_port(), free_port()]
    _, port = set_up(folder, ports)
    trust = ssl.create_default_context(cafile=folder / "fullchain.pem")
    found = Front(f"https://127.0.0.1:{port}", trust, folder, ports)
    settings = {
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "SEEDREAM_PUBLIC_URL": f"https://{NAME}",
        "SEEDREAM_SHUTDOWN_SECONDS": "20",
    }
    with ExitStack() as stack:
        found.replicas = [stack.enter_context(replica_running(each, **settings)) for each in ports]
        stack.enter_context(started(nginx, lambda: listens(port)))
        yield found


async def test_what_passes(upstream: str, tmp_path: Path) -> None:
    """Pages, sign-in and prompt progress are forwarded; metrics and unknown paths are not. The log has no secrets."""
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((anyio.current_time(), message))

    with fronted(tmp_path, upstream) as front:
        async with front.client("alice") as client:
            arguments = {"prompt": "foxes", "stream": True, "sequential_image_generation": "auto"}
            made = await client.call_tool("generate_image", arguments, progress_callback=hear)
            done = anyio.current_time()
        assert answer(made)["status"] == "succeeded"
        assert any("Image 1" in (message or "") for _, message in heard)
        assert heard[0][0] < done - 0.1  # not all at the end
        async with httpx.AsyncClient(base_url=front.address, headers={"Host": NAME}, verify=front.trust) as web:
            statuses = {
                path: (await web.get(path)).status_code
                for path in (
                    "/",
                    "/.well-known/oauth-authorization-server",
                    "/metrics",
                    "/ready",
                    "/health",
                    "/x",
                    "/mcp",
                    "/mcp/",
                )
            }
            found = (await web.get("/.well-known/oauth-authorization-server")).json()
            await web.get("/consent?transaction=a-secret")
        assert list(statuses.values()) == [200, 200, 404, 404, 404, 404, 401, 401]
        assert found["issuer"].rstrip("/") == f"https://{NAME}"
        assert await front.answer_to(f"POST /mcp HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {65 * 2**20}") == 413
        assert '"GET /consent" 400' in front.log
        assert "a-secret" not in front.log


async def test_an_address_has_limits(upstream: str, tmp_path: Path) -> None:
    """Of requests to sign-in: 429 from nginx, while the same address may still call."""
    statuses: Counter[int] = Counter()
    with fronted(tmp_path, upstream) as front:
        async with (
            httpx.AsyncClient(base_url=front.address, headers={"Host": NAME}, verify=front.trust) as web,
            anyio.create_task_group() as group,
        ):

            async def sign_in() -> None:
                statuses[(await web.get("/consent", timeout=PATIENCE)).status_code] += 1

            for _ in range(300):
                group.start_soon(sign_in)
        assert set(statuses) == {400, 429}
        assert statuses[400] > 100
        async with front.client("alice") as client:
            assert (await client.list_tools()).tools


async def test_the_doctor_looks_from_outside(upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Private probes are not a problem: the server card identifies the server, without a warning."""
    told: list[Result] = []
    with fronted(tmp_path, upstream) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "fullchain.pem"))
        await run_checks(EndpointChecks(f"{front.address}/mcp", None, connect=5, read=10).checks(), told.append)
    found = {result.name: result.finding for result in told}
    assert (found["server"].level, found["upstream"].level) == ("ok", "not checked")
    assert found["server"].found.startswith(f"mcp-seedream {__version__}; a proxy in front keeps /health")
    assert "keeps /ready private" in found["upstream"].found
    assert {name for name, finding in found.items() if finding.level in ("warning", "problem")} == {
        "certificate",  # valid for two days
        "sign-in",  # its host name does not resolve
    }


async def test_a_replica_is_stopped(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its calls return their ids; new calls are sent to the other replica, during and after the shutdown."""
    first: list[CallToolResult] = []

    async def wait(token: str) -> None:
        first.append(await front.call(token, "a fox [sandbox:slow=60]"))

    with fronted(tmp_path, upstream) as front:
        callers: dict[int, list[str]] = {port: [] for port in front.ports}
        while min(len(tokens) for tokens in callers.values()) < 3:  # nginx decides which replica serves a caller
            token = f"caller-{sum(len(tokens) for tokens in callers.values())}"
            callers[await front.port_of(token)].append(token)
        stopped, others = callers.values()
        tokens = [*stopped, *others]
        async with anyio.create_task_group() as group:
            for token in tokens:
                group.start_soon(wait, token)
            await until(lambda: len(sandbox.jobs) == len(tokens))
            # A request is in progress for a while: the replica still answers, and accepts no new calls.
            group.start_soon(front.call, stopped[0], "a hare [sandbox:hang=4]")
            await until(lambda: len(submits(sandbox)) == len(tokens) + 1)
            front.replicas[0].send_signal(signal.SIGTERM)
            await until(lambda: len(first) == len(stopped))
            assert {answer(result)["status"] for result in first} == {"pending"}
            assert all(answer(result)["task_id"] in sandbox.jobs for result in first)
            # It still accepts connections, and rejects each call.
            during = await front.call(stopped[0], "an owl")
            assert f"127.0.0.1:{front.ports[0]} : 127.0.0.1:{front.ports[1]} " in front.log
            await anyio.to_thread.run_sync(front.replicas[0].wait, PATIENCE)
            after = await front.call(stopped[0], "a cat")
            assert (answer(during)["status"], answer(after)["status"]) == ("succeeded", "succeeded")
            front.replicas[1].send_signal(signal.SIGTERM)  # so that the others do not wait for a minute
        assert len({answer(result)["task_id"] for result in first}) == len(tokens)
        assert not re.search(r'" 50[024] ', front.log)
