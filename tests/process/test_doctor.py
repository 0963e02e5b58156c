"""`mcp-seedream doctor`, as a person runs it, and what it finds on the machine itself."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from pydantic import ValidationError

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.core.errors import ConfigurationError, why_invalid
from mcp_seedream.core.settings import Settings, read_settings
from mcp_seedream.core.settings_report import read_report
from mcp_seedream.doctor import machine
from mcp_seedream.doctor.findings import Check, Finding, Result, as_text, in_background, run_checks
from mcp_seedream.doctor.machine import MachineChecks, client_entries
from mcp_seedream.doctor.refusal_checks import recent_refusals
from mcp_seedream.generation.journal import Journal
from mcp_seedream.install.clients import CLIENTS
from mcp_seedream.install.discovery import find_installed as where_installed
from mcp_seedream.install.discovery import folders_here
from tests.support.clocks import OWN_TIME
from tests.support.obstacles import nobody, silent
from tests.support.services import heard

COMMAND = [sys.executable, "-m", "mcp_seedream"]
TOKEN = "a-token-of-some-length-9876"
ALL = [
    *("python", "packages", "settings", "models", "output", "journal", "clients"),
    *("proxy", "network", "clock", "pictures", "token", "account", "refusals", "server"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our own settings, and a folder that is empty."""
    for name in [*os.environ]:
        if name.startswith(("SEEDREAM_", "ACEDATACLOUD_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def machines(*, packages: bool = False) -> dict[str, Finding]:
    """What the checks of this machine find, with that of packages (`pip check` takes a second) or without."""
    told: list[Result] = []
    checks = [check for check in MachineChecks(read_report()).checks() if packages or check.name != "packages"]
    anyio.run(run_checks, checks, told.append)
    return {result.name: result.finding for result in told}


def test_all_is_well() -> None:
    """With the sandbox as the upstream, and a picture of it; nothing is left behind."""
    done = run("doctor", "--sandbox")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("\nNo problems found.\n")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("ok")] == ALL
    assert "a sandbox picture took" in done.stdout
    assert done.stderr == ""
    assert list(Path.cwd().rglob("*")) == []


def test_for_machines() -> None:
    """Everything, in JSON; a problem is exit status 1."""
    base = f"http://127.0.0.1:{nobody()}"
    done = run("doctor", "--json", ACEDATACLOUD_API_BASE_URL=base, ACEDATACLOUD_API_TOKEN=TOKEN, SEEDREAM_OUTPUT="x")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [check["name"] for check in found["checks"]] == ALL
    levels = {check["name"]: check["level"] for check in found["checks"]}
    assert levels == dict.fromkeys(ALL, "ok") | {
        "settings": "warning",
        "network": "problem",
        "clock": "not_checked",
        "pictures": "not_checked",
        "account": "not_checked",
    }
    assert (found["version"], found["problems"], found["warnings"]) == (__version__, 1, 1)
    assert all(check["advice"] for check in found["checks"] if check["level"] in ("warning", "problem"))


def test_an_endpoint() -> None:
    """Its address is an argument; one that is none is a wrong argument."""
    done = run("doctor", f"http://127.0.0.1:{nobody()}/mcp")
    assert done.returncode == 1
    assert "problem" in done.stdout
    assert "sign-in" in done.stdout
    done = run("doctor", "seedream.example.com")
    assert done.returncode == 2
    assert "is not an address like https://" in done.stderr


@pytest.mark.parametrize("after", [0.0, 1.5])
def test_it_can_be_broken_off(after: float) -> None:
    """Ctrl-C while an upstream hangs: it ends before the upstream would be given up, and says nothing more."""
    with silent() as port:
        env = {**os.environ, "ACEDATACLOUD_API_BASE_URL": f"http://127.0.0.1:{port}", "ACEDATACLOUD_API_TOKEN": TOKEN}
        with heard(signal.SIGINT):
            process = subprocess.Popen([*COMMAND, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        assert process.stdout is not None
        assert b"python" in process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""


@pytest.mark.parametrize("switch", ["--json", "--sandbox"])
def test_nobody_reads_on(switch: str) -> None:
    """As where it is handed to `head`: it ends as it would have, without a word."""
    with subprocess.Popen([*COMMAND, "doctor", switch], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == (0 if switch == "--sandbox" else 1)


def terminal(**env: str) -> str:
    """What somebody sees who looks at an endpoint that is not there, in a terminal."""
    pty = pytest.importorskip("pty")  # Windows has none
    ours, theirs = pty.openpty()
    command = [*COMMAND, "doctor", f"http://127.0.0.1:{nobody()}/mcp"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60", **env}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.STDOUT, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # its end
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert process.returncode == 1
    return shown.decode()


def test_colours() -> None:
    """On a terminal, unless somebody wants none; lines are as long as it is wide."""
    shown = terminal()
    assert "\033[31mproblem" in shown
    assert "\033[32mok" in shown
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = terminal(**env)
        assert "\033" not in plain
        assert max(map(len, plain.splitlines())) <= 60


def test_how_it_looks() -> None:
    """Columns, lines that are broken but for addresses, and nothing that moves the cursor."""
    finding = Finding(
        "problem", "A web page answers (\x1b[2J\n).", f"See https://example.com/{'x' * 40} for more of it."
    )
    assert as_text(Result("network", finding, 1), 60, names=8).splitlines() == [
        "problem      network   A web page answers ( [2J ).",
        "                       See",
        f"                       https://example.com/{'x' * 40}",
        "                       for more of it.",
    ]


@pytest.mark.anyio
@OWN_TIME
async def test_checks_wait_for_what_they_need() -> None:
    """Results are reported in the order of the checks; a check that is late, or fails, is a problem."""

    async def after(seconds: float, finding: Finding) -> Finding:
        await anyio.sleep(seconds)
        return finding

    async def broken() -> Finding:
        raise ZeroDivisionError("by nothing")

    good = Finding("ok", "fine")
    told: list[Result] = []
    checks = [
        Check("slow", lambda: after(0.2, good)),
        Check("quick", lambda: after(0, Finding("warning", "so so"))),
        Check("late", lambda: after(9, good), seconds=0.1),
        Check("broken", broken),
        Check("later", lambda: after(0, good), needs=("slow", "late", "broken")),
        Check("last", lambda: after(0, good), needs=("later",)),
        Check("fine", lambda: after(0, good), needs=("slow", "quick")),
    ]
    began = anyio.current_time()
    results = await run_checks(checks, told.append)
    assert anyio.current_time() - began == pytest.approx(0.2)
    assert told == results
    assert [result.name for result in results] == [check.name for check in checks]
    found = {result.name: result.finding for result in results}
    assert (found["slow"], found["fine"], found["quick"].level) == (good, good, "warning")
    assert found["late"] == Finding("problem", "took longer than 0 s")
    assert "ZeroDivisionError: by nothing" in found["broken"].found
    assert found["later"] == Finding("not checked", "waits for late and broken")
    assert found["last"].level == "not checked"


@pytest.mark.anyio
async def test_what_blocks_is_left_behind() -> None:
    """A wait for blocking work can be cancelled; otherwise its result, or its error, is returned."""
    blocked, ended = threading.Event(), threading.Event()

    def work() -> None:
        blocked.wait(60)
        ended.set()

    began = time.monotonic()
    with anyio.move_on_after(0.1):
        await in_background(work)
    assert time.monotonic() - began < 30
    blocked.set()
    assert await anyio.to_thread.run_sync(ended.wait, 60)
    await anyio.lowlevel.checkpoint()  # the result is dropped
    assert await in_background(lambda: 5) == 5
    with pytest.raises(OSError, match="gone"):
        await in_background(lambda: (_ for _ in ()).throw(OSError("gone")))


def test_what_blocks_does_not_hold_up_the_end() -> None:
    """A process ends, though a thread of its own is stuck in the system."""
    script = (
        "import anyio, time\n"
        "from mcp_seedream.doctor.findings import in_background\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.1):\n"
        "        await in_background(lambda: time.sleep(60))\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many there are, and from where; a file counts in this folder alone."""
    assert machines()["settings"] == Finding("ok", "all have their defaults")
    monkeypatch.setenv("SEEDREAM_PREVIEW", "off")
    assert machines()["settings"] == Finding("ok", "1 from the environment")
    Path(".env").write_text("SEEDREAM_WAIT_SECONDS=5\nSEEDREAM_PREVIEW=on\n", "utf-8")
    found = machines()["settings"]
    assert found.found == f"1 from the environment, 1 from {Path.cwd() / '.env'}"
    assert "Clients start them in other folders" in found.advice


def test_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once, with their names; what does not depend on them is looked at."""
    wrong = {"SEEDREAM_WAIT_SECONDS": "soon", "SEEDREAM_PREVIEW": "maybe", "SEEDREAM_CONNECT_TIMEOUT": "0"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    found = machines()
    assert found["settings"].level == "problem"
    assert all(name in found["settings"].found for name in wrong)
    assert "it must be a number: 'soon'" in found["settings"].found
    assert "under `env`" in found["settings"].advice
    assert found["output"].level == "ok"
    with pytest.raises(ConfigurationError) as raised:
        read_settings()
    assert all(name in raised.value.message for name in wrong)


def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a password in an address, nor more than a glance of what is long."""
    monkeypatch.setenv("SEEDREAM_SEAL_KEYS", "short-secret")
    monkeypatch.setenv("ACEDATACLOUD_API_BASE_URL", "ftp://me:short-secret@example.com")
    monkeypatch.setenv("SEEDREAM_PREVIEW", "x" * 5000)
    found = machines()["settings"].found
    assert "SEEDREAM_SEAL_KEYS" in found
    assert "ACEDATACLOUD_API_BASE_URL" in found
    assert "short-secret" not in found
    assert len(found) < 1000


def test_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what may be meant."""
    monkeypatch.setenv("SEEDREAM_OUTPUT", "x")
    monkeypatch.setenv("ACEDATACLOUD_Q", "x")
    found = machines()["settings"]
    assert found.level == "warning"
    assert "SEEDREAM_OUTPUT (did you mean SEEDREAM_OUTPUT_DIR?)" in found.found
    assert "ACEDATACLOUD_Q" in found.found


def test_a_file_of_settings_in_another_encoding() -> None:
    """The server starts without it, and both say so."""
    Path(".env").write_bytes("SEEDREAM_OUTPUT_DIR=é\n".encode("latin-1"))
    found = machines()["settings"]
    told = f".env in {Path.cwd()} is ignored: it is not written in UTF-8."
    assert (found.level, found.found) == ("warning", told)
    done = run(ACEDATACLOUD_API_TOKEN=TOKEN)
    assert (done.returncode, told in done.stderr) == (0, True)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SEEDREAM_WAIT_SECONDS", "soon", "it must be a number"),
        ("SEEDREAM_WAIT_SECONDS", "601", "it must be 600 or less"),
        ("SEEDREAM_SHUTDOWN_SECONDS", "-0.5", "it must be 0 or more"),
        ("SEEDREAM_READ_TIMEOUT", "0", "it must be above 0"),
        ("SEEDREAM_CONNECTIONS", "0", "it must be 1 or more"),
        ("SEEDREAM_CALLS_AT_ONCE", "1.5", "it must be a whole number"),
        ("SEEDREAM_ACCESS_SECONDS", "9" * 5000, "it has too many digits"),
        ("SEEDREAM_SANDBOX", "perhaps", "it must be true or false"),
        ("SEEDREAM_PREVIEW", "maybe", "it must be 'on' or 'off'"),
        ("SEEDREAM_LOG_LEVEL", "loud", "it must be debug, info, warning or error"),
        ("SEEDREAM_LOG_FORMAT", "xml", "it must be 'text' or 'json'"),
        ("SEEDREAM_SEAL_KEYS", "short", "each has at least 32 characters (`openssl rand -hex 32` makes one)"),
        ("ACEDATACLOUD_API_BASE_URL", "api.example.com", "it must start with https:// or http://"),
    ],
)
def test_what_is_wrong_with_a_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str) -> None:
    """In words of our own, where the start ends and where the doctor looks; never the validator's."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert caught.value.message == f"The setting {name} is wrong: {why}"
    assert f"{name}: {why}" in machines()["settings"].found


def test_every_rule_of_the_settings_has_words() -> None:
    """Whatever a validator says of any setting, nothing of it is passed on."""
    for name, field in Settings.model_fields.items():
        for odd in ("?", "-1", "1e999", "nan", "\0", "[]", "x" * 2000):
            try:
                Settings.model_validate({name: odd})
            except ValidationError as error:
                for details in error.errors():
                    said = why_invalid(details)
                    assert "not of the right form" not in said, (field, details)
                    assert not re.search("Input|String should|Value error|valid", said)


@pytest.mark.parametrize("left_empty", ["", " ", "${user_config.setting}", "null", "undefined"])
def test_settings_that_were_left_empty(monkeypatch: pytest.MonkeyPatch, left_empty: str) -> None:
    """As clients with a form hand them on: they are not set."""
    usual = read_settings()
    names = ["ACEDATACLOUD_API_TOKEN", "ACEDATACLOUD_API_BASE_URL"]
    names += ["SEEDREAM_OUTPUT_DIR", "SEEDREAM_WAIT_SECONDS", "SEEDREAM_PREVIEW", "SEEDREAM_JOURNAL", "SEEDREAM_SSE"]
    names += ["SEEDREAM_MODELS_FILE", "SEEDREAM_ALLOWED_DIRS", "SEEDREAM_PUBLIC_URL", "SEEDREAM_REDIS_URL"]
    for name in names:
        monkeypatch.setenv(name, left_empty)
    assert read_settings() == usual
    assert machines()["output"].level == "ok"


def test_an_empty_list_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the usual one, unless the place of a form's field was left standing."""
    monkeypatch.setenv("SEEDREAM_ALLOWED_ORIGINS", "")
    assert read_settings().allowed_origins == []
    monkeypatch.setenv("SEEDREAM_ALLOWED_ORIGINS", "${user_config.origins}")
    assert "http://localhost" in read_settings().allowed_origins


@pytest.mark.parametrize(("written", "preview"), [("true", "on"), ("False", "off"), ("on", "on"), ("off", "off")])
def test_switches(monkeypatch: pytest.MonkeyPatch, written: str, preview: str) -> None:
    """A client's form has true and false."""
    monkeypatch.setenv("SEEDREAM_PREVIEW", written)
    assert read_settings().preview == preview


def test_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another table, and a table that can't be read."""
    assert machines()["models"].found.endswith("in the built-in table")
    Path("models.toml").write_text("nonsense", "utf-8")
    monkeypatch.setenv("SEEDREAM_MODELS_FILE", "models.toml")
    found = machines()["models"]
    assert found.level == "problem"
    assert "models.toml" in found.found


def test_the_folder_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there, one that can be made (and is not), one that can't, and one with too little room."""
    monkeypatch.setenv("SEEDREAM_OUTPUT_DIR", "pictures/of/mine")
    found = machines()["output"]
    assert found.level == "ok"
    assert str(Path.cwd() / "pictures" / "of" / "mine") in found.found
    assert list(Path.cwd().iterdir()) == []
    Path("file").touch()
    for folder in ("file", "file/below", "x" * 300):
        monkeypatch.setenv("SEEDREAM_OUTPUT_DIR", folder)
        found = machines()["output"]
        assert found.level == "problem", folder
        assert "SEEDREAM_OUTPUT_DIR" in found.advice
    monkeypatch.setenv("SEEDREAM_OUTPUT_DIR", "pictures")
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]
    monkeypatch.setattr(machine, "_MIN_FREE", 2**70)
    assert machines()["output"].level == "warning"


def test_folders_that_pictures_are_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there can't have any."""
    monkeypatch.setenv("SEEDREAM_ALLOWED_DIRS", f"{Path.cwd()},nowhere")
    found = machines()["output"]
    assert found.level == "warning"
    assert "nowhere is not a folder" in found.found
    for setting in ("SEEDREAM_ALLOWED_DIRS", "SEEDREAM_OUTPUT_DIR"):
        monkeypatch.setenv(setting, "~nobody-of-that-name/pictures")
        assert f"{setting}: there is no such home folder" in machines()["settings"].found


def test_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None yet, one with tasks, none that is wanted."""
    found = machines()["journal"]
    assert found.level == "ok"
    assert "none yet; the first call creates" in found.found
    assert not (tmp_path / "state").exists()
    monkeypatch.setenv("SEEDREAM_JOURNAL", "tasks.sqlite3")
    done = run("--sandbox", "try", "a fox", "--sandbox-seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert machines()["journal"] == Finding("ok", f"{Path.cwd() / 'tasks.sqlite3'}, 1 task")
    monkeypatch.setenv("SEEDREAM_JOURNAL", "off")
    assert machines()["journal"].found.startswith("off")


def test_a_journal_that_can_not_be_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Damaged, locked by another program, in a place where nothing can be: pictures come all the same."""
    monkeypatch.setenv("SEEDREAM_JOURNAL", "tasks.sqlite3")
    Path("tasks.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    before = Path("tasks.sqlite3").read_bytes()
    found = machines()["journal"]
    assert (found.level, found.advice[:31]) == ("warning", "The server works without it. Mo")
    assert "can't be used" in found.found
    assert Path("tasks.sqlite3").read_bytes() == before
    Path("tasks.sqlite3").unlink()
    db = sqlite3.connect("tasks.sqlite3", isolation_level=None)
    db.execute("CREATE TABLE x (y)")
    db.execute("BEGIN EXCLUSIVE")
    found = machines()["journal"]
    db.close()
    assert (found.level, "locked by another program" in found.found) == ("warning", True)
    monkeypatch.setenv("SEEDREAM_JOURNAL", "tasks.sqlite3/below/tasks.sqlite3")
    found = machines()["journal"]
    assert found.level == "warning"
    assert "can't be created" in found.found


def clients(**entries: dict[str, Any]) -> Finding:
    """What is found of the clients, where each has this entry for the server."""
    for client, entry in entries.items():
        name = client.replace("_", "-")
        file = CLIENTS[name].settings_path(folders_here()).file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({CLIENTS[name].servers: {"seedream": entry, "other": {"command": "gone"}}}), "utf-8")
    return client_entries(where_installed(folders_here()))


def with_token(token: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-m", "mcp_seedream"], "env": {"ACEDATACLOUD_API_TOKEN": token}}


def test_where_it_is_installed() -> None:
    """Each client, and what it has for a token, of which little is shown; servers of others are passed over."""
    assert clients().found.startswith("not installed in any known client")
    found = clients(
        claude_desktop=with_token(TOKEN),
        cursor={"url": "https://seedream.mcp.acedata.cloud/mcp"},
        vscode=with_token("${input:token}"),
        windsurf={"serverUrl": "https://seedream.mcp.acedata.cloud/mcp"},
        zed={"command": sys.executable, "args": ["-m", "mcp_seedream", "--sandbox"]},
    )
    told = "Claude Desktop (...9876), Cursor (hosted), VS Code (token not in the file), Windsurf (hosted), "
    assert found == Finding("ok", f"{told}Zed (with the sandbox)")


def test_an_installation_that_can_not_work() -> None:
    """Its folder was moved, an example's token, none, a file that is no JSON: each is named, with the way out."""
    found = clients(cursor=with_token(TOKEN), zed={**with_token(TOKEN), "command": "/moved/.venv/bin/mcp-seedream"})
    assert found.level == "problem"
    assert "Zed starts /moved/.venv/bin/mcp-seedream, which does not exist" in found.found
    assert "`mcp-seedream install zed` again" in found.advice
    found = clients(zed=with_token("your-token"))
    assert (found.level, "Zed has no token: `your-token` is not a token" in found.found) == ("problem", True)
    found = clients(zed={"command": sys.executable})
    assert (found.level, "Zed has no token in " in found.found) == ("warning", True)
    CLIENTS["zed"].settings_path(folders_here()).file.write_text("{", "utf-8")
    found = clients()
    assert (found.level, found.found.count("line 1, column 2")) == ("warning", 1)
    for odd in ("[]", '{"context_servers": {"seedream": 5}}', '{"context_servers": {"x": {"command": 7, "args": {}}}}'):
        CLIENTS["zed"].settings_path(folders_here()).file.write_text(odd, "utf-8")
        assert clients().level in ("ok", "warning")


@pytest.mark.parametrize(
    ("command", "strangers"),
    [
        ("uvx NAME", True),
        ("/usr/bin/uvx NAME@latest --sandbox", True),
        ("cmd /c uvx NAME==0.1.0", True),
        ("uvx --from NAME[otel] NAME", True),
        ("uvx --from=NAME NAME", True),
        ("uv tool run NAME", True),
        ("pipx run NAME", True),
        ("uvx NAME-acedatacloud", False),
        ("uvx NAME-acedatacloud==0.1.0", False),
        ("uvx --from NAME-acedatacloud NAME", False),
        ("uvx --from /opt/NAME NAME", False),
        ("uv run --project /opt/NAME NAME", False),
        ("pipx run --spec . NAME", False),
    ],
)
def test_a_client_that_starts_the_other_project(tmp_path: Path, command: str, strangers: bool) -> None:
    """The index's package of this name is somebody else's, and would be given the token: that is a problem."""
    program, *arguments = command.replace("NAME", "mcp-seedream").split()
    entry = {"command": sys.executable, "args": [program, *arguments], "env": {"ACEDATACLOUD_API_TOKEN": TOKEN}}
    found = clients(zed=entry)
    assert found.level == ("problem" if strangers else "ok"), found
    assert ("Zed starts an unrelated project" in found.found) is strangers
    assert ("`mcp-seedream install zed` again" in found.advice) is strangers
    assert TOKEN not in found.found + found.advice


def test_the_token_of_a_client() -> None:
    """It is looked at where none is set here; where a client sees to it, that is no problem."""

    def checks() -> dict[str, Any]:
        done = run("doctor", "--json", ACEDATACLOUD_API_BASE_URL=f"http://127.0.0.1:{nobody()}")
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    clients(vscode=with_token("${input:token}"))
    found = checks()["token"]
    assert found["level"] == "warning"
    assert found["found"] == "No token can be read here: VS Code provides it to the server."
    clients(claude_desktop=with_token(f"Bearer {TOKEN}"))
    found = checks()["token"]
    assert (found["level"], found["found"]) == ("ok", "...9876, from Claude Desktop's settings")
    clients(claude_desktop=with_token("two words"))
    assert "it contains blanks" in checks()["token"]["found"]


def installed(folder: Path, name: str, version: str, *lines: str) -> None:
    """What a package leaves when it is installed, so that it is found before the real one."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
    (info / "METADATA").write_text(text, "utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that stands before all others, in this process and in those that it starts."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


def test_packages() -> None:
    """As they are: which, and where this one is."""
    found = machines(packages=True)
    assert found["packages"].level == "ok"
    assert f"{DISTRIBUTION} {__version__} in {Path(machine.__file__).parents[1]}; mcp 2." in found["packages"].found
    assert sys.executable in found["python"].found


def test_packages_that_do_not_fit(site: Path) -> None:
    """Too old, missing; what an extra wants may be missing."""
    installed(site, "pydantic", "1.10")
    installed(
        site,
        DISTRIBUTION,
        __version__,
        "Requires-Dist: pydantic<3,>=2.12",
        "Requires-Dist: nowhere-to-be-found[extra]>=1",
        'Requires-Dist: socksio>=99; extra == "socks"',
    )
    found = machines(packages=True)["packages"]
    assert found.level == "problem"
    assert "requirement pydantic<3,>=2.12, but you have pydantic 1.10" in found.found
    assert "requires nowhere-to-be-found, which is not installed" in found.found
    assert "socksio" not in found.found


def test_without_pip(site: Path) -> None:
    """As in an environment that uv made: requirements are not compared, everything else is looked at."""
    site.mkdir()
    (site / "pip.py").write_text("raise ImportError('no pip here')", "utf-8")
    installed(site, DISTRIBUTION, __version__, "Requires-Dist: nowhere-to-be-found")
    assert machines(packages=True)["packages"].level == "ok"


def test_another_version_is_installed(site: Path) -> None:
    """Than the one that runs."""
    installed(site, DISTRIBUTION, "0.0.1")
    found = machines(packages=True)["packages"]
    assert found.level == "problem"
    assert f"0.0.1 is installed, but {__version__} runs" in found.found


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """Its own last words say why."""
    (tmp_path / "broken").mkdir()
    # Only the server has no use for it: it is what writes logs for machines.
    (tmp_path / "broken" / "pythonjsonlogger.py").write_text("raise ImportError('half an installation')", "utf-8")
    done = run("doctor", "--json", SEEDREAM_LOG_FORMAT="json", PYTHONPATH=str(tmp_path / "broken"))
    [server] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "server"]
    assert server["level"] == "problem"
    assert "It does not start: ImportError: half an installation" in server["found"]


def test_what_production_recent_refusals(tmp_path: Path) -> None:
    """As the servers on this machine have written it down; what is over is not told."""
    settings = read_settings(journal=str(tmp_path / "tasks.sqlite3"))

    async def find(*refusals: tuple[str, str | None, float]) -> Finding:
        journal = Journal(tmp_path / "tasks.sqlite3")
        for model, size, seconds in refusals:
            await journal.remember((model, size), time.time() + seconds)
        journal.close()
        return await recent_refusals(settings)

    assert anyio.run(find).level == "ok"
    assert anyio.run(find, ("over", None, -1.0)).level == "ok"
    found = anyio.run(find, ("a-model", None, 600.0), ("another", "1K", 900.0))
    assert found.level == "warning"
    assert "the upstream refused a-model (remembered until " in found.found
    assert "size 1K for another (remembered until " in found.found
    assert anyio.run(recent_refusals, read_settings(journal="off")).level == "ok"
