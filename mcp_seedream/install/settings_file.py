"""Reads, backs up and atomically replaces the settings file of another program."""

from __future__ import annotations

import codecs
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from pathlib import Path

from mcp_seedream.core.errors import ConfigurationError


@dataclass(frozen=True)
class ConfigFile:
    """The state of a file when it was read.

    Args:
        path: The resolved path: a symbolic link is kept, and its target is replaced.
        data: Its bytes; None if the file does not exist.
    """

    path: Path
    data: bytes | None

    @property
    def text(self) -> str:
        """The text, without a byte order mark; empty if the file does not exist.

        Raises:
            ConfigurationError: It is not UTF-8.
        """
        try:
            return (self.data or b"").removeprefix(codecs.BOM_UTF8).decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigurationError(f"{self.path} is not UTF-8. Nothing was changed.") from None

    def encoded(self, text: str) -> bytes:
        """The text as bytes, with a byte order mark if the file has one."""
        mark = codecs.BOM_UTF8 if (self.data or b"").startswith(codecs.BOM_UTF8) else b""
        try:
            return mark + text.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"A path has bytes that are not valid in {self.path}. Nothing was changed."
            ) from None

    @property
    def is_read_by_others(self) -> bool:
        """Whether other users may read it; False on Windows, which has other permissions."""
        if sys.platform == "win32" or self.data is None:
            return False
        with _file_errors(self.path, "read"):
            return bool(self.path.stat().st_mode & 0o044)

    def backups(self) -> Iterator[ConfigFile]:
        """The readable backups that `replace` made, newest first."""
        for path in sorted(self.path.parent.glob(f"{escape(self.path.name)}.backup-*"), reverse=True):
            try:
                yield read(path)
            except ConfigurationError:
                continue

    def replace(self, data: bytes | None, *, keep: bool = True, private: bool = False) -> Path | None:
        """Replace the file's content atomically, or delete the file, after a backup.

        Only the owner can read new files and backups, since they may contain tokens. An existing file keeps its mode
        and owner, unless it becomes private.

        Args:
            data: The new content; None deletes the file.
            keep: Whether a backup is made.
            private: Whether only the owner may read the file.

        Returns:
            The path of the backup; None if there was no file.

        Raises:
            ConfigurationError: The file can't be written, or was changed since it was read; it is unchanged.
        """
        with _file_errors(self.path, "written"):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            backup = self._back_up() if keep else None
            try:
                self._write(data, private=private)
            except BaseException:
                if backup:
                    backup.unlink()
                raise
            return backup

    def _write(self, data: bytes | None, *, private: bool) -> None:
        if data is None:
            self._check_unchanged()
            self.path.unlink()
            return
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            self._write_handle(handle, data, private=private)
            self._check_unchanged()
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _back_up(self) -> Path | None:
        if self.data is None:
            return None
        moment = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S.%f")
        backup = self.path.with_name(f"{self.path.name}.backup-{moment}")
        handle = os.open(backup, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            self._write_handle(handle, self.data, private=True)
        except BaseException:
            backup.unlink(missing_ok=True)
            raise
        return backup

    def _write_handle(self, handle: int, data: bytes, *, private: bool) -> None:
        """Write an open file, with the owner and the mode of the file that it replaces or copies."""
        with os.fdopen(handle, "wb") as file:
            if self.data is not None and sys.platform != "win32":
                like = self.path.stat()
                own = os.fstat(handle)
                if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
                    os.fchown(handle, like.st_uid, like.st_gid)
                os.fchmod(handle, stat.S_IMODE(like.st_mode) & (0o600 if private else 0o7777))
            file.write(data)
            file.flush()
            os.fsync(handle)

    def _check_unchanged(self) -> None:
        if read(self.path).data != self.data:
            raise ConfigurationError(
                f"Another program has just changed {self.path}: it was not written. Close the program, and try again."
            )


def read(path: Path) -> ConfigFile:
    """The current state of a file, which need not exist.

    Raises:
        ConfigurationError: It can't be read, or is not a regular file.
    """
    with _file_errors(path, "read"):
        real = path.expanduser().resolve()
        try:
            regular = stat.S_ISREG(real.stat().st_mode)
        except FileNotFoundError:
            return ConfigFile(real, None)
        if not regular:
            raise ConfigurationError(f"{path} is not a file. Nothing was changed.")
        return ConfigFile(real, real.read_bytes())


@contextmanager
def _file_errors(path: Path, action: str) -> Iterator[None]:
    """Translate errors of file operations; `action` is "read" or "written"."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # no such home folder, a loop of links, a NUL byte
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"{path} can't be {action}: {why}. Nothing was changed.") from None
