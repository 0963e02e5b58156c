"""Paths as people write them in settings: quotes, `~`, variables, `file:` addresses, and paths of another system."""

from __future__ import annotations

import os
import re
from os.path import expandvars
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname

_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)\}|\$(?:env:)?([A-Za-z_]\w*)|%(\w[\w()]*)%", re.ASCII)
_HOME = ("HOME", "USERPROFILE")
"""Names of the variable for a person's own folder, on one system or another."""
_UNFILLED = re.compile(r"\$\{[^{}]*\}?|\{\{.*\}\}|\$\(.*\)|`.+`|<[^<>/]+>")
"""A placeholder of a client, a command that only a shell runs, or a word in angle brackets as examples have it."""
_WINDOWS_START = re.compile(r"(?:%\w[\w()]*%|\$env:\w+|~)\\", re.ASCII | re.IGNORECASE)
_UNC = re.compile(r"\\[\\/]|/\\")
_UNC_ADDRESS = re.compile(r"[\\/]{4}|/*\\[\\/]")
_WSL = re.compile(r"[\\/]{2,}wsl(?:\.localhost|\$)[\\/]+[^\\/]+[\\/]+(.*)", re.IGNORECASE | re.DOTALL)


def unquoted(text: str) -> str:
    """The text without blanks and one pair of quotes around it, as shells and env files write values."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def expanded(text: str) -> str:
    """A path of a setting, with its variables (`$NAME`, `${NAME}`, `%NAME%`) and `~` replaced.

    Raises:
        ValueError: A variable is not set, a client did not fill a placeholder in, or it is no path on this system.
    """
    text = unquoted(text)
    if why := of_another_system(text):
        raise ValueError(f"it is {why}")
    if text.lower().startswith("file:"):
        text = _of_file_address(text)
    path = text if os.path.lexists(text) and not _has_home(text) else _VARIABLE.sub(_value, text)
    if os.name != "nt" and _WINDOWS_START.match(text) and not os.path.lexists(path):
        path = path.replace("\\", "/")  # they separate folders, as in what comes before them
    if (left := _UNFILLED.search(path)) and not os.path.lexists(path):
        raise ValueError(f"nobody filled in {left[0]}: write the path itself")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ValueError("it is an address and not a path")
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError("there is no such home folder") from error


def from_home(text: str) -> str:
    """A path that a caller gives, whose first part may be a variable for the home folder, with that folder instead.

    Other variables are not replaced: a caller could read the environment with them.

    Raises:
        ValueError: The first part is another variable.
    """
    first = re.split(r"[\\/]", text, maxsplit=1)[0]
    if not first or not (found := _VARIABLE.fullmatch(first)):
        return text
    name = next(filter(None, found.groups()))
    if name in _HOME:
        return _home() + text[len(first) :].replace("\\", "/")
    raise ValueError(f"the variable {first} is not replaced here: write the path itself")


def of_another_system(text: str) -> str | None:
    """What kind of Windows path this is, on a system that has none; None: it may be a path here.

    A UNC path into WSL comes with the path that the file has there.
    """
    if os.name == "nt":
        return None
    address = text.lower().startswith("file:")
    path = unquote(text[len("file:") :]) if address else text
    if os.path.lexists(path):
        return None
    if re.match(r"/*[A-Za-z]:[\\/]", path):
        return "a Windows path, and this server does not run on Windows"
    inside = _WSL.fullmatch(path)
    if not inside and not (_UNC_ADDRESS if address else _UNC).match(path):
        return None
    hint = f" (inside WSL, the same file is /{inside[1].replace(chr(92), '/')})" if inside else ""
    return f"a Windows network path, and this server does not run on Windows{hint}"


def _of_file_address(text: str) -> str:
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError("it names another machine")
        rest = slash + rest
    return url2pathname(rest)


def _has_home(text: str) -> bool:
    return any(name in _HOME for found in _VARIABLE.finditer(text) for name in found.groups())


def _value(found: re.Match[str]) -> str:
    name = next(filter(None, found.groups()))
    reference = f"${{{name}}}"
    value = expandvars(reference)
    if value not in ("", reference):
        return value
    if name in _HOME:
        return _home()
    raise ValueError(f"it names the variable {name}, which is not set")


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError as error:
        raise ValueError("there is no such home folder") from error
