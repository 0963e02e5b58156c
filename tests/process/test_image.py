"""The image, built by the Dockerfile's steps without Docker; minutes, so only with `--image` (see tests/image.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mcp_seedream import __version__
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.sandbox.app import Sandbox, running
from tests.support.image import Stage, built, missing
from tests.support.manifests import ROOT, containers, one
from tests.support.services import free_port

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
HEADERS = {"Authorization": "Bearer alice", "Accept": "application/json, text/event-stream"}
WRITABLE = """
import os, json
found = []
for folder, below, _ in os.walk("/"):
    below[:] = [name for name in below if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    if os.access(folder, os.W_OK):
        found.append(folder)
print(json.dumps(found))
"""
PATIENCE = 60


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if not request.config.getoption("--image"):
        pytest.skip("building takes minutes: pytest tests/process/test_image.py --image -n0 -s")
    if why := missing():
        pytest.skip(why)
    with built(ROOT) as stage:
        yield stage


@contextmanager
def container(image: Stage, upstream: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """As Kubernetes and Compose run it: nothing can be written but /tmp. Its process, its first process's id, port."""
    port = free_port()
    mounts = (
        f"mount --bind {image.root} {image.root}; mount -o remount,ro,bind {image.root}; "
        f"mount -t tmpfs tmpfs {image.root}{image.workdir};"
    )
    command = [word.replace("8000", str(port)) for word in [*image.entrypoint, *image.command]]
    started = image.started(command, mounts=mounts, more={"ACEDATACLOUD_API_BASE_URL": upstream, **settings})
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not healthy(image, port):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield process, int(children[0]), port
        finally:
            process.kill()


def healthy(image: Stage, port: int) -> bool:
    """By the image's own check."""
    check = [word.replace("8000", str(port)) for word in image.healthcheck]
    return subprocess.run(image.started(check), capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves(image: Stage, table: ModelTable, workers: str) -> None:
    """As it is, as nobody, on a disk that can't be written; SIGTERM to the first process ends it in order."""
    with (
        running(Sandbox(table, seconds=0.2)) as upstream,
        container(image, upstream, WEB_CONCURRENCY=workers) as (process, first, port),
    ):
        user = [line.split()[1:] for line in Path(f"/proc/{first}/status").read_text().splitlines() if "id:" in line]
        assert ["10001"] * 4 in user
        assert ["0"] * 4 not in user
        with httpx.Client(base_url=f"http://localhost:{port}", headers=HEADERS, timeout=PATIENCE) as web:
            assert web.get("/health").json() == {"status": "ok", "version": __version__}
            hello = web.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})
            assert hello.status_code == 200
            assert '"serverInfo"' in hello.text
            made = {"name": "generate_image", "arguments": {"prompt": "a fox"}}
            call = web.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": made})
            assert "succeeded" in call.text
            assert "seedream_calls_total" in web.get("/metrics").text
        os.kill(first, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        log = process.stderr.read() if process.stderr else ""
        assert "shutting down; 0 calls" in log
        assert "Traceback" not in log


def test_it_can_write_nowhere_else(image: Stage) -> None:
    """Not even where the disk could be written: only where everybody may."""
    done = subprocess.run(
        image.started(["python", "-c", WRITABLE]), capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert set(json.loads(done.stdout)) <= {"/tmp", "/var/tmp", "/run/lock"}  # noqa: S108


def test_it_has_what_it_should(image: Stage) -> None:
    """The faster loop and parser; no sources, no compiler, no keys."""
    listed = subprocess.run(
        image.started(["/app/bin/pip", "list", "--format=freeze"]), capture_output=True, text=True, check=True
    ).stdout
    assert {"uvloop", "httptools", "redis", "opentelemetry-sdk"} <= {
        line.split("==")[0] for line in listed.splitlines()
    }
    assert not (image.root / "src").exists()
    assert not (image.root / "usr/bin/gcc").exists()
    user = one("Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert image.user == f"{user['runAsUser']}:{user['runAsGroup']}"
    assert containers(one("Deployment"))[0]["volumeMounts"][0]["mountPath"] == image.workdir
