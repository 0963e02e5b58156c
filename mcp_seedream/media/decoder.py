"""Input pictures that fit the upstream: converted, turned upright, made smaller, where one of these is needed.

Run as a program, it does that for one picture in a process of its own, whose memory is limited.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import AvifImagePlugin, Image

from mcp_seedream.catalog.picture_kinds import Bounds, kind
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.pixels import TURNS, UNREADABLE, Source, factor_for, finished, header, loaded, orientation_of

_MOST_MEMORY = 330_000_000  # that a process of its own may take for all of it; 60 megapixels of HEIC take 315 MB
CHEAP = ("PNG", "JPEG", "GIF", "BMP")
"""Formats whose head can be read at no cost: of others, even that may allocate what the file asks for."""
_SENT = {*CHEAP, "MPO", "WEBP", "TIFF"}  # Pillow's names of formats that the upstream takes; MPO is a JPEG with more
# A PNG's EXIF may follow its pixels, and Pillow decodes those to reach it: these words are looked for first.
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


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
    with header(source) as image:
        return "A" in image.getbands() or "transparency" in image.info


def fits(source: BinaryIO, size: int, bounds: Bounds, *, cheaply: bool = True) -> bool:
    """Whether the upstream takes the picture as it is. Its pixels are not decoded; a broken file is found all the same.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: What the upstream takes.
        cheaply: Only look at the head of a file of the formats in `CHEAP`, and say no in doubt.

    Raises:
        InvalidArguments: It is not a picture that can be decoded, or none that can be made to fit.
    """
    with header(source, CHEAP if cheaply else None) as image:
        width, height = image.size
        _check_size(width, height, bounds)
        fine = size <= bounds.most_bytes and width * height <= bounds.most_pixels and image.mode != "CMYK"
        fine = fine and image.format in _SENT and not _needs_turning(image, source, cheaply=cheaply)
        try:
            image.verify()
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
        return fine


def fitted(source: BinaryIO, size: int, bounds: Bounds, *, keep_alpha: bool) -> Fitted:
    """A version of the picture that the upstream takes. Can take 350 MB: see `main`.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: What the upstream takes.
        keep_alpha: Keep transparency, where there is any.

    Raises:
        InvalidArguments: It can't be decoded, can't be made to fit, or would take too much memory.
    """
    if _is_heif(source):
        return _fitted_heif(source, size, bounds, keep_alpha=keep_alpha)
    with header(source) as image:
        width, height = image.size
        _check_size(width, height, bounds)
        converted = f"converted from {image.format}" if image.format not in _SENT else ""
        turned = "turned upright" if _needs_turning(image, source, cheaply=False) else ""
        flattened = not keep_alpha and image.has_transparency_data
        try:
            picture = loaded(image, bounds.box(width, height), keep_alpha=keep_alpha)
            data = _within(picture, bounds.most_bytes)
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
    return _described(data, [converted, turned], (width, height), size, flattened=flattened)


def _fitted_heif(source: BinaryIO, size: int, bounds: Bounds, *, keep_alpha: bool) -> Fitted:
    from mcp_seedream.media.heif import HeifPicture  # noqa: PLC0415  (not before the first such picture)

    image = HeifPicture(source)
    width, height = image.size
    _check_size(width, height, bounds)
    box = bounds.box(width, height)
    small = image.reduced(factor_for((width, height), box, width * height * image.bands))
    flattened = image.has_alpha and not keep_alpha
    del image  # and the decoder's bytes
    data = _within(finished(small, box, keep_alpha=keep_alpha), bounds.most_bytes)
    return _described(data, ["converted from HEIC"], (width, height), size, flattened=flattened)


def _is_heif(source: BinaryIO) -> bool:
    """Whether pillow-heif reads the file: Pillow itself reads AVIF, which may have HEIF's brand in front."""
    source.seek(0)
    head = source.read(64)
    source.seek(0)
    return kind(head[:16]) in ("heic", "heif") and b"avif" not in head


def _described(data: bytes, done: list[str], size: tuple[int, int], file_size: int, *, flattened: bool) -> Fitted:
    """A fitted picture with a note on what was done to it."""
    with Image.open(io.BytesIO(data)) as sent:
        smaller = sent.width * sent.height < size[0] * size[1]
        what = f"{sent.width}x{sent.height} {sent.format}, {_megabytes(len(data))}"
    done = [*filter(None, done)]
    done += ["made to fit"] if smaller or not done else []
    words = ", ".join(done[:-1]) + (" and " if done[1:] else "") + done[-1]
    without = ", without its transparency" if flattened else ""
    return Fitted(data, f"was {words}: {what}{without}, instead of {size[0]}x{size[1]}, {_megabytes(file_size)}.")


def _check_size(width: int, height: int, bounds: Bounds) -> None:
    if complaint := bounds.complaint(width, height):
        raise InvalidArguments(complaint)


def _needs_turning(image: Image.Image, source: BinaryIO, *, cheaply: bool) -> bool:
    """Whether an orientation other than upright is written in the picture; `cheaply`: whether one may be."""
    if image.format != "PNG":
        return orientation_of(image) in TURNS
    place = source.tell()
    source.seek(0)
    data = source.read()
    marked = any(word in data for word in _PNG_EXIF)
    source.seek(0)
    if marked and not cheaply:
        with header(source) as again:
            marked = orientation_of(again) in TURNS
    source.seek(place)
    return marked


def _within(picture: Image.Image, most_bytes: int) -> bytes:
    """The picture's file in at most so many bytes: PNG with transparency, else JPEG; smaller until it fits."""
    while True:
        for quality in (90, 80):
            file = io.BytesIO()
            if picture.mode == "RGBA":
                picture.save(file, "PNG")
            else:
                picture.save(file, "JPEG", quality=quality, icc_profile=picture.info.get("icc_profile"))
            if file.tell() <= most_bytes:
                return file.getvalue()
            if picture.mode == "RGBA":
                break
        scale = max(0.5, 0.95 * math.sqrt(most_bytes / file.tell()))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def main() -> None:
    """A process of its own for one picture, on its standard input: `… BYTES SIDE PIXELS RATIO alpha|flat`.

    The numbers are those of `Bounds`. Answers a line of JSON: `fits`, or `note` with the new picture's bytes behind
    it, or `error`.
    """
    most_bytes, least_side, most_pixels, ratio, alpha = sys.argv[1:]
    bounds = Bounds(int(most_bytes), int(least_side), int(most_pixels), float(ratio))
    source: BinaryIO = sys.stdin.buffer
    if not source.seekable():
        source = io.BytesIO(source.read())
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    if is_heif := _is_heif(source):
        import mcp_seedream.media.heif  # noqa: F401, PLC0415  (before the limit: its libraries take 30 MB of addresses)
    _limit_memory(_MOST_MEMORY)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    answer: dict[str, str | bool] = {"fits": True}
    data = b""
    try:
        if is_heif or not fits(source, size, bounds, cheaply=False):
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

        with suppress(AttributeError):  # glibc alone
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: a decoder's thread would reserve 64 MB that nobody uses
        now = int(statm.read_text("utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


if __name__ == "__main__":
    main()
