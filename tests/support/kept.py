"""A cache in the user's cache folder for slow downloads, shared by runs of the tests."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path


def kept(what: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` has filled, now or in an earlier run, for the same words.

    It is made beside its place first, so that one that is there is whole, however an earlier run ended.

    Args:
        what: All that decides what is in it.
        make: Makes the folder at the path it is given.

    Raises:
        OSError: The cache can't be written.
    """
    cache = user_cache_path("mcp-seedream-tests", appauthor=False)
    folder = cache / hashlib.sha256(what.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as work:
                made = Path(work) / "made"
                make(made)
                made.rename(folder)
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: the others find everything there. Where there is no such lock, they do it again."""
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415  (no such module on Windows)

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
