"""Checks the structure of picture files before a decoder reads them: their segments, chunks, frames and boxes.

Decoders need time and memory for each part of a file, even for an empty one, so that a small file can occupy them for
minutes. The functions read only what lies between the parts, and stop at the first limit that a file exceeds.

The limits are far above what cameras and image editors write. None of them depends on the number of pixels, except
that of a progressive JPEG's scans: each scan passes over all pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from mmap import mmap

from mcp_seedream.core.errors import InvalidArguments

Data = bytes | mmap

_MAX_SEGMENTS = 4096  # of a JPEG; full ones of 64 kB would fill more than the largest file
_MAX_SCANS = 100  # of a JPEG; encoders write up to 20
_MAX_SCANNED = 2_500_000_000  # pixels times scans: 25 scans of 100 megapixels, which take seconds
_MAX_CHUNKS = 100_000  # with a PNG's pixels: of 8 kB in most files, which makes 25,600 in the largest file
_MAX_OTHER_CHUNKS = 5000  # of a PNG or WebP: metadata, and frames of an animation
_MAX_FRAMES = 5000  # of a GIF
_MAX_BLOCKS = 1_000_000  # of a GIF; full ones of 255 bytes would fill more than the largest file
_MAX_COMMENT = 1_000_000  # bytes of a GIF's comments and other extensions
_MAX_PAGES = 1000  # of a TIFF
_MAX_TAGS = 1000  # of a TIFF's page; cameras write up to 100
_MAX_BOXES = 5000  # of a HEIC, HEIF or AVIF; one of 100 megapixels in tiles of 512 pixels has 400 items
_MAX_JUNK = 4096  # bytes between segments that decoders skip one by one
_WINDOW = 2**20  # bytes of one search, which can't be interrupted

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_STANDALONE = {0x01, *range(0xD0, 0xDA)}  # markers of JPEG without a segment
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_DATA_CHUNKS = (b"IDAT", b"fdAT")


def check_structure(data: Data, kind: str) -> tuple[int, int]:
    """Check the structure of a picture file; return the width and height that it declares.

    Args:
        data: The file.
        kind: Its kind, from `picture_kinds.kind`.

    Raises:
        InvalidArguments: It has more parts than real pictures have, or is broken.
    """
    try:
        return _CHECKS[kind](data)
    except (struct.error, IndexError) as error:
        raise _broken(kind) from error


def _broken(kind: str) -> InvalidArguments:
    return InvalidArguments(f"can't be decoded: its {kind.upper()} structure is broken or cut off.")


def _check_count(count: int, limit: int, parts: str) -> None:
    """Raise an error if a file has more parts than `limit`."""
    if count > limit:
        raise InvalidArguments(
            f"has more than {limit:,} {parts}, which no real picture has: save it again with an image editor."
        )


def _jpeg(data: Data) -> tuple[int, int]:
    position, segments, scans, junk = 2, 0, 0, 0
    size: tuple[int, int] | None = None
    while (match := _next_marker(data, position, in_scan=scans > 0)) is not None:
        start, marker = match
        junk += start - position if not scans else 0
        _check_count(junk, _MAX_JUNK, "bytes between its JPEG segments")
        segments += 1
        _check_count(segments, _MAX_SEGMENTS, "JPEG segments")
        position = start + 2
        if marker == _END and scans:
            break
        if marker in _STANDALONE:
            continue
        if marker in _FRAME_HEADERS and size is None:
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = (width, height)
        if marker == _SCAN:
            scans += 1
            _check_count(scans, _MAX_SCANS, "JPEG scans")
            if size and scans > 1 and size[0] * size[1] * scans > _MAX_SCANNED:
                raise InvalidArguments("has too many JPEG scans for its size: save it as a baseline JPEG.")
        position += max(2, struct.unpack_from(">H", data, position)[0])
    if size is None or not scans:
        raise _broken("jpeg")
    return size


def _next_marker(data: Data, position: int, *, in_scan: bool) -> tuple[int, int] | None:
    """Return the position and value of the next JPEG marker."""
    pattern = _MARKER_IN_SCAN if in_scan else _MARKER
    while position < len(data):
        end = min(position + _WINDOW, len(data))
        if match := pattern.search(data, position, end):
            return match.start(), data[match.start() + 1]
        position = end if end == len(data) else end - 1  # a marker may cross the border
    return None


def _png(data: Data) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    position, chunks, others, kind = 8, 0, 0, b""
    view = memoryview(data)
    try:
        while kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", data, position)
            chunks += 1
            others += kind not in _DATA_CHUNKS
            _check_count(others, _MAX_OTHER_CHUNKS, "PNG chunks without pixels")
            _check_count(chunks, _MAX_CHUNKS, "PNG chunks")
            end = position + 8 + length
            if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise _broken("png")
            position = end + 4
    finally:
        view.release()
    return width, height


def _gif(data: Data) -> tuple[int, int]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _color_table(flags)
    frames = blocks = extra = junk = 0
    while position < len(data) and (introducer := data[position]) != ord(";"):
        position += 1
        is_frame = introducer == ord(",")
        if is_frame:
            frames += 1
            _check_count(frames, _MAX_FRAMES, "GIF frames")
            position += 9 + _color_table(data[position + 8])
        elif introducer != ord("!"):
            junk += 1
            _check_count(junk, _MAX_JUNK, "bytes between its GIF blocks")
            continue
        position += 1  # the extension's label, or the size of the frame's codes
        while length := data[position]:
            blocks += 1
            extra += 0 if is_frame else length
            _check_count(blocks, _MAX_BLOCKS, "GIF blocks")
            _check_count(extra, _MAX_COMMENT, "bytes of GIF extensions")
            position += 1 + length
            if is_frame and position >= len(data):
                return width, height  # the decoder says whether enough of the frame is there
        position += 1
    return width, height


def _color_table(flags: int) -> int:
    """Return the bytes of a GIF's color table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: Data) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # the header of OS/2, whose sides have 16 bits
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height means that the rows begin at the top


def _webp(data: Data) -> tuple[int, int]:
    size: tuple[int, int] | None = None
    position, chunks = 12, 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        chunks += 1
        _check_count(chunks, _MAX_OTHER_CHUNKS, "WebP chunks")
        size = size or _webp_size(data, kind, position + 8)
        position += 8 + length + length % 2
    if size is None:
        raise _broken("webp")
    return size


def _webp_size(data: Data, kind: bytes, start: int) -> tuple[int, int] | None:
    """Return the width and height in a WebP chunk; None if it has none."""
    if kind == b"VP8X":
        return (
            int.from_bytes(data[start + 4 : start + 7], "little") + 1,
            int.from_bytes(data[start + 7 : start + 10], "little") + 1,
        )
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _tiff(data: Data) -> tuple[int, int]:
    order = "<" if data[:1] == b"I" else ">"
    (position,) = struct.unpack_from(f"{order}I", data, 4)
    pages, sides = 0, dict[int, int]()
    while position:
        (tags,) = struct.unpack_from(f"{order}H", data, position)
        _check_count(tags, _MAX_TAGS, "TIFF tags on one page")
        if not pages:
            sides = _tiff_sides(data, order, position + 2, tags)
        pages += 1
        _check_count(pages, _MAX_PAGES, "TIFF pages")  # also ends a chain that forms a circle
        position = _tiff_next(data, order, position + 2 + 12 * tags)
    if sides.keys() != {_TIFF_WIDTH, _TIFF_HEIGHT}:
        raise _broken("tiff")
    return sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]


_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value by its type."""


def _tiff_sides(data: Data, order: str, position: int, tags: int) -> dict[int, int]:
    """Return width and height by their tags. The values of all tags together may not be larger than the file."""
    sides, total = dict[int, int](), 0
    for start in range(position, position + 12 * tags, 12):
        tag, type_, count = struct.unpack_from(f"{order}HHI", data, start)
        total += _TIFF_TYPES.get(type_, 1) * count
        _check_count(total, len(data), "bytes of TIFF tags")
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            sides[tag] = struct.unpack_from(f"{order}{'H' if type_ == 3 else 'I'}", data, start + 8)[0]
    return sides


def _tiff_next(data: Data, order: str, position: int) -> int:
    """Return the position of the next page; 0 if there is none."""
    return int(struct.unpack_from(f"{order}I", data, position)[0]) if position + 4 <= len(data) else 0


def _heif(data: Data) -> tuple[int, int]:
    """Check the boxes of a HEIC, HEIF or AVIF file; return the size of its largest image."""
    sizes = [(0, 0)]
    parts = [(0, len(data))]
    boxes = 0
    while parts:
        position, end = parts.pop()
        while position + 8 <= end:
            boxes += 1
            _check_count(boxes, _MAX_BOXES, "HEIF boxes")
            length, kind = struct.unpack_from(">I4s", data, position)
            header = 8
            if length == 1:
                (length,), header = struct.unpack_from(">Q", data, position + 8), 16
            length = length or end - position
            if length < header:
                raise _broken("heif")
            content = position + header
            if kind in _HEIF_CONTAINERS:
                parts.append((content + _HEIF_CONTAINERS[kind], min(position + length, end)))
            elif kind == b"iinf":
                _check_count(
                    struct.unpack_from(">I" if data[content] else ">H", data, content + 4)[0], _MAX_BOXES, "HEIF items"
                )
            elif kind == b"ispe":
                sizes.append(struct.unpack_from(">II", data, content + 4))
            position += length
    return max(sizes, key=lambda size: size[0] * size[1])


_HEIF_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that contain boxes, and the bytes before these."""
_CHECKS: dict[str, Callable[[Data], tuple[int, int]]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "bmp": _bmp,
    "webp": _webp,
    "tiff": _tiff,
    "heic": _heif,
    "heif": _heif,
    "avif": _heif,
}
