"""Pictures as files on the caller's own machine: what may be read, and how results are saved."""

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

_ENDINGS = {"jpeg": ".jpg"}
_PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_CHAT_FOLDERS = ("/mnt/user-data/", "/mnt/data/")  # of Claude's and ChatGPT's code sandboxes
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_MOST_INPUT = 200 * 2**20  # bytes of a file that is made smaller before it is sent
# Names that Windows keeps for devices, with any ending.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """What a server on the caller's own machine may do with its disk.

    `allowed` are the folders pictures are read from, anywhere where there is none; `output` is the folder every
    picture is saved to, if any.
    """

    allowed: tuple[Path, ...] = ()
    output: Path | None = None


def local_path(text: str, local: LocalFiles) -> Path:
    r"""The real path of a picture file that may be read: absolute, relative, `~`, `file://`, Windows style.

    A file that is not there is looked for without the marks of chats and shells (`@a.png`, `a\ b.png`), then by
    a name that looks the same: other blanks (macOS has U+202F in its screenshots' names) or composed otherwise.

    Raises:
        InvalidArguments: There is no such file, or it lies outside the allowed folders.
    """
    folders = [folder.resolve() for folder in local.allowed]
    paths = [_path(spelled) for spelled in _spellings(text)]
    real: Path | None = None
    failure: Exception | None = None
    for find in (_real, partial(_lookalike, folders)):
        for path in paths:
            try:
                real = real or find(path)
            except (OSError, RuntimeError, ValueError) as error:
                failure = failure or error
    if real is None:
        reason = getattr(failure, "strerror", None) or "not a path"
        looked = "" if paths[0].is_absolute() else f" (looked in {Path.cwd()}; give an absolute path, a link or base64)"
        raise InvalidArguments(f"The file {shortened(text)} can't be read: {reason}{looked}.") from failure
    if not _is_within(real, folders):
        named = ", ".join(map(str, folders))
        raise InvalidArguments(f"The file {shortened(text)} lies outside SEEDREAM_ALLOWED_DIRS ({named}).")
    return real


def _is_within(path: Path, folders: list[Path]) -> bool:
    return not folders or any(path.is_relative_to(folder) for folder in folders)


def _real(path: Path) -> Path:
    return path.resolve(strict=True)


def _spellings(text: str) -> list[str]:
    """What a path may mean: itself, without a chat's `@`, without a shell's backslashes, without a link's `%20`."""
    found = [text]
    if text.startswith("@"):
        found.append(text[1:].strip())
    if os.name != "nt" and "\\" in text:
        found += [re.sub(r"\\(.)", r"\1", spelled) for spelled in found]
    if "%" in text:  # as links in Markdown have it
        found += [unquote(spelled) for spelled in found]
    return found


def _lookalike(folders: list[Path], path: Path) -> Path | None:
    """The only file of the same folder whose name looks the same; only folders that may be read are listed."""
    folder = path.parent.resolve(strict=True)
    if not _is_within(folder, folders):
        return None
    found = [file for file in folder.iterdir() if _looks(file.name) == _looks(path.name)]
    return found[0].resolve(strict=True) if len(found) == 1 else None


def _looks(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


def save_target(text: str, local: LocalFiles) -> Path:
    """Where `save_to` points: spelled as for `local_path`; a relative one lies in the output folder, if there is one.

    Raises:
        InvalidArguments: It can't be a path on this machine.
    """
    try:
        path = _path(expand_home(text))
    except ValueError as error:
        raise InvalidArguments(f"`save_to`: {shortened(text)}: {error}.") from error
    except InvalidArguments as error:
        raise InvalidArguments(f"`save_to`: {error.message}") from error
    if "\0" in str(path):  # a file: URI can spell it %00
        raise InvalidArguments(f"`save_to`: {shortened(text)} is not a path.")
    return (local.output or Path()) / path


def _path(text: str) -> Path:
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
    except OSError:  # a name longer than the file system takes
        return False


def _from_uri(text: str) -> str:
    """The path of a file: URI; not split as other URLs are, since a file's name may hold # and ?."""
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidArguments(f"{shortened(text)} names another machine.")
        rest = slash + rest
    return url2pathname(rest)


def open_picture(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular file that is a picture by its first bytes; the open file, and its size in bytes.

    Raises:
        InvalidArguments: It is a folder, a pipe or a device, too large, or not a picture.
    """
    try:
        # The path is resolved already: not to be led elsewhere now, nor held up by a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except OSError as error:
        raise InvalidArguments(f"The file {path} can't be read: {error.strerror}.") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArguments(f"{path} is not a regular file.")
        if status.st_size > _MOST_INPUT:
            raise InvalidArguments(f"{path} is larger than {_MOST_INPUT // 2**20} MiB.")
        if kind(os.read(descriptor, 16)) is None:
            raise InvalidArguments(f"{path} is not a {kinds_in_words()}.")
        stack.pop_all()
    file = os.fdopen(descriptor, "rb")
    file.seek(0)
    return file, status.st_size


def save_as(source: Path, target: Path, name: str, part: str = "") -> Path:
    """Move a finished file to where it is wanted, under a name that no file has yet; the absolute path.

    Args:
        source: The file; its bytes decide the ending. It is gone afterwards.
        target: A file's name, where it ends as pictures do and is no folder; else a folder, made if it is missing.
        name: A readable name for a file in a folder: any text.
        part: Which part of a set it is, for the end of its name.

    Raises:
        OSError: It can't be written there.
    """
    into_folder = _is_folder_target(target)
    folder = target if into_folder else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        found = kind(file.read(16)) or "bin"
    stem = "-".join(filter(None, [readable(name) if into_folder else target.stem, readable(part) if part else ""]))
    # Copied beside its place first: a rename is whole or not at all, and the source may be on another disk.
    beside = folder / f".seedream-{uuid.uuid4().hex}"
    try:
        with source.open("rb") as file, beside.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        path = _put(beside, folder, stem, _ENDINGS.get(found, f".{found}"))
    finally:
        beside.unlink(missing_ok=True)
    source.unlink()
    return path.resolve()


def saved_set(files: Sequence[str], count: int, target: Path | None) -> tuple[Path, ...]:
    """The newest whole set of a task's pictures that is on the disk already, in their order; nothing if there is none.

    Args:
        files: Where they were saved, as `Journal.files` has it.
        count: How many pictures the task has.
        target: Where they are to be, as for `save_as`; None: anywhere.
    """
    for end in range(len(files), count - 1, -count) if count else ():
        paths = tuple(map(Path, files[end - count : end]))
        if all(_is_picture(path) and (target is None or _is_saved_as(path, target)) for path in paths):
            return paths
    return ()


def _is_picture(path: Path) -> bool:
    """Whether there still is a picture in a file: it may be gone, cut off or replaced."""
    try:
        file, _ = open_picture(path)
    except InvalidArguments:
        return False
    file.close()
    return True


def _is_saved_as(path: Path, target: Path) -> bool:
    """Whether `save_as` may have put a file there for this target."""
    if _is_folder_target(target):
        return path.parent == target.resolve()
    named = re.fullmatch(rf"{re.escape(target.stem)}(-.*)?", path.stem)
    return path.parent == target.parent.resolve() and named is not None


def _is_folder_target(target: Path) -> bool:
    return target.is_dir() or target.suffix.lower() not in _PICTURE_ENDINGS


def readable(name: str) -> str:
    """A file name's stem from any text: letters, digits and hyphens, safe on every file system."""
    stem = "-".join(re.findall(r"\w+", unicodedata.normalize("NFKC", name).lower()))
    stem = stem.encode()[:80].decode(errors="ignore").strip("-_")
    return f"{stem}-picture" if stem.split("-")[0].upper() in _RESERVED else stem or "picture"


def _put(beside: Path, folder: Path, stem: str, ending: str) -> Path:
    for number in count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{ending}"
        try:
            path.touch(exist_ok=False)  # takes the name; two servers may save into one folder
        except FileExistsError:
            continue
        try:
            return beside.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    raise AssertionError("unreachable")
