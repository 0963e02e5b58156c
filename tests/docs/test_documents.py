"""The documents are held to what they say: commands are run, configurations started, examples tried, links followed.

A block that is not known here fails. Put its text into `COMMANDS` with how it is run, or mark it in the line above:
`<!-- not run: why -->`, or `<!-- run by .ci/run -->`, which is looked up there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import yaml
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from benchmarks import __main__ as benchmarks
from mcp_seedream.assembly import hosted
from mcp_seedream.cli import _parser
from mcp_seedream.core.settings import Settings, read_settings
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import TOKEN, serving
from tests.support import markdown
from tests.support.markdown import Block
from tests.support.services import free_port
from tools import documents
from tools.documents import ROOT

FOLDER, HOSTED = "/path/to/mcp-seedream", "https://seedream.mcp.acedata.cloud"
"""What documents write for the folder of the repository, and the server that AceDataCloud runs."""
COPIED = ("mcp_seedream", "tests", "docs", "deploy", "README.md", "LICENSE", "pyproject.toml", ".env.example")
PAGES = {path.relative_to(ROOT).as_posix(): markdown.read(path) for path in documents.pages()}
BLOCKS = [block for page in PAGES.values() for block in page.blocks]
LANGUAGES = {"sh", "powershell", "json", "python", "toml", "yaml", "mermaid", "text"}
BASH = ("/usr/bin/env", "bash", "-euo", "pipefail", "-c")
SETTINGS = {str(field.validation_alias.choices[0]) for field in Settings.model_fields.values()}  # type: ignore[union-attr]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a POSIX shell")


@dataclass(frozen=True)
class Runs:
    """Ends by itself, with status 0; what it prints are names of pictures that are there, if `pictures`."""

    pictures: bool = False


@dataclass(frozen=True)
class Serves:
    """Runs until it is stopped; until then it answers these: path, `Host` header, status."""

    answers: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Asks:
    """Asks a server that runs meanwhile, at this address, and is told so."""

    address: str
    told: tuple[str, ...]


@dataclass(frozen=True)
class Adds:
    """Tells a client of a server, which is then reached as the client would."""


_ENDPOINT = ("/mcp", "localhost:8000", 401)  # it answers to that name, and wants a caller
_STRANGE = ("/mcp", "elsewhere.example.com", 421)
_METADATA = "/.well-known/oauth-authorization-server"
COMMANDS: dict[str, Runs | Serves | Asks | Adds] = {
    '.venv/bin/mcp-seedream try "a lighthouse at dawn, oil on canvas" --set size=2K watermark=false\n'
    '.venv/bin/mcp-seedream try "turn it into a watercolour" --edit photo.jpg --output pictures': Runs(pictures=True),
    "ACEDATACLOUD_API_BASE_URL=http://127.0.0.1:8080 ACEDATACLOUD_API_TOKEN=any "
    '.venv/bin/mcp-seedream try "a red fox in the snow"': Runs(pictures=True),
    ".venv/bin/python -m tools.documents": Runs(),
    ".venv/bin/mcp-seedream doctor": Runs(),
    ".venv/bin/mcp-seedream install claude-desktop": Runs(),
    ".venv/bin/mcp-seedream uninstall claude-desktop": Runs(),
    ".venv/bin/mcp-seedream doctor https://seedream.example.com/mcp": Asks(
        "https://seedream.example.com", ("No problems found.",)
    ),
    "curl http://127.0.0.1:8000/health\ncurl http://127.0.0.1:8000/ready": Asks(
        "http://127.0.0.1:8000", ('"ok"', '"ready"')
    ),
    ".venv/bin/python -m mcp_seedream.sandbox --port 8080": Serves((("/seedream/tasks", "localhost", 405),)),
    ".venv/bin/mcp-seedream --transport http --host 127.0.0.1 --port 8000": Serves((_ENDPOINT, _STRANGE)),
    "SEEDREAM_PUBLIC_URL=https://mcp.example.com .venv/bin/mcp-seedream --transport http --host 0.0.0.0": Serves(
        (_ENDPOINT, _STRANGE, ("/mcp", "mcp.example.com", 401), (_METADATA, "mcp.example.com", 200)),
    ),
    "SEEDREAM_ALLOWED_HOSTS=mcp.example.com,localhost SEEDREAM_ALLOWED_ORIGINS=https://mcp.example.com \\\n"
    "  .venv/bin/mcp-seedream --transport http --host 0.0.0.0": Serves(
        (_ENDPOINT, _STRANGE, ("/mcp", "mcp.example.com", 401), (_METADATA, "mcp.example.com", 404)),
    ),
    "SEEDREAM_PUBLIC_URL=https://seedream.example.com "
    "SEEDREAM_SEAL_KEYS=$(openssl rand -hex 32) \\\n"
    "  .venv/bin/mcp-seedream --transport http": Serves(
        (("/mcp", "seedream.example.com", 401), (_METADATA, "seedream.example.com", 200))
    ),
    "SEEDREAM_PUBLIC_URL=http://127.0.0.1:8000 .venv/bin/mcp-seedream --transport http --sandbox": Serves(
        (_ENDPOINT, (_METADATA, "localhost", 200), ("/oauth/callback", "localhost", 403))
    ),
    "claude mcp add seedream --env ACEDATACLOUD_API_TOKEN=your-token -- "
    "/path/to/mcp-seedream/.venv/bin/mcp-seedream": Adds(),
    "claude mcp add --scope user seedream --env ACEDATACLOUD_API_TOKEN=your-token -- "
    "/path/to/mcp-seedream/.venv/bin/mcp-seedream": Adds(),
    f'claude mcp add --transport http seedream-hosted {HOSTED}/mcp --header "Authorization: Bearer your-token"': Adds(),
}
"""How the commands of documents are run, by the whole text of their block."""


def unmarked(language: str) -> list[Block]:
    """The blocks of a language that are to be tried here; the same text in two documents is tried once."""
    found = {block.text: block for block in BLOCKS if block.language == language and not block.mark}
    return list(found.values())


def commands(kind: type[Runs | Serves | Asks | Adds]) -> pytest.MarkDecorator:
    blocks = [block for block in unmarked("sh") if isinstance(COMMANDS.get(block.text), kind)]
    return pytest.mark.parametrize("block", blocks, ids=map(where, blocks))


def where(block: Block) -> str:
    return f"{block.path.relative_to(ROOT).as_posix()}:{block.line}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the repository in which commands may do what they like, with this environment as its `.venv`."""
    there = tmp_path / "mcp-seedream"
    there.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, there / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, there / name)
    (there / ".venv").symlink_to(sys.prefix)
    Image.new("RGB", (64, 48), "teal").save(there / "photo.jpg")
    (tmp_path / "home").mkdir()
    return there


@pytest.fixture
def environment(folder: Path, upstream: str) -> dict[str, str]:
    """What commands and servers are started in: a home of their own, and a sandbox for AceDataCloud."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent / "home"),
        "ACEDATACLOUD_API_BASE_URL": upstream,
        "ACEDATACLOUD_API_TOKEN": TOKEN,
    }


def shell(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BASH, text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@contextmanager
def started(text: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on, with whatever it starts; in the end it is stopped as Ctrl-C stops it."""
    process = subprocess.Popen(
        [*BASH, text],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=20)[1].decode()
        assert "Traceback" not in errors


def until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as web:
        for _ in range(20):
            try:
                web.get(url)
            except httpx.TransportError:
                assert process.poll() is None, "it ended"
                continue
            return
    raise AssertionError("it does not answer")


def test_every_block_is_known() -> None:
    """Each is tried, or says why not; what is no example of anything is `text`."""
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{where(block)}: the language {block.language!r} is not known here"
        reason = block.mark.partition("not run: ")[2]
        assert not block.mark or block.mark == "run by .ci/run" or len(reason.split()) > 2, (
            f"{where(block)}: {block.mark}"
        )
        if block.language == "sh" and not block.mark:
            assert block.text in COMMANDS, f"{where(block)}: nobody runs this; see the head of {Path(__file__).name}"
        if block.language == "powershell":
            assert reason, f"{where(block)}: say why it is not run"
    assert COMMANDS.keys() <= {block.text for block in BLOCKS}, "a command here stands in no document any more"


def test_what_ci_runs() -> None:
    """Who says so is right: it is a line of `.ci/run`, or one that it takes from README, and runs."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    readme = documents.README.read_text("utf-8").splitlines()
    run = {line.strip() for line in script.splitlines()}
    for name, pattern in re.findall(r"(\w+)=\$\(grep -m1 '([^']+)' README\.md\)", script):
        assert re.search(rf'^(\w+=\$\(.*)?bash .*-c ".*(\${name}|\$\{{{name}##.*\}})"', script, re.MULTILINE)
        run.add(next(line for line in readme if re.search(pattern, line)))
    marked = [block for block in BLOCKS if block.mark == "run by .ci/run"]
    assert len(marked) > 2
    for block in marked:
        assert set(block.text.splitlines()) <= run, where(block)


@POSIX
@commands(Runs)
def test_commands(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """In a copy of the repository, against the sandbox, as somebody would type them."""
    upstream = environment["ACEDATACLOUD_API_BASE_URL"]
    before = {path: path.read_bytes() for path in folder.rglob("*.md")}
    done = shell(block.text.replace("http://127.0.0.1:8080", upstream), folder, environment)
    assert done.returncode == 0, done.stderr
    if COMMANDS[block.text] == Runs(pictures=True):
        pictures = [Path(line) for line in done.stdout.splitlines()]
        assert len(pictures) == len(block.text.splitlines())
        for picture in pictures:
            assert picture.is_relative_to(folder)
            with Image.open(picture) as image:
                image.verify()
    assert before == {path: path.read_bytes() for path in folder.rglob("*.md")}


@POSIX
@commands(Serves)
def test_servers(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Each starts, answers as its document says, and can be stopped."""
    serves = COMMANDS[block.text]
    assert isinstance(serves, Serves)
    port = str(free_port())
    text = re.sub(r"\b(8000|8080)\b", port, block.text)
    text += "" if "--port" in text else f" --port {port}"
    with started(text, folder, environment) as process:
        address = f"http://127.0.0.1:{port}"
        until_it_answers(process, address)
        for path, host, status in serves.answers:
            answer = httpx.get(address + path, headers={"host": host})
            assert answer.status_code == status, (path, host, answer.text)


@POSIX
@commands(Asks)
def test_questions(block: Block, folder: Path, environment: dict[str, str], upstream: str) -> None:
    """Asked of a server that runs meanwhile."""
    asks = COMMANDS[block.text]
    assert isinstance(asks, Asks)
    if "curl" in block.text and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    with serving(hosted(read_settings(base_url=upstream))) as address:
        text = block.text.replace(asks.address, address).replace("curl ", "curl --silent --show-error --fail ")
        done = shell(text, folder, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [word for word in asks.told if word not in done.stdout] == []


def entries(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The servers of a client's configuration, with what the client would ask for filled in; none: it is another's."""
    keys = [key for key in ("mcpServers", "servers", "context_servers") if key in config]
    text = json.dumps(config[keys[0]] if keys else {})
    for asked in config.get("inputs", []):
        text = text.replace(f"${{input:{asked['id']}}}", "your-token")
    filled: dict[str, dict[str, Any]] = json.loads(text)
    return filled


def added(command: str) -> dict[str, dict[str, Any]]:
    """What a client's own command adds, as its configuration would have it."""
    words = shlex.split(command)
    assert words[:3] == ["claude", "mcp", "add"]
    given, _, started = " ".join(map(shlex.quote, words[3:])).partition(" -- ")
    options: dict[str, str] = {}
    plain = []
    rest = iter(shlex.split(given))
    for word in rest:
        if word.startswith("--"):
            options[word] = next(rest)
        else:
            plain.append(word)
    if options.get("--transport") == "http":
        name, value = options["--header"].split(": ", 1)
        return {plain[0]: {"url": plain[1], "headers": {name: value}}}
    program, *arguments = shlex.split(started)
    name, value = options["--env"].split("=", 1)
    return {plain[0]: {"command": program, "args": arguments, "env": {name: value}}}


def configured() -> dict[str, dict[str, Any]]:
    """Every server that some client is told of, by where it stands; what is said in several places stands once."""
    found = [(block, entries(config)) for block, config in CONFIGURATIONS]
    found += [(block, added(block.text)) for block in unmarked("sh") if COMMANDS.get(block.text) == Adds()]
    said: dict[str, str] = {}
    for block, servers in found:
        for name, entry in servers.items():
            way = {"stdio": "command", "http": "url"}.get(entry.pop("type", ""))
            assert way is None or way in entry, where(block)
            if "command" in entry:
                entry.setdefault("args", [])
            said.setdefault(json.dumps(entry, sort_keys=True), f"{where(block)} {name}")
    return {place: json.loads(entry) for entry, place in said.items()}


CONFIGURATIONS = [(block, json.loads(block.text)) for block in unmarked("json")]
CONFIGURED = configured()


@POSIX
@pytest.mark.anyio
@pytest.mark.parametrize("entry", CONFIGURED.values(), ids=CONFIGURED.keys())
async def test_configurations(
    entry: dict[str, Any], folder: Path, environment: dict[str, str], upstream: str, sandbox: Sandbox
) -> None:
    """Each server of each client's configuration is started or reached as it says, and takes a call with a token.

    The documents have a placeholder for it, which is not sent as it is.
    """
    entry = json.loads(json.dumps(entry).replace("your-token", TOKEN))
    if command := entry.get("command"):
        assert command.startswith(FOLDER)
        own = {name: value for name, value in environment.items() if name != "ACEDATACLOUD_API_TOKEN"}
        program = command.replace(FOLDER, str(folder))
        parameters = StdioServerParameters(command=program, args=entry.get("args", []), env=own | entry["env"])
        async with Client(parameters) as client:
            await takes_a_call(client)
    else:
        url = str(entry.get("url") or entry["serverUrl"])
        with serving(hosted(read_settings(base_url=upstream))) as address:
            async with (
                httpx2.AsyncClient(headers=entry["headers"], timeout=60) as web,
                Client(streamable_http_client(url.replace(HOSTED, address), http_client=web)) as client,
            ):
                await takes_a_call(client)
    assert {token for path, token, _ in sandbox.requests if path == "/seedream/images"} == {TOKEN}


async def takes_a_call(client: Client) -> None:
    tools = [tool.name for tool in (await client.list_tools()).tools]
    assert tools == ["generate_image", "edit_image", "get_task"]
    result = await client.call_tool("generate_image", {"prompt": "a fox", "wait_seconds": 0})
    assert (result.structured_content or {})["status"] == "pending"


def test_every_client_is_tried() -> None:
    """Each that a document has a section for, by what is its own in a configuration."""
    text = "\n".join(block.text for block, config in CONFIGURATIONS if entries(config))
    assert all(f'"{key}"' in text for key in ("mcpServers", "servers", "context_servers", "serverUrl", "inputs"))
    assert len(CONFIGURED) == 4  # started and reached, with more than the token, and under another key


@POSIX
@commands(Adds)
def test_claude_code_takes_the_commands(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Where it is installed: it writes down what is meant."""
    if not shutil.which("claude"):
        pytest.skip("Claude Code is not installed: the servers that its commands name are tried all the same")
    done = shell(block.text.replace(FOLDER, str(folder)), folder, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((Path(environment["HOME"]) / ".claude.json").read_text("utf-8"))
    known: dict[str, Any] = written.get("mcpServers", {})
    for project in written.get("projects", {}).values():
        known |= project["mcpServers"]
    [(name, entry)] = added(block.text.replace(FOLDER, str(folder))).items()
    assert entry.items() <= known[name].items()


@POSIX
@pytest.mark.parametrize("block", unmarked("python"), ids=map(where, unmarked("python")))
def test_programs(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Saved in the folder and run, as their document says."""
    (folder / "fox.py").write_text(block.text, "utf-8")
    done = shell(".venv/bin/python fox.py", folder, environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


@pytest.mark.parametrize(
    ("language", "reads"), [("json", json.loads), ("toml", tomllib.loads), ("yaml", yaml.safe_load)]
)
def test_data_can_be_read(language: str, reads: Any) -> None:
    """Marked or not, it is what it says."""
    for block in BLOCKS:
        if block.language == language:
            assert reads(block.text) is not None, where(block)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """To a file of the repository, and to a heading that is there; out of it only by https."""
    page = PAGES[name]
    assert page.links, "a page that leads nowhere is hard to leave"
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert target.suffix == ".md", link
            assert anchor in markdown.read(target).anchors, link


def test_every_page_is_found() -> None:
    """From README, which is where people begin."""
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in PAGES["README.md"].links if "://" not in link}
    assert {page.path for page in PAGES.values()} - {documents.README} <= linked


@pytest.mark.parametrize("name", PAGES)
def test_settings_and_flags_are_real(name: str) -> None:
    """Whatever is spelled like one."""
    text = PAGES[name].path.read_text("utf-8")
    assert set(re.findall(r"\b(?:SEEDREAM|ACEDATACLOUD)_[A-Z_]+\b", text)) <= SETTINGS
    parsers = [_parser(), *([benchmarks.parser()] if name == "docs/benchmarks.md" else [])]
    parsers += [parser for action in parsers[0]._actions for parser in _commands(action)]
    ours = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    spelled = set(re.findall(r"`(?:\S*mcp-seedream )?(--[a-z-]+)", PAGES[name].prose))
    assert spelled - ours <= {"--scope", "--clear"}  # Claude Code's, and those of Python's own venv


def _commands(action: argparse.Action) -> list[argparse.ArgumentParser]:
    return list(action.choices.values()) if isinstance(action, argparse._SubParsersAction) else []


def test_pictures_are_described() -> None:
    """For readers who can't see them."""
    for name, page in PAGES.items():
        assert not re.search(r"!\[\s*\]\(", page.prose), name
    for block in BLOCKS:
        if block.language == "mermaid":
            assert {"accTitle:", "accDescr:"} <= set(block.text.split()), where(block)


@pytest.mark.parametrize("name", PAGES)
def test_named_files_exist(name: str) -> None:
    """The paths of this repository, in the text and in commands; `tools/call` and `tools/list` are methods of MCP."""
    page = PAGES[name].path
    folders = r"mcp_seedream|tests|tools(?!/call|/list)|docs|deploy|benchmarks|examples|\.ci"
    paths = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w", page.read_text("utf-8"))
    missing = [path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert set(missing) <= {"deploy/.env"}  # readers write that one


def test_a_page_is_read_as_it_is_shown(tmp_path: Path) -> None:
    """What the tests above rely on: fences in lists, longer ones, marks, anchors of headings that come twice."""
    path = tmp_path / "page.md"
    path.write_text(
        "# A `name`: [more](x.md), *again*\n## Same\n## Same\n"
        "1. one\n   <!-- not run: for a reason -->\n   ```sh\n   echo 1\n   ```\n"
        "````json\n```\n[]\n````\n`[no](link)` [a](b.md#c) ![p](d.png) <img src='e.png'>\n"
        "[![inner](f.png)](g.md)\n\n[a link\ngoes on](h.md) `and\n[code](i.md)`\n\n"
        "<!-- generated: part -->\n```text\nx\n```\n<!-- end -->\n```text\ny\n```\n",
        "utf-8",
    )
    page = markdown.read(path)
    found = [(block.language, block.text, block.mark, block.made) for block in page.blocks]
    assert found == [
        ("sh", "echo 1", "not run: for a reason", ""),
        ("json", "```\n[]", "", ""),
        ("text", "x", "", "part"),
        ("text", "y", "", ""),
    ]
    assert {"a-name-more-again", "same", "same-1"} == page.anchors
    assert set(page.links) == {"x.md", "b.md#c", "d.png", "e.png", "f.png", "g.md", "h.md"}
    path.write_text("```sh\nnever closed\n", "utf-8")
    with pytest.raises(ValueError, match="no end"):
        markdown.read(path)
