"""Saves results on the caller's machine, and finds those that earlier calls saved."""

from __future__ import annotations

import mimetypes
import re
import shutil
import unicodedata
import uuid
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.catalog.references import shortened
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.paths import expand_home
from mcp_seedream.media.local_files import LocalFiles, open_picture, parsed_path
from mcp_seedream.media.temporary_files import reopened
from mcp_seedream.upstream.types import Image

_SUFFIXES = {"jpeg": ".jpg"}  # by kind, where it is not the kind's own name
_FILE_TYPES = mimetypes.MimeTypes()  # without those of the system, which differ between machines
_OTHER_PICTURE_SUFFIXES = {".webp", ".avif", ".heic", ".heif"}  # not among the file types of older versions of Python
# Device names on Windows, reserved with any suffix.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


def save_target(text: str, local: LocalFiles) -> Path:
    """Return the path that `save_to` names, in any form that `open_local` accepts.

    A relative path is relative to the output folder, or to the working directory if there is none.

    Raises:
        InvalidArguments: It is not a valid path on this machine.
    """
    try:
        path = parsed_path(expand_home(text))
    except ValueError as error:
        raise InvalidArguments(f"`save_to`: {shortened(text)}: {error}.") from error
    except InvalidArguments as error:
        raise InvalidArguments(f"`save_to`: {error.message}") from error
    if "\0" in str(path):  # from %00 in a file: URI
        raise InvalidArguments(f"`save_to`: {shortened(text)} is not a path.")
    return (local.output or Path()) / path


def check_target(target: Path, local: LocalFiles) -> None:
    """Check that saving to a target does not create a folder by mistake.

    Folders are not created below a name that begins with a dot, since programs keep their settings there, nor with the
    name of a file.

    Raises:
        InvalidArguments: It would create such a folder.
    """
    with suppress(OSError, RuntimeError):  # such as a name that is too long: saving fails with a note
        folder = (target if _is_folder_target(target) else target.parent).resolve()
        bases = [base.resolve() for base in (local.output, Path()) if base]
        base = next((base for base in bases if folder.is_relative_to(base)), Path(folder.anchor))
        for path in (folder, *folder.parents):
            if path.exists():
                break
            if any(part.startswith(".") for part in path.relative_to(base).parts):
                raise InvalidArguments(f"`save_to`: {path} would be created below a name that begins with a dot.")
            if _FILE_TYPES.guess_type(f"file{path.suffix}")[0]:
                raise InvalidArguments(
                    f"`save_to`: {path} would be created as a folder, but has the name of a file. Give a folder, or a "
                    "file name that ends in .png or .jpg."
                )


def save_as(source: BinaryIO, target: Path, name: str, part: str = "") -> Path:
    """Copy a file to its target without overwriting other files; return the new file's absolute path.

    Args:
        source: The file to copy. The suffix of the new name depends on its first bytes.
        target: A file name with a picture's suffix, or a folder, which is created if necessary.
        name: Text from which the file name is made if `target` is a folder.
        part: Text to append to the file name, for a picture of a set.

    Raises:
        OSError: The file can't be written.
    """
    into_folder = _is_folder_target(target)
    folder = target if into_folder else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with reopened(source) as file:
        suffix = kind(file.read(16)) or "bin"
    stem = "-".join(filter(None, [file_stem(name) if into_folder else target.stem, file_stem(part) if part else ""]))
    # Copy to the target's folder first: a rename within it is atomic, and the source may be on another disk.
    copied = folder / f".seedream-{uuid.uuid4().hex}"
    try:
        with reopened(source) as file, copied.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        path = _rename_to_free_name(copied, folder, stem, _SUFFIXES.get(suffix, f".{suffix}"))
    finally:
        copied.unlink(missing_ok=True)
    return path.resolve()


def name_part(image: Image, index: int, count: int) -> str:
    """Return the part to append to a file name: a layer's number and name, or the picture's number in a set."""
    if image.z_index is not None:
        return f"{image.z_index} {image.name or ''}"
    return str(index + 1) if count > 1 else ""


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
    """Whether a file exists and has the first bytes of a picture."""
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
    """Whether a target is a folder: one that exists, or a name without the suffix of a picture."""
    is_picture = (_FILE_TYPES.guess_type(f"file{target.suffix}")[0] or "").startswith("image/")
    return target.is_dir() or not (is_picture or target.suffix.lower() in _OTHER_PICTURE_SUFFIXES)


def file_stem(name: str) -> str:
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
