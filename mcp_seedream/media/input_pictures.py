"""The pictures of an edit call, in the form that the upstream takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio

from mcp_seedream.catalog.held_pictures import Pictures
from mcp_seedream.catalog.picture_kinds import Bounds
from mcp_seedream.catalog.selection import ImageSpec, needs_alpha, requires_input_kind
from mcp_seedream.catalog.table import Model, ModelTable
from mcp_seedream.media.downloads import Downloads
from mcp_seedream.media.inputs import prepare_pictures
from mcp_seedream.media.local_files import LocalFiles
from mcp_seedream.upstream.client import SeedreamClient


class InputPictures:
    """Reads, converts and shrinks input pictures.

    Args:
        table: The capability table, which has the bounds.
        client: Looks up earlier tasks whose pictures are used as input.
        downloads: Downloads linked pictures in formats that the upstream does not accept.
        local: The local files that may be read; None if this server reads no files.
        decoding: Limits how many large pictures the process decodes at a time.
    """

    def __init__(
        self,
        table: ModelTable,
        client: SeedreamClient,
        downloads: Downloads,
        local: LocalFiles | None,
        decoding: anyio.CapacityLimiter,
    ) -> None:
        self._table = table
        self._client = client
        self._downloads = downloads
        self._local = local
        self._decoding = decoding

    async def prepare(self, spec: ImageSpec, model: Model, token: str) -> tuple[ImageSpec, tuple[str, ...]]:
        """The spec with its pictures as this model takes them, and notes on what was changed.

        Raises:
            InvalidArguments: A picture can't be read, or can't be made to fit.
            UpstreamError: A task could not be looked up.
        """
        if not spec.images:
            return spec, ()
        limits = self._table.upstream_limits
        inputs = await prepare_pictures(
            spec.images,
            Bounds(
                max_bytes=limits.image_bytes,
                min_side=limits.image_side,
                max_pixels=round((model.input_megapixels or limits.image_megapixels) * 1e6),
                max_ratio=model.input_aspect_ratio or limits.image_aspect_ratio,
            ),
            keep_alpha=requires_input_kind(self._table, spec),
            needs_alpha=needs_alpha(self._table, spec),
            local=self._local,
            client=self._client,
            downloads=self._downloads,
            token=token,
            decode_limiter=self._decoding,
        )
        images: Sequence[str] = inputs.images
        if isinstance(spec.images, Pictures):
            images = spec.images.converted = Pictures(images)
        return replace(spec, images=images), inputs.notes
