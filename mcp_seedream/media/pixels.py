"""Decodes pictures with Pillow and pillow-heif: headers, reduced sizes, EXIF orientation.

The functions run in the decoder's subprocess, since a stranger's picture may crash a library or occupy it for long.
Each decodes a picture at most once, and needs at most `_MAX_BYTES` of memory.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from importlib import import_module
from types import ModuleType
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.core.errors import InvalidArguments

_PLUGINS = {"jpeg": "Jpeg", "png": "Png", "gif": "Gif", "bmp": "Bmp", "webp": "WebP", "tiff": "Tiff", "avif": "Avif"}
"""Pillow's modules by kind; the names of its formats are the same in upper case."""
_MAX_BYTES = 302_000_000  # memory for a decoded picture and its reduced copy: 60 megapixels and a quarter of them
# All exceptions that Pillow raises for broken files.
UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error,
    zlib.error, UnidentifiedImageError, Image.DecompressionBombError,
)  # fmt: skip
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation: the operation that turns the picture upright
_ORIENTATION_TAG = 0x0112
_BAND = 16  # rows of a reduced HEIC picture per band


def picture_kind(source: BinaryIO) -> str:
    """Return the kind of a picture. A file with one of HEIF's brands is "avif" if it holds AV1, otherwise "heif"."""
    source.seek(0)
    head = source.read(64)
    source.seek(0)
    detected = kind(head[:16]) or ""
    return detected if detected not in ("heic", "heif") else "avif" if b"avif" in head else "heif"


def load_plugin(source: BinaryIO) -> str:
    """Import Pillow's module for a picture; return the name of its format. Otherwise, Pillow imports and tries all."""
    plugin = _PLUGINS.get(picture_kind(source))
    if plugin is None:
        raise InvalidArguments("can't be decoded.")
    module = import_module(f"PIL.{plugin}ImagePlugin")
    if plugin == "Avif":
        module.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]
    return plugin.upper()


def open_image(source: BinaryIO) -> Image.Image:
    """Open a picture without decoding its pixels.

    Raises:
        InvalidArguments: It can't be decoded.
    """
    plugin = load_plugin(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about many pixels (this module limits bytes instead) and broken EXIF
            return Image.open(source, formats=[plugin])
    except Image.DecompressionBombError as error:
        raise InvalidArguments("has more pixels than can be handled: give a smaller one.") from error
    except UnidentifiedImageError as error:  # its message contains the repr of a file object
        raise InvalidArguments("can't be decoded.") from error


def decode_within(image: Image.Image, box: tuple[int, int], *, keep_alpha: bool) -> Image.Image:
    """Decode an open picture to RGB or RGBA, scale it down to a box (width, height), and turn it upright.

    The box applies to the picture before it is turned.

    Raises:
        InvalidArguments: It needs more memory than `_MAX_BYTES`.
    """
    if image.format in ("JPEG", "MPO"):
        width, height = image.size
        half = (width // 2, height // 2) if 8 * width * height > _MAX_BYTES else box
        image.draft("RGB", (min(box[0], half[0]), min(box[1], half[1])))
    # Some modes are converted before scaling; the numbers include the converted copy.
    bytes_per_pixel = {"1": 5, "L": 1, "P": 5, "PA": 5, "I": 8, "F": 8}.get(image.mode, 4)
    factor = reduction_factor(image.size, box, image.width * image.height * bytes_per_pixel)
    image.load()
    orientation = orientation_of(image)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P", "PA") else None
    if image.mode.startswith("I"):  # 16 or more bits per pixel: keep the upper eight
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    picture = _reduced(image, factor)
    image.close()
    picture = scaled_upright(picture, box, keep_alpha=keep_alpha, orientation=orientation)
    picture.info = {"icc_profile": profile} if profile else {}
    return picture


def reduction_factor(size: tuple[int, int], box: tuple[int, int], decoded: int) -> int:
    """Return the factor by which to reduce the sides, so that the picture and its copy fit in `_MAX_BYTES`.

    Args:
        size: Width and height of the picture.
        box: The size to reduce it to. The factor does not go below this size unless memory requires it.
        decoded: Bytes of the decoded picture.

    Raises:
        InvalidArguments: No factor is large enough.
    """
    factor = max(1, size[0] // box[0], size[1] // box[1])
    pixels = size[0] * size[1]
    while decoded + 4 * pixels / factor**2 > _MAX_BYTES:
        factor += 1
        if factor > 64:
            raise InvalidArguments(f"has {size[0]}x{size[1]} pixels, more than can be handled: give a smaller one.")
    return factor


def scaled_upright(
    picture: Image.Image, box: tuple[int, int], *, keep_alpha: bool, orientation: int = 1
) -> Image.Image:
    """Convert a decoded picture to RGB or RGBA, scale it down to the box, and turn it upright."""
    transparent = keep_alpha and picture.has_transparency_data
    picture = (picture if picture.mode == "RGBA" else picture.convert("RGBA")) if transparent else as_rgb(picture)
    picture.thumbnail(box)
    return picture.transpose(TRANSPOSITIONS[orientation]) if orientation in TRANSPOSITIONS else picture


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Reduce the sides by `factor`, in bands of rows: Pillow would otherwise copy a whole transparent picture."""
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


def as_rgb(picture: Image.Image) -> Image.Image:
    """Convert to RGB; transparent pixels become white."""
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if it is missing or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF is no reason to refuse a picture
            return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except UNREADABLE:
        return 1


def load_heif() -> ModuleType:
    """Import pillow-heif, which most pictures do not need."""
    import pillow_heif  # noqa: PLC0415

    # Each thread reserves 64 MB. Thumbnails, depth maps and auxiliary images are not used.
    options = pillow_heif.options
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    return pillow_heif


class HeifPicture:
    """The primary picture of an open HEIC or HEIF file. Its pixels are decoded by `reduced`.

    pillow-heif's plugin for Pillow is not used because it keeps two copies of the pixels: 350 MB for a phone's 48
    megapixels. This class reduces the decoder's pixels directly, in bands of rows.

    Raises:
        InvalidArguments: The file can't be read.
    """

    def __init__(self, source: BinaryIO) -> None:
        try:
            file = load_heif().open_heif(source, convert_hdr_to_8bit=True, remove_stride=False)
            self._image = file[file.primary_index]
        except (*UNREADABLE, RuntimeError) as error:
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
        self.size: tuple[int, int] = self._image.size
        self.bands = len(self._image.mode)
        self.has_alpha = bool(self._image.has_alpha)

    def reduced(self, factor: int) -> Image.Image:
        """Decode the picture upright, in RGB, RGBA or L, with its sides reduced by `factor`.

        Raises:
            InvalidArguments: It can't be decoded.
            MemoryError: The decoder needs more memory than the process may allocate.
        """
        try:
            pixels, stride = memoryview(self._image.data), self._image.stride
        except (*UNREADABLE, RuntimeError) as error:
            if "Memory allocation" in str(error):
                raise MemoryError from error
            raise InvalidArguments(f"can't be decoded ({str(error)[:200]}).") from error
        (width, height), mode = self._image.size, self._image.mode
        small = Image.new(mode, (math.ceil(width / factor), math.ceil(height / factor)))
        for top in range(0, height, _BAND * factor):
            rows = min(_BAND * factor, height - top)
            band = pixels[top * stride : (top + rows) * stride]
            part = Image.frombytes(mode, (width, rows), band, "raw", mode, stride, 1)
            small.paste(part.reduce(factor), (0, top // factor))
        if profile := self._image.info.get("icc_profile"):
            small.info["icc_profile"] = profile
        return small.convert("RGBA") if mode == "RGBa" else small
