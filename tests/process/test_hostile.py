"""Both transports, as deployed, against an upstream whose links lead to a hostile "CDN", and callers with odd files."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.settings import read_settings
from mcp_seedream.hosting.app import bearer_token, build_app, wants_preview
from mcp_seedream.media.outputs import PictureTimes
from mcp_seedream.server.server import build_server
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.client import SeedreamClient
from tests.conftest import answer, huge_png, serving, text
from tests.integration.test_http import connected
from tests.integration.test_inputs import pipe

pytestmark = pytest.mark.anyio
PATIENCE = 2.0
"""Seconds for pictures, in place of 8 to show and 30 to save them: as much as a slow answer has to be slower than."""
IMPATIENT = (
    "import functools, sys; from mcp_seedream import assembly, cli; "
    "from mcp_seedream.media.outputs import PictureTimes; assembly.ToolDefaults = functools.partial("
    f"assembly.ToolDefaults, picture_times=PictureTimes({PATIENCE}, {PATIENCE})); sys.exit(cli.main())"
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def picture(mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (60, 40)).save(file, kind, **options)
    return file.getvalue()


class Hostile:
    """An upstream whose pictures are at its own address, each as bad as its task's name (the prompt) says."""

    def __init__(self, private: str) -> None:
        self.private = private
        self.submits: list[dict[str, Any]] = []
        posts = [Route(f"/seedream/{path}", self.post, methods=["POST"]) for path in ("images", "tasks")]
        self.app = Starlette(routes=[*posts, Route("/{case}/a.png", self.picture)])

    async def post(self, request: Request) -> Response:
        body = await request.json()
        case = body.get("id") or body["prompt"]
        if "prompt" in body:
            self.submits.append(body)
        link = f"https://{self.private}/a.png" if case == "private" else f"{request.base_url}{case}/a.png"
        return JSONResponse({"success": True, "task_id": case, "data": [{"image_url": link}]})

    async def picture(self, request: Request) -> Response:
        match request.path_params["case"]:
            case "redirect":
                return Response(status_code=302, headers={"location": f"https://{self.private}/secret.png"})
            case "redirect-http":
                return Response(status_code=302, headers={"location": f"http://{self.private}/secret.png"})
            case "slow":
                await asyncio.sleep(600)
            case "endless":
                return StreamingResponse(self.endless(), media_type="image/png")
            case "html":
                return HTMLResponse("<html>sorry</html>")
            case "gone":
                return Response(status_code=404)
            case "gzip":
                return Response(gzip.compress(picture()), headers={"content-encoding": "gzip"}, media_type="image/png")
            case "half":
                return Response(picture()[:60], media_type="image/png")
            case "bomb":
                return Response(huge_png(40_000, 40_000), media_type="image/png")
        return Response(picture(), media_type="image/png")

    async def endless(self) -> AsyncIterator[bytes]:
        for _ in range(2**11):  # 2 GiB, if anybody takes it
            yield bytes(2**20)


@pytest.fixture(scope="module")
def private() -> Iterator[socket.socket]:
    """Another port of this machine: whoever connects to it waits in line, and is seen there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def hostile(private: socket.socket) -> Hostile:
    return Hostile(f"127.0.0.1:{private.getsockname()[1]}")


@pytest.fixture(scope="module")
def upstream(hostile: Hostile) -> Iterator[str]:
    with serving(hostile.app, lifespan="off") as address:
        yield address


@dataclass
class Server:
    """A server over one of the transports, by a client of its own."""

    client: Client
    folder: Path
    is_local: bool

    async def call(self, tool: str, **arguments: Any) -> Any:
        with anyio.fail_after(60):
            return await self.client.call_tool(tool, arguments)


@pytest.fixture(scope="module", params=["stdio", "http"])
async def server(
    request: pytest.FixtureRequest, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """Over stdio a process of its own; over HTTP a real one in a thread, asked for previews in its address."""
    folder = tmp_path_factory.mktemp("pictures")
    if request.param == "stdio":
        env = {
            "ACEDATACLOUD_API_BASE_URL": upstream,
            "ACEDATACLOUD_API_TOKEN": "a-token",
            "SEEDREAM_ALLOWED_DIRS": str(folder),
        }
        parameters = StdioServerParameters(command=sys.executable, args=["-c", IMPATIENT], cwd=folder, env=env)
        async with Client(parameters) as client:
            yield Server(client, folder, is_local=True)
        return
    defaults = ToolDefaults(20, wants_preview(False), picture_times=PictureTimes(PATIENCE))
    hosted = build_server(read_table(), lambda: SeedreamClient(upstream), token_of=bearer_token, defaults=defaults)
    with serving(build_app(hosted, read_settings())) as address:
        async with connected(f"{address}/mcp?preview=on") as client:
            yield Server(client, folder, is_local=False)


def visited(private: socket.socket) -> bool:
    try:
        private.accept()[0].close()
    except BlockingIOError:
        return False
    return True


CASES = {
    "private": "leads to a private address",
    "redirect": "leads to a private address",
    "redirect-http": "is not https, so it was not followed",
    "html": "did not return a picture",
    "gone": "returned HTTP 404",
    "gzip": "was sent with an unsupported Content-Encoding",
    "slow": f"took longer than {PATIENCE} s",
    "endless": "than 64 MiB",
}


async def test_a_good_link_is_fetched(server: Server, tmp_path: Path) -> None:
    """Shown; and saved, where the disk is the caller's: what the other tests find missing."""
    options = {"save_to": str(tmp_path)} if server.is_local else {}
    result = await server.call("generate_image", prompt="good", **options)
    assert [block.type for block in result.content] == ["text", "image"]
    assert [file.suffix for file in tmp_path.iterdir()] == [".png"] * server.is_local


@pytest.mark.parametrize("case", CASES)
async def test_a_hostile_link_costs_nothing(
    server: Server, hostile: Hostile, private: socket.socket, tmp_path: Path, case: str
) -> None:
    """In time: the link, a note why it is not shown, no file, and nobody at the private address."""
    options = {"save_to": str(tmp_path)} if server.is_local else {}
    result = await server.call("generate_image", prompt=case, **options)
    results = [result] if case in ("slow", "endless") else [result, await server.call("get_task", task_id=case)]
    for result in results:
        assert not result.is_error
        [image] = answer(result)["images"]
        assert image["url"].endswith("/a.png")
        assert image["url"] in text(result)
        assert [block.type for block in result.content] == ["text"]
        says = CASES[case] if case != "endless" or "longer than" not in text(result) else "took longer than"
        assert says in answer(result)["notes"][0]
    assert list(tmp_path.iterdir()) == []
    assert not visited(private)


@pytest.mark.parametrize("case", ["half", "bomb"])
async def test_a_picture_that_can_not_be_shown(server: Server, tmp_path: Path, case: str) -> None:
    """It begins as one: it is kept as it came, where it can be, and not shown."""
    options = {"save_to": str(tmp_path)} if server.is_local else {}
    result = await server.call("generate_image", prompt=case, **options)
    assert not result.is_error
    assert answer(result)["images"][0]["url"] in text(result)
    assert [block.type for block in result.content] == ["text"]
    assert len(list(tmp_path.iterdir())) == server.is_local


def same(sent: bytes, given: bytes) -> bool:
    return sent == given


def in_rgb(sent: bytes, _: bytes) -> bool:
    with Image.open(io.BytesIO(sent)) as image:
        return (image.mode, image.size) == ("RGB", (60, 40))


NO_FILES = "A hosted server reads no files"
FRAMES = [Image.new("P", (60, 40), n) for n in range(3)]
Judge = Callable[[bytes, bytes], bool]
# The file's bytes, and what is right: what is sent, or what the error says of a file, and of data.
FILES: dict[str, tuple[bytes, Judge | tuple[str, str]]] = {
    "text.png": (b"not a picture", ("is not a jpeg, png", "is not a picture that the upstream can read")),
    "empty.png": (b"", ("is not a jpeg, png", "is not a picture that the upstream can read")),
    "bomb.png": (huge_png(40_000, 40_000), ("has more pixels than can be handled",) * 2),
    "half.png": (picture()[:60], ("can't be decoded",) * 2),
    "print.jpg": (picture("CMYK", "JPEG"), in_rgb),
    "moving.gif": (picture("P", "GIF", save_all=True, append_images=FRAMES), same),
    "alpha.png": (picture("RGBA"), same),
}


async def assert_taken(server: Server, hostile: Hostile, image: str, data: bytes, right: Judge | str) -> None:
    """What was given is sent as it should be, or refused with a reason and nothing is sent."""
    hostile.submits.clear()
    result = await server.call("edit_image", prompt="good", image=image)
    if isinstance(right, str):
        assert result.is_error
        assert "`image` number 1" in text(result)
        assert right in text(result)
        assert hostile.submits == []
    else:
        assert not result.is_error
        [sent] = hostile.submits[0]["image"]
        assert right(base64.b64decode(sent.partition("base64,")[2] or sent), data)


@pytest.mark.parametrize("name", FILES)
async def test_a_file_by_its_path(server: Server, hostile: Hostile, name: str) -> None:
    """Over stdio it is read; over HTTP it is refused, whatever it is."""
    data, right = FILES[name]
    path = server.folder / name
    path.write_bytes(data)
    of_a_file = right[0] if isinstance(right, tuple) else right
    for spelled in (str(path), path.as_uri(), *([name] if server.is_local else [])):
        await assert_taken(server, hostile, spelled, data, of_a_file if server.is_local else NO_FILES)


@pytest.mark.parametrize("name", FILES)
async def test_the_same_file_as_data(server: Server, hostile: Hostile, name: str) -> None:
    """Over both: the kind is told by the bytes, whatever the data URI says."""
    data, right = FILES[name]
    image = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    await assert_taken(server, hostile, image, data, right[1] if isinstance(right, tuple) else right)


SPECIAL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe.png": (pipe, "is not a regular file"),
    "out.png": (lambda path: path.symlink_to("/etc/hostname"), "lies outside SEEDREAM_ALLOWED_DIRS"),
    "folder.png": (lambda path: path.mkdir(), "is not a regular file"),
}


@pytest.mark.parametrize("name", SPECIAL)
async def test_what_is_no_plain_file(server: Server, hostile: Hostile, name: str) -> None:
    """Nothing hangs, nothing is read, nothing is sent."""
    make, says = SPECIAL[name]
    make(server.folder / name)
    await assert_taken(server, hostile, str(server.folder / name), b"", says if server.is_local else NO_FILES)
