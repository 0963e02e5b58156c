"""The file `.env` of the working directory: what it says, and why it can't be read."""

from __future__ import annotations

import codecs
import errno
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values

FILE = ".env"
_PIPE_SECONDS = 5  # a password manager may ask its person first, but clients give a server little time to start


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a `.env`, by their names in upper case.

    In `values` a reference such as `${NAME}` is replaced by a variable of the file or the environment; in `literal`
    it stands as it is written. `trouble` says why the file can't be read; then both are empty.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    literal: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""


def read_env_file() -> EnvFile:
    """The `.env` of the working directory; without one, nothing. It may be a pipe, so it is read once."""
    path = Path(FILE)
    try:
        if not path.is_file() and not path.is_fifo():
            return EnvFile()
        text = _decoded(_from_pipe(path) if path.is_fifo() else path.read_bytes())
    except UnicodeError:
        return EnvFile(trouble="it is not written in UTF-8")
    except OSError as error:
        return EnvFile(trouble=f"it can't be read ({error.strerror})")
    literal = _variables(text, interpolate=False)
    return EnvFile(_variables(text, interpolate=True) if "${" in text else literal, literal)


def _from_pipe(path: Path) -> bytes:
    """What comes out of a pipe, as password managers make one.

    Raises:
        TimeoutError: Nobody writes to it, or its end does not come.
    """
    parts = list[bytes]()
    ends = time.monotonic() + _PIPE_SECONDS
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while select.select([descriptor], [], [], max(ends - time.monotonic(), 0))[0]:
            if not (part := os.read(descriptor, 2**16)):
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(descriptor)
    raise TimeoutError(errno.ETIMEDOUT, "it is a pipe that nobody writes to")


def _decoded(data: bytes) -> str:
    """The text: UTF-8, or the UTF-16 with a byte order mark that PowerShell writes."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if marked else "utf-8-sig")
    if "\0" in text:  # of a binary file, or of UTF-16 or UTF-32 without a mark
        raise UnicodeError
    return text


def _variables(text: str, *, interpolate: bool) -> dict[str, str]:
    found = dotenv_values(stream=StringIO(text), interpolate=interpolate)
    return {name.upper(): value for name, value in found.items() if value is not None}
