"""Files with more parts than real pictures have are refused before a decoder reads them; real ones are not."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.structure import check_structure


def saved(picture_format: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, picture_format, **options)
    return file.getvalue()


def frames(count: int, picture_format: str, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (64, 48), (n % 256, n // 256, 0)) for n in range(count)]
    file = io.BytesIO()
    pictures[0].save(file, picture_format, save_all=True, append_images=pictures[1:], **options)
    return file.getvalue()


def heic() -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (1024, 768))).save(file, tile_size=256, enc_params={"preset": "ultrafast"})
    return file.getvalue()


def segment(marker: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg_with(segments: bytes) -> bytes:
    data = saved("JPEG")
    return data[:2] + segments + data[2:]


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(chunks: bytes) -> bytes:
    data = saved("PNG")
    return data[:33] + chunks + data[33:]  # after IHDR


def gif_with(blocks: bytes) -> bytes:
    data = saved("GIF")
    position = 13 + 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 13
    return data[:position] + blocks + data[position:]


def progressive(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG with so many scans of its first kind; decoders take them."""
    data = saved("JPEG", size=(side, side), progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff", start + 2)]
    return data[:start] + scan * scans + b"\xff\xd9"


def tiff_pages(count: int) -> bytes:
    """A TIFF with a chain of pages that have no tags but the first."""
    data = bytearray(saved("TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    end = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, end, len(data))
    for number in range(count):
        data += struct.pack("<HI", 0, len(data) + 6 if number < count - 1 else 0)
    return bytes(data)


def circular_tiff() -> bytes:
    data = bytearray(saved("TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], first)
    return bytes(data)


def greedy_tiff() -> bytes:
    """A TIFF whose tags all claim the same megabytes."""
    tags = [struct.pack("<HHII", tag, 7, 10**6, 0) for tag in range(300, 340)]
    sides = [struct.pack("<HHII", tag, 4, 1, 64) for tag in (256, 257)]
    return b"II*\0" + struct.pack("<IH", 8, 42) + b"".join(sides + tags) + bytes(10**6)


def heif_boxes(count: int) -> bytes:
    box = struct.pack(">I4s", 8, b"free")
    properties = struct.pack(">I4s", 8 + 8 * count, b"ipco") + box * count
    inner = struct.pack(">I4s", 8 + len(properties), b"iprp") + properties
    meta = struct.pack(">I4sI", 12 + len(inner), b"meta", 0) + inner
    return struct.pack(">I4s4sI", 16, b"ftyp", b"heic", 0) + meta


def heif_items(count: int) -> bytes:
    items = struct.pack(">I4sIH", 14, b"iinf", 0, count)
    return struct.pack(">I4s4sI", 16, b"ftyp", b"heic", 0) + struct.pack(">I4sI", 12 + 14, b"meta", 0) + items


def webp_chunks(count: int) -> bytes:
    data = saved("WEBP")
    return data + struct.pack("<4sI", b"EXIF", 0) * count


REAL: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "jpeg": (lambda: saved("JPEG"), (64, 48)),
    "jpeg of a camera": (
        lambda: jpeg_with(
            segment(0xE1, bytes(65_000)) + segment(0xE2, bytes(65_000)) * 40 + segment(0xE1, bytes(9)) * 99
        ),
        (64, 48),
    ),
    "jpeg with restarts": (lambda: saved("JPEG", restart_marker_blocks=1), (64, 48)),
    "jpeg with a movie": (lambda: saved("JPEG") + b"\xff\xda\0\x08" * 10_000, (64, 48)),
    "jpeg, padded": (lambda: jpeg_with(b"\xff" * 99), (64, 48)),
    "jpeg, progressive": (lambda: saved("JPEG", progressive=True), (64, 48)),
    "jpeg, 20 scans of 60 megapixels": (lambda: progressive(20, 7750), (7750, 7750)),
    "mpo": (lambda: frames(3, "MPO"), (64, 48)),
    "png": (lambda: saved("PNG"), (64, 48)),
    "png in chunks of 8 kB": (lambda: png_with(chunk(b"IDAT", bytes(99)) * 26_000), (64, 48)),
    "apng": (lambda: frames(200, "PNG"), (64, 48)),
    "gif": (lambda: frames(300, "GIF"), (64, 48)),
    "gif with XMP": (lambda: gif_with(b"!\xff\x0bXMP DataXMP" + (b"\xff" + bytes(255)) * 99 + b"\0"), (64, 48)),
    "webp": (lambda: saved("WEBP"), (64, 48)),
    "webp, lossless": (lambda: saved("WEBP", lossless=True), (64, 48)),
    "webp, transparent": (lambda: saved("WEBP", "RGBA"), (64, 48)),
    "webp, animated": (lambda: frames(100, "WEBP"), (64, 48)),
    "tiff": (lambda: frames(50, "TIFF"), (64, 48)),
    "tiff, compressed": (lambda: saved("TIFF", compression="tiff_lzw"), (64, 48)),
    "bmp": (lambda: saved("BMP"), (64, 48)),
    "heic": (heic, (1024, 768)),
    "avif": (lambda: saved("AVIF"), (64, 48)),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_picture(name: str) -> None:
    """The size in its header is returned."""
    make, size = REAL[name]
    data = make()
    assert check_structure(data, kind(data[:16]) or "") == size


MILLION = 1_000_000
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg: comments": (lambda: jpeg_with(segment(0xFE) * 10 * MILLION), "more than 4,096 JPEG segments"),
    "jpeg: restarts": (lambda: jpeg_with(b"\xff\xd0" * MILLION), "more than 4,096 JPEG segments"),
    "jpeg: junk": (lambda: jpeg_with(segment(0xFE) + bytes(10 * MILLION)), "more than 4,096 bytes between"),
    "jpeg: scans": (lambda: progressive(3000), "more than 100 JPEG scans"),
    "jpeg: scans of many pixels": (lambda: progressive(90, 6000), "too many JPEG scans for its size"),
    "jpeg: tables between scans": (
        lambda: progressive(1)[:-2] + segment(0xC4) * MILLION, "more than 4,096 JPEG segments"
    ),
    "png: chunks": (lambda: png_with(chunk(b"teSt") * MILLION), "more than 5,000 PNG chunks without pixels"),
    "png: text": (lambda: png_with(chunk(b"tEXt", b"k\0v") * MILLION), "more than 5,000 PNG chunks without pixels"),
    "png: pixels in crumbs": (lambda: png_with(chunk(b"IDAT") * MILLION), "more than 100,000 PNG chunks"),
    "gif: frames": (
        lambda: gif_with((b"," + bytes(9) + b"\x02\x01\0\0") * MILLION), "more than 5,000 GIF frames"
    ),
    "gif: comment": (lambda: gif_with(b"!\xfe" + (b"\xff" * 256) * 9000 + b"\0"), "more than 1,000,000 bytes of GIF"),
    "gif: crumbs": (lambda: gif_with(b"," + bytes(9) + b"\x02" + b"\x01a" * 2 * MILLION + b"\0"), "1,000,000 GIF"),
    "gif: junk": (lambda: gif_with(bytes(MILLION)), "more than 4,096 bytes between its GIF blocks"),
    "webp: chunks": (lambda: webp_chunks(MILLION), "more than 5,000 WebP chunks"),
    "tiff: pages": (lambda: tiff_pages(2000), "more than 1,000 TIFF pages"),
    "tiff: a circle": (circular_tiff, "more than 1,000 TIFF pages"),
    "tiff: tags": (greedy_tiff, "bytes of TIFF tags"),
    "heic: boxes": (lambda: heif_boxes(MILLION), "more than 5,000 HEIF boxes"),
    "heic: items": (lambda: heif_items(60_000), "more than 5,000 HEIF items"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb(name: str) -> None:
    """The error says which part is too numerous, and what to do. Megabytes of parts take a moment."""
    make, says = BOMBS[name]
    data = make()
    began = time.process_time()
    with pytest.raises(InvalidArguments, match=says) as caught:
        check_structure(data, kind(data[:16]) or "")
    assert time.process_time() - began < 2
    assert "save it" in caught.value.message


@pytest.mark.parametrize("name", [name for name in REAL if name not in {"bmp", "jpeg with a movie"}])
def test_a_picture_that_is_cut_off(name: str) -> None:
    """Either its size is known, or it is refused."""
    data = REAL[name][0]()
    for length in (13, 20, 30, 40, 60, len(data) // 2):
        with suppress(InvalidArguments):
            assert min(check_structure(data[:length], kind(data[:16]) or "")) >= 0
