"""References to input pictures in the forms that agents use: content blocks, Markdown, quotes, similar file names."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, answer, look_ups, submits, text
from tests.integration.test_inputs import edit, save

pytestmark = pytest.mark.anyio
URL = "https://example.com/a.png?b=1"
LINKS: list[Any] = [
    {"url": URL},
    [{"url": URL}],
    json.dumps({"url": URL}),
    json.dumps([{"url": URL}]),
    [json.dumps({"url": URL})],
    [[URL]],
    {"image_url": URL},
    {"image_url": {"url": URL}},
    {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
    {"type": "input_image", "image_url": URL, "detail": "auto"},
    {"type": "image", "source": {"type": "url", "url": URL}},
    {"type": "image", "image": URL},
    {"type": "file", "data": URL, "mediaType": "image/png"},
    {"type": "resource_link", "uri": URL, "name": "a.png", "mimeType": "image/png"},
    {"fileData": {"mimeType": "image/png", "fileUri": URL}},
    {"file_data": {"mime_type": "image/png", "file_uri": URL}},
    {"url": URL, "size": "2048x2048", "path": None},
    f"![a fox]({URL})",
    f'![a "fox"]({URL} "the title")',
    f"[the picture]({URL})",
    f"[]({URL} 'title')",
    f"[x](<{URL}>)",
    f"[{URL}]({URL})",
    f"<{URL}>",
    f'"{URL}"',
    f"'{URL}'",
    f"`{URL}`",
    f"\u201c{URL}\u201d",
    f" @{URL} ",
    f"\ufeff{URL}\u200b",
    f'<img alt="x" src="{URL}" width="9">',
    f"<img src='{URL}'/>",
    f"<img src={URL}>",
    f"url: {URL}",
    f"({URL})",
    f"[{URL}]",
    f"![[{URL}]]",
    f"**{URL}**",
    f"url('{URL}')",
    f"\u201e{URL}\u201c",
    f"\u300c{URL}\u300d",
    f"![a [b]]({URL})",
    f"[![a]({URL})](https://example.com/page)",
    f"![a][1]\n\n[1]: {URL}",
    f"Use {URL}, please.",
    URL.replace("/", "\\/"),
    {"src": URL},
    {"link": URL},
    {"URL": URL},
    {"imageURL": URL},
    {"download_url": URL, "file_id": "file-1"},
    {"image_url": [{"url": URL}]},
]


@pytest.fixture
def session(table: ModelTable, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A local server that may read one folder."""
    monkeypatch.chdir(tmp_path)
    return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles(allowed=(tmp_path,))))


@pytest.fixture
def hosted(table: ModelTable, upstream: str) -> Session:
    return Session(table, upstream)


@pytest.mark.parametrize("spelled", LINKS, ids=str)
async def test_a_link_in_every_wrapping(session: Session, hosted: Session, sandbox: Sandbox, spelled: Any) -> None:
    """Only the link is sent, over both transports."""
    for server in (session, hosted):
        result = await edit(server, spelled)
        assert not result.is_error, text(result)
        assert submits(sandbox)[-1]["image"] == [URL]


def data_blocks(data: str) -> dict[str, Any]:
    uri = f"data:image/png;base64,{data}"
    return {
        "mcp": {"type": "image", "data": data, "mimeType": "image/png"},
        "mcp-snake": {"type": "image", "data": data, "mime_type": "image/png"},
        "mcp-resource": {
            "type": "resource",
            "resource": {"uri": "file:///a.png", "mimeType": "image/png", "blob": data},
        },
        "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        "openai": {"type": "image_url", "image_url": {"url": uri}},
        "responses": {"type": "input_image", "image_url": uri},
        "openai-file": {"type": "file", "file": {"file_data": uri, "filename": "a.png"}},
        "gemini": {"inlineData": {"mimeType": "image/png", "data": data}},
        "gemini-snake": {"inline_data": {"mime_type": "image/png", "data": data}},
        "vercel": {"type": "image", "image": data},
        "b64_json": {"b64_json": data},
        "markdown": f"![]({uri})",
        "quoted": f'"{uri}"',
        "capitals": f"DATA:IMAGE/PNG;BASE64,{data}",
        "no-type": f"data:;base64,{data}",
        "octets": f"data:application/octet-stream;base64,{data}",
        "wrong-type": f"data:image/jpeg;base64,{data}",
        "named": f"data:image/png;name=a.png;base64,{data}",
        "blank": f"data:image/png;base64, {data}",
        "no-data": f"image/png;base64,{data}",
        "url-safe": data.replace("+", "-").replace("/", "_").rstrip("="),
        "url-safe-uri": "data:image/png;base64," + data.replace("+", "-").replace("/", "_"),
        "escaped": data[:76] + "\\n" + data[76:152] + "\\r\\n" + data[152:].replace("/", "\\/"),
        "lines": data[:20] + "\r\n" + data[20:],
        "bytes": {"bytes": data},
        "percent": f"data:image/png;base64,{data.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
    }


@pytest.mark.parametrize("name", data_blocks(""))
async def test_data_in_every_wrapping(
    session: Session, hosted: Session, sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    """The picture's bytes are sent; a media type is corrected to the bytes' kind."""
    data = save(tmp_path / "a.png").read_bytes()
    for server in (session, hosted):
        result = await edit(server, data_blocks(base64.b64encode(data).decode())[name])
        assert not result.is_error, text(result)
        [sent] = submits(sandbox)[-1]["image"]
        assert sent.removeprefix("data:image/png;base64,") == base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "entry", [{"type": "text", "text": "a"}, {"file_id": "file-1"}, {}, {"url": None}, {"url": 5}, {"a": {"b": {}}}]
)
async def test_objects_without_a_picture(hosted: Session, sandbox: Sandbox, entry: Any) -> None:
    """Rejected with their position; no request is sent."""
    result = await edit(hosted, [URL, entry])
    assert result.is_error
    assert "`image` number 2 is an object without a picture" in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "spelled",
    [
        '"{}"', "'{}'", "`{}`", "<{}>", "@{}", '@"{}"', "![]({})", "[my photo](<{}>)",
        {"path": "{}"}, {"file_path": "{}"}, {"url": "file://{}"}, {"image": {"path": "{}"}},
    ],
    ids=str,
)  # fmt: skip
async def test_a_path_in_every_wrapping(session: Session, sandbox: Sandbox, tmp_path: Path, spelled: Any) -> None:
    """The file is read."""
    path = save(tmp_path / "my photo (1).png")
    result = await edit(session, json.loads(json.dumps(spelled).replace("{}", str(path).replace("\\", "\\\\"))))
    assert not result.is_error, text(result)
    assert base64.b64decode(submits(sandbox)[0]["image"][0].partition(",")[2]) == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("my photo.png", r"my\ photo.png"),
        ("it's (1) & [2].png", r"it\'s\ \(1\)\ \&\ \[2\].png"),
        ("my photo.png", r"@my\ photo.png"),
        ("Screenshot 2026-01-01 at 9.41.00\u202fAM.png", "Screenshot 2026-01-01 at 9.41.00 AM.png"),
        ("a\u00a0b.png", "a b.png"),
        ("a b.png", "a\u00a0b.png"),
        (unicodedata.normalize("NFD", "Café é.png"), unicodedata.normalize("NFC", "Café é.png")),
        (unicodedata.normalize("NFC", "Über.png"), unicodedata.normalize("NFD", "Über.png")),
        ("@a.png", "@a.png"),
        ("a b.png", "a%20b.png"),
        ("caf\u00e9.png", "caf%C3%A9.png"),
        ("a%20b.png", "a%20b.png"),
        ("12345678-1234-1234-1234-123456789012", "12345678-1234-1234-1234-123456789012"),
    ],
)  # fmt: skip
async def test_names_that_look_the_same(
    session: Session, sandbox: Sandbox, tmp_path: Path, name: str, asked: str
) -> None:
    """Both relative and absolute paths are found."""
    path = save(tmp_path / "x.png").rename(tmp_path / name)
    for spelled in (asked, f"@{tmp_path}/{asked[1:]}" if asked.startswith(r"@my") else f"{tmp_path}/{asked}"):
        result = await edit(session, spelled)
        assert not result.is_error, text(result)
        assert base64.b64decode(submits(sandbox)[-1]["image"][0].partition(",")[2]) == path.read_bytes()


async def test_two_names_that_look_the_same(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """An ambiguous name is rejected; an exact name is found."""
    save(tmp_path / "a\u00a0b.png")
    save(tmp_path / "a\u202fb.png")
    assert "can't be read: No such file" in text(await edit(session, "a b.png"))
    assert sandbox.requests == []
    assert not (await edit(session, "a\u202fb.png")).is_error


async def test_a_lookalike_outside_the_allowed_folders(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Folders that are not allowed are not searched, not even through a symlink."""
    (inside := tmp_path / "in").mkdir()
    save(tmp_path / "a\u00a0b.png")
    (inside / "c\u00a0d.png").symlink_to(tmp_path / "a\u00a0b.png")
    session = Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles(allowed=(inside,))))
    assert "can't be read: No such file" in text(await edit(session, str(tmp_path / "a b.png")))
    assert "lies outside SEEDREAM_ALLOWED_DIRS" in text(await edit(session, str(inside / "c d.png")))
    assert sandbox.requests == []


@pytest.mark.parametrize("spelled", ["{}", "{}/2", "task: {}/2", "TASK:{}", "task_id: {}", '"{}"', "task:{}"])
async def test_a_bare_task_id(session: Session, hosted: Session, sandbox: Sandbox, spelled: str) -> None:
    """A bare id refers to the task, over both transports."""
    made = await hosted.call("generate_image", prompt="seasons", sequential_image_generation="auto")
    id_, urls = answer(made)["task_id"], [image["url"] for image in answer(made)["images"]]
    for server in (session, hosted):
        for entry in (
            spelled.format(id_),
            {"task_id": spelled.format(id_)} if spelled == "{}" else spelled.format(id_),
        ):
            result = await edit(server, entry)
            assert not result.is_error, text(result)
            assert submits(sandbox)[-1]["image"] == [urls["/2" in spelled]]


async def test_a_task_id_that_is_unknown(hosted: Session, sandbox: Sandbox) -> None:
    """The task is looked up, and no request is submitted."""
    result = await edit(hosted, "12345678-1234-1234-1234-123456789012")
    assert "knows no task" in text(result)
    assert (len(look_ups(sandbox)), submits(sandbox)) == (1, [])


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001",
        "0x7f.0.0.1", "0177.0.0.1", "10.0.0.5", "192.168.1.2:80", "172.16.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0",
        "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]:9000", "nas", "printer.local", "a.internal", "user@nas",
        "router.home.arpa", "localhost.localdomain", "wiki.intranet", "nas.private", "\uff11\uff12\uff17.0.0.1",
    ],
)  # fmt: skip
async def test_links_that_the_upstream_can_not_reach(
    session: Session, hosted: Session, sandbox: Sandbox, host: str
) -> None:
    """Links to private hosts are rejected without a request, over both transports."""
    for server in (session, hosted):
        for link in (f"http://{host}/a.png", f"https://{host}/a.heic"):
            result = await edit(server, link)
            assert result.is_error
            assert "`image` number 1 is a link to" in text(result)
            assert "only this network can reach" in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "example.com", "8.8.8.8", "[2606:4700::1111]", "local.example", "cdn.acedata.cloud:8443", "172.32.0.1",
        "intranet.example.com",
    ],
)  # fmt: skip
async def test_public_links_are_passed_on(hosted: Session, sandbox: Sandbox, host: str) -> None:
    """Public links are sent without downloading them."""
    await edit(hosted, f"http://{host}/a.png")
    assert submits(sandbox)[0]["image"] == [f"http://{host}/a.png"]


async def test_the_sandboxs_own_links_are_passed_on(hosted: Session, upstream: str, sandbox: Sandbox) -> None:
    """The sandbox can reach its own loopback address."""
    made = await hosted.call("generate_image", prompt="a fox")
    await edit(hosted, answer(made)["images"][0]["url"])
    assert submits(sandbox)[-1]["image"] == [answer(made)["images"][0]["url"]]
    await edit(hosted, answer(made))
    other = await edit(hosted, "http://127.0.0.1:1/a.png")
    assert "only this network can reach" in text(other)


@pytest.mark.parametrize(
    "spelled", [f"{URL} or https://example.com/b.png", f"ftp://a/b, {URL}", "cdn.example.com/a.png"], ids=str
)
async def test_texts_that_are_no_link(hosted: Session, sandbox: Sandbox, spelled: str) -> None:
    """Texts without exactly one link are rejected; no request is sent."""
    assert (await edit(hosted, spelled)).is_error
    assert sandbox.requests == []


@pytest.mark.parametrize("url", ["https://example.com/a_(b).png", "https://example.com/go?to=https://a.example/b.png"])
async def test_links_that_look_wrapped(hosted: Session, sandbox: Sandbox, url: str) -> None:
    """Brackets and quotes that belong to a link are kept."""
    for spelled in (url, f"<{url}>", f"![x]({url})"):
        await edit(hosted, spelled)
        assert submits(sandbox)[-1]["image"] == [url]
    if "?" not in url:
        await edit(hosted, f"(see {url})")
        assert submits(sandbox)[-1]["image"] == [url]


async def test_wrappings_that_never_end(hosted: Session, sandbox: Sandbox) -> None:
    """Deeply nested markup is answered immediately."""
    for image in ("[x](" + " " * 200_000 + "y", '"' * 400_000, "<img " * 50_000, "[" * 100_000, "@" * 200_000):
        assert (await edit(hosted, image)).is_error
    assert sandbox.requests == []
