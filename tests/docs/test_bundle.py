"""The bundle for Claude Desktop: in step with the server, valid, small, and started the way a host starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import ImageContent
from PIL import Image, ImageChops, ImageStat

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.settings import Settings, name_of
from mcp_seedream.sandbox.app import Sandbox
from tests.conftest import answer
from tests.support.node import MCPB, node, npm_install, with_node
from tools import bundle, icon

MANIFEST: dict[str, Any] = json.loads(bundle.MANIFEST.read_text("utf-8"))
PACKAGE = bundle.ROOT / "mcp_seedream"
HOST = """\
import { getMcpConfigForManifest } from "@anthropic-ai/mcpb/browser";
const [manifest, extensionPath, userConfig] = process.argv.slice(1).map((text) => JSON.parse(text));
const systemDirs = { HOME: "/home/somebody", DOCUMENTS: "/home/somebody/Documents" };
const asked = { manifest, extensionPath, systemDirs, userConfig, pathSeparator: "/" };
console.log(JSON.stringify((await getMcpConfigForManifest(asked)) ?? null));
"""
"""What Claude Desktop does with a manifest, by its own code."""


def test_the_manifest_is_in_step(table: ModelTable) -> None:
    """With tools, prompts, settings and the project: `make bundle` writes it anew."""
    assert bundle.MANIFEST.read_text("utf-8") == bundle.rendered(table)


def test_the_manifest_is_valid() -> None:
    """By MCPB's own check, which looks at the icon as well."""
    done = bundle.mcpb("validate", bundle.MANIFEST)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_manifest_that_is_not_valid(tmp_path: Path) -> None:
    """The check checks."""
    (tmp_path / "manifest.json").write_text(json.dumps({**MANIFEST, "tool": []}), "utf-8")
    done = bundle.mcpb("validate", tmp_path / "manifest.json")
    assert done.returncode == 1


def test_every_field_becomes_a_setting() -> None:
    """And every setting comes from a field that a person can fill in."""
    env = MANIFEST["server"]["mcp_config"]["env"]
    assert set(env) <= {name_of(field) for field in Settings.model_fields}
    assert sorted(env.values()) == sorted(f"${{user_config.{key}}}" for key in MANIFEST["user_config"])
    secret = [key for key, field in MANIFEST["user_config"].items() if field.get("sensitive")]
    required = [key for key, field in MANIFEST["user_config"].items() if field["required"]]
    assert (secret, required) == (["api_token"], [])


def test_no_module_hides_another() -> None:
    """Hosts may run the entry point as a file: then the package's own folder is where Python looks first."""
    assert (bundle.ROOT / MANIFEST["server"]["entry_point"]).is_file()
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names


def test_the_icon() -> None:
    """As large as hosts want it, and small."""
    with Image.open(icon.FILE) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (512, 512), "RGBA")
        corner, middle = image.getpixel((0, 0)), image.getpixel((256, 256))
    assert corner == (0, 0, 0, 0)
    assert middle == (255, 255, 255, 255)
    assert icon.FILE.stat().st_size < 40_000


def test_the_icon_is_the_servers_own(tmp_path: Path) -> None:
    """Drawn anew, it looks the same."""
    anyio.run(icon.draw, tmp_path / "icon.png")
    with Image.open(tmp_path / "icon.png") as drawn, Image.open(icon.FILE) as kept:
        difference = ImageStat.Stat(ImageChops.difference(drawn.convert("RGBA"), kept.convert("RGBA"))).mean
    assert max(difference) < 2


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The bundle, packed and unpacked as a host does."""
    bundle.pack(tmp_path / "seedream.mcpb")
    done = bundle.mcpb("unpack", tmp_path / "seedream.mcpb", tmp_path / "extension")
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "extension"


def test_what_is_in_it(unpacked: Path) -> None:
    """The package as git knows it and what it is installed by, and nothing else; small."""
    assert (unpacked.parent / "seedream.mcpb").stat().st_size < 500_000
    with zipfile.ZipFile(unpacked.parent / "seedream.mcpb") as archive:
        names = set(archive.namelist())
    others = {"manifest.json", "pyproject.toml", "README.md", "LICENSE", "docs/icon.png"}
    assert names == {*bundle.tracked("mcp_seedream"), *others}
    assert json.loads((unpacked / "manifest.json").read_text("utf-8")) == MANIFEST


def test_make_without_the_test_installation(tmp_path: Path) -> None:
    """As after README's first command alone: it says what is missing, and how to get it."""
    make = shutil.which("make")
    if not make:
        pytest.skip("no make")
    shutil.copyfile(bundle.ROOT / "Makefile", tmp_path / "Makefile")
    for name in ("bundle", "frameworks"):
        done = subprocess.run([make, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert '.venv/bin/pip install -e ".[test]"' in done.stderr
        assert "Traceback" not in done.stderr


def resolved(extension: Path, **filled_in: Any) -> Any:
    """How a host starts the server, when people have filled this in."""
    folder = npm_install([MCPB])
    texts = [json.dumps(each) for each in (MANIFEST, str(extension), filled_in)]
    done = subprocess.run(
        [str(node()[0]), "--input-type=module", "--eval", HOST, *texts],
        cwd=folder,
        env=with_node(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_what_a_host_makes_of_it(tmp_path: Path) -> None:
    """Whoever has no token can start it, too; what was left empty keeps its place, or its default."""
    assert resolved(tmp_path)["env"]["ACEDATACLOUD_API_TOKEN"] == "${user_config.api_token}"
    config = resolved(tmp_path, api_token="t")
    assert config["args"] == ["run", "--project", str(tmp_path), "mcp-seedream"]
    assert config["env"] == {
        "ACEDATACLOUD_API_TOKEN": "t",
        "SEEDREAM_SANDBOX": "false",
        "SEEDREAM_OUTPUT_DIR": "${user_config.output_dir}",
        "SEEDREAM_WAIT_SECONDS": "45",
        "SEEDREAM_PREVIEW": "true",
    }


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """A folder with `uv` in it, which a host brings along."""
    if found := shutil.which("uv"):
        return Path(found).parent
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "uv"], check=True)
    [scripts] = [path for path in (tmp_path / "uv").iterdir() if path.name in ("bin", "Scripts")]
    done = subprocess.run([scripts / "pip", "install", "-q", "uv"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no uv: {done.stderr.strip().splitlines()[-1]}")
    return scripts


def installed(uv: Path, extension: Path, env: dict[str, str]) -> None:
    """What a host does once, when the bundle is installed."""
    done = subprocess.run(
        [uv / "uv", "sync", "--project", extension],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search("(?i)failed to fetch|error sending request|dns error|connect", done.stderr) and done.returncode:
        pytest.skip(f"no packages for uv: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.anyio
async def test_it_is_started_as_the_manifest_says(
    unpacked: Path, uv: Path, tmp_path: Path, upstream: str, sandbox: Sandbox
) -> None:
    """By its command, and by its entry point, as hosts with a `uv` of their own may; whatever was left empty."""
    home = tmp_path / "home"
    (home / "pictures").mkdir(parents=True)
    kept = ("PATH", "UV_CACHE_DIR", "SSL_CERT_FILE", "SYSTEMROOT")
    env = {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": f"{uv}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
    }
    installed(uv, unpacked, env)
    env |= {"UV_OFFLINE": "1", "ACEDATACLOUD_API_BASE_URL": upstream}  # from now on, nothing is fetched
    entry_point = ["run", "--directory", str(unpacked), MANIFEST["server"]["entry_point"]]
    ways: list[tuple[dict[str, Any], list[str] | None]] = [
        ({"output_dir": str(home / "pictures"), "wait_seconds": 20, "preview": True}, None),
        ({}, None),
        ({"output_dir": "", "wait_seconds": "", "preview": False}, None),
        ({"output_dir": None}, entry_point),
    ]
    for number, (filled_in, args) in enumerate(ways):
        config = resolved(unpacked, api_token=f"token-{number}", **filled_in)
        server = StdioServerParameters(
            command=config["command"], args=args or config["args"], env={**env, **config["env"]}, cwd=home
        )
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            assert [{"name": t.name, "description": t.description} for t in tools] == MANIFEST["tools"]
            prompts = (await client.list_prompts()).prompts
            assert [prompt.name for prompt in prompts] == [prompt["name"] for prompt in MANIFEST["prompts"]]
            result = await client.call_tool("generate_image", {"prompt": "a fox"})
        assert answer(result)["status"] == "succeeded"
        assert sandbox.requests[-1][1] == f"token-{number}"
        saved = [image["path"] for image in answer(result)["images"] if "path" in image]
        assert [Path(path).parent for path in saved] == [home / "pictures"] * (number == 0)
        assert any(isinstance(block, ImageContent) for block in result.content) == (number != 2)
    asked = len(sandbox.requests)
    for filled_in, status in (({"sandbox": True}, "succeeded"), ({}, "failed")):
        config = resolved(unpacked, **filled_in)
        server = StdioServerParameters(
            command=config["command"], args=config["args"], env={**env, **config["env"]}, cwd=home
        )
        async with Client(server) as client:
            result = await client.call_tool("generate_image", {"prompt": "a fox"})
        assert answer(result)["status"] == status
        assert ("no_token" in str(result.structured_content)) is (status == "failed")
    assert len(sandbox.requests) == asked  # it has a sandbox of its own
    assert sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) == ["pictures"]
