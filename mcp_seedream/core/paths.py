"""Expands paths in settings and arguments: quotes, `~`, variables and `file:` URLs; detects Windows paths."""

from __future__ import annotations

import os
import re
from os.path import expandvars
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname

_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)\}|\$(?:env:)?([A-Za-z_]\w*)|%(\w[\w()]*)%", re.ASCII)
_HOME = ("HOME", "USERPROFILE")
"""Variables for the home folder, on different systems."""
_UNFILLED = re.compile(r"\$\{[^{}]*\}?|\{\{.*\}\}|\$\(.*\)|`.+`|<[^<>/]+>")
"""A client's placeholder, a shell command, or a word in angle brackets, as in examples."""
_WINDOWS_START = re.compile(r"(?:%\w[\w()]*%|\$env:\w+|~)\\", re.ASCII | re.IGNORECASE)
_UNC = re.compile(r"\\[\\/]|/\\")
_UNC_URL = re.compile(r"[\\/]{4}|/*\\[\\/]")
_WSL = re.compile(r"[\\/]{2,}wsl(?:\.localhost|\$)[\\/]+[^\\/]+[\\/]+(.*)", re.IGNORECASE | re.DOTALL)


def strip_quotes(text: str) -> str:
    """The text without surrounding blanks and one pair of quotes, as in shells and env files."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def expand_path(text: str) -> str:
    """Expand variables (`$NAME`, `${NAME}`, `%NAME%`) and `~` in the path of a setting.

    Raises:
        ValueError: A variable is not set, a placeholder was not replaced, or it is not a path of this system.
    """
    text = strip_quotes(text)
    if why := windows_path_reason(text):
        raise ValueError(f"it is {why}")
    if text.lower().startswith("file:"):
        text = _path_of_url(text)
    path = text if os.path.lexists(text) and not _has_home_variable(text) else _VARIABLE.sub(_value, text)
    if os.name != "nt" and _WINDOWS_START.match(text) and not os.path.lexists(path):
        path = path.replace("\\", "/")  # after a Windows variable, backslashes separate folders
    if (placeholder := _UNFILLED.search(path)) and not os.path.lexists(path):
        raise ValueError(f"{placeholder[0]} was not replaced: write the path itself")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ValueError("it is a URL and not a path")
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError("there is no such home folder") from error


def expand_home(text: str) -> str:
    """Expand a variable for the home folder at the start of a caller's path.

    Other variables are not expanded, because a caller could read the environment with them.

    Raises:
        ValueError: The path starts with another variable.
    """
    first = re.split(r"[\\/]", text, maxsplit=1)[0]
    if not first or not (variable := _VARIABLE.fullmatch(first)):
        return text
    name = next(filter(None, variable.groups()))
    if name in _HOME:
        return _home() + text[len(first) :].replace("\\", "/")
    raise ValueError(f"the variable {first} is not expanded here: write the path itself")


def windows_path_reason(text: str) -> str | None:
    """Why a path can't be used if it is a Windows path on another system; else None.

    For a UNC path into WSL, the reason includes the file's path inside WSL.
    """
    if os.name == "nt":
        return None
    is_url = text.lower().startswith("file:")
    path = unquote(text[len("file:") :]) if is_url else text
    if os.path.lexists(path):
        return None
    if re.match(r"/*[A-Za-z]:[\\/]", path):
        return "a Windows path, and this server does not run on Windows"
    inside = _WSL.fullmatch(path)
    if not inside and not (_UNC_URL if is_url else _UNC).match(path):
        return None
    hint = f" (inside WSL, the same file is /{inside[1].replace(chr(92), '/')})" if inside else ""
    return f"a Windows network path, and this server does not run on Windows{hint}"


def _path_of_url(text: str) -> str:
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError("it is on another machine")
        rest = slash + rest
    return url2pathname(rest)


def _has_home_variable(text: str) -> bool:
    return any(name in _HOME for variable in _VARIABLE.finditer(text) for name in variable.groups())


def _value(variable: re.Match[str]) -> str:
    name = next(filter(None, variable.groups()))
    reference = f"${{{name}}}"
    value = expandvars(reference)
    if value not in ("", reference):
        return value
    if name in _HOME:
        return _home()
    raise ValueError(f"the variable {name} is not set")


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError as error:
        raise ValueError("there is no such home folder") from error
