"""The fingerprint of a call: identical calls of one caller have the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from mcp_seedream.catalog.arguments import ImageCall
from mcp_seedream.catalog.references import reference_kind


def fingerprint(call: ImageCall, token: str, given: Sequence[str]) -> str:
    """A hash of the caller and of what is asked for. How long to wait and where to save make no difference.

    Args:
        call: The call, with its pictures as they are sent.
        token: The caller's API token.
        given: The same pictures as they were given: links count by their text, files by their content.
    """
    spec = call.spec
    parts = [token, spec.operation, spec.prompt, spec.size, spec.aspect_ratio, call.model, sorted(spec.options.items())]
    digest = hashlib.sha256(json.dumps(parts).encode())
    for reference, image in zip(given, spec.images, strict=True):
        content = reference if reference_kind(reference) in ("url", "task") else image
        digest.update(hashlib.sha256(content.encode()).digest())
    return digest.hexdigest()
