"""What `mcp-seedream doctor` finds on the machine of somebody who serves others: each fault is really made."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings_report import read_report
from mcp_seedream.doctor.findings import Check, Finding, Result, run_checks
from mcp_seedream.doctor.hosting_checks import HostingChecks
from mcp_seedream.oauth.sealing import key_id
from tests.process.test_doctor import environment as environment  # noqa: PLC0414  (a fixture: none of our own settings)
from tests.process.test_doctor import run
from tests.support.dance import OTHER_SECRET
from tests.support.dance import hosted as with_sign_in
from tests.support.obstacles import Says, certificate, nobody, saying, silent
from tests.support.services import free_port, listens, program, redis_running, started

KEYS = "8f2c6ab1d94e07355c1e7fa08b62d3490be7a4"
PASSWORD = "a-redis-password-1234"
NAMES = ["hosting", "redis", "metrics", "address"]
PUBLIC = "https://seedream.example.invalid"
Set = Mapping[str, str]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes settings, and tells what the checks find then; no secret is among it."""
    for name in ("WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    def looked(only: str = "", **env: str) -> dict[str, Finding]:
        with monkeypatch.context() as here:
            for name, value in env.items():
                here.setenv(name, value)
            checks = [
                Check(each.name, each.find) for each in HostingChecks(read_report()).checks() if only in ("", each.name)
            ]
            told: list[Result] = []
            anyio.run(run_checks, checks, told.append)
        assert KEYS not in repr(told)
        assert PASSWORD not in repr(told)
        return {result.name: result.finding for result in told}

    return looked


def test_who_serves_nobody(given: Any) -> None:
    """Is not told of hosting; whoever has set something for it is, be it wrong."""
    assert given() == {}
    assert given(SEEDREAM_WAIT_SECONDS="5", ACEDATACLOUD_API_TOKEN="a-token-of-some-length") == {}
    assert given(SEEDREAM_PUBLIC_URL="", WEB_CONCURRENCY="1") == {}
    for env in ({"WEB_CONCURRENCY": "2"}, {"SEEDREAM_PUBLIC_URL": "nonsense"}, {"SEEDREAM_SEAL_KEYS": KEYS}):
        assert list(given("metrics", **env)) == ["metrics"]


def test_in_the_report(tmp_path: Path) -> None:
    """Between the clients and the way to the upstream; nobody needs a token there. Nothing is left behind."""
    base = f"http://127.0.0.1:{nobody()}"
    done = run("doctor", "--json", ACEDATACLOUD_API_BASE_URL=base, SEEDREAM_SEAL_KEYS=KEYS, SEEDREAM_PUBLIC_URL=PUBLIC)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert list(found)[7:11] == NAMES
    assert KEYS not in done.stdout + done.stderr
    assert (found["token"]["level"], found["account"]["level"]) == ("ok", "not_checked")
    assert "every caller sends one" in found["token"]["found"]
    assert found["hosting"]["found"] == (
        f"sign-in for {PUBLIC}, for one process only (several need SEEDREAM_REDIS_URL); 1 process; "
        f"it takes up to 8 s to stop; seal key {key_id(KEYS)} encrypts; there is no other"
    )
    assert found["address"]["level"] == "not_checked"
    assert list(tmp_path.rglob("*")) == []


SIGN_IN = {"SEEDREAM_PUBLIC_URL": PUBLIC}
REDIS = {"SEEDREAM_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:9/0"}


@pytest.mark.parametrize(
    ("env", "level", "words"),
    [
        (SIGN_IN | REDIS, "problem", "give them all the same SEEDREAM_SEAL_KEYS"),
        (SIGN_IN | {"WEB_CONCURRENCY": "2"}, "problem", "set SEEDREAM_REDIS_URL"),
        (SIGN_IN | {"PROMETHEUS_MULTIPROC_DIR": "figures"}, "problem", "set SEEDREAM_REDIS_URL"),
        (SIGN_IN | {"SEEDREAM_SEAL_KEYS": KEYS, "SEEDREAM_REDIS_URL": "http://x"}, "problem", "not like redis://host"),
        (
            SIGN_IN | {"SEEDREAM_SEAL_KEYS": "at-least-32-characters-that-nobody-guesses"},
            "problem",
            "openssl rand -hex 32",
        ),
        ({"SEEDREAM_SANDBOX": "true", "WEB_CONCURRENCY": "2"}, "problem", "A sandbox serves one process only."),
        ({"SEEDREAM_SEAL_KEYS": KEYS} | REDIS, "warning", "SEEDREAM_SEAL_KEYS and SEEDREAM_REDIS_URL have no effect"),
        (SIGN_IN, "warning", "everyone must sign in again after a restart"),
        ({"WEB_CONCURRENCY": "4", "SEEDREAM_SHUTDOWN_SECONDS": "20"}, "ok", "4 processes; it takes up to 22 s to stop"),
        (SIGN_IN | REDIS | {"SEEDREAM_SEAL_KEYS": KEYS, "WEB_CONCURRENCY": "2"}, "ok", "shared; 2 processes"),
        (
            SIGN_IN | {"SEEDREAM_SEAL_KEYS": f"{OTHER_SECRET},{KEYS}"},
            "ok",
            f"seal key {key_id(OTHER_SECRET)} encrypts; {key_id(KEYS)} only decrypts",
        ),
    ],
)
def test_settings_that_belong_together(given: Any, env: Set, level: str, words: str) -> None:
    """As the server itself has it: what it would not start with is a problem, in its own words."""
    found = given("hosting", **env)["hosting"]
    assert (found.level, words in found.found) == (level, True), found
    assert list(Path.cwd().rglob("*")) == []


@contextmanager
def redis(folder: Path, *more: str) -> Iterator[int]:
    """A real one, with settings of its own."""
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with started([*command, "--loglevel", "warning", *more], lambda: listens(port)):
        yield port


def test_a_redis(given: Any, tmp_path: Path) -> None:
    """That is there and new enough; what is in it stays."""
    from redis import Redis  # noqa: PLC0415

    with redis_running(tmp_path, free_port()) as url:
        found = given("redis", SEEDREAM_REDIS_URL=url)["redis"]
        with Redis.from_url(url) as client:
            assert client.dbsize() == 0
    assert found.level == "ok", found
    assert found.found.startswith("Redis ")
    assert given("redis", WEB_CONCURRENCY="2")["redis"] == Finding("ok", "not set; a single process does not need it")


@pytest.mark.parametrize(
    ("more", "user", "level", "words"),
    [
        (["--requirepass", PASSWORD], f":{PASSWORD}@", "ok", "Redis "),
        (["--requirepass", PASSWORD], "", "problem", "refuses the password, or requires one"),
        (["--requirepass", PASSWORD], f":{PASSWORD}x@", "problem", "refuses the password, or requires one"),
        (["--rename-command", "GETDEL", ""], "", "problem", "refuses: unknown command"),
        (["--user", "default", "on", "nopass", "~*", "+@all", "-info"], "", "ok", "of an unknown version"),
        (["--user", "default", "on", "nopass", "~*", "+@all", "-getdel"], "", "problem", "refuses: "),
        (["--replicaof", "127.0.0.1", "1"], "", "problem", "refuses: "),
        (["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"], "", "warning", "evicts keys when it is full"),
    ],
)
def test_what_can_be_wrong_with_redis(
    given: Any, tmp_path: Path, more: list[str], user: str, level: str, words: str
) -> None:
    """Its password, its age, what it is allowed to do, what it forgets."""
    with redis(tmp_path, *more) as port:
        found = given("redis", SEEDREAM_REDIS_URL=f"redis://{user}127.0.0.1:{port}/0")["redis"]
    assert (found.level, words in found.found) == (level, True), found
    assert f"127.0.0.1:{port}" in found.found


class Old(socketserver.StreamRequestHandler):
    """Redis as it was: enough of it to be greeted (from 6.0 on), to tell its version, and to know no GETDEL."""

    version = ""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                words.append(self.rfile.read(int(self.rfile.readline()[1:])).decode())
                self.rfile.readline()
            about = f"# Server\r\nredis_version:{self.version}\r\n"
            known = {"INFO": f"${len(about)}\r\n{about}", "HELLO": "%1\r\n$5\r\nproto\r\n:3"}
            if self.version < "6":
                del known["HELLO"]
            said = known.get(words[0], f"-ERR unknown command `{words[0]}`")
            self.wfile.write(f"{said}\r\n".encode())


@pytest.mark.parametrize(("version", "told"), [("5.0.7", "before 6.0"), ("6.0.16", "6.0.16")])
def test_a_redis_that_is_too_old(given: Any, version: str, told: str) -> None:
    """Is said to be, and which one it takes."""
    handler = type("Handler", (Old,), {"version": version})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        port = server.server_address[1]
        found = given("redis", SEEDREAM_REDIS_URL=f"redis://127.0.0.1:{port}")["redis"]
        server.shutdown()
        thread.join()
    wanted = f"127.0.0.1:{port} is Redis {told}, which is too old."
    assert found == Finding("problem", wanted, "Sign-in needs 6.2 or newer.")


def test_a_redis_that_is_not_there(given: Any) -> None:
    """Nobody listens, somebody says nothing, the name is not known, the address is none; a password is in no word."""
    with silent() as port:
        found = given("redis", SEEDREAM_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{port}/0")["redis"]
        assert "in time" in found.found
    for place, words in (
        (f"127.0.0.1:{nobody()}", "refuses the connection"),
        ("redis.example.invalid:6379", "is unknown"),
    ):
        found = given("redis", SEEDREAM_REDIS_URL=f"redis://:{PASSWORD}@{place}/0")["redis"]
        assert (found.level, words in found.found, place in found.found) == ("problem", True, True), found
    for url in (
        f"http://:{PASSWORD}@x",
        f"redis://:{PASSWORD}@x:port",
        PASSWORD,
        f"redis://x/0?health_check={PASSWORD}",
    ):
        assert given("redis", SEEDREAM_REDIS_URL=url)["redis"].level == "problem", url


def test_the_folder_for_figures(given: Any) -> None:
    """One that can't be written to, one that nobody would make, and good ones; it is not touched."""
    Path("file").touch()
    for folder in ("file", "file/below"):
        found = given("metrics", PROMETHEUS_MULTIPROC_DIR=folder, WEB_CONCURRENCY="2")["metrics"]
        assert (found.level, "can't be written to" in found.found) == ("problem", True)
    assert "does not exist" in given("metrics", PROMETHEUS_MULTIPROC_DIR="new")["metrics"].found
    assert given("metrics", PROMETHEUS_MULTIPROC_DIR="new", WEB_CONCURRENCY="2")["metrics"].level == "ok"
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]
    Path("new").mkdir()
    (Path("new") / "counter_1.db").touch()
    assert given("metrics", PROMETHEUS_MULTIPROC_DIR="new")["metrics"].found == str(Path.cwd() / "new")
    found = given(PROMETHEUS_MULTIPROC_DIR="new", WEB_CONCURRENCY="2")
    assert found["metrics"].level == found["hosting"].level == "ok"
    assert [path.name for path in Path("new").iterdir()] == ["counter_1.db"]
    assert "temporary" in given("metrics", WEB_CONCURRENCY="2")["metrics"].found


def test_figures_of_one_process_need_their_folder(tmp_path: Path) -> None:
    """As the check says: a server of one process does not make it."""
    code = "from mcp_seedream.assembly import create_app; create_app()"
    env = {"PATH": "", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "new")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0, "No such file or directory" in done.stderr) == (False, True)


def test_a_public_address(given: Any, table: ModelTable, upstream: str) -> None:
    """That leads to the server, which has the same name for itself."""
    with with_sign_in(table, upstream) as server:
        assert given("address", SEEDREAM_PUBLIC_URL=server.address)["address"].level == "ok"
        elsewhere = server.address.replace("127.0.0.1", "localhost")
        found = given("address", SEEDREAM_PUBLIC_URL=elsewhere)["address"]
    assert found.level == "problem"
    assert f"names {server.address}/mcp, but {elsewhere}/mcp is set here" in found.found


def test_a_public_address_without_sign_in(given: Any) -> None:
    """The server there knows nothing of that name, or the proxy in front keeps its metadata back."""
    says = Says(404, b"{}")
    with saying(says) as port:
        found = given("address", SEEDREAM_PUBLIC_URL=f"http://127.0.0.1:{port}")["address"]
        assert (found.level, "answers HTTP 404" in found.found) == ("problem", True)
        says.status, says.body = 200, b'{"resource": ["odd"]}'
        assert "names ['odd']" in given("address", SEEDREAM_PUBLIC_URL=f"http://127.0.0.1:{port}")["address"].found
        says.status, says.body = 502, b"<html>Bad Gateway</html>"
        found = given("address", SEEDREAM_PUBLIC_URL=f"http://127.0.0.1:{port}")["address"]
        assert (found.level, "is not running" in found.found) == ("not checked", True)
        says.status, says.body, says.kind = 200, b"<html><title>WiFi</title></html>", "text/html"
        found = given("address", SEEDREAM_PUBLIC_URL=f"http://127.0.0.1:{port}")["address"]
        assert (found.level, 'A web page answers ("WiFi")' in found.found) == ("problem", True)


def test_a_public_address_that_is_not_reached(given: Any, tmp_path: Path) -> None:
    """From here: that need be no fault, and is said with the reason."""
    tls, _ = certificate(tmp_path, "localhost")
    with saying(Says(200, b"{}"), tls=tls) as port:
        urls = {
            f"http://127.0.0.1:{nobody()}": "refuses the connection",
            PUBLIC: "is unknown",
            f"https://localhost:{port}": "is not trusted",
        }
        for url, words in urls.items():
            found = given("address", SEEDREAM_PUBLIC_URL=url)["address"]
            assert (found.level, words in found.found) == ("not checked", True), found
            assert "doctor URL" in found.advice
