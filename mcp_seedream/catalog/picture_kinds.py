"""Kinds (file formats) of pictures, recognized by their first bytes, and the upstream's limits of an input picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

UPSTREAM_KINDS = ("jpeg", "png", "webp", "bmp", "tiff", "gif")
"""Kinds that the upstream accepts."""
CONVERTED_KINDS = ("heic", "heif", "avif")
"""Kinds that this server converts before it sends them, since not every model of the upstream accepts them."""
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"GIF8": "gif",
}
# Major brands of HEIF (ISO/IEC 23008-12) and AVIF. Files with `mif1` or `msf1` may hold HEVC or AV1.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "heif"),
    **dict.fromkeys((b"avif", b"avis"), "avif"),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The upstream's limits of one input picture.

    Attributes:
        max_bytes: File size.
        min_side: Width and height in pixels.
        max_pixels: Width times height.
        max_ratio: Longer side divided by shorter side.
    """

    max_bytes: int
    min_side: int
    max_pixels: int
    max_ratio: float

    def violation(self, width: int, height: int) -> str | None:
        """Return the limit that a picture breaks even if it is scaled down; None if it breaks none."""
        if min(width, height) < self.min_side:
            return f"has {width}x{height} pixels; each side must have {self.min_side} or more."
        if max(width, height) > self.max_ratio * min(width, height):
            ratio = f"{self.max_ratio:g}"
            return f"has {width}x{height} pixels; the aspect ratio must be from 1:{ratio} to {ratio}:1."
        return None

    def box(self, width: int, height: int) -> tuple[int, int]:
        """Return a picture's width and height, scaled down to `max_pixels` if necessary."""
        scale = min(1, math.sqrt(self.max_pixels / (width * height)))
        return max(1, int(width * scale)), max(1, int(height * scale))


def kind(data: bytes) -> str | None:
    """Return the kind of a picture, recognized by its first 16 bytes; None for other data."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # two reserved words, zero
        return "bmp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)


def kinds_in_words(kinds: tuple[str, ...] = UPSTREAM_KINDS + CONVERTED_KINDS) -> str:
    """Format kinds for an error message: "jpeg, png, ... or gif"."""
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}"
