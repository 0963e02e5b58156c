"""Pictures from phones and browsers: HEIC, HEIF, AVIF, and photos with an EXIF orientation."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.sandbox.app import Sandbox
from mcp_seedream.server.tools import ToolDefaults
from tests.conftest import Session, Switch, answer, submits, text
from tests.integration.test_inputs import edit, pixel, save_heic, sent
from tests.support.models import PRO

pytestmark = pytest.mark.anyio
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 200, 30), (30, 30, 200), (250, 250, 250)
SMALL, PHONE, LARGE = (60, 40), (4032, 3024), (7600, 5000)
ORIENTATION = 0x0112


@pytest.fixture
def session(table: ModelTable, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A local server that may read one folder."""
    monkeypatch.chdir(tmp_path)
    return Session(table, upstream, defaults=ToolDefaults(20, local=LocalFiles(allowed=(tmp_path,))))


def corners(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Return a picture with red, green, blue and white corners, from left to right, top to bottom."""
    four = Image.new("RGB", (2, 2))
    for place, colour in zip([(0, 0), (1, 0), (0, 1), (1, 1)], (RED, GREEN, BLUE, WHITE), strict=True):
        four.putpixel(place, colour)
    return four.resize(size, Image.Resampling.NEAREST).convert(mode)


def seen_corners(picture: Image.Image) -> list[str]:
    """Return the names of the corners' colors, from left to right, top to bottom."""
    right, bottom = picture.width - 4, picture.height - 4
    named = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
    found = [pixel(picture, *place) for place in ((3, 3), (right, 3), (3, bottom), (right, bottom))]
    return [min(named, key=lambda n: sum(abs(a - b) for a, b in zip(named[n], one, strict=True))) for one in found]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# How each EXIF orientation shows the corners red, green / blue, white; by the EXIF standard, not by a library.
UPRIGHT = {
    1: ["red", "green", "blue", "white"],
    2: ["green", "red", "white", "blue"],
    3: ["white", "blue", "green", "red"],
    4: ["blue", "white", "red", "green"],
    5: ["red", "blue", "green", "white"],
    6: ["blue", "red", "white", "green"],
    7: ["white", "green", "blue", "red"],
    8: ["green", "white", "red", "blue"],
}


def png_with_exif_behind(path: Path, picture: Image.Image, exif: Image.Exif) -> None:
    """Return a PNG with its EXIF after its pixels."""
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    data = file.getvalue()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])


def png_of_image_magick(path: Path, picture: Image.Image, exif: Image.Exif) -> None:
    """Return a PNG with EXIF as hexadecimal text, as written by ImageMagick."""
    data = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=True)
    picture.save(path, "PNG", pnginfo=info)


TURNABLE: dict[str, Callable[[Path, Image.Image, Image.Exif], Any]] = {
    "jpeg": lambda path, picture, exif: picture.save(path, "JPEG", quality=95, exif=exif),
    "png": lambda path, picture, exif: picture.save(path, "PNG", exif=exif),
    "png-behind": png_with_exif_behind,
    "png-magick": png_of_image_magick,
    "webp": lambda path, picture, exif: picture.save(path, "WEBP", lossless=True, exif=exif),
    "tiff": lambda path, picture, exif: picture.save(path, "TIFF", exif=exif),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", TURNABLE)
async def test_a_small_photo_is_sent_upright(
    session: Session, table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path, kind: str, orientation: int
) -> None:
    """As a file, and hosted as data; an upright photo is sent byte for byte."""
    TURNABLE[kind](tmp_path / "photo", corners(SMALL), turned(orientation))
    data = (tmp_path / "photo").read_bytes()
    for result in (
        await edit(session, "photo"),
        await edit(Session(table, upstream), base64.b64encode(data).decode()),
    ):
        assert not result.is_error, text(result)
        picture = sent(sandbox)
        assert seen_corners(picture) == UPRIGHT[orientation]
        assert picture.size == (SMALL if orientation < 5 else SMALL[::-1])
        assert picture.getexif().get(ORIENTATION, 1) == 1
        if orientation == 1:
            image = submits(sandbox)[-1]["image"][0]
            assert base64.b64decode(image.partition("base64,")[2] or image) == data
        else:
            assert "`image` number 1 was turned upright: " in " ".join(answer(result)["notes"])


@pytest.mark.parametrize("orientation", UPRIGHT)
async def test_a_large_photo_is_sent_upright(
    session: Session, sandbox: Sandbox, tmp_path: Path, orientation: int
) -> None:
    """It is scaled down as well."""
    corners(LARGE).save(tmp_path / "photo.jpg", exif=turned(orientation))
    await edit(session, "photo.jpg")
    picture = sent(sandbox)
    assert seen_corners(picture) == UPRIGHT[orientation]
    assert (picture.width > picture.height) == (orientation < 5)
    assert picture.width * picture.height <= 36e6


async def test_a_photo_of_36_megapixels_keeps_them(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """It is turned but not scaled down."""
    corners((7200, 5000)).save(tmp_path / "photo.jpg", exif=turned(6))
    await edit(session, "photo.jpg")
    assert sent(sandbox).size == (5000, 7200)
    assert seen_corners(sent(sandbox)) == UPRIGHT[6]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # when this test itself opens what was sent
@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(20)])
async def test_broken_exif_is_no_reason_to_refuse(
    session: Session, sandbox: Sandbox, tmp_path: Path, exif: bytes
) -> None:
    """The picture is sent unchanged."""
    corners(SMALL).save(tmp_path / "photo.jpg", exif=exif)
    assert not (await edit(session, "photo.jpg")).is_error
    assert seen_corners(sent(sandbox)) == UPRIGHT[1]


def heic(path: Path, picture: Image.Image, orientation: int = 1) -> Path:
    """Return a HEIC like an iPhone's: HEVC tiles, and an orientation in the container as well."""
    save_heic(path, picture, exif=turned(orientation).tobytes(), tile_size=512)
    return path


def avif(path: Path, picture: Image.Image, orientation: int = 1) -> Path:
    picture.save(path, "AVIF", speed=10, exif=turned(orientation))
    return path


def mif1(path: Path, picture: Image.Image, orientation: int = 1) -> Path:
    """Return a HEIF whose major brand does not tell its coding."""
    data = heic(path, picture, orientation).read_bytes()
    path.write_bytes(data[:8] + b"mif1" + data[12:])
    return path


def mif1_avif(path: Path, picture: Image.Image, orientation: int = 1) -> Path:
    """Return an AVIF with the same major brand."""
    data = avif(path, picture, orientation).read_bytes()
    path.write_bytes(data[:8] + b"mif1" + data[12:])
    return path


CONVERTED = {"HEIC": heic, "HEIF": mif1, "AVIF": avif, "AVIF as mif1": mif1_avif}


@pytest.mark.parametrize("kind", CONVERTED)
@pytest.mark.parametrize("orientation", [1, 6])
async def test_a_phones_picture_is_sent_as_jpeg(
    session: Session, table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path, kind: str, orientation: int
) -> None:
    """12 megapixels, upright: as a file, as base64, and as data URIs with any media type."""
    path = CONVERTED[kind](tmp_path / "IMG_0001.HEIC", corners(PHONE), orientation)
    data = base64.b64encode(path.read_bytes()).decode()
    hosted = Session(table, upstream)
    results = [await edit(session, path.name), await edit(hosted, data)]
    results.append(await edit(hosted, f"data:image/heic;base64,{data}"))
    for number, result in enumerate(results):
        assert not result.is_error, text(result)
        prefix, _, image = submits(sandbox)[number]["image"][0].partition(",")
        assert prefix == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(image)))
        assert (picture.format, seen_corners(picture)) == ("JPEG", UPRIGHT[orientation])
        assert picture.size == (PHONE if orientation == 1 else PHONE[::-1])
        assert f"was converted from {'AVIF' if 'AVIF' in kind else 'HEIC'}" in " ".join(answer(result)["notes"])


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
async def test_transparency_of_a_converted_picture(
    session: Session, sandbox: Sandbox, tmp_path: Path, kind: str
) -> None:
    """PNG if transparency must be kept, such as for a transparent background; otherwise flattened on white."""
    picture = Image.new("RGBA", (200, 200), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (100, 0, 200, 200))
    (pillow_heif.from_pillow(picture).save if kind == "HEIC" else picture.save)(tmp_path / f"cut.{kind}")
    result = await edit(session, f"cut.{kind}", background="transparent", output_format="png", model=PRO)
    assert not result.is_error, text(result)
    kept = sent(sandbox)
    assert (kept.format, kept.mode) == ("PNG", "RGBA")
    assert kept.getchannel("A").getpixel((20, 20)) == 0
    data = base64.b64encode((tmp_path / f"cut.{kind}").read_bytes()).decode()
    assert not (await edit(session, data, background="transparent", output_format="png", model=PRO)).is_error
    result = await edit(session, f"cut.{kind}")
    assert (sent(sandbox).format, min(pixel(sent(sandbox), 20, 20)) > 240) == ("JPEG", True)
    assert "without its transparency" in " ".join(answer(result)["notes"])


async def test_an_opaque_heic_is_no_transparent_one(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """Rejected before a request is sent if an alpha channel is needed."""
    heic(tmp_path / "a.heic", corners((200, 200)))
    result = await edit(session, "a.heic", background="transparent", output_format="png", model=PRO)
    assert "has no alpha channel" in text(result)
    assert sandbox.requests == []


async def test_layers_of_a_heic(table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Options that accept only PNG and JPEG accept a HEIC, since it is converted."""
    data = base64.b64encode(heic(tmp_path / "a.heic", corners((200, 200))).read_bytes()).decode()
    result = await edit(Session(table, upstream), data, layer_decomposition=True, model=PRO)
    assert not result.is_error, text(result)
    assert sent(sandbox).format == "JPEG"


async def test_a_colour_profile_is_kept(session: Session, sandbox: Sandbox, tmp_path: Path) -> None:
    """Phones do not use the colors of sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name in ("a.heic", "a.jpg"):
        picture = corners((200, 200))
        picture.info["icc_profile"] = profile
        if name == "a.heic":
            pillow_heif.from_pillow(picture).save(tmp_path / name)
        else:
            picture.save(tmp_path / name, icc_profile=profile, exif=turned(6))
        await edit(session, name)
        assert sent(sandbox).info.get("icc_profile") == profile


def claims(path: Path, width: int, height: int) -> bytes:
    """Return a HEIC of a few bytes whose header claims this size."""
    data = bytearray(heic(path, corners((64, 64))).read_bytes())
    at = -1
    while (at := data.find(b"ispe", at + 1)) >= 0:
        data[at + 8 : at + 16] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


ODD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "head alone": (lambda path: heic(path, corners(PHONE)).read_bytes()[:40], "can't be decoded"),
    "half": (lambda path: (data := heic(path, corners(PHONE)).read_bytes())[: len(data) // 2], "can't be decoded"),
    "half avif": (lambda path: (data := avif(path, corners(PHONE)).read_bytes())[: len(data) // 2], "can't be decoded"),
    "bomb": (lambda path: claims(path, 15000, 15000), "has 15000x15000 pixels, more than can be handled"),
    "huge bomb": (lambda path: claims(path, 2**31 - 1, 2**31 - 1), "more than can be handled"),
    "wrong size": (lambda path: claims(path, 5000, 5000), "can't be decoded"),
    "noise": (lambda _: b"\0\0\0\x18ftypheic" + bytes(range(256)) * 9, "can't be decoded"),
    "narrow": (lambda path: heic(path, corners((64, 1600))).read_bytes(), "aspect ratio must be from 1:16 to 16:1"),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_pictures_of_phones(
    session: Session, table: ModelTable, upstream: str, sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    """Rejected with a reason as a file and as data; no request is sent."""
    make, says = ODD[name]
    data = make(tmp_path / "made")
    (tmp_path / "odd.heic").write_bytes(data)
    for result in (
        await edit(session, "odd.heic"),
        await edit(Session(table, upstream), base64.b64encode(data).decode()),
    ):
        assert result.is_error
        assert "`image` number 1" in text(result)
        assert says in text(result)
    assert sandbox.requests == []


@pytest.fixture
def site(sandbox: Sandbox, switch: Switch, tmp_path: Path) -> str:
    """An upstream address that also serves pictures; the only one on this machine from which downloads are allowed."""

    async def picture(request: Request) -> Response:
        name = request.path_params["name"]
        if name.startswith("moved"):
            return RedirectResponse("https://127.0.0.1:1/secret.heic")
        if name.startswith("gone"):
            return Response(status_code=404)
        if name.startswith("page"):
            return Response("<html>sorry</html>")
        if name.startswith("endless"):
            return Response(b"\0\0\0\x18ftypheic" + bytes(65 * 2**20))
        return Response((tmp_path / "a.heic").read_bytes())

    heic(tmp_path / "a.heic", corners((400, 300)), 6)
    switch.app = Starlette(routes=[Route("/pictures/{name}", picture), Mount("/", sandbox.app)])
    return switch.address


@pytest.mark.parametrize("name", ["a.heic", "A.HEIC?width=9", "a.HeIf#x", "a.avif"])
@pytest.mark.parametrize("local", [True, False])
async def test_a_link_to_a_phones_picture_is_read_here(
    table: ModelTable, site: str, sandbox: Sandbox, name: str, local: bool
) -> None:
    """The upstream would refuse the picture behind the link."""
    defaults = ToolDefaults(20, local=LocalFiles() if local else None)
    result = await edit(Session(table, site, defaults=defaults), f"{site}/pictures/{name}")
    assert not result.is_error, text(result)
    assert (sent(sandbox).format, seen_corners(sent(sandbox))) == ("JPEG", UPRIGHT[6])
    assert "was converted from HEIC" in " ".join(answer(result)["notes"])


@pytest.mark.parametrize("name", ["a.jpg", "a.png?was=a.heic", "heic", "a.heic/"])
async def test_other_links_are_passed_on(table: ModelTable, site: str, sandbox: Sandbox, name: str) -> None:
    """Other links are sent without downloading them."""
    await edit(Session(table, site), f"{site}/pictures/{name}")
    assert submits(sandbox)[0]["image"] == [f"{site}/pictures/{name}"]


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("{}/pictures/gone.heic", "returned HTTP 404"),
        ("{}/pictures/page.heic", "did not return a picture"),
        ("{}/pictures/moved.heic", "leads to a private address"),
        ("{}/pictures/endless.heic", "is larger than 64 MiB"),
        ("https://169.254.169.254/a.heic", "only this network can reach"),
        ("http://example.com/a.avif", "is not https"),
    ],
)
async def test_a_link_that_can_not_be_read_here(
    table: ModelTable, site: str, sandbox: Sandbox, link: str, says: str
) -> None:
    """Rejected with a reason; no request is sent."""
    result = await edit(Session(table, site), link.format(site))
    assert result.is_error
    assert "`image` number 1" in text(result)
    assert says in text(result)
    assert submits(sandbox) == []
