"""Files outside the allowed folders are never read, even if folders are replaced while a path is checked and opened."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.media.local_files import LocalFiles, open_local

ATTEMPTS = 1500


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder with allowed/inner/deep/a.png; next to it, outside/deep/a.png has another color."""
    for folder, color in (("allowed/inner", "white"), ("outside", "black")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        Image.new("L", (20, 20), color).save(tmp_path / folder / "deep" / "a.png")
    return tmp_path / "allowed"


def swap(allowed: Path) -> None:
    """Replace the inner folder by a link to the outside."""
    (allowed / "inner").rename(allowed / "kept")
    (allowed / "inner").symlink_to(allowed.parent / "outside")


def swap_back(allowed: Path) -> None:
    (allowed / "inner").unlink()
    (allowed / "kept").rename(allowed / "inner")


def read(allowed: Path) -> bytes | None:
    """Return what was read; None if it was refused."""
    try:
        file, _ = open_local(str(allowed / "inner" / "deep" / "a.png"), LocalFiles(allowed=(allowed,)))
    except InvalidArguments:
        return None
    with file:
        return file.read()


def before(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act just before so many calls of `os.open` have been made."""
    calls, real = itertools.count(1), os.open

    def watched(*arguments: Any, **options: Any) -> int:
        if next(calls) == number:
            act()
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "supports_dir_fd", {*os.supports_dir_fd, watched})


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_folder_that_is_replaced_before_the_file_is_opened(
    allowed: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever part of the path is opened next: the outside picture is never read."""
    inside = read(allowed)
    before(number, lambda: swap(allowed), monkeypatch)
    assert read(allowed) in (inside, None)
    monkeypatch.undo()
    assert (allowed / "inner").is_symlink()


def test_a_folder_that_is_replaced_where_folders_have_no_handles(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: the file is compared after it is opened."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    assert read(allowed)
    before(1, lambda: swap(allowed), monkeypatch)
    monkeypatch.setattr(os, "supports_dir_fd", set())
    assert read(allowed) is None


def test_a_race(allowed: Path) -> None:
    """A thread replaces the folder all the time."""
    inside, outside = read(allowed), (allowed.parent / "outside" / "deep" / "a.png").read_bytes()
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            swap(allowed)
            swap_back(allowed)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        results = [read(allowed) for _ in range(ATTEMPTS)]
    finally:
        stop.set()
        thread.join()
    assert outside not in results
    assert set(results) <= {inside, None}


def test_links_between_allowed_folders(allowed: Path, tmp_path: Path) -> None:
    """A link is followed if what it leads to is allowed, also in another allowed folder."""
    (allowed / "link.png").symlink_to(allowed / "inner" / "deep" / "a.png")
    (allowed / "other").symlink_to(tmp_path / "outside")
    both = LocalFiles(allowed=(allowed, tmp_path / "outside"))
    for path in (allowed / "link.png", allowed / "other" / "deep" / "a.png"):
        open_local(str(path), both)[0].close()
    with pytest.raises(InvalidArguments, match="lies outside SEEDREAM_ALLOWED_DIRS"):
        open_local(str(allowed / "other" / "deep" / "a.png"), LocalFiles(allowed=(allowed,)))


@pytest.mark.skipif(not hasattr(os, "O_PATH") or os.geteuid() == 0, reason="root may list all folders")
def test_a_folder_that_may_not_be_listed(allowed: Path) -> None:
    """Its files can be read."""
    (allowed / "inner").chmod(0o311)
    assert read(allowed)


def test_an_allowed_folder_given_as_a_picture(allowed: Path) -> None:
    """It is not a file."""
    with pytest.raises(InvalidArguments, match=r"can't be read|not a regular file"):
        open_local(str(allowed), LocalFiles(allowed=(allowed,)))
