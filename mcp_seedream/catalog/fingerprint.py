"""What makes two calls the same, and two requests: words that say nothing of who asks, or for what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TypeAlias

from mcp_seedream.catalog.arguments import ImageCall
from mcp_seedream.catalog.references import reference_kind

RequestId: TypeAlias = int | str | None


def identity(call: ImageCall, token: str, given: Sequence[str]) -> str:
    """Who asks, and for what, as one word: how long to wait and where to save make no difference.

    Args:
        call: With its pictures as they are sent.
        token: The caller's.
        given: The same pictures as they were given: links count as what they say, files as what they hold.
    """
    spec = call.spec
    asked = [token, spec.operation, spec.prompt, spec.size, spec.aspect_ratio, call.model, sorted(spec.options.items())]
    digest = hashlib.sha256(json.dumps(asked).encode())
    for reference, image in zip(given, spec.images, strict=True):
        said = reference if reference_kind(reference) in ("url", "task") else image
        digest.update(hashlib.sha256(said.encode()).digest())
    return digest.hexdigest()


def request_name(asked: tuple[str, RequestId]) -> str:
    """A caller's token and the id of one of its requests, as one word."""
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
