"""Input pictures of all forms, over stdio and hosted, including invalid and unusual ones."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media import inputs
from mcp_seedream.media.decoding import LARGE as LARGE_JOB
from mcp_seedream.media.local_files import LocalFiles, open_local
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, Switch, answer, huge_png, submits, text
from tests.support.models import PRO

pytestmark = pytest.mark.anyio


@pytest.fixture
def session(table: ModelTable, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A local server that may read one folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles(allowed=(tmp_path,))))


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (60, 40), **options: Any) -> Path:
    bands = len(Image.new(mode, (1, 1)).getbands())
    Image.frombytes(mode, size, os.urandom(size[0] * size[1] * bands)).save(path, **options)
    return path


def sent(sandbox: Sandbox, number: int = 0) -> Image.Image:
    """Return the picture that reached the upstream."""
    image = submits(sandbox)[-1]["image"][number]
    return Image.open(io.BytesIO(base64.b64decode(image.partition("base64,")[2] or image)))


def pixel(picture: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    found = picture.convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple)
    return (int(found[0]), int(found[1]), int(found[2]))


def save_heic(path: Path, picture: Image.Image, **options: Any) -> None:
    """Save a HEIC with fast settings; as in phones' files, the container repeats the EXIF orientation."""
    pillow_heif.from_pillow(picture).save(path, quality=60, enc_params={"preset": "ultrafast"}, **options)


async def edit(session: Session, image: Any, **arguments: Any) -> Any:
    return await session.call("edit_image", **{"prompt": "x", "image": image, "wait_seconds": 0, **arguments})


@pytest.mark.parametrize(
    "spelled",
    [
        str,
        lambda path: path.name,
        lambda path: f"./{path.name}",
        lambda path: f"~/{path.name}",
        lambda path: path.as_uri(),
    ],
    ids=["absolute", "relative", "dot", "home", "file-uri"],
)
async def test_a_file_by_every_spelling(
    session: Session, sandbox: Sandbox, tmp_path: Path, spelled: Callable[[Path], str]
) -> None:
    """The file is sent byte for byte."""
    path = save(tmp_path / "a photo.png")
    assert not (await edit(session, spelled(path))).is_error
    assert base64.b64decode(submits(sandbox)[0]["image"][0].partition("base64,")[2]) == path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.jpg"), ("RGBA", "a.png"), ("RGB", "a.webp"), ("RGB", "a.bmp"), ("RGB", "a.tiff"), ("P", "a.gif")],
)
async def test_every_kind_by_its_bytes(
    session: Session, sandbox: Sandbox, tmp_path: Path, mode: str, name: str
) -> None:
    """The file's name does not matter."""
    wrong = save(tmp_path / name, mode).rename(tmp_path / "picture.txt")
    assert not (await edit(session, str(wrong))).is_error
    kind = {"jpg": "jpeg"}.get(name[2:], name[2:])
    assert submits(sandbox)[0]["image"][0].startswith(f"data:image/{kind};base64,")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bomb(path: Path) -> None:
    path.write_bytes(huge_png(40000, 40000))


ODD: list[tuple[str, Callable[[Path], Any], str]] = [
    ("text.png", lambda path: path.write_text("not a picture", "utf-8"), "is not a jpeg, png"),
    ("empty.png", lambda path: path.touch(), "is not a jpeg, png"),
    ("pipe.png", pipe, "is not a regular file"),
    ("folder.png", lambda path: path.mkdir(), "is not a regular file"),
    ("out.png", lambda path: path.symlink_to("/etc/hostname"), "lies outside SEEDREAM_ALLOWED_DIRS"),
    ("loop.png", lambda path: path.symlink_to(path), "can't be read"),
    ("missing.png", lambda _: None, "can't be read: No such file or directory"),
    ("bomb.png", bomb, "has more pixels than can be handled"),
    ("tiny.png", lambda path: save(path, size=(5, 5)), "has 5x5 pixels; each side must have 15 or more"),
    ("cut.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9)), "can't be decoded"),
    ("half.png", lambda path: path.write_bytes(save(path).read_bytes()[:600]), "can't be decoded"),
]


@pytest.mark.parametrize(("name", "make", "says"), ODD, ids=[name for name, _, _ in ODD])
async def test_odd_files_are_refused_with_a_reason(
    session: Session, sandbox: Sandbox, tmp_path: Path, name: str, make: Callable[[Path], Any], says: str
) -> None:
    """The call does not hang, and no request is sent."""
    make(tmp_path / name)
    result = await edit(session, ["https://example.com/a.png", name])
    assert result.is_error
    assert "`image` number 2" in text(result)
    assert says in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/mnt/user-data/uploads/a.png", "exists only in the chat's own sandbox"),
        ("sandbox:/mnt/data/a.png", "exists only in the chat's own sandbox"),
        ("C:\\Users\\me\\a.png", "is a Windows path"),
        ("file:///C:/Users/me/a.png", "is a Windows path"),
        ("\\\\nas\\share\\a.png", "is a Windows network path"),
        ("//nas\\share\\a.png", "No such file"),
        ("\\\\?\\C:\\a.png", "is a Windows network path"),
        ("\\\\wsl.localhost\\Ubuntu\\home\\me\\a.png", "the same file is /home/me/a.png"),
        ("//wsl$/Ubuntu/home/me/a.png", "the same file is /home/me/a.png"),
        ("file:////nas/share/a.png", "is a Windows network path"),
        ("file:///%5C%5Cnas%5Cshare%5Ca.png", "is a Windows network path"),
        ("file:\\\\nas\\share\\a.png", "is a Windows network path"),
        ("file://wsl.localhost/Ubuntu/home/me/a.png", "the same file is /home/me/a.png"),
        ("file://nas/share/a.png", "names another machine"),
        ("/etc/hostname", "lies outside SEEDREAM_ALLOWED_DIRS"),
        ("../../../etc/hostname", "can't be read"),
        ("\0", "can't be read"),
        ("x" * 5000, "can't be read: File name too long"),
    ],
)
async def test_paths_that_lead_nowhere(session: Session, sandbox: Sandbox, path: str, says: str) -> None:
    """The error says what to give instead, if there is an alternative."""
    result = await edit(session, path)
    assert result.is_error
    assert says in text(result)
    assert sandbox.requests == []


@pytest.mark.parametrize("path", ["/etc/hostname", "photo.png", "~/photo.png", "file:///etc/hostname"])
async def test_a_hosted_server_reads_no_files(table: ModelTable, upstream: str, sandbox: Sandbox, path: str) -> None:
    """A hosted server rejects paths of every caller."""
    result = await edit(Session(table, upstream), path)
    assert "A hosted server reads no files" in text(result)
    assert sandbox.requests == []


async def test_a_picture_over_the_limit_is_made_smaller(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """A JPEG of 12 MB stays a JPEG, and the result has a note."""
    path = save(tmp_path / "photo.jpg", size=(4000, 3000), quality=92)
    assert path.stat().st_size > 10 * 2**20
    result = await edit(session, str(path))
    assert len(base64.b64decode(submits(sandbox)[0]["image"][0].partition(",")[2])) <= 10 * 2**20
    assert sent(sandbox).format == "JPEG"
    assert "`image` number 1 was made to fit: " in " ".join(answer(result)["notes"])


async def test_megapixels_over_the_limit_are_made_fewer(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """The picture is upright and keeps its aspect ratio."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (9000, 4500), "red").save(tmp_path / "large.jpg", exif=exif)
    result = await edit(session, "large.jpg")
    width, height = sent(sandbox).size
    assert 9e6 < width * height <= 36e6
    assert height / width == pytest.approx(2, rel=0.01)
    assert "was turned upright and made to fit: " in " ".join(answer(result)["notes"])


@pytest.mark.parametrize("size", [(8000, 3000), (6000, 6000), (24000, 1500), (15, 16 * 15)])
async def test_a_long_side_alone_is_no_reason(
    session: Session, sandbox: Sandbox, tmp_path: Path, size: tuple[int, int]
) -> None:
    """The upstream limits megapixels, not sides: within the limit, pictures are sent byte for byte."""
    Image.new("RGB", size, "red").save(tmp_path / "wide.png")
    result = await edit(session, "wide.png")
    assert base64.b64decode(submits(sandbox)[0]["image"][0].partition(",")[2]) == (tmp_path / "wide.png").read_bytes()
    assert "`image`" not in " ".join(answer(result).get("notes", []))


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((40, 800), "has 40x800 pixels; the aspect ratio must be from 1:16 to 16:1"),
        ((15 * 16 + 1, 15), "has 241x15 pixels; the aspect ratio must be from 1:16 to 16:1"),
        ((8100, 500), "has 8100x500 pixels; the aspect ratio must be from 1:16 to 16:1"),
        ((14, 20), "has 14x20 pixels; each side must have 15 or more"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])  # looked at in this process, and in one of its own
async def test_shapes_that_no_model_takes(
    session: Session, table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path,
    size: tuple[int, int], says: str, kind: str,
) -> None:  # fmt: skip
    """Rejected as a file and, hosted, as data; no request is sent."""
    Image.new("RGB", size, "red").save(tmp_path / "odd", kind)
    data = base64.b64encode((tmp_path / "odd").read_bytes()).decode()
    for result in (await edit(session, "odd"), await edit(Session(table, upstream), data)):
        assert result.is_error
        assert says in text(result)
    assert sandbox.requests == []


async def test_data_is_made_smaller_as_well(table: ModelTable, upstream: str, sandbox: Sandbox) -> None:
    """On a hosted server, base64 with too many pixels is scaled down."""
    file = io.BytesIO()
    Image.new("RGB", (8000, 5000), "red").save(file, "PNG")
    result = await edit(Session(table, upstream), base64.b64encode(file.getvalue()).decode())
    assert "instead of 8000x5000" in " ".join(answer(result)["notes"])
    width, height = sent(sandbox).size
    assert width * height <= 36e6


async def test_transparency_is_kept_where_it_is_needed(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """PNG for layers and transparent backgrounds; otherwise flattened on white."""
    Image.new("RGBA", (8000, 5000), (255, 0, 0, 0)).save(tmp_path / "large.png")
    await edit(session, "large.png", background="transparent", output_format="png", model=PRO)
    kept = sent(sandbox)
    assert (kept.format, kept.mode) == ("PNG", "RGBA")
    await edit(session, "large.png")
    flat = sent(sandbox)
    assert (flat.format, flat.convert("RGB").getpixel((5, 5))) == ("JPEG", (255, 255, 255))


async def test_a_transparent_background_needs_an_alpha_channel(
    session: Session, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A PNG without an alpha channel is rejected."""
    save(tmp_path / "flat.png")
    result = await edit(session, "flat.png", background="transparent", output_format="png")
    assert "has no alpha channel, which `background: transparent` needs" in text(result)
    assert sandbox.requests == []


async def test_a_cmyk_picture_is_sent_in_rgb(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """Many programs show CMYK colors wrongly."""
    save(tmp_path / "print.jpg", "CMYK")
    await edit(session, "print.jpg")
    assert sent(sandbox).mode == "RGB"


async def test_an_animation_goes_as_it_is(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """The upstream accepts GIF."""
    frames = [Image.new("P", (50, 50), n) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    await edit(session, "a.gif")
    assert sent(sandbox).format == "GIF"


async def test_a_task_of_this_server_as_input(session: Session, sandbox: Sandbox) -> None:
    """task:ID is the task's first picture, task:ID/2 its second."""
    made = await session.call("generate_image", prompt="seasons", sequential_image_generation="auto")
    id_, urls = answer(made)["task_id"], [image["url"] for image in answer(made)["images"]]
    result = await edit(session, [f"task:{id_}", f"task:{id_}/2"])
    assert not result.is_error
    assert submits(sandbox)[-1]["image"] == urls[:2]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("task:{}/9", "has pictures 1 to 4: name one as task:"),
        ("task:{}/x", "has pictures 1 to 4"),
        ("task:nope", "knows no task nope"),
    ],
)
async def test_a_task_that_has_no_such_picture(session: Session, sandbox: Sandbox, reference: str, says: str) -> None:
    """No request is submitted."""
    made = await session.call("generate_image", prompt="seasons", sequential_image_generation="auto")
    result = await edit(session, reference.format(answer(made)["task_id"]))
    assert says in text(result)
    assert len(submits(sandbox)) == 1


async def test_a_task_that_still_runs_as_input(session: Session) -> None:
    """The error says that the task is pending."""
    made = await session.call("generate_image", prompt="[sandbox:slow=9]", wait_seconds=0)
    result = await edit(session, f"task:{answer(made)['task_id']}")
    assert "is pending and has no picture: get_task waits for it" in text(result)


def gradient(mode: str) -> Image.Image:
    channel = Image.radial_gradient("L").resize((9000, 6700))
    return Image.merge(mode, [channel] * len(mode))


LARGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "png": (lambda path: gradient("RGB").save(path, "PNG", compress_level=1), "note"),
    "png-alpha": (lambda path: gradient("RGBA").save(path, "PNG", compress_level=1), "note"),
    "jpeg": (lambda path: gradient("RGB").save(path, "JPEG"), "note"),
    "jpeg-progressive": (lambda path: gradient("RGB").save(path, "JPEG", progressive=True), "note"),
    "heic": (lambda path: save_heic(path, gradient("RGB")), "note"),
    "heic-tiles": (lambda path: save_heic(path, gradient("RGB"), tile_size=512), "note"),
    "heic-alpha": (lambda path: save_heic(path, gradient("RGBA").resize((4032, 3024))), "note"),
    "avif": (lambda path: gradient("RGB").save(path, "AVIF", speed=10), "error"),
    "avif-24": (lambda path: gradient("RGB").resize((5712, 4284)).save(path, "AVIF", speed=10), "note"),
    "webp": (lambda path: gradient("RGB").save(path, "WEBP", quality=5, method=0), "error"),
    "gif": (lambda path: gradient("L").save(path, "GIF"), "error"),
    "one-bit": (lambda path: Image.new("1", (13000, 13000)).save(path, "PNG"), "error"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("name", LARGE)
def test_sixty_megapixels_take_less_than_350_mb(tmp_path: Path, name: str) -> None:
    """Measured in the decoder's subprocess; larger pictures are rejected with a reason."""
    make, outcome = LARGE[name]
    make(tmp_path / "large")
    script = (
        "import sys; from mcp_seedream.media import decoder; decoder.main(); "
        "print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    job = {"operation": "fit", "bounds": [10 * 2**20, 15, 36_000_000, 16], "keep_alpha": True}
    job |= {"memory": LARGE_JOB.memory, "seconds": 60, "is_last": True}
    command = [sys.executable, "-c", script, json.dumps(job)]
    with (tmp_path / "large").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert outcome in json.loads(done.stdout.partition(b"\n")[0])
    # Not ru_maxrss: that begins with what this process held when it forked.
    peak = re.search(rb"VmHWM:\s+(\d+) kB", done.stderr)
    assert peak is not None
    assert int(peak[1]) * 1024 < 350e6


async def test_the_working_directory_lends_no_modules(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """The subprocess does not import a json.py from the working directory."""
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')", "utf-8")
    save(tmp_path / "small.webp")
    assert not (await edit(session, "small.webp")).is_error
    assert not (tmp_path / "run").exists()


async def test_sixteen_bits_a_pixel(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """The upper eight bits are kept: dark stays dark, light stays light."""
    ramp = Image.linear_gradient("L").resize((2000, 3000)).convert("I").point(lambda value: value * 256)
    ramp.convert("I;16").save(tmp_path / "deep.tiff")
    assert (tmp_path / "deep.tiff").stat().st_size > 10 * 2**20
    await edit(session, "deep.tiff")
    picture = sent(sandbox).convert("L")
    assert picture.getpixel((5, 20)) < 30  # type: ignore[operator]
    assert picture.getpixel((5, picture.height - 20)) > 220  # type: ignore[operator]


async def test_a_file_is_opened_once(session: Session, sandbox: Sandbox, tmp_path: Path, monkeypatch: Any) -> None:
    """The checked file is sent, even if its path is replaced meanwhile."""
    Image.new("RGB", (8000, 5000), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (8000, 5000), "blue").save(tmp_path / "secret.png")
    checked = open_local

    def swap(text: str, local: LocalFiles) -> Any:
        opened = checked(text, local)
        (tmp_path / text).unlink()
        (tmp_path / text).symlink_to(tmp_path / "secret.png")
        return opened

    monkeypatch.setattr(inputs, "open_local", swap)
    await edit(session, "wide.png")
    red, _, blue = pixel(sent(sandbox), 9, 9)
    assert red > blue


@pytest.fixture
def answering(switch: Switch) -> Callable[..., str]:
    """An upstream with one task that has these pictures; it records submitted requests."""

    def begin(sent: list[dict[str, Any]], *items: dict[str, Any]) -> str:
        async def post(request: Request) -> JSONResponse:
            body = await request.json()
            if "prompt" in body:
                sent.append(body)
                return JSONResponse({"task_id": "next"})
            return JSONResponse({"success": True, "task_id": "t1", "data": items})

        paths = ("/seedream/images", "/seedream/tasks")
        switch.app = Starlette(routes=[Route(path, post, methods=["POST"]) for path in paths])
        return switch.address

    return begin


@pytest.mark.parametrize(
    "data", ["####", "aGVsbG8gd29ybGQsIGhvdyBhcmUgeW91Pw==", "iVBORw0KGgo", "A", "data:image/png;base64,x"]
)
async def test_a_task_with_broken_data_as_input(table: ModelTable, answering: Callable[..., str], data: str) -> None:
    """Rejected with a reason; no request is sent."""
    sent: list[dict[str, Any]] = []
    result = await edit(Session(table, answering(sent, {"b64_json": data})), "task:t1")
    assert answer(result)["error"]["code"] == "invalid_arguments"
    assert "`image` number 1" in text(result)
    assert "can't be decoded" in text(result)
    assert sent == []


async def test_a_tasks_data_is_made_to_fit(table: ModelTable, answering: Callable[..., str]) -> None:
    """Image data of a task is converted like other pictures."""
    file = io.BytesIO()
    Image.new("RGB", (8000, 5000), "red").save(file, "PNG")
    sent: list[dict[str, Any]] = []
    data = f" {base64.urlsafe_b64encode(file.getvalue()).decode()} "
    result = await edit(Session(table, answering(sent, {"b64_json": data})), "task:t1")
    assert "was made to fit" in " ".join(answer(result)["notes"])
    prefix, _, image = sent[0]["image"][0].partition(",")
    assert prefix == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(image)))
    assert picture.width * picture.height <= 36e6


async def test_data_is_decoded_in_threads_that_are_counted(
    table: ModelTable, answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding megabytes of base64 does not block other callers."""
    threads: list[str] = []

    def watched(decode: Callable[[str], Any], reference: str) -> Any:
        threads.append(threading.current_thread().name)
        return decode(reference)

    for name in ("picture_data", "picture_pieces"):
        monkeypatch.setattr(inputs, name, partial(watched, getattr(inputs, name)))
    file = io.BytesIO()
    Image.new("RGB", (50, 50), "red").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    session = Session(table, answering([], {"b64_json": data}))
    for image in ("task:t1", data):
        assert not (await edit(session, image)).is_error
    assert len(threads) == 2
    assert threading.main_thread().name not in threads
