"""Settings: what a `.env` may say, what only HTTP reads, paths, seal keys and placeholders for tokens."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mcp_seedream import DISTRIBUTION
from mcp_seedream.core.credentials import clean_token, placeholder_reason
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.paths import expand_path
from mcp_seedream.core.setting_fields import ADDRESSES, HARMLESS, HTTP_ONLY, Settings, name_of
from mcp_seedream.core.setting_rules import check_seal_key
from mcp_seedream.core.settings import read_settings, sources
from mcp_seedream.sandbox.app import Sandbox
from tests.process.test_stdio import OLD, Process, call, hello, started

TOKEN, BASE_URL = "ACEDATACLOUD_API_TOKEN", "ACEDATACLOUD_API_BASE_URL"
ELSEWHERE = "https://elsewhere.example.com"
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
}
GUARDED = {
    BASE_URL: ELSEWHERE,
    "SEEDREAM_MODELS_FILE": "models.toml",
    "SEEDREAM_OUTPUT_DIR": "pictures",
    "SEEDREAM_JOURNAL": "tasks",
    "SEEDREAM_ALLOWED_DIRS": "pictures",
    "SEEDREAM_IMAGE_HOSTS": ELSEWHERE,
    "OTEL_EXPORTER_OTLP_ENDPOINT": ELSEWHERE,
}
"""Of a local server: where something goes, what is read, and where is written."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and no settings but those of a test."""
    for name in list(os.environ):
        if name.startswith(("SEEDREAM_", "ACEDATACLOUD_", "OTEL_")) or name in ("WEB_CONCURRENCY", "HTTPS_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | dict[str, str]) -> None:
    """Write `.env` in the working directory."""
    lines = text if isinstance(text, str) else "".join(f"{name}={value}\n" for name, value in text.items())
    Path(".env").write_text(lines, "utf-8")


def greet(*arguments: str, code: str = "pass", **env: str) -> subprocess.CompletedProcess[str]:
    """A server in the working directory, which is sent `initialize` over stdio; `code` is run before it."""
    start = f"import sys; {code}; from mcp_seedream.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", start, *arguments],
        input=f"{json.dumps(INITIALIZE)}\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PATH": "", "HOME": str(Path.cwd()), **env},
        timeout=60,
        check=False,
    )


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "mcp_seedream", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PATH": "", "HOME": str(Path.cwd()), **env},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def greeted(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the server answered `initialize`."""
    return bool(done.stdout and json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "seedream")


def test_a_folder_can_not_send_the_token_elsewhere(
    folder: Path, upstream: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `.env` whose folder is not the token's changes nothing but harmless settings: one warning names the rest."""
    write({**GUARDED, BASE_URL: upstream, "SEEDREAM_WAIT_SECONDS": "7", "HTTPS_PROXY": ELSEWHERE})
    monkeypatch.setenv(TOKEN, "of-the-environment")
    found = sources("local")
    settings, usual = found.settings(), Settings()
    assert settings == usual.model_copy(update={"wait_seconds": 7})
    assert found.ignored == tuple(sorted(GUARDED))
    [warning] = found.warnings()
    assert all(name in warning for name in GUARDED)
    # No request reaches the address of `.env`; one that does not resolve stands for the real one.
    server = Process(cwd=folder, env={TOKEN: "of-the-environment", "HTTPS_PROXY": "http://127.0.0.1:9"})
    hello(server, OLD)
    assert call(server, prompt="a fox", wait_seconds=0)[-1]["result"]["isError"]
    assert server.process.communicate(timeout=20)[1].count("ignored") == 1
    assert sandbox.requests == []
    assert [path.name for path in folder.iterdir() if path.name != ".local"] == [".env"]


@pytest.mark.parametrize("name", GUARDED)
def test_with_its_own_token_a_folder_says_all(name: str) -> None:
    """The vendor's guide puts the token into `.env`: what stands beside it counts."""
    write({TOKEN: "of-the-file", name: GUARDED[name]})
    found = sources("local")
    assert found.warnings() == []
    field = next(field for field in Settings.model_fields if name_of(field) == name)
    assert getattr(found.settings(), field) != Settings.model_fields[field].get_default()


@pytest.mark.parametrize(
    ("filed", "environment"),
    [
        ("", {}),
        (f"{TOKEN}=\n", {}),
        (f'{TOKEN}=""\n', {}),
        (f"{TOKEN}=null\n", {}),
        (f"{TOKEN}=your-token\n", {}),
        (f"{TOKEN}=two words\n", {}),
        (f"{TOKEN}=${{OTHER_SECRET}}\n", {"OTHER_SECRET": "another-secret"}),
        (f"{TOKEN}=of-the-file\n", {TOKEN: "of-the-environment"}),
        (f"{TOKEN}=the-same-one\n", {TOKEN: "the-same-one"}),
        (f"{TOKEN}=of-the-file\n", {TOKEN: ""}),
        (f"{TOKEN.lower()}=of-the-file\n", {TOKEN: "of-the-environment"}),
    ],
)
def test_what_is_no_token_of_its_own(monkeypatch: pytest.MonkeyPatch, filed: str, environment: dict[str, str]) -> None:
    """Empty, a placeholder, a reference to the environment, or one that the environment stands above."""
    write(f"{filed}{BASE_URL}={ELSEWHERE}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = sources("local")
    assert found.ignored == (BASE_URL,)
    assert BASE_URL not in found.env_file


def test_a_folder_reads_no_variable_into_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token of its own it could send away what else the environment holds."""
    monkeypatch.setenv("OTHER_SECRET", "another-secret")
    write({TOKEN: "of-the-file", BASE_URL: f"{ELSEWHERE}/${{OTHER_SECRET}}", "SEEDREAM_WAIT_SECONDS": "${SECONDS:-9}"})
    settings = sources("local").settings()
    assert "another-secret" not in settings.base_url
    assert settings.wait_seconds == 9


def test_over_http_a_folder_says_nothing_of_where_tokens_go(tmp_path: Path) -> None:
    """KeyVerifier bring tokens, which are not in the file; a folder's own token changes nothing about that."""
    hosted = {
        "SEEDREAM_PUBLIC_URL": ELSEWHERE,
        "SEEDREAM_SEAL_KEYS": "aaaa",
        "SEEDREAM_REDIS_URL": "redis://elsewhere.example.com",
        "SEEDREAM_VENDOR_CLIENT_ID": "client",
        "SEEDREAM_VENDOR_AUTH_URL": ELSEWHERE,
        "SEEDREAM_VENDOR_PLATFORM_URL": ELSEWHERE,
        "PROMETHEUS_MULTIPROC_DIR": "figures",
    }
    write({**GUARDED, **hosted, TOKEN: "of-the-file", "SEEDREAM_CHECK_SECONDS": "30"})
    found = sources("hosted")
    assert found.ignored == tuple(sorted({**GUARDED, **hosted}))
    usual = read_settings().model_dump() | {"token": None}
    assert usual == Settings().model_dump() | {"check_seconds": 30}


def test_every_setting_is_harmless_or_guarded() -> None:
    """What is not named as harmless is guarded, so that a new setting is; names of files and secrets are not there."""
    secret = {field for field, info in Settings.model_fields.items() if "Secret" in str(info.annotation)}
    paths = {field for field, info in Settings.model_fields.items() if "Path" in str(info.annotation)}
    assert not HARMLESS & (secret | paths | ADDRESSES)
    assert Settings.model_fields.keys() >= HARMLESS | HTTP_ONLY | ADDRESSES


def test_try_sends_no_token_elsewhere(upstream: str, sandbox: Sandbox) -> None:
    """Nor does it save where the folder says."""
    write({BASE_URL: upstream, "SEEDREAM_OUTPUT_DIR": "elsewhere"})
    done = command("try", "a fox", **{TOKEN: "of-the-environment", "HTTPS_PROXY": "http://127.0.0.1:9"})
    assert sandbox.requests == []
    assert done.returncode == 1
    assert done.stderr.count("ignored") == 1
    assert not Path("elsewhere").exists()


def test_doctor_sends_no_token_elsewhere(upstream: str, sandbox: Sandbox) -> None:
    """It says what is passed over, with where to set it."""
    write({BASE_URL: upstream})
    done = command("doctor", "--json", **{TOKEN: "of-the-environment", "HTTPS_PROXY": "http://127.0.0.1:9"})
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert sandbox.requests == []
    assert (checks["settings"]["level"], BASE_URL in checks["settings"]["found"]) == ("warning", True)


@pytest.mark.parametrize(
    ("filed", "environment", "written"),
    [
        ({}, {TOKEN: "of-the-environment"}, {TOKEN: "of-the-environment"}),
        # A path beside the token is taken along; an address would get the token that comes next.
        (
            {TOKEN: "of-the-file"},
            {},
            {
                TOKEN: "of-the-file",
                "SEEDREAM_OUTPUT_DIR": "{folder}/pictures",
                "SEEDREAM_JOURNAL": "{folder}/tasks",
                "SEEDREAM_ALLOWED_DIRS": "{folder}/pictures",
                "SEEDREAM_MODELS_FILE": "{folder}/models.toml",
            },
        ),
    ],
)
def test_install_writes_no_address_of_a_folder(
    folder: Path, filed: dict[str, str], environment: dict[str, str], written: dict[str, str]
) -> None:
    """It would outlive the folder."""
    write({**GUARDED, **filed})
    done = command("install", "cursor", "--config", "mcp.json", **environment)
    assert done.returncode == 0, done.stderr
    entry = json.loads(Path("mcp.json").read_text())["mcpServers"]["seedream"]
    assert entry["env"] == {name: value.format(folder=folder) for name, value in written.items()}
    assert done.stderr.count("ignored") == 1
    assert BASE_URL in done.stderr


def test_install_says_that_a_file_can_not_be_read() -> None:
    """It goes on without it."""
    Path(".env").write_bytes(UNREADABLE["git-crypt"])
    done = command("install", "cursor", "--config", "mcp.json", **{TOKEN: "of-the-environment"})
    assert (done.returncode, "it is not written in UTF-8" in done.stderr) == (0, True)


def test_install_takes_no_path_where_the_client_asks_for_the_token(folder: Path) -> None:
    """The token of the file is not the one that is used then."""
    write({**GUARDED, TOKEN: "of-the-file"})
    done = command("install", "vscode", "--ask", "--config", "mcp.json")
    entry = json.loads(Path("mcp.json").read_text())["servers"]["seedream"]
    assert entry["env"].keys() == {TOKEN}
    assert done.stderr.count("ignored") == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://elsewhere.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "http://0.0.0.0:8080",
        "https://",
        "http://[::1",
    ],
)
@pytest.mark.parametrize("field", ["base_url", "vendor_auth_url", "vendor_platform_url"])
def test_tokens_go_to_https_or_this_machine(field: str, address: str) -> None:
    """Wherever the address comes from."""
    with pytest.raises(ConfigurationError, match=name_of(field)):
        read_settings(**{field: address})


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80", "https://a.b/c"])
def test_addresses_that_are_taken(address: str) -> None:
    """A sandbox on this machine, and any https address."""
    assert read_settings(base_url=f"{address}/").base_url == address


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"], ids=["plain", "marked", "powershell", "big-endian"]
)
def test_encodings_of_a_file(encoding: str) -> None:
    """As editors and shells write it: with a byte order mark, UTF-16 is told."""
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    Path(".env").write_bytes(mark + f"{TOKEN}=of-the-file\nSEEDREAM_WAIT_SECONDS=7\n".encode(encoding))
    settings = read_settings("local")
    assert settings.wait_seconds == 7
    assert settings.token is not None
    assert settings.token.get_secret_value() == "of-the-file"


UNREADABLE = {
    "git-crypt": b"\x00GITCRYPT\x00\xd3\x9a\xff",
    "utf-16 without a mark": f"{TOKEN}=of-the-file\n".encode("utf-16-le"),
    "latin-1": "SEEDREAM_OUTPUT_DIR=é\n".encode("latin-1"),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_can_not_be_read_does_not_end_a_local_server(data: bytes) -> None:
    """It is a warning there; a server over HTTP does not start."""
    Path(".env").write_bytes(data)
    done = greet()
    assert greeted(done), done.stderr
    assert "it is not written in UTF-8" in done.stderr
    done = command("--transport", "http")
    assert (done.returncode, "The setting .env is wrong" in done.stderr) == (2, True)


FOREIGN = [
    {"WEB_CONCURRENCY": "auto"},
    {"WEB_CONCURRENCY": "0"},
    {"PROMETHEUS_MULTIPROC_DIR": "/nowhere/at/all"},
    {"PROMETHEUS_MULTIPROC_DIR": "$UNSET/figures"},
    {"SEEDREAM_PUBLIC_URL": "nonsense"},
    {"SEEDREAM_SEAL_KEYS": "short"},
    {"SEEDREAM_REDIS_URL": "what"},
    {"SEEDREAM_MAX_BODY_MIB": "large"},
    {"SEEDREAM_VENDOR_AUTH_URL": "nonsense"},
    {"OTEL_PROPAGATORS": "tracecontext,b3"},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"},
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes as POSIX has them")
def test_a_pipe_without_a_writer() -> None:
    """A pipe that nothing is written to is skipped: a locked password manager does not keep a server from starting."""
    os.mkfifo(".env")
    found = sources("local", pipe_seconds=0)
    assert "it is a pipe, and its writer did not finish in time" in found.warnings()[0]
    assert found.settings().token is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes as POSIX has them")
def test_a_pipe_that_is_written_to() -> None:
    """A pipe is read to its end, once."""
    os.mkfifo(".env")
    written = "SEEDREAM_WAIT_SECONDS=7\n" + "# more than a pipe holds\n" * 9000
    writer = threading.Thread(target=Path(".env").write_text, args=(written,))
    writer.start()
    assert sources("local").settings().wait_seconds == 7
    writer.join()


@pytest.mark.parametrize("env", FOREIGN, ids=str)
def test_what_concerns_others_does_not_end_a_local_server(env: dict[str, str]) -> None:
    """It answers `initialize`, whatever other programs' variables and those of a server over HTTP say."""
    done = greet(**env)
    assert greeted(done), done.stderr
    assert "Traceback" not in done.stderr
    assert ("WARNING" in done.stderr or "ignored" in done.stderr) is any(name.startswith("OTEL") for name in env)


NO_EXPORTER = "sys.modules['opentelemetry.exporter'] = None"


def test_spans_without_an_exporter() -> None:
    """Are a warning over stdio, and stop a server over HTTP."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = greet(code=NO_EXPORTER, **env)
    assert greeted(done), done.stderr
    assert f"Install {DISTRIBUTION}[otel]" in done.stderr
    done = greet("--transport", "http", code=NO_EXPORTER, **env)
    assert (done.returncode, f"Install {DISTRIBUTION}[otel]" in done.stderr) == (2, True)


@pytest.mark.parametrize("value", ["auto", "0"])
def test_processes_over_http(value: str) -> None:
    """There it is a setting like others."""
    done = command("--transport", "http", WEB_CONCURRENCY=value)
    assert (done.returncode, "WEB_CONCURRENCY is wrong" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("workers", "named", "words"),
    [
        ("1", "file/figures", "Not a directory"),
        ("2", "file/figures", "Not a directory"),
        ("1", "file", "Not a directory"),
        ("1", "new", "No such file or directory"),
        ("2", "$UNSET/figures", "is not set"),
    ],
)
def test_a_folder_of_figures_that_can_not_be(folder: Path, workers: str, named: str, words: str) -> None:
    """Ends a server over HTTP with a sentence."""
    (folder / "file").touch()
    done = command("--transport", "http", "--workers", workers, PROMETHEUS_MULTIPROC_DIR=named)
    assert done.returncode == 2
    assert done.stderr.startswith("mcp-seedream: The setting PROMETHEUS_MULTIPROC_DIR is wrong")
    assert words in done.stderr


def test_an_empty_folder_of_figures(folder: Path) -> None:
    """Is none: the library would write into the working directory."""
    start = "from mcp_seedream.assembly import create_app; create_app()"
    env = {"PATH": "", "PROMETHEUS_MULTIPROC_DIR": ""}
    subprocess.run([sys.executable, "-P", "-c", start], env=env, timeout=60, check=True)
    assert list(folder.iterdir()) == []


GUESSED = [
    "at-least-32-characters-that-nobody-guesses",
    "change-me-to-something-with-32-characters",
    "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
    "your-secret-key-of-sufficient-length-here",
    "<your-32-character-secret-key-goes-here>",
    "${SEEDREAM_SEAL_KEYS_OF_THIS_DEPLOYMENT}",
    "a" * 64,
    "ab" * 20,
    "deadbeef" * 8,
    "0123456789" * 4,
    "0123456789abcdef0123456789abcdef",
    "abcdefghijklmnopqrstuvwxyz0123456789",
    "password1password2password3password4",
    f"{'0' * 63}1",
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
    "seedream-seal-key-for-development-only",
    "this-is-a-very-secret-key-for-seedream",
    "some-random-string-that-is-long-enough",
    "correct horse battery staple correct",
    "thequickbrownfoxjumpsoverthelazydog",
]


@pytest.mark.parametrize("key", GUESSED)
def test_seal_keys_that_others_know_or_guess(key: str) -> None:
    """Are refused with how to make one, and are not repeated; so is one behind a good one."""
    for written in (key, f"5f4dcc3b5aa765d61d8327deb882cf99,{key}"):
        with pytest.raises(ConfigurationError, match="openssl rand -hex 32") as caught:
            read_settings(seal_keys=written)
        assert key not in caught.value.message


@pytest.mark.parametrize("name", ["secrets.token_hex(16)", "secrets.token_hex(32)", "secrets.token_urlsafe(24)"])
def test_random_seal_keys(name: str) -> None:
    """Of the usual makers are all taken."""
    import secrets  # noqa: PLC0415

    makers = {
        "secrets.token_hex(16)": lambda: secrets.token_hex(16),
        "secrets.token_hex(32)": lambda: secrets.token_hex(32),
        "secrets.token_urlsafe(24)": lambda: secrets.token_urlsafe(24),
    }
    for _ in range(2000):
        check_seal_key(makers[name]())


@pytest.mark.parametrize("key", ["k;gS3jD*PZuI{!(IWS6,y1_G${dRDB>;", '&@{{I[NhF"ZN*Sshni=7a/Kf}!^rW?&l'])
def test_random_seal_keys_with_signs(key: str) -> None:
    """An open brace in one is no reference."""
    check_seal_key(key)


PLACEHOLDERS = [
    "${ACEDATACLOUD_API_TOKEN}",
    "${env:ACEDATACLOUD_API_TOKEN}",
    "${input:token}",
    "${{ secrets.TOKEN }}",
    "{{token}}",
    "$TOKEN",
    "$env:TOKEN",
    "$(cat token)",
    "%TOKEN%",
    "<token>",
    "<your token>",
    "[token]",
    "op://vault/item/token",
    "your-token",
    "YOUR_API_KEY",
    "your_acedatacloud_token_here",
    "Your API key",
    "INSERT-YOUR-TOKEN-HERE",
    "replace_with_your_token",
    "change-me",
    "xxxxxxxx-xxxx",
    "sk-xxxx",
    "****",
    "ACEDATACLOUD_API_TOKEN",
    "null",
    "undefined",
    "None",
    "sk-...",
    "sk-your-api-key-here",
    "YourToken",
    "mytoken",
    "example-token",
    "${TOKEN",
    "${TOKEN:-none}",
]


@pytest.mark.parametrize("token", PLACEHOLDERS)
def test_placeholders_for_a_token(token: str) -> None:
    """As examples, templates and clients leave them standing."""
    assert placeholder_reason(clean_token(token))
    assert placeholder_reason(clean_token(f'"Bearer {token}"'))


@pytest.mark.parametrize("token", ["any", "sandbox", "a-token", "a-secret-key", "alice", "t", "0f" * 16])
def test_what_may_be_a_token(token: str) -> None:
    """Words that somebody tries the sandbox with, too."""
    assert placeholder_reason(token) is None


@pytest.mark.parametrize("token", ["${ACEDATACLOUD_API_TOKEN}", "your-token", "<your token>"])
def test_a_placeholder_is_not_sent(upstream: str, sandbox: Sandbox, token: str) -> None:
    """The server is there, and a call says what is wrong."""
    with started(cwd=Path.cwd(), env={TOKEN: token, BASE_URL: upstream}) as server:
        hello(server, OLD)
        result = call(server, prompt="a fox", wait_seconds=0)[-1]["result"]
    assert result["isError"]
    assert "only a placeholder" in result["content"][0]["text"]
    assert sandbox.requests == []


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("USERPROFILE", raising=False)
    monkeypatch.setenv("PICTURES", "/data/pictures")
    monkeypatch.setenv("EMPTY", "")
    return tmp_path


SPELLED = {
    "$HOME/a": "{home}/a",
    "${HOME}/a": "{home}/a",
    "${env:HOME}/a": "{home}/a",
    "%USERPROFILE%/a": "{home}/a",
    "~/a": "{home}/a",
    '"~/a b"': "{home}/a b",
    "'$HOME/a'": "{home}/a",
    " /a ": "/a",
    "$PICTURES/a": "/data/pictures/a",
    "/data/%PICTURES%": "/data//data/pictures",
    "file:///a/b%20c": "/a/b c",
    "/data/100%/a$": "/data/100%/a$",
    "%USERPROFILE%\\a\\b": "{home}/a/b",
    "$env:USERPROFILE\\a": "{home}/a",
    "~\\a b": "{home}/a b",
    "/a\\b": "/a\\b",
}


@pytest.mark.skipif(os.name == "nt", reason="paths as POSIX has them")
@pytest.mark.parametrize(("written", "path"), SPELLED.items())
@pytest.mark.parametrize("field", ["output_dir", "journal", "allowed_dirs", "models_file", "metrics_dir"])
def test_paths_as_people_write_them(at_home: Path, field: str, written: str, path: str) -> None:
    """Variables, quotes, `~` and `file:`."""
    [value] = [read_settings(**{field: written}).model_dump()[field]]
    wanted = Path(path.format(home=at_home))
    assert (value == [wanted]) if isinstance(value, list) else (Path(value) == wanted)


UNUSABLE = [
    "$UNSET/a",
    "${UNSET}/a",
    "%UNSET%/a",
    "$EMPTY/a",
    "${user_config.folder}/a",
    "${workspaceFolder}/a",
    "${HOME:-/a}/b",
    "{{home}}/a",
    "https://example.com/a",
    "file://nas/share/a",
    "\\\\nas\\share\\a",
    "\\\\wsl.localhost\\Ubuntu\\a",
    "file:////nas/share/a",
    "C:\\Users\\me",
    "~nobodyhere/a",
    "$(pwd)/a",
    "`pwd`/a",
    "/home/<user>/a",
]


@pytest.mark.skipif(os.name == "nt", reason="paths as POSIX has them")
@pytest.mark.parametrize("written", UNUSABLE)
@pytest.mark.parametrize("field", ["output_dir", "journal", "allowed_dirs", "models_file"])
def test_paths_that_are_refused(at_home: Path, field: str, written: str) -> None:
    """Nobody gets a folder of that name."""
    with pytest.raises(ConfigurationError, match=name_of(field)):
        read_settings(**{field: written})


def test_a_folder_that_is_named_so(folder: Path) -> None:
    """Is the one that is meant."""
    (folder / "$RECYCLE").mkdir()
    assert expand_path("$RECYCLE") == "$RECYCLE"


def test_a_list_of_quoted_folders() -> None:
    """Each or all of them."""
    for written in ('"/a b", "/c"', "'/a b,/c'"):
        assert read_settings(allowed_dirs=written).allowed_dirs == [Path("/a b"), Path("/c")]


def test_install_writes_the_expanded_path(folder: Path) -> None:
    """Clients replace no variables, and have another environment."""
    env = {TOKEN: "of-the-environment", "SEEDREAM_OUTPUT_DIR": "$HOME/pictures", "SEEDREAM_JOURNAL": "${HOME}/tasks"}
    command("install", "cursor", "--config", "mcp.json", **env)
    written = json.loads(Path("mcp.json").read_text())["mcpServers"]["seedream"]["env"]
    assert written["SEEDREAM_OUTPUT_DIR"] == str(folder / "pictures")
    assert written["SEEDREAM_JOURNAL"] == str(folder / "tasks")
