"""Output pictures: previews, saved files and image data. Failures never lose the picture."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent
from PIL import Image

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.generation.journal import Journal
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.media.outputs import PictureTimes
from mcp_seedream.media.saved_files import file_stem
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from mcp_seedream.upstream.types import Image as WireImage
from mcp_seedream.upstream.types import Task
from tests.conftest import Session, answer, submits, text
from tests.integration.test_tools import picture

pytestmark = pytest.mark.anyio


def local(
    table: ModelTable,
    upstream: str,
    *,
    output: Path | None = None,
    preview: bool = True,
    preview_seconds: float = 8,
) -> Session:
    files = LocalFiles(output=output)
    return Session(
        table,
        upstream,
        defaults=ToolDefaults(20, lambda _: preview, files, picture_times=PictureTimes(preview_seconds)),
    )


@pytest.fixture
def session(table: ModelTable, upstream: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return local(table, upstream)


def previews(result: CallToolResult) -> Sequence[Image.Image]:
    """Return the image blocks, after checking their media type and size."""
    found = []
    for block in result.content:
        if isinstance(block, ImageContent):
            assert len(block.model_dump_json(by_alias=True)) <= 100_000
            image = Image.open(io.BytesIO(base64.b64decode(block.data)))
            assert block.mime_type == f"image/{(image.format or '').lower()}"
            assert max(image.size) <= 768
            found.append(image)
    return found


def assert_small(result: CallToolResult) -> None:
    """Check that a result stays within clients' limits: 4 KB of text and one image, even for a set."""
    assert len(result.model_dump_json(by_alias=True)) < 150_000
    assert len(text(result).encode()) <= 4096
    assert len(json.dumps(answer(result))) <= 4096
    assert sum(isinstance(block, ImageContent) for block in result.content) <= 1


async def test_one_picture_has_one_thumbnail(session: Session) -> None:
    """Its longest side is 768 pixels, and it keeps the aspect ratio."""
    result = await session.call("generate_image", prompt="a fox", size="2560x1440")
    [image] = previews(result)
    assert image.size == (768, 432)
    assert_small(result)


async def test_a_set_has_one_contact_sheet(session: Session) -> None:
    """Fifteen pictures in one image block."""
    options = {"sequential_image_generation": "auto", "sequential_image_generation_options": 15}
    result = await session.call("generate_image", prompt="seasons", size="2560x1440", wait_seconds=60, **options)
    assert len(answer(result)["images"]) == 15
    assert len(previews(result)) == 1
    assert_small(result)


async def test_layers_are_shown_put_together(session: Session) -> None:
    """The preview shows the composed picture."""
    result = await session.call("edit_image", image=[picture()], layer_decomposition=True, size="1K")
    [image] = previews(result)
    assert max(image.size) == 768
    assert_small(result)


async def test_a_transparent_picture_keeps_its_transparency(session: Session) -> None:
    """The preview is a WebP."""
    options = {"background": "transparent", "output_format": "png", "size": "1K"}
    result = await session.call("edit_image", prompt="x", image=[picture()], **options)
    [image] = previews(result)
    assert (image.format, image.mode) == ("WEBP", "RGBA")
    assert image.getpixel((0, 0))[3] == 0  # type: ignore[index]


async def test_a_preview_that_can_not_be_made_costs_nothing(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has the link, and a note with the reason."""
    monkeypatch.setattr(sandbox._studio, "file", lambda *_: b"<html>sorry</html>")
    result = await session.call("generate_image", prompt="a fox")
    assert not result.is_error
    assert answer(result)["images"][0]["url"]
    assert previews(result) == []


async def test_a_slow_picture_does_not_hold_the_result_up(
    table: ModelTable, upstream: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has the link but no preview."""

    def slowly(*_: object) -> bytes:
        time.sleep(1)
        return b""

    monkeypatch.setattr(sandbox._studio, "file", slowly)
    result = await local(table, upstream, preview_seconds=0.3).call("generate_image", prompt="a fox")
    assert answer(result)["images"][0]["url"]
    assert answer(result)["notes"] == ["Not fetched: it took longer than 0.3 s."]
    assert previews(result) == []


async def test_previews_are_off_where_they_are_not_wanted(table: ModelTable, upstream: str) -> None:
    """Hosted servers make previews only if configured."""
    assert previews(await Session(table, upstream).call("generate_image", prompt="a fox")) == []


async def test_saving_into_a_folder(session: Session, tmp_path: Path) -> None:
    """The folder is created, the file name is readable, the path is absolute, and the suffix fits the bytes."""
    result = await session.call("generate_image", prompt="A red fox, in the snow!", save_to=f"{tmp_path}/new/folder")
    [image] = answer(result)["images"]
    path = Path(image["path"])
    assert path.is_absolute()
    assert path.name.startswith("a-red-fox-in-the-snow-")
    assert path.suffix == ".jpg"
    assert path.parent == tmp_path / "new" / "folder"
    assert image["path"] in text(result)
    assert image["url"] in text(result)
    with Image.open(path) as saved:
        assert f"{saved.width}x{saved.height}" == image["size"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_saving_as_a_file(session: Session, tmp_path: Path) -> None:
    """The suffix fits the bytes, and no file is overwritten."""
    (tmp_path / "fox.jpg").write_text("mine", "utf-8")
    for name in ("fox-2.jpg", "fox-3.jpg"):
        result = await session.call("generate_image", prompt="a", save_to=str(tmp_path / "fox.png"))
        assert answer(result)["images"][0]["path"] == str(tmp_path / name)
    assert (tmp_path / "fox.jpg").read_text("utf-8") == "mine"


async def test_saving_a_set_and_layers(session: Session, tmp_path: Path) -> None:
    """In order, each file with a numbered name."""
    options = {"sequential_image_generation": "auto", "sequential_image_generation_options": 2}
    result = await session.call("generate_image", prompt="seasons", save_to=str(tmp_path), **options)
    names = [Path(image["path"]).name for image in answer(result)["images"]]
    assert [name[-6:] for name in names] == ["-1.jpg", "-2.jpg"]
    result = await session.call(
        "edit_image", image=[picture()], layer_decomposition=True, save_to=str(tmp_path / "poster.png"), size="1K"
    )
    names = [Path(image["path"]).name for image in answer(result)["images"]]
    assert names == ["poster-0-base.jpg", "poster-1-subject.png", "poster-2-headline.png", "poster-3-ornament.png"]


async def test_the_output_folder_saves_every_result(table: ModelTable, upstream: str, tmp_path: Path) -> None:
    """Unless the call has save_to; get_task saves as well."""
    session = local(table, upstream, output=tmp_path / "all")
    first = await session.call("generate_image", prompt="a")
    assert Path(answer(first)["images"][0]["path"]).parent == tmp_path / "all"
    other = await session.call("generate_image", prompt="a", save_to=str(tmp_path / "other"))
    assert Path(answer(other)["images"][0]["path"]).parent == tmp_path / "other"
    again = await session.call("get_task", task_id=answer(first)["task_id"])
    assert Path(answer(again)["images"][0]["path"]).parent == tmp_path / "all"


@pytest.mark.parametrize("target", ["/proc/nowhere", "{}/file/inside.png", "{}/file/folder/"])
async def test_a_place_that_can_not_be_written_is_a_note(session: Session, tmp_path: Path, target: str) -> None:
    """The result has the link, so the picture is not lost."""
    (tmp_path / "file").write_text("a file", "utf-8")
    result = await session.call("generate_image", prompt="a", save_to=target.format(tmp_path))
    assert not result.is_error
    assert answer(result)["images"][0]["url"]
    assert "path" not in answer(result)["images"][0]
    assert any(note.startswith("Not saved to ") for note in answer(result)["notes"])
    assert len(previews(result)) == 1


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("~nobodyhere/x.jpg", "there is no such home folder"),
        ("/mnt/user-data/outputs/x.jpg", "exists only in the chat's own sandbox"),
        ("C:\\Users\\me\\fox.jpg", "is a Windows path"),
        ("file://elsewhere/share/x.jpg", "names another machine"),
        ("\\\\nas\\share\\x.jpg", "is a Windows network path"),
        ("file:////nas/share/x.jpg", "is a Windows network path"),
        ("$PICTURES/x.jpg", "the variable $PICTURES is not expanded here"),
        ("${workspaceFolder}/x.jpg", "the variable ${workspaceFolder} is not expanded here"),
        ("ftp://elsewhere/x.jpg", "is neither a path nor an http(s) link"),
    ],
)
async def test_what_can_not_be_a_place_is_refused_before_anything_is_paid(
    session: Session, sandbox: Sandbox, target: str, says: str
) -> None:
    """The same rules as for paths of input pictures."""
    result = await session.call("generate_image", prompt="a", save_to=target)
    assert result.is_error
    assert says in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("{}/.config/autostart", "would be created below a name that begins with a dot"),
        ("{}/.git/new/fox.png", "would be created below a name that begins with a dot"),
        ("{}/link/new", "would be created below a name that begins with a dot"),
        ("{}/notes.txt", "has the name of a file"),
        ("{}/fox.png/fox.png", "has the name of a file"),
        ("{}/run.py/", "has the name of a file"),
    ],
)
async def test_folders_that_are_not_created(
    session: Session, sandbox: Sandbox, tmp_path: Path, target: str, says: str
) -> None:
    """Below a name that begins with a dot, and with the name of a file: refused before anything is paid."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / ".git")
    before = sorted(tmp_path.rglob("*"))
    result = await session.call("generate_image", prompt="a", save_to=target.format(tmp_path))
    assert result.is_error
    assert says in text(result)
    assert sandbox.requests == []
    assert sorted(tmp_path.rglob("*")) == before


async def test_names_that_look_odd_and_are_fine(table: ModelTable, upstream: str, tmp_path: Path) -> None:
    """Folders that exist, folders below the output folder, and suffixes of pictures of other kinds."""
    session = local(table, upstream, output=tmp_path / ".pictures")
    (tmp_path / ".there").mkdir()
    (tmp_path / "notes.txt").mkdir()
    for target, expected in (
        (str(tmp_path / ".there"), tmp_path / ".there"),
        (str(tmp_path / "notes.txt"), tmp_path / "notes.txt"),
        ("new", tmp_path / ".pictures" / "new"),
        (str(tmp_path / "fox.heic"), tmp_path / "fox.jpg"),
        (str(tmp_path / "2026.07" / "fox.svg"), tmp_path / "2026.07" / "fox.jpg"),
    ):
        result = await session.call("generate_image", prompt="a", save_to=target)
        path = Path(answer(result)["images"][0]["path"])
        assert expected in (path, path.parent)


async def test_the_home_folder_as_a_place(
    table: ModelTable, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the forms that shells accept; a `$` inside a name is part of the name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    session = local(table, upstream)
    for number, home in enumerate(("$HOME", "${HOME}", "%USERPROFILE%", "~")):
        result = await session.call("generate_image", prompt="a", save_to=f"{home}/a-$HOME-{number}.jpg")
        assert Path(answer(result)["images"][0]["path"]) == tmp_path / f"a-$HOME-{number}.jpg"


async def test_spellings_of_a_place(table: ModelTable, upstream: str, tmp_path: Path) -> None:
    """file:// URIs, paths relative to the output folder, and file names, which need a picture suffix."""
    session = local(table, upstream, output=tmp_path / "all")
    for target, expected in (
        ((tmp_path / "a fox.png").as_uri(), tmp_path / "a fox.jpg"),
        ("named.jpg", tmp_path / "all" / "named.jpg"),
        ("v1.2", tmp_path / "all" / "v1.2"),
    ):
        result = await session.call("generate_image", prompt="a", save_to=target)
        path = Path(answer(result)["images"][0]["path"])
        assert expected in (path, path.parent)


async def test_a_pending_call_says_that_nothing_is_saved_yet(session: Session, tmp_path: Path) -> None:
    """The note says what to pass to get_task."""
    result = await session.call("generate_image", prompt="a", save_to=str(tmp_path), wait_seconds=0)
    assert f'call get_task with save_to "{tmp_path}" as well' in text(result)


async def test_data_that_could_not_be_saved_can_still_be_had(session: Session, tmp_path: Path) -> None:
    """There is no link, so the note says how to save the picture; that works."""
    result = await session.call("generate_image", prompt="a", save_to="/proc/nowhere", response_format="b64_json")
    id_ = answer(result)["task_id"]
    assert f'get_task with task_id "{id_}" and another save_to saves it, at no cost.' in text(result)
    assert "link still works" not in text(result)
    again = await session.call("get_task", task_id=id_, save_to=str(tmp_path))
    assert Path(answer(again)["images"][0]["path"]).parent == tmp_path


async def test_image_data_is_saved_and_shown_not_sent(session: Session, tmp_path: Path) -> None:
    """Base64 is never in the result's text: without a folder, the picture is saved in the home folder."""
    result = await session.call("generate_image", prompt="a", response_format="b64_json")
    path = Path(answer(result)["images"][0]["path"])
    assert path.is_relative_to(tmp_path / "home" / "Pictures")
    assert len(previews(result)) == 1
    assert_small(result)
    assert set(answer(result)["images"][0]) == {"path", "size"}


async def test_hosted_image_data_that_fits_is_shown(table: ModelTable, upstream: str) -> None:
    """The picture itself is in an image block."""
    options = {"size": "1280x720", "response_format": "b64_json"}
    result = await Session(table, upstream).call("generate_image", prompt="x", **options)
    [block] = [block for block in result.content if isinstance(block, ImageContent)]
    assert Image.open(io.BytesIO(base64.b64decode(block.data))).size == (1280, 720)


async def test_hosted_image_data_that_does_not_fit_says_what_to_do(
    table: ModelTable, upstream: str, sandbox: Sandbox
) -> None:
    """The error names the task and the other response_format; no second request is submitted."""
    result = await Session(table, upstream).call("generate_image", prompt="x", size="4K", response_format="b64_json")
    assert result.is_error
    assert answer(result)["error"]["code"] == "result_too_large"
    assert "response_format url" in text(result)
    assert answer(result)["task_id"] in sandbox.jobs
    assert len(submits(sandbox)) == 1
    assert_small(result)


async def test_results_say_until_when_links_live(session: Session) -> None:
    """If the link has no expiry date, the table's lifetime is used."""
    result = await session.call("generate_image", prompt="a")
    assert f"Links work until {answer(result)['links_until']}." in text(result)


async def test_a_hosted_server_knows_no_save_to(
    table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The server's disk is not the caller's."""
    result = await Session(table, upstream).call("generate_image", prompt="a", save_to=str(tmp_path))
    assert result.is_error
    assert "`save_to` is not an argument of this tool" in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("A red fox, in the snow!", "a-red-fox-in-the-snow"),
        ("../../etc/passwd", "etc-passwd"),
        ("狐狸 in 雪", "狐狸-in-雪"),
        ("con", "con-picture"),
        ("LPT1.png", "lpt1-png-picture"),
        ("", "picture"),
        ("///", "picture"),
        ("a" * 500, "a" * 80),
        ("狐" * 100, "狐" * 26),
        ("a\0b\nc:d*e?f", "a-b-c-d-e-f"),
    ],
)
def test_names_are_safe_on_every_file_system(name: str, stem: str) -> None:
    """Readable and short, without reserved names and characters."""
    assert file_stem(name) == stem


async def test_files_can_be_read_by_others_as_usual(session: Session, tmp_path: Path) -> None:
    """Files have the user's default permissions, not those of a temporary file."""
    result = await session.call("generate_image", prompt="a", save_to=str(tmp_path))
    (tmp_path / "plain").touch()
    saved = Path(answer(result)["images"][0]["path"])
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


async def test_a_failed_task_delivers_nothing(session: Session, tmp_path: Path) -> None:
    """No folder is created."""
    result: Any = await session.call("generate_image", prompt="[sandbox:failed]", save_to=str(tmp_path / "new"))
    assert result.is_error
    assert not (tmp_path / "new").exists()


@pytest.fixture
def kept(table: ModelTable, upstream: str, tmp_path: Path) -> Session:
    """A server that saves every result and records the files in its journal."""
    defaults = ToolDefaults(20, lambda _: True, LocalFiles(output=tmp_path / "all"))
    return Session(table, upstream, defaults=defaults, journal=Journal(tmp_path / "tasks.sqlite3"))


SET = {"sequential_image_generation": "auto", "sequential_image_generation_options": 3}
KINDS: dict[str, dict[str, Any]] = {
    "one": {"prompt": "a fox"},
    "set": {"prompt": "seasons", **SET},
    "data": {"prompt": "a fox", "response_format": "b64_json"},
    "pending": {"prompt": "a fox", "wait_seconds": 0},
}


def paths(result: CallToolResult) -> list[Path]:
    return [Path(image["path"]) for image in answer(result)["images"]]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_that_is_asked_for_again_is_saved_once(kept: Session, tmp_path: Path, kind: str) -> None:
    """Each call returns the same paths in the same order, with the preview."""
    first = await kept.call("generate_image", **KINDS[kind])
    results = [await kept.call("get_task", task_id=answer(first)["task_id"]) for _ in range(3)]
    results += [first] if kind != "pending" else []
    assert len({tuple(paths(result)) for result in results}) == 1
    assert sorted((tmp_path / "all").iterdir()) == sorted(paths(results[0]))
    assert all(len(previews(result)) == 1 for result in results)


async def test_tasks_that_are_asked_for_together_are_saved_once(kept: Session, tmp_path: Path) -> None:
    """With two concurrent calls."""
    ids = [answer(await kept.call("generate_image", prompt=prompt))["task_id"] for prompt in ("a", "b")]
    for _ in range(2):
        await kept.call("get_task", task_ids=ids)
    assert len([*(tmp_path / "all").iterdir()]) == 2


@pytest.mark.parametrize("kind", ["one", "set"])
async def test_another_place_gets_its_own_copy(kept: Session, tmp_path: Path, kind: str) -> None:
    """One copy per target, for folders and file names."""
    first = await kept.call("generate_image", **KINDS[kind])
    id_, places = answer(first)["task_id"], (tmp_path / "other", tmp_path / "named.png", tmp_path / "all")
    seen = []
    for _ in range(2):
        for place in places:
            found = paths(await kept.call("get_task", task_id=id_, save_to=str(place)))
            assert all(place in (path.parent, path.parent / "named.png") for path in found)
            seen.append(tuple(found))
    assert seen[:3] == seen[3:]
    assert seen[2] == tuple(paths(first))


@pytest.mark.parametrize("kind", ["one", "set"])
async def test_a_file_that_is_gone_is_saved_again(kept: Session, kind: str) -> None:
    """Later calls reuse the new files, in order."""
    first = await kept.call("generate_image", **KINDS[kind])
    gone = paths(first)[-1]
    gone.unlink()
    again = [paths(await kept.call("get_task", task_id=answer(first)["task_id"])) for _ in range(2)]
    assert again[0] == again[1]
    assert all(path.is_file() for path in again[0])
    if kind == "set":
        assert [path.stem.split(answer(first)["task_id"][:8])[1][:2] for path in again[0]] == ["-1", "-2", "-3"]


@pytest.mark.parametrize("content", [b"", b"not a picture"])
async def test_a_file_that_is_no_picture_any_more_is_saved_again(kept: Session, content: bytes) -> None:
    """The truncated or overwritten file is not changed."""
    made = answer(await kept.call("generate_image", prompt="a fox"))
    path = Path(made["images"][0]["path"])
    path.write_bytes(content)
    [image] = answer(await kept.call("get_task", task_id=made["task_id"]))["images"]
    assert Path(image["path"]) != path
    assert path.read_bytes() == content


async def test_a_set_of_which_one_could_not_be_saved(kept: Session, tmp_path: Path) -> None:
    """An incomplete set is not reused."""
    first = await kept.call("generate_image", **KINDS["set"])
    journal = kept_journal(tmp_path)
    images = [WireImage(image["url"], path=image["path"]) for image in answer(first)["images"]]
    partly = [replace(images[0], path=str(tmp_path / "partly.jpg")), WireImage(images[1].url), WireImage(images[2].url)]
    (tmp_path / "partly.jpg").write_bytes(paths(first)[0].read_bytes())
    await journal.ended(Task(answer(first)["task_id"], "succeeded", tuple(partly)))
    journal.close()
    assert paths(await kept.call("get_task", task_id=answer(first)["task_id"])) == paths(first)


def kept_journal(folder: Path) -> Journal:
    return Journal(folder / "tasks.sqlite3")


async def test_a_preview_is_named_as_one_in_the_structured_result(session: Session, tmp_path: Path) -> None:
    """Some clients drop the text and would use the thumbnail as the picture, so the note says where the picture is."""
    result = await session.call("generate_image", prompt="a fox", save_to=str(tmp_path))
    assert (
        answer(result)["preview"] == f"The picture is {paths(result)[0]}. The image in this result is only a thumbnail."
    )
    assert [*answer(result)][:3] == ["status", "images", "preview"]
    assert text(result).endswith(answer(result)["preview"])
    linked = await session.call("generate_image", prompt="a fox")
    url = answer(linked)["images"][0]["url"]
    assert answer(linked)["preview"] == f"The picture is {url}. The image in this result is only a thumbnail."
    several = await session.call("generate_image", prompt="a", **SET)
    says = "The pictures are under `images`. The image in this result shows all of them, reduced."
    assert answer(several)["preview"] == says
    layers = await session.call("edit_image", image=[picture()], layer_decomposition=True, size="1K")
    says = "The pictures are under `images`. The image in this result shows the layers put together, reduced."
    assert answer(layers)["preview"] == says
    unsaved = await session.call("generate_image", prompt="a", save_to="/proc/nowhere", response_format="b64_json")
    assert answer(unsaved)["preview"] == "The image in this result is only a thumbnail."


async def test_a_result_without_a_preview_says_nothing_of_one(table: ModelTable, upstream: str) -> None:
    """Nor does a result with the picture itself."""
    hosted = Session(table, upstream)
    for options in ({}, {"size": "512x512", "response_format": "b64_json"}):
        result = await hosted.call("generate_image", prompt="a fox", **options)
        assert "preview" not in answer(result)
        assert "The image in this result" not in text(result)
