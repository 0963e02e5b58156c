"""The program that decodes pictures: a subprocess with limited memory and time for each. `decoding` starts it.

It reads a job (JSON) from its only argument, and the picture from standard input, which is a file. It writes one line
of JSON, followed by the bytes of a new picture, if there is one. The keys of the line:

- `error`: why the picture is refused.
- `memory`: about how many bytes the job needs, if that is more than it may allocate.
- `has_alpha` and `note`: the results of `fit`. Without `note`, the picture needs no change, and no bytes follow.
- `size`: width and height of the original, the result of `tile`.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from mcp_seedream.catalog.picture_kinds import CONVERTED_KINDS, Bounds
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.pixels import (
    TRANSPOSITIONS,
    UNREADABLE,
    HeifPicture,
    decode_within,
    load_heif,
    load_plugin,
    open_image,
    orientation_of,
    picture_kind,
    reduction_factor,
    scaled_upright,
)
from mcp_seedream.media.structure import check_structure

Output = tuple[dict[str, Any], bytes]
"""The line of JSON, and the bytes of a new picture."""

# Kinds whose libraries allocate all pixels to read the header.
_ALLOCATED_AT_ONCE = ("webp", *CONVERTED_KINDS)
_MEMORY_PER_PIXEL = {"webp": 16, "avif": 16}  # bytes for decoding, turning and encoding
_OTHER_MEMORY_PER_PIXEL = 10
_OUTPUT_MEMORY = 8_000_000
# Markers of EXIF data in a PNG. Pillow must decode the pixels to read EXIF data after them; a search is cheaper.
_PNG_EXIF_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_NICENESS = 5  # the server, which handles other callers meanwhile, has priority


class _NeedsMemory(Exception):
    """The job needs more memory; the argument is the approximate number of bytes."""


def fit(source: BinaryIO, job: dict[str, Any], size: tuple[int, int]) -> Output:
    """Convert a picture to one that the upstream accepts, if necessary.

    Args:
        source: The picture's file.
        job: `bounds`: the fields of `Bounds`. `keep_alpha`: keep transparency; otherwise, transparent pixels of a
            changed picture become white.
        size: Width and height, from the file's header.

    Raises:
        InvalidArguments: It can't be decoded, or breaks a limit even if it is scaled down.
    """
    bounds, kind, length = Bounds(*job["bounds"]), picture_kind(source), os.fstat(source.fileno()).st_size
    per_pixel = _MEMORY_PER_PIXEL.get(kind, _OTHER_MEMORY_PER_PIXEL)
    needed = size[0] * size[1] * per_pixel + _OUTPUT_MEMORY
    if kind in _ALLOCATED_AT_ONCE:
        _check_memory(needed, job)
    if kind == "heif":
        return _fit_heif(source, length, bounds, keep_alpha=job["keep_alpha"])
    with open_image(source) as image:
        size = image.size
        _check_size(size, bounds)
        converted = f"converted from {image.format}" if kind in CONVERTED_KINDS else ""
        rotated = "turned upright" if _is_rotated(image, source, needed, job) else ""
        is_small = length <= bounds.max_bytes and size[0] * size[1] <= bounds.max_pixels
        if is_small and not converted and not rotated and image.mode != "CMYK":
            return {"has_alpha": "A" in image.getbands() or "transparency" in image.info}, b""
        _check_memory(needed, job)
        flattened = not job["keep_alpha"] and image.has_transparency_data
        picture = decode_within(image, bounds.box(*size), keep_alpha=job["keep_alpha"])
    return _fitted(picture, bounds, [converted, rotated], size, length, flattened=flattened)


def _fit_heif(source: BinaryIO, length: int, bounds: Bounds, *, keep_alpha: bool) -> Output:
    image = HeifPicture(source)
    (width, height), flattened = image.size, image.has_alpha and not keep_alpha
    _check_size((width, height), bounds)
    box = bounds.box(width, height)
    small = image.reduced(reduction_factor((width, height), box, width * height * image.bands))
    del image  # frees the decoded pixels
    picture = scaled_upright(small, box, keep_alpha=keep_alpha)
    return _fitted(picture, bounds, ["converted from HEIC"], (width, height), length, flattened=flattened)


def _fitted(
    picture: Image.Image, bounds: Bounds, changes: list[str], size: tuple[int, int], length: int, *, flattened: bool
) -> Output:
    """Encode a picture, and describe its changes; `size` and `length` are those of the original."""
    data = _encoded(picture, bounds.max_bytes)
    with Image.open(io.BytesIO(data)) as sent:
        scaled = sent.width * sent.height < size[0] * size[1]
        result = f"{sent.width}x{sent.height} {sent.format}, {_formatted_bytes(len(data))}"
    changes = [*filter(None, changes)]
    changes += ["made to fit"] if scaled or not changes else []
    words = ", ".join(changes[:-1]) + (" and " if changes[1:] else "") + changes[-1]
    without = ", without its transparency" if flattened else ""
    note = f"was {words}: {result}{without}, instead of {size[0]}x{size[1]}, {_formatted_bytes(length)}."
    return {"note": note, "has_alpha": picture.mode == "RGBA"}, data


def _check_size(size: tuple[int, int], bounds: Bounds) -> None:
    if violation := bounds.violation(*size):
        raise InvalidArguments(violation)


def _check_memory(needed: int, job: dict[str, Any]) -> None:
    if needed > job["memory"] and not job["is_last"]:
        raise _NeedsMemory(needed)


def _is_rotated(image: Image.Image, source: BinaryIO, needed: int, job: dict[str, Any]) -> bool:
    """Whether the EXIF orientation is not upright; this may decode a PNG, which needs `needed` bytes."""
    if image.format == "PNG" and "exif" not in image.info:
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data:
            if all(data.find(marker) < 0 for marker in _PNG_EXIF_MARKERS):
                return False
        _check_memory(needed, job)
    return orientation_of(image) in TRANSPOSITIONS


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


def _thumbnail(source: BinaryIO, _: dict[str, Any], __: tuple[int, int]) -> Output:
    from mcp_seedream.media import previews  # noqa: PLC0415  (not for input pictures)

    return {}, previews.thumbnail(source)


def _tile(source: BinaryIO, job: dict[str, Any], size: tuple[int, int]) -> Output:
    from mcp_seedream.media import previews  # noqa: PLC0415  (not for input pictures)

    return {"size": size}, previews.tile(source, job["columns"])


def _sheet(source: BinaryIO, job: dict[str, Any], _: tuple[int, int]) -> Output:
    """A contact sheet of the tiles in the file, each of which has one of `lengths`."""
    from mcp_seedream.media import previews  # noqa: PLC0415  (not for input pictures)

    return {}, previews.contact_sheet(_parts(source, job["lengths"]))


def _composed(source: BinaryIO, job: dict[str, Any], _: tuple[int, int]) -> Output:
    """A base, whose original has width and height `size`, and a layer for each of `boxes`: the tiles in the file."""
    from mcp_seedream.media import previews  # noqa: PLC0415  (not for input pictures)

    base, *layers = _parts(source, job["lengths"])
    return {}, previews.composed(base, job["size"], [*zip(layers, job["boxes"], strict=True)])


def _parts(source: BinaryIO, lengths: list[int]) -> list[io.BytesIO]:
    source.seek(0)
    return [io.BytesIO(source.read(length)) for length in lengths]


_OPERATIONS: dict[str, Callable[[BinaryIO, dict[str, Any], tuple[int, int]], Output]] = {
    "fit": fit,
    "thumbnail": _thumbnail,
    "tile": _tile,
    "sheet": _sheet,
    "composed": _composed,
}


def main() -> None:
    """Run the job in this process's argument."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    source: BinaryIO = sys.stdin.buffer
    with mmap(source.fileno(), 0, access=ACCESS_READ) as data:
        try:
            _import_libraries(source)
            _limit_resources(job["memory"], job["seconds"])
            line, picture = _run_job(source, data, job)
        except InvalidArguments as error:
            line, picture = {"error": error.message}, b""
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n" + picture)


def _import_libraries(source: BinaryIO) -> None:
    """Import the libraries for the picture before the memory is limited: some map 30 MB."""
    if picture_kind(source) == "heif":
        load_heif()
    else:
        load_plugin(source)


def _run_job(source: BinaryIO, data: mmap, job: dict[str, Any]) -> Output:
    """Run a job. Exceptions of decoders become the keys `error` and `memory` of the line."""
    try:
        return _OPERATIONS[job["operation"]](source, job, check_structure(data, picture_kind(source)))
    except _NeedsMemory as error:
        return {"memory": error.args[0]}, b""
    except MemoryError:
        pass
    except UNREADABLE as error:
        if not any(words in str(error) for words in ("out of memory", "Memory allocation")):
            return {"error": f"can't be decoded ({str(error)[:200]})."}, b""
    if job["is_last"]:
        return {"error": "needs too much memory to decode: give a smaller one, or a JPEG or PNG."}, b""
    return {"memory": job["memory"] + 1}, b""


def _limit_resources(memory: int, seconds: int) -> None:
    """Limit this process to its current size plus `memory` bytes (on Linux only), and to seconds of computing."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  (not on Windows)

    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, then SIGKILL
    statm = Path("/proc/self/statm")
    if statm.exists():
        with suppress(AttributeError):  # only glibc has mallopt
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: otherwise each thread reserves an arena of 64 MB
        limit = int(statm.read_text("utf-8").split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
