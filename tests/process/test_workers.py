"""Several workers on one port: metrics, shutdown, and failures at startup."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import answer, submits
from tests.process.test_stdio import COMMAND
from tests.process.test_stopping import SLOW, connected, environment
from tests.support.services import free_port, healthy, started

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
HTTP = [*COMMAND, "--transport", "http"]
PATIENCE = 60


@contextmanager
def working(upstream: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Two workers in a separate process group, once both serve, and their address."""
    port = free_port()
    env = {**os.environ, **environment(upstream, folder), "WEB_CONCURRENCY": "2", "TMPDIR": str(folder)}
    command = [*HTTP, "--port", str(port)]
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=folder, env=env, stderr=errors, text=True, start_new_session=True) as process,
    ):
        try:
            end = time.monotonic() + PATIENCE
            while log.read_text().count("startup complete") < 2:
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def waiting(address: str) -> float:
    page = httpx.get(f"{address}/metrics", timeout=PATIENCE).text
    [line] = [line for line in page.splitlines() if line.startswith("seedream_waiting_calls ")]
    return float(line.split()[1])


@pytest.mark.anyio
@pytest.mark.parametrize("whole_group", [False, True])
async def test_workers_end_in_order(upstream: str, sandbox: Sandbox, tmp_path: Path, whole_group: bool) -> None:
    """For a signal to the first process or to the group: each call returns its task's id, and no files remain."""
    results = []

    async def wait(address: str, token: str, word: str = "slow=60") -> None:
        async with connected(f"{address}/mcp", "auto", token) as client:
            results.append(await client.call_tool("generate_image", {"prompt": f"a fox [sandbox:{word}]"}))

    with working(upstream, tmp_path) as (process, address):
        async with anyio.create_task_group() as group:
            for n in range(6):
                group.start_soon(wait, address, f"caller-{n}")
            with anyio.fail_after(PATIENCE):
                while len(sandbox.jobs) < 6:  # noqa: ASYNC110  (in other processes)
                    await anyio.sleep(0.05)
            # These are being sent when the first process gets the signal, which it passes on after half a second.
            for n in range(4):
                group.start_soon(wait, address, f"another-{n}", "hang=3")
            with anyio.fail_after(PATIENCE):
                while len(submits(sandbox)) < 10:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            # Each worker returns the metrics of all.
            assert [await anyio.to_thread.run_sync(waiting, address) for _ in range(4)] == [10] * 4
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, PATIENCE) == 0
    assert {answer(result)["task_id"] for result in results} == set(sandbox.jobs)
    assert {answer(result)["status"] for result in results} == {"pending"}
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert list(tmp_path.glob("seedream-metrics-*")) == []


def test_warnings_about_settings_are_logged_once(upstream: str, tmp_path: Path) -> None:
    """The first process logs them, and the workers do not repeat them."""
    (tmp_path / ".env").write_text("SEEDREAM_OUTPUT=x\nSEEDREAM_PUBLIC_URL=https://example.com\n", "utf-8")
    with working(upstream, tmp_path):
        log = (tmp_path / "log").read_text()
    assert log.count("SEEDREAM_OUTPUT is not a setting") == 1, log
    assert log.count("SEEDREAM_PUBLIC_URL in ") == 1, log


@pytest.mark.anyio
async def test_a_worker_that_is_killed_is_replaced(upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its calls are lost, and no longer count as waiting."""

    async def lost(address: str) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE) as web:
            headers = {"Authorization": "Bearer alice", "Accept": "application/json, text/event-stream"}
            params = {"name": "generate_image", "arguments": SLOW}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            with pytest.raises(httpx.TransportError):
                await web.post(f"{address}/mcp", json=body, headers=headers)

    with working(upstream, tmp_path) as (process, address):
        figures = next(tmp_path.glob("seedream-metrics-*"))
        async with anyio.create_task_group() as group:
            group.start_soon(lost, address)
            with anyio.fail_after(PATIENCE):
                while not sandbox.jobs:  # noqa: ASYNC110  (in another process)
                    await anyio.sleep(0.05)
            assert await anyio.to_thread.run_sync(waiting, address) == 1
            workers = {int(file.stem.rpartition("_")[2]) for file in figures.glob("gauge_live*.db")}
            assert len(workers) == 2
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            while (tmp_path / "log").read_text().count("startup complete") < 4:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert await anyio.to_thread.run_sync(waiting, address) == 0
        assert process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (["--workers", "2", "--sandbox"], {}, "A sandbox serves one process"),
        (["--workers", "0"], {}, "WEB_CONCURRENCY is wrong"),
        # Each worker detects these errors. None of them is restarted.
        (["--workers", "2"], {"SEEDREAM_REDIS_URL": "what"}, "SEEDREAM_REDIS_URL is wrong"),
        (["--workers", "2"], {"SEEDREAM_PUBLIC_URL": "https://a.b", "SEEDREAM_REDIS_URL": "redis://a"}, "SEAL_KEYS"),
    ],
)
def test_what_can_not_be_started_says_so(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    """With an exit status and without a traceback."""
    command = [*HTTP, "--port", str(free_port()), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_named_folder_of_figures_is_emptied(tmp_path: Path) -> None:
    """The metrics of an earlier server are removed."""
    from mcp_seedream.hosting.workers import metrics_folder  # noqa: PLC0415  (uvicorn, for one test)

    folder = tmp_path / "figures"
    for _ in range(2):
        with metrics_folder(str(folder)) as named:
            assert named == str(folder)
            assert list(folder.iterdir()) == []
            (folder / "counter_1.db").touch()
    assert folder.is_dir()


def test_it_takes_as_many_files_as_calls_may_need(tmp_path: Path) -> None:
    """Many systems start a process with a limit of 1,024, and each call needs one or two connections."""
    resource = pytest.importorskip("resource")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    port = free_port()
    few = ["sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh", *HTTP, "--sandbox", "--port", str(port)]
    with started(few, lambda: healthy(port)) as process:
        limits = Path(f"/proc/{process.pid}/limits")
        if not limits.is_file():
            pytest.skip("only Linux tells what another process may open")
        [line] = [line for line in limits.read_text("utf-8").splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) == (min(most, 65_536) if most != resource.RLIM_INFINITY else 65_536)


def test_the_most_talkative_log_has_no_prompts(tmp_path: Path) -> None:
    """Libraries that log whole messages are limited to INFO."""
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen([*HTTP, "--sandbox", "--port", str(port), "--log-level", "debug"], stderr=errors)
        try:
            while not healthy(port):
                time.sleep(0.1)
            body = {"name": "generate_image", "arguments": {"prompt": "a fox that nobody should read of"}}
            request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": body}
            accepted = {"accept": "application/json, text/event-stream", "authorization": "Bearer any"}
            found = httpx.post(f"http://127.0.0.1:{port}/mcp", json=request, headers=accepted, timeout=30).text
            id_ = re.findall(r'"task_id":"([\w-]+)"', found)[0]
            request["params"] = {"name": "get_task", "arguments": {"task_id": id_}}
            assert (
                "nobody should read"
                in httpx.post(f"http://127.0.0.1:{port}/mcp", json=request, headers=accepted, timeout=30).text
            )  # the gallery's page about the call
        finally:
            process.terminate()
            process.wait(20)
    said = log.read_text("utf-8")
    assert "INFO" in said
    assert "nobody should read" not in said
