"""Ctrl-C in `mcp-seedream try`: its message agrees with the requests that the upstream received."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import TOKEN, Switch, finish, submits
from tests.support.services import heard

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")

ACCEPTED = re.compile(r"Task (\S+) is accepted")
SLOW = "a fox [sandbox:slow=60]"


class Trial:
    """The command in a separate folder, with a token, against an upstream that would bill it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder = folder
        self.env = {
            "PATH": "",
            "HOME": str(folder),
            "ACEDATACLOUD_API_BASE_URL": upstream,
            "ACEDATACLOUD_API_TOKEN": TOKEN,
        }

    @contextmanager
    def running(self, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "mcp_seedream", "try", *arguments]
        with heard(signal.SIGINT):
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def trial(tmp_path: Path, upstream: str) -> Trial:
    return Trial(tmp_path, upstream)


def until(process: subprocess.Popen[str], pattern: str | re.Pattern[str]) -> str:
    """Read stderr up to a line that matches; returns the match's first group, or all of it."""
    assert process.stderr
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(pattern, line):
            return found[found.re.groups]
    raise AssertionError(f"it said only {said!r}")


def stopped(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; returns the output after that."""
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    return said


def test_an_accepted_task_goes_on(trial: Trial, sandbox: Sandbox) -> None:
    """The message has its id, and the same command gets its picture without a second submit."""
    with trial.running(SLOW) as process:
        id_ = until(process, ACCEPTED)
        said = stopped(process)
    assert f"The task {id_} continues at AceDataCloud, and is billed." in said
    assert f'get_task with task_id "{id_}"' in said
    assert "Run the same command within 10 minutes" in said
    finish(sandbox)
    with trial.running(SLOW) as process:
        out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert Path(out.strip()).is_file()
    assert len(submits(sandbox)) == 1


def test_a_second_interruption(trial: Trial, sandbox: Sandbox) -> None:
    """The second command claimed the task, and its interruption names the same task."""
    prompt = "a fox [sandbox:slow=60]"
    with trial.running(prompt) as process:
        id_ = until(process, ACCEPTED)
        stopped(process)
    with trial.running(prompt) as process:
        until(process, ACCEPTED)
        assert f"The task {id_} continues" in stopped(process)
    assert len(submits(sandbox)) == 1


def test_without_a_journal(trial: Trial) -> None:
    """The same command would be billed again, so the message only offers get_task."""
    with trial.running(SLOW, SEEDREAM_JOURNAL="off") as process:
        id_ = until(process, ACCEPTED)
        said = stopped(process)
    assert f'get_task with task_id "{id_}"' in said
    assert "same command" not in said


def test_a_pending_task(trial: Trial) -> None:
    """Its result was delivered: the same command would make another picture."""
    with trial.running(SLOW, "--set", "wait_seconds=0.2") as process:
        until(process, r"is still running|pending")
        said = stopped(process)
    assert "continues at AceDataCloud" in said
    assert 'get_task with task_id "' in said
    assert "same command" not in said


def test_in_the_sandbox(trial: Trial) -> None:
    """No task continues, and nothing is billed."""
    with trial.running(SLOW, "--sandbox", "--sandbox-seconds", "30") as process:
        until(process, ACCEPTED)
        said = stopped(process)
    assert "The sandbox's picture is lost; nothing was billed." in said
    assert "AceDataCloud" not in said
    assert "get_task" not in said


def test_before_anything_was_sent(trial: Trial, sandbox: Sandbox) -> None:
    """The server has not started yet."""
    begun = trial.folder / "begun"
    wait = f"pathlib.Path({str(begun)!r}).touch(); time.sleep(30)"
    slow = f"import pathlib, sys, time\nif '-P' in sys.orig_argv:\n    {wait}"
    (trial.folder / "sitecustomize.py").write_text(slow, "utf-8")
    with trial.running("a fox", PYTHONPATH=str(trial.folder)) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        said = stopped(process)
    assert "Stopped before anything was sent: nothing is billed." in said
    assert submits(sandbox) == []


@pytest.mark.parametrize("seconds", [0.7, 30])
def test_while_it_is_sent(trial: Trial, switch: Switch, seconds: float) -> None:
    """A response that still arrives has the id; without one, the message says that the call may be billed."""
    asked = Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        asked.set()
        await anyio.sleep(seconds)
        await JSONResponse({"task_id": "late-1"})(scope, receive, send)

    switch.app = answer
    with trial.running("a fox") as process:
        assert asked.wait(30)
        said = stopped(process)
    if seconds < 1:
        assert "The task late-1 continues at AceDataCloud, and is billed." in said
    else:
        assert "The call may have been accepted and billed" in said
        assert "continues" not in said
        assert "nothing is billed" not in said
