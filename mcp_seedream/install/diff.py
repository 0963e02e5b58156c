"""What would change in a settings file, shown without the secrets in it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator

from mcp_seedream.install.clients import FILLED_IN
from mcp_seedream.install.settings_file import ConfigFile

WANTED = "(a token will be asked for)"
"""Stands where a token will, and is shown."""
_SECRET = re.compile(
    r'("[^"\n]*(?:token|key|secret|password|authorization)[^"\n]*"\s*:\s*)'
    rf'(?!"(?:Bearer )?{FILLED_IN}")"[^"\\\n]*(?:\\.[^"\\\n]*)*"',
    re.IGNORECASE,
)
"""A member that is likely to be a secret: a difference also shows lines that are not ours. What a client puts a secret
in place of is none."""


def difference(config: ConfigFile, text: str) -> Iterator[str]:
    """The lines of a unified difference between a file and the text it would hold; a changed secret is said to be.

    Raises:
        ConfigurationError: The file is not UTF-8.
    """
    old, new = _lines(config.text), _lines(text)
    name = str(config.path)
    lines = list(difflib.unified_diff(old, new, name, f"{name} (as it would be)", lineterm=""))
    gone = {line[1:] for line in lines[2:] if line.startswith("-")}
    masked = {_masked(line) for line in gone}
    for line in lines:
        changed = line.startswith("+") and line[1:] not in gone and _masked(line[1:]) in masked
        yield _masked(line, "*** (changed)" if changed else "***")


def _masked(line: str, instead: str = "***") -> str:
    return line if WANTED in line else _SECRET.sub(rf'\1"{instead}"', line)


def _lines(text: str) -> list[str]:
    """As they are; a file on one line is shown on several."""
    if "\n" not in text.strip():
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
        except ValueError:
            pass
    return text.splitlines()
