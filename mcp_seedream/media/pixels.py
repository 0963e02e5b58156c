"""Pictures as pixels (Pillow): read the head of a file, decode it as small as it is wanted, turn it upright.

Functions are plain, so that they can run in a thread, or in a process of their own where a picture is large.
Whatever they are given is decoded at most once, and never beyond `_MOST_BYTES`.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from mcp_seedream.core.errors import InvalidArguments

Source = Path | BinaryIO

_MOST_BYTES = 302_000_000  # of a picture while it is decoded and reduced: 60 megapixels, and half their sides
# What Pillow raises for files that are broken in one way or another.
UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error,
    zlib.error, UnidentifiedImageError, Image.DecompressionBombError,
)  # fmt: skip
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what brings the picture upright
_ORIENTATION = 0x0112  # EXIF's tag


def header(source: Source, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a picture without decoding its pixels; `formats` are Pillow's names of those it may be in.

    Raises:
        InvalidArguments: It can't be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, since the limit here is in bytes, and of broken EXIF
            return Image.open(source, formats=formats)
    except Image.DecompressionBombError as error:
        raise InvalidArguments("has more pixels than can be handled: give a smaller one.") from error
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise InvalidArguments("can't be decoded.") from error
    except UNREADABLE as error:
        raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error


def loaded(image: Image.Image, box: tuple[int, int], *, keep_alpha: bool) -> Image.Image:
    """Decode an open picture, upright and in RGB(A), within a box in pixels, in at most `_MOST_BYTES` of memory.

    The box is that of the picture as it lies in the file; it is turned with it.

    Raises:
        InvalidArguments: It has too many pixels.
    """
    if image.format in ("JPEG", "MPO"):
        width, height = image.size
        half = (width // 2, height // 2) if 8 * width * height > _MOST_BYTES else box
        image.draft("RGB", (min(box[0], half[0]), min(box[1], half[1])))
    # Pillow holds one byte a pixel of these, four of all others; a palette is spread out before it is scaled.
    each = {"1": 5, "L": 1, "P": 5, "PA": 5, "I": 8, "F": 8}.get(image.mode, 4)
    factor = factor_for(image.size, box, image.width * image.height * each)
    image.load()
    orientation = orientation_of(image)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P", "PA") else None
    if image.mode.startswith("I"):  # 16 bits a pixel, or more: their upper eight are what is seen
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    picture = _reduced(image, factor)
    image.close()
    picture = finished(picture, box, keep_alpha=keep_alpha, orientation=orientation)
    picture.info = {"icc_profile": profile} if profile else {}
    return picture


def factor_for(size: tuple[int, int], box: tuple[int, int], decoded: int) -> int:
    """How many times shorter the sides of a copy are, so that a picture of so many decoded bytes can be copied.

    Raises:
        InvalidArguments: No factor keeps the picture and its copy within `_MOST_BYTES`.
    """
    factor = max(1, size[0] // box[0], size[1] // box[1])
    pixels = size[0] * size[1]
    while decoded + 4 * pixels / factor**2 > _MOST_BYTES:
        factor += 1
        if factor > 64:
            raise InvalidArguments(f"has {size[0]}x{size[1]} pixels, more than can be handled: give a smaller one.")
    return factor


def finished(picture: Image.Image, box: tuple[int, int], *, keep_alpha: bool, orientation: int = 1) -> Image.Image:
    """A decoded picture in RGB(A), within the box, and turned upright."""
    transparent = keep_alpha and picture.has_transparency_data
    picture = (picture if picture.mode == "RGBA" else picture.convert("RGBA")) if transparent else flat(picture)
    picture.thumbnail(box)
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


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


def flat(picture: Image.Image) -> Image.Image:
    """In RGB; what was transparent is white."""
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where there is none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF is no reason to refuse a picture
            return int(image.getexif().get(_ORIENTATION, 1))
    except UNREADABLE:
        return 1
