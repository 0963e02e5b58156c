"""Picture files on the caller's machine: finds and opens input files."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote
from urllib.request import url2pathname

from mcp_seedream.catalog.picture_kinds import kind, kinds_in_words
from mcp_seedream.catalog.references import shortened
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.paths import windows_path_reason

_CHAT_FOLDERS = ("/mnt/user-data/", "/mnt/data/")  # in the code sandboxes of Claude and ChatGPT
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
# O_PATH needs no permission to list the folder. macOS does not have it.
_FOLDER_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_DIRECTORY", "O_PATH"))
_MAX_INPUT_BYTES = 200 * 2**20  # of a file, before it is scaled down


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Settings for file access on the caller's machine.

    Attributes:
        allowed: Folders from which pictures may be read; if empty, all folders.
        output: Folder in which every result is saved, if any.
    """

    allowed: tuple[Path, ...] = ()
    output: Path | None = None


def open_local(text: str, local: LocalFiles) -> tuple[BinaryIO, int]:
    r"""Open an input picture; return the open file and its size in bytes.

    The path is absolute, relative, `~`, `file://`, or Windows style. If the file does not exist, variants without chat
    or shell syntax are tried (`@a.png`, `a\ b.png`), then a file whose name differs only in spaces (macOS puts U+202F
    into names of screenshots) or Unicode normalization.

    Raises:
        InvalidArguments: The file does not exist, is outside the allowed folders, or is not a picture.
    """
    folders = [folder.resolve() for folder in local.allowed]
    return open_picture(_resolved(text, folders), folders)


def _resolved(text: str, folders: list[Path]) -> Path:
    """Return the resolved path of an input file."""
    paths = [parsed_path(variant) for variant in _variants(text)]
    resolved: Path | None = None
    failure: Exception | None = None
    for resolve in (partial(Path.resolve, strict=True), partial(_similar_file, folders)):
        for path in paths:
            try:
                resolved = resolved or resolve(path)
            except (OSError, RuntimeError, ValueError) as error:
                failure = failure or error
    if resolved is None:
        reason = getattr(failure, "strerror", None) or "not a path"
        looked = "" if paths[0].is_absolute() else f" (looked in {Path.cwd()}; give an absolute path, a link or base64)"
        raise InvalidArguments(f"The file {shortened(text)} can't be read: {reason}{looked}.") from failure
    if not _is_allowed(resolved, folders):
        allowed = ", ".join(map(str, folders))
        raise InvalidArguments(f"The file {shortened(text)} lies outside SEEDREAM_ALLOWED_DIRS ({allowed}).")
    return resolved


def _is_allowed(path: Path, folders: list[Path]) -> bool:
    return not folders or any(path.is_relative_to(folder) for folder in folders)


def _variants(text: str) -> list[str]:
    """Return a path, and the path without a chat's `@`, shell escapes and percent-encoding."""
    variants = [text]
    if text.startswith("@"):
        variants.append(text[1:].strip())
    if os.name != "nt" and "\\" in text:
        variants += [re.sub(r"\\(.)", r"\1", variant) for variant in variants]
    if "%" in text:  # from a link in Markdown
        variants += [unquote(variant) for variant in variants]
    return variants


def _similar_file(folders: list[Path], path: Path) -> Path | None:
    """Return the only file in the same folder with an equal normalized name; None if there are none or several."""
    folder = path.parent.resolve(strict=True)
    if not _is_allowed(folder, folders):
        return None
    matches = [file for file in folder.iterdir() if _normalized(file.name) == _normalized(path.name)]
    return matches[0].resolve(strict=True) if len(matches) == 1 else None


def _normalized(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


def parsed_path(text: str) -> Path:
    """Parse a path; reject paths of other systems, of a chat's sandbox, and URLs."""
    if why := windows_path_reason(text):
        raise InvalidArguments(f"{shortened(text)} is {why}.")
    path = Path(_from_uri(text) if text.lower().startswith("file:") else text)
    if text.startswith("sandbox:") or (str(path).startswith(_CHAT_FOLDERS) and not _is_folder(path.parent)):
        raise InvalidArguments(
            f"{shortened(text)} exists only in the chat's own sandbox, which this server does not share. Use a path "
            "on this machine; a picture can also be given as a link or as base64."
        )
    if re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://", text, re.IGNORECASE):
        raise InvalidArguments(f"{shortened(text)} is neither a path nor an http(s) link.")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InvalidArguments(f"{shortened(text)}: there is no such home folder.") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long for the file system
        return False


def _from_uri(text: str) -> str:
    """Return the path of a file: URI. Not parsed as a URL, since file names may contain # and ?."""
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidArguments(f"{shortened(text)} names another machine.")
        rest = slash + rest
    return url2pathname(rest)


def open_picture(path: Path, folders: Sequence[Path] = ()) -> tuple[BinaryIO, int]:
    """Open a picture file; return the open file and its size in bytes.

    Args:
        path: A resolved path.
        folders: Resolved folders, of which one contains the file. A folder in between that has become a symbolic link
            since the path was resolved is not followed.

    Raises:
        InvalidArguments: It is not a regular file, is too large, or does not have the first bytes of a picture.
    """
    try:
        descriptor = _open_within(path, folders)
    except OSError as error:
        raise InvalidArguments(f"The file {path} can't be read: {error.strerror}.") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArguments(f"{path} is not a regular file.")
        if status.st_size > _MAX_INPUT_BYTES:
            raise InvalidArguments(f"{path} is larger than {_MAX_INPUT_BYTES // 2**20} MiB.")
        if kind(os.read(descriptor, 16)) is None:
            raise InvalidArguments(f"{path} is not a {kinds_in_words()}.")
        stack.pop_all()
    file = os.fdopen(descriptor, "rb")
    file.seek(0)
    return file, status.st_size


def _open_within(path: Path, folders: Sequence[Path]) -> int:
    """Open a file for reading, without following symbolic links below its folder; does not block on a pipe."""
    folder = next((folder for folder in folders if path.is_relative_to(folder)), None)
    if folder is None:
        return os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    if os.open not in os.supports_dir_fd:  # Windows
        return _open_and_compare(path, folder)
    *inner, name = path.relative_to(folder).parts or ("",)
    with ExitStack() as stack:
        parent = os.open(folder, _FOLDER_FLAGS)
        stack.callback(os.close, parent)
        for part in inner:
            parent = os.open(part, _FOLDER_FLAGS, dir_fd=parent)
            stack.callback(os.close, parent)
        return os.open(name, os.O_RDONLY | _OPEN_FLAGS, dir_fd=parent)


def _open_and_compare(path: Path, folder: Path) -> int:
    """Open a file, and check afterwards that it is the one in the folder."""
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
        stack.callback(os.close, descriptor)
        again = path.resolve(strict=True)
        if not again.is_relative_to(folder) or not os.path.samestat(os.fstat(descriptor), again.lstat()):
            raise PermissionError(errno.EPERM, "a folder of its path was replaced")
        stack.pop_all()
    return descriptor
