"""Reads the file `.env` of the working directory."""

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
PIPE_SECONDS = 5.0
"""Seconds to wait for the writer of a pipe: a password manager may ask the user first, but clients do not wait long."""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a `.env`, by name in upper case.

    In `values`, references such as `${NAME}` are replaced by variables of the file or the environment; in `literal`
    they are kept. `error` is the reason why the file can't be read; then both are empty.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    literal: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def read_env_file(pipe_seconds: float = PIPE_SECONDS) -> EnvFile:
    """Read the `.env` of the working directory, if there is one. It may be a pipe, so it is read only once.

    Args:
        pipe_seconds: Seconds to wait for the writer of a pipe.
    """
    path = Path(FILE)
    try:
        if not path.is_file() and not path.is_fifo():
            return EnvFile()
        text = _decoded(_read_pipe(path, pipe_seconds) if path.is_fifo() else path.read_bytes())
    except UnicodeError:
        return EnvFile(error="it is not written in UTF-8")
    except OSError as error:
        return EnvFile(error=f"it can't be read ({error.strerror})")
    literal = _variables(text, interpolate=False)
    return EnvFile(_variables(text, interpolate=True) if "${" in text else literal, literal)


def _read_pipe(path: Path, seconds: float) -> bytes:
    """Read a named pipe, as password managers create it.

    Raises:
        TimeoutError: Nothing is written, or the writer does not close it.
    """
    parts = list[bytes]()
    ends = time.monotonic() + seconds
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while select.select([descriptor], [], [], max(ends - time.monotonic(), 0))[0]:
            if not (part := os.read(descriptor, 2**16)):
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(descriptor)
    raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and its writer did not finish in time")


def _decoded(data: bytes) -> str:
    """The text: UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    if "\0" in text:  # a binary file, or UTF-16 or UTF-32 without a byte order mark
        raise UnicodeError
    return text


def _variables(text: str, *, interpolate: bool) -> dict[str, str]:
    variables = dotenv_values(stream=StringIO(text), interpolate=interpolate)
    return {name.upper(): value for name, value in variables.items() if value is not None}
