"""Picture files on the caller's machine: finds and opens input files, and saves results."""

from __future__ import annotations

import os
import re
import shutil
import stat
import unicodedata
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote
from urllib.request import url2pathname

from mcp_seedream.catalog.picture_kinds import kind, kinds_in_words
from mcp_seedream.catalog.references import shortened
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.paths import expand_home, windows_path_reason

_SUFFIXES = {"jpeg": ".jpg"}  # by kind, if it differs from the kind's name
_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_CHAT_FOLDERS = ("/mnt/user-data/", "/mnt/data/")  # in the code sandboxes of Claude and ChatGPT
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_MAX_INPUT_BYTES = 200 * 2**20  # of a file, before it is scaled down
# Device names on Windows, reserved with any suffix.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Settings for file access on the caller's machine.

    Attributes:
        allowed: Folders from which pictures may be read; if empty, all folders.
        output: Folder in which every result is saved, if any.
    """

    allowed: tuple[Path, ...] = ()
    output: Path | None = None


def local_path(text: str, local: LocalFiles) -> Path:
    r"""Return the resolved path of an input file: absolute, relative, `~`, `file://`, or Windows style.

    If the file does not exist, variants without chat or shell syntax are tried (`@a.png`, `a\ b.png`), then a file
    whose name differs only in spaces (macOS puts U+202F into names of screenshots) or Unicode normalization.

    Raises:
        InvalidArguments: The file does not exist, or is outside the allowed folders.
    """
    folders = [folder.resolve() for folder in local.allowed]
    paths = [_path(variant) for variant in _variants(text)]
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


def save_target(text: str, local: LocalFiles) -> Path:
    """Return the path that `save_to` names, in any form that `local_path` accepts.

    A relative path is relative to the output folder, or to the working directory if there is none.

    Raises:
        InvalidArguments: It is not a valid path on this machine.
    """
    try:
        path = _path(expand_home(text))
    except ValueError as error:
        raise InvalidArguments(f"`save_to`: {shortened(text)}: {error}.") from error
    except InvalidArguments as error:
        raise InvalidArguments(f"`save_to`: {error.message}") from error
    if "\0" in str(path):  # from %00 in a file: URI
        raise InvalidArguments(f"`save_to`: {shortened(text)} is not a path.")
    return (local.output or Path()) / path


def _path(text: str) -> Path:
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


def open_picture(path: Path) -> tuple[BinaryIO, int]:
    """Open a picture file; return the open file and its size in bytes.

    Raises:
        InvalidArguments: It is not a regular file, is too large, or does not begin like a picture.
    """
    try:
        # The path is resolved, so do not follow a symlink created since, and do not block on a pipe.
        descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
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


def save_as(source: Path, target: Path, name: str, part: str = "") -> Path:
    """Move a file to its target without overwriting other files; return its absolute path.

    Args:
        source: The file to move. The suffix of the new name depends on its first bytes.
        target: A file name with a picture's suffix, or a folder, which is created if necessary.
        name: Text from which the file name is made if `target` is a folder.
        part: Text to append to the file name, for a picture of a set.

    Raises:
        OSError: The file can't be written.
    """
    into_folder = _is_folder_target(target)
    folder = target if into_folder else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        suffix = kind(file.read(16)) or "bin"
    stem = "-".join(filter(None, [readable(name) if into_folder else target.stem, readable(part) if part else ""]))
    # Copy to the target's folder first: a rename within it is atomic, and the source may be on another disk.
    copied = folder / f".seedream-{uuid.uuid4().hex}"
    try:
        with source.open("rb") as file, copied.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        path = _rename_to_free_name(copied, folder, stem, _SUFFIXES.get(suffix, f".{suffix}"))
    finally:
        copied.unlink(missing_ok=True)
    source.unlink()
    return path.resolve()


def saved_set(files: Sequence[str], count: int, target: Path | None) -> tuple[Path, ...]:
    """Return the files of a task's pictures that earlier calls saved; empty unless all pictures still exist.

    Args:
        files: All files saved for the task, from `Journal.files`; each call added one per picture, in order.
        count: The number of the task's pictures.
        target: Only files that `save_as` would create for this target; None for any.
    """
    for end in range(len(files), count - 1, -count) if count else ():
        paths = tuple(map(Path, files[end - count : end]))
        if all(_is_picture(path) and (target is None or _is_saved_as(path, target)) for path in paths):
            return paths
    return ()


def _is_picture(path: Path) -> bool:
    """Whether a file exists and begins like a picture."""
    try:
        file, _ = open_picture(path)
    except InvalidArguments:
        return False
    file.close()
    return True


def _is_saved_as(path: Path, target: Path) -> bool:
    """Whether `save_as` could have created a file for this target."""
    if _is_folder_target(target):
        return path.parent == target.resolve()
    has_stem = re.fullmatch(rf"{re.escape(target.stem)}(-.*)?", path.stem) is not None
    return path.parent == target.parent.resolve() and has_stem


def _is_folder_target(target: Path) -> bool:
    return target.is_dir() or target.suffix.lower() not in _PICTURE_SUFFIXES


def readable(name: str) -> str:
    """Return a file name without suffix made from a text: letters, digits and hyphens, valid on every file system."""
    stem = "-".join(re.findall(r"\w+", unicodedata.normalize("NFKC", name).lower()))
    stem = stem.encode()[:80].decode(errors="ignore").strip("-_")
    return f"{stem}-picture" if stem.split("-")[0].upper() in _RESERVED else stem or "picture"


def _rename_to_free_name(source: Path, folder: Path, stem: str, suffix: str) -> Path:
    """Rename a file to the first free name of STEM, STEM-2, STEM-3 and so on."""
    for number in count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
        try:
            path.touch(exist_ok=False)  # reserves the name; several servers may save to the same folder
        except FileExistsError:
            continue
        try:
            return source.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    raise AssertionError("unreachable")
