"""Kinds of picture files, told by their first bytes, and what the upstream takes of one input picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

UPSTREAM_KINDS = ("jpeg", "png", "webp", "bmp", "tiff", "gif")
"""Kinds that are sent as they are."""
CONVERTED_KINDS = ("heic", "heif", "avif")
"""Kinds of phones and browsers that every model of the upstream takes only once they are converted."""
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"GIF8": "gif",
}
# Brands of ISO/IEC 23008-12 (HEIF) and of AVIF. A file of the brands `mif1` and `msf1` may hold either coding.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "heif"),
    **dict.fromkeys((b"avif", b"avis"), "avif"),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is taken of one input picture: bytes of its file, pixels of a side and of the whole, and its shape.

    `most_ratio` is how many times the longer side may be the shorter one.
    """

    most_bytes: int
    least_side: int
    most_pixels: int
    most_ratio: float

    def complaint(self, width: int, height: int) -> str | None:
        """Why a picture of this size can't be sent, not even smaller; None if it can."""
        if min(width, height) < self.least_side:
            return f"has {width}x{height} pixels; the upstream takes sides of {self.least_side} or more."
        if max(width, height) > self.most_ratio * min(width, height):
            ratio = f"{self.most_ratio:g}"
            return f"has {width}x{height} pixels; the upstream takes aspect ratios from 1:{ratio} to {ratio}:1."
        return None

    def box(self, width: int, height: int) -> tuple[int, int]:
        """The largest size of the same shape that is taken."""
        scale = min(1, math.sqrt(self.most_pixels / (width * height)))
        return max(1, int(width * scale)), max(1, int(height * scale))


def kind(data: bytes) -> str | None:
    """The kind of a picture by its first 16 bytes: one of `UPSTREAM_KINDS` or `CONVERTED_KINDS`; None: no picture."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # two reserved words, zero
        return "bmp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    return next((kind for signature, kind in _SIGNATURES.items() if data.startswith(signature)), None)


def kinds_in_words(kinds: tuple[str, ...] = UPSTREAM_KINDS + CONVERTED_KINDS) -> str:
    """Kinds as an error lists them: "jpeg, png, ... or gif"."""
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}"
