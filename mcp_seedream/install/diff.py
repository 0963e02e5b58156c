"""The difference between a settings file and its new text, without secrets."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator

from mcp_seedream.install.clients import CLIENT_VARIABLE
from mcp_seedream.install.settings_file import ConfigFile

TOKEN_PLACEHOLDER = "(you will be asked for the token)"  # noqa: S105  (not a token)
"""Placeholder for a token that is not known yet; it is not masked."""
_SECRET = re.compile(
    r'("[^"\n]*(?:token|key|secret|password|authorization)[^"\n]*"\s*:\s*)'
    rf'(?!"(?:Bearer )?{CLIENT_VARIABLE}")"[^"\\\n]*(?:\\.[^"\\\n]*)*"',
    re.IGNORECASE,
)
"""A member that is likely to contain a secret, also outside our entry. Variables of the client are not secrets."""


def difference(config: ConfigFile, text: str) -> Iterator[str]:
    """The lines of a unified diff between a file and its new text. Secrets are masked; changed secrets are marked.

    Raises:
        ConfigurationError: The file is not UTF-8.
    """
    old, new = _lines(config.text), _lines(text)
    name = str(config.path)
    lines = list(difflib.unified_diff(old, new, name, f"{name} (new)", lineterm=""))
    removed = {line[1:] for line in lines[2:] if line.startswith("-")}
    masked = {_masked(line) for line in removed}
    for line in lines:
        changed = line.startswith("+") and line[1:] not in removed and _masked(line[1:]) in masked
        yield _masked(line, "*** (changed)" if changed else "***")


def _masked(line: str, instead: str = "***") -> str:
    return line if TOKEN_PLACEHOLDER in line else _SECRET.sub(rf'\1"{instead}"', line)


def _lines(text: str) -> list[str]:
    """The lines of a text; JSON on one line is indented first."""
    if "\n" not in text.strip():
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
        except ValueError:
            pass
    return text.splitlines()
