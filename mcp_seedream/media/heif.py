"""Decodes HEIC and HEIF pictures with pillow-heif.

The library's Pillow plugin is not used because it keeps two copies of the pixels: 350 MB for a phone's 48
megapixels. This module reduces the decoder's pixels directly, in bands of rows.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import pillow_heif
from PIL import Image

from mcp_seedream.core.errors import InvalidArguments

# Each thread reserves 64 MB. Thumbnails, depth maps and auxiliary images are not used.
pillow_heif.options.DECODE_THREADS = 1
pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
_BAND = 16  # rows of the result per band
_UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, EOFError, LookupError)


class HeifPicture:
    """The primary picture of an open HEIC or HEIF file. Its pixels are decoded by `reduced`.

    Raises:
        InvalidArguments: The file can't be read.
    """

    def __init__(self, source: BinaryIO) -> None:
        try:
            file = pillow_heif.open_heif(source, convert_hdr_to_8bit=True, remove_stride=False)
            self._image = file[file.primary_index]
        except _UNREADABLE as error:
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
        except _UNREADABLE as error:
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
