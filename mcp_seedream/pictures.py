"""Pictures as pixels (Pillow): input pictures that fit the upstream, thumbnails that fit a chat.

Functions are plain and take paths or open files, so that they can run in a thread, or in a process of their
own where a picture is large. Whatever they are given is decoded at most once, and never beyond `_MOST_BYTES`.
"""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from mcp_seedream.errors import InvalidArguments

Source = Path | BinaryIO

PREVIEW_SIDE = 768
"""Longest side of a thumbnail, in pixels."""
PREVIEW_BYTES = 74_000
"""Bytes of a thumbnail's file: as base64 in an image block it stays below 100 kB."""

_MOST_BYTES = 258_000_000  # of a picture while it is decoded and reduced: enough for 60 megapixels
_MOST_MEMORY = 280_000_000  # that a process of its own may take for all of it
# What Pillow raises for files that are broken in one way or another.
_UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error,
    zlib.error, UnidentifiedImageError, Image.DecompressionBombError,
)  # fmt: skip
CHEAP = ("PNG", "JPEG", "GIF", "BMP")
"""Formats whose head can be read at no cost: of others, even that may allocate what the file asks for."""
_PREVIEWABLE = 20_000_000
"""Pixels of a picture that is decoded in the server's own process: a result of the largest size has 16.8 million."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the upstream takes of one input picture: bytes of the file, and pixels of a side (least, most)."""

    most_bytes: int
    least_side: int
    most_side: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture made to fit, and in words what was done."""

    data: bytes
    note: str


def has_alpha(source: Source) -> bool:
    """Whether the picture has an alpha channel, or a transparent colour.

    Raises:
        InvalidArguments: It can't be decoded.
    """
    with _header(source) as image:
        return "A" in image.getbands() or "transparency" in image.info


def fits(source: Source, size: int, bounds: Bounds, *, formats: tuple[str, ...] | None = CHEAP) -> bool:
    """Whether the upstream takes the picture as it is. Its pixels are not decoded; a broken file is found all the same.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: What the upstream takes.
        formats: Pillow's names of those it may be in; None: any.

    Raises:
        InvalidArguments: It is not a picture that can be decoded, or is too small.
    """
    with _header(source, formats) as image:
        width, height = image.size
        if min(width, height) < bounds.least_side:
            raise InvalidArguments(
                f"has {width}x{height} pixels; the upstream takes sides of {bounds.least_side} or more."
            )
        fine = size <= bounds.most_bytes and max(width, height) <= bounds.most_side and image.mode != "CMYK"
        try:
            image.verify()
        except _UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
        return fine


def fitted(source: BinaryIO, size: int, bounds: Bounds, *, keep_alpha: bool) -> Fitted:
    """A version of the picture that the upstream takes. Can take 300 MB: see `main`.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: What the upstream takes.
        keep_alpha: Keep transparency, where there is any.

    Raises:
        InvalidArguments: It can't be decoded, or would take too much memory.
    """
    with _header(source) as image:
        width, height = image.size
        flattened = "" if keep_alpha or "A" not in image.getbands() else ", without its transparency"
        try:
            data = _within(_loaded(image, bounds.most_side, keep_alpha=keep_alpha), bounds.most_bytes)
        except _UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
    with Image.open(io.BytesIO(data)) as small:
        sent = f"{small.width}x{small.height} {small.format}, {_megabytes(len(data))}"
    return Fitted(data, f"was made to fit: {sent}{flattened}, instead of {width}x{height}, {_megabytes(size)}.")


def thumbnail(source: Source) -> bytes:
    """A preview: longest side 768 pixels, at most 74 kB, WebP where it is transparent and JPEG elsewhere.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    return _preview(_opened(source, PREVIEW_SIDE))


def contact_sheet(sources: Sequence[Source]) -> bytes:
    """Several pictures in a grid, numbered from 1, as one preview.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    columns = math.ceil(math.sqrt(len(sources)))
    rows = math.ceil(len(sources) / columns)
    pictures = [_flat(_opened(source, PREVIEW_SIDE // columns - 4)) for source in sources]
    width, height = (max(picture.size[side] for picture in pictures) + 4 for side in (0, 1))
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width + 2, index // columns * height + 2
        sheet.paste(picture, (left, top))
        number = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": ImageFont.load_default(20)}
        draw.text((left + 6, top + 4), str(index + 1), **number)  # type: ignore[arg-type]
    return _preview(sheet)


def composed(base: Source, layers: Sequence[tuple[Source, Sequence[float]]]) -> bytes:
    """Layers put back onto their base, as one preview; a layer's box is left, top, right, bottom in its pixels.

    Raises:
        InvalidArguments: One is not a picture, or too large.
    """
    with _header(base) as whole:
        scale = min(1, PREVIEW_SIDE / max(whole.size))
    canvas = _opened(base, PREVIEW_SIDE).convert("RGBA")
    for source, box in layers:
        left, top, right, bottom = (round(value * scale) for value in box)
        width, height = max(1, right - left), max(1, bottom - top)
        seen = max(0, left), max(0, top), min(left + width, canvas.width), min(top + height, canvas.height)
        if seen[0] >= seen[2] or seen[1] >= seen[3]:
            continue
        # Only what lies on the base is scaled: a box may reach any distance beyond it.
        layer = _opened(source, PREVIEW_SIDE).convert("RGBA")
        x, y = layer.width / width, layer.height / height
        end = min(layer.width, (seen[2] - left) * x), min(layer.height, (seen[3] - top) * y)
        part = ((seen[0] - left) * x, (seen[1] - top) * y, *end)
        canvas.alpha_composite(layer.resize((seen[2] - seen[0], seen[3] - seen[1]), box=part), seen[:2])
    return _preview(canvas)


def _header(source: Source, formats: tuple[str, ...] | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is in bytes
            return Image.open(source, formats=formats)
    except Image.DecompressionBombError as error:
        raise InvalidArguments("has more pixels than can be handled: give a smaller one.") from error
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise InvalidArguments("can't be decoded.") from error
    except _UNREADABLE as error:
        raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error


def _opened(source: Source, side: int) -> Image.Image:
    """The picture at no more than `side` pixels, decoded as small as its format allows."""
    with _header(source) as image:
        if image.width * image.height > _PREVIEWABLE:
            raise InvalidArguments(f"has {image.width}x{image.height} pixels, too many for a preview.")
        try:
            return _loaded(image, side, keep_alpha=True)
        except _UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error


def _loaded(image: Image.Image, side: int, *, keep_alpha: bool) -> Image.Image:
    """Decode, upright and in RGB(A), with sides of at most `side`, in at most `_MOST_BYTES` of memory."""
    if image.format == "JPEG":
        image.draft("RGB", (side, side))
    width, height = image.size
    # Pillow holds one byte a pixel of these, four of all others; a palette is spread out before it is scaled.
    decoded = width * height * {"1": 5, "L": 1, "P": 5, "PA": 5, "I": 8, "F": 8}.get(image.mode, 4)
    factor = max(1, max(width, height) // side)
    while factor < 64 and decoded + decoded / factor**2 > _MOST_BYTES:
        factor += 1
    if decoded + decoded / factor**2 > _MOST_BYTES:
        raise InvalidArguments(f"has {width}x{height} pixels, more than can be handled: give a smaller one.")
    image.load()
    if image.mode.startswith("I"):  # 16 bits a pixel, or more: their upper eight are what is seen
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    picture = _reduced(image, factor)
    image.close()
    ImageOps.exif_transpose(picture, in_place=True)
    transparent = keep_alpha and picture.has_transparency_data
    picture = (picture if picture.mode == "RGBA" else picture.convert("RGBA")) if transparent else _flat(picture)
    picture.thumbnail((side, side))
    return picture


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """The picture `factor` times smaller, band by band: in one go, Pillow would copy all of a transparent one."""
    if factor == 1:
        return image.copy()
    width, height = image.size
    small = Image.new(image.mode, (math.ceil(width / factor), math.ceil(height / factor)))
    small.info = dict(image.info)
    band = 16 * factor
    for top in range(0, height, band):
        part = image.crop((0, top, width, min(top + band, height)))
        small.paste(part.reduce(factor), (0, top // factor))
    return small


def _flat(picture: Image.Image) -> Image.Image:
    """In RGB; what was transparent is white."""
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def _within(picture: Image.Image, most_bytes: int) -> bytes:
    """The picture's file in at most so many bytes: PNG with transparency, else JPEG; smaller until it fits."""
    while True:
        for quality in (90, 80):
            file = io.BytesIO()
            if picture.mode == "RGBA":
                picture.save(file, "PNG")
            else:
                picture.save(file, "JPEG", quality=quality)
            if file.tell() <= most_bytes:
                return file.getvalue()
            if picture.mode == "RGBA":
                break
        scale = max(0.5, 0.95 * math.sqrt(most_bytes / file.tell()))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def _preview(picture: Image.Image) -> bytes:
    transparent = picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255)
    picture = picture if transparent else _flat(picture)
    while True:
        for quality in (82, 65, 45):
            file = io.BytesIO()
            picture.save(file, "WEBP" if transparent else "JPEG", quality=quality)
            if file.tell() <= PREVIEW_BYTES:
                return file.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def main() -> None:
    """A process of its own for one picture, on its standard input: `… BYTES LEAST MOST alpha|flat`.

    Answers a line of JSON: `fits`, or `note` with the new picture's bytes behind it, or `error`.
    """
    *numbers, alpha = sys.argv[1:]
    bounds = Bounds(*map(int, numbers))
    source: BinaryIO = sys.stdin.buffer
    if not source.seekable():
        source = io.BytesIO(source.read())
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    _limit_memory(_MOST_MEMORY)
    answer: dict[str, str | bool] = {"fits": True}
    data = b""
    try:
        if not fits(source, size, bounds, formats=None):
            source.seek(0)
            found = fitted(source, size, bounds, keep_alpha=alpha == "alpha")
            answer, data = {"note": found.note}, found.data
    except InvalidArguments as error:
        answer = {"error": error.message}
    except MemoryError:
        answer = {"error": "takes more memory than is allowed to decode: give a smaller one, or a JPEG or PNG."}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)


def _limit_memory(more: int) -> None:
    """Let this process take so many bytes beyond what it has, where the system can see to that (Linux)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource  # noqa: PLC0415  (not on Windows)

        now = int(statm.read_text("utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


if __name__ == "__main__":
    main()
