"""The fingerprint of a call: identical calls of one caller have the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from mcp_seedream.catalog.arguments import ImageCall
from mcp_seedream.catalog.references import reference_kind


def fingerprint(call: ImageCall, token: str, references: Sequence[str]) -> str:
    """Hash a call and its caller. `wait_seconds` and `save_to` do not count.

    Args:
        call: The call, with its pictures as they are sent.
        token: The caller's API token.
        references: The pictures as the caller named them. Links and tasks count by their text, other pictures by the
            content that is sent.
    """
    spec = call.spec
    parts = [token, spec.operation, spec.prompt, spec.size, spec.aspect_ratio, call.model, sorted(spec.options.items())]
    digest = hashlib.sha256(json.dumps(parts).encode())
    for reference, image in zip(references, spec.images, strict=True):
        content = reference if reference_kind(reference) in ("url", "task") else image
        digest.update(hashlib.sha256(content.encode()).digest())
    return digest.hexdigest()
