"""Converts, rotates and scales down input pictures that the upstream would not accept.

`main` does this for one picture in a subprocess with limited memory.
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
from mcp_seedream.media.pixels import (
    TRANSPOSITIONS,
    UNREADABLE,
    Source,
    decode_within,
    open_image,
    orientation_of,
    reduction_factor,
    scaled_upright,
)

_MAX_MEMORY = 330_000_000  # bytes that the subprocess may allocate; 60 megapixels of HEIC need 315 MB
SAFE_HEADERS = ("PNG", "JPEG", "GIF", "BMP")
"""Pillow's names of formats whose headers are safe to read: others can make Pillow allocate unlimited memory."""
_ACCEPTED = {*SAFE_HEADERS, "MPO", "WEBP", "TIFF"}  # formats that the upstream accepts; an MPO is a JPEG with extras
# Markers of EXIF data in a PNG. Pillow must decode the pixels to read EXIF data after them; a search is cheaper.
_PNG_EXIF_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture that the upstream accepts, and a note about the changes."""

    data: bytes
    note: str


def has_alpha(source: Source) -> bool:
    """Whether the picture has an alpha channel or a transparent color.

    Raises:
        InvalidArguments: It can't be decoded.
    """
    with open_image(source) as image:
        return "A" in image.getbands() or "transparency" in image.info


def fits(source: BinaryIO, size: int, bounds: Bounds, *, header_only: bool = True) -> bool:
    """Whether the upstream accepts the picture without changes. Checks the file's integrity without decoding pixels.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: The upstream's limits.
        header_only: Read only formats in `SAFE_HEADERS`, and return False if the header is not sufficient.

    Raises:
        InvalidArguments: It is not a readable picture, or breaks a limit even if it is scaled down.
    """
    with open_image(source, SAFE_HEADERS if header_only else None) as image:
        width, height = image.size
        _check_size(width, height, bounds)
        accepted = size <= bounds.max_bytes and width * height <= bounds.max_pixels and image.mode != "CMYK"
        accepted = accepted and image.format in _ACCEPTED
        accepted = accepted and not _is_rotated(image, source, markers_only=header_only)
        try:
            image.verify()
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
        return accepted


def fitted(source: BinaryIO, size: int, bounds: Bounds, *, keep_alpha: bool) -> Fitted:
    """Convert a picture to one that the upstream accepts. Needs up to 350 MB of memory: see `main`.

    Args:
        source: The picture's file.
        size: The file's size in bytes.
        bounds: The upstream's limits.
        keep_alpha: Keep transparency. Otherwise, transparent pixels become white.

    Raises:
        InvalidArguments: It can't be decoded, breaks a limit even if it is scaled down, or needs too much memory.
    """
    if _is_heif(source):
        return _fitted_heif(source, size, bounds, keep_alpha=keep_alpha)
    with open_image(source) as image:
        width, height = image.size
        _check_size(width, height, bounds)
        converted = f"converted from {image.format}" if image.format not in _ACCEPTED else ""
        rotated = "turned upright" if _is_rotated(image, source, markers_only=False) else ""
        flattened = not keep_alpha and image.has_transparency_data
        try:
            picture = decode_within(image, bounds.box(width, height), keep_alpha=keep_alpha)
            data = _encoded(picture, bounds.max_bytes)
        except UNREADABLE as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
    return _with_note(data, [converted, rotated], (width, height), size, flattened=flattened)


def _fitted_heif(source: BinaryIO, size: int, bounds: Bounds, *, keep_alpha: bool) -> Fitted:
    from mcp_seedream.media.heif import HeifPicture  # noqa: PLC0415  (loaded only for HEIC)

    image = HeifPicture(source)
    width, height = image.size
    _check_size(width, height, bounds)
    box = bounds.box(width, height)
    small = image.reduced(reduction_factor((width, height), box, width * height * image.bands))
    flattened = image.has_alpha and not keep_alpha
    del image  # frees the decoded pixels
    data = _encoded(scaled_upright(small, box, keep_alpha=keep_alpha), bounds.max_bytes)
    return _with_note(data, ["converted from HEIC"], (width, height), size, flattened=flattened)


def _is_heif(source: BinaryIO) -> bool:
    """Whether pillow-heif must read the file; Pillow reads AVIF, which can have HEIF's major brand."""
    source.seek(0)
    head = source.read(64)
    source.seek(0)
    return kind(head[:16]) in ("heic", "heif") and b"avif" not in head


def _with_note(data: bytes, changes: list[str], size: tuple[int, int], file_size: int, *, flattened: bool) -> Fitted:
    """Return an encoded picture with a note about its changes; `size` and `file_size` are those of the original."""
    with Image.open(io.BytesIO(data)) as sent:
        scaled = sent.width * sent.height < size[0] * size[1]
        result = f"{sent.width}x{sent.height} {sent.format}, {_formatted_bytes(len(data))}"
    changes = [*filter(None, changes)]
    changes += ["made to fit"] if scaled or not changes else []
    words = ", ".join(changes[:-1]) + (" and " if changes[1:] else "") + changes[-1]
    without = ", without its transparency" if flattened else ""
    original = f"{size[0]}x{size[1]}, {_formatted_bytes(file_size)}"
    return Fitted(data, f"was {words}: {result}{without}, instead of {original}.")


def _check_size(width: int, height: int, bounds: Bounds) -> None:
    if violation := bounds.violation(width, height):
        raise InvalidArguments(violation)


def _is_rotated(image: Image.Image, source: BinaryIO, *, markers_only: bool) -> bool:
    """Whether the EXIF orientation is not upright; with `markers_only`, any EXIF data in a PNG counts as rotated."""
    if image.format != "PNG":
        return orientation_of(image) in TRANSPOSITIONS
    position = source.tell()
    source.seek(0)
    data = source.read()
    rotated = any(marker in data for marker in _PNG_EXIF_MARKERS)
    source.seek(0)
    if rotated and not markers_only:
        with open_image(source) as reopened:
            rotated = orientation_of(reopened) in TRANSPOSITIONS
    source.seek(position)
    return rotated


def _encoded(picture: Image.Image, max_bytes: int) -> bytes:
    """Encode as PNG (with transparency) or JPEG, and scale down until the file has at most `max_bytes`."""
    while True:
        for quality in (90, 80):
            file = io.BytesIO()
            if picture.mode == "RGBA":
                picture.save(file, "PNG")
            else:
                picture.save(file, "JPEG", quality=quality, icc_profile=picture.info.get("icc_profile"))
            if file.tell() <= max_bytes:
                return file.getvalue()
            if picture.mode == "RGBA":
                break
        scale = max(0.5, 0.95 * math.sqrt(max_bytes / file.tell()))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def _formatted_bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def main() -> None:
    """Process the picture on standard input in this subprocess. Arguments: `BYTES SIDE PIXELS RATIO alpha|flat`.

    The first four are the fields of `Bounds`. Writes one line of JSON with the key `fits`, `note` or `error`; the
    bytes of the new picture follow a `note`.
    """
    max_bytes, min_side, max_pixels, max_ratio, alpha = sys.argv[1:]
    bounds = Bounds(int(max_bytes), int(min_side), int(max_pixels), float(max_ratio))
    source: BinaryIO = sys.stdin.buffer
    if not source.seekable():
        source = io.BytesIO(source.read())
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    if is_heif := _is_heif(source):
        import mcp_seedream.media.heif  # noqa: F401, PLC0415  (before the limit: its libraries map 30 MB)
    _limit_memory(_MAX_MEMORY)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    answer: dict[str, str | bool] = {"fits": True}
    data = b""
    try:
        if is_heif or not fits(source, size, bounds, header_only=False):
            source.seek(0)
            result = fitted(source, size, bounds, keep_alpha=alpha == "alpha")
            answer, data = {"note": result.note}, result.data
    except InvalidArguments as error:
        answer = {"error": error.message}
    except MemoryError:
        answer = {"error": "needs too much memory to decode: give a smaller one, or a JPEG or PNG."}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)


def _limit_memory(extra: int) -> None:
    """Limit this process's memory to its current size plus `extra` bytes (on Linux only)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource  # noqa: PLC0415  (not on Windows)

        with suppress(AttributeError):  # only glibc has mallopt
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: otherwise each thread reserves an arena of 64 MB
        current = int(statm.read_text("utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (current + extra, current + extra))


if __name__ == "__main__":
    main()
