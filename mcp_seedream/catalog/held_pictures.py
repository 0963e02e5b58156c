"""Input pictures as long texts (data URIs, base64), whose memory can be freed before the call ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Report = Callable[..., Awaitable[None]]
"""Reports progress; see `upstream.poller.Report`."""
_LONGEST_LINK = 4096  # characters; longer pictures are data


class Pictures(list[str]):
    """Input pictures whose data can be released once the upstream has them. A released picture is an empty string.

    Attributes:
        converted: The same pictures in the form that is sent.
    """

    converted: Pictures | None = None

    def release(self) -> None:
        """Release the pictures that are data, and keep links."""
        self[:] = ["" if len(text) > _LONGEST_LINK else text for text in self]
        if self.converted:
            self.converted.release()


class HeldArguments(Protocol):
    """The long strings in the arguments of a call, such as pictures, which are held apart from it."""

    def in_use(self) -> AbstractContextManager[None]:
        """Hold the memory while the context lasts."""

    def take(self, arguments: dict[str, Any], /) -> dict[str, Any]:
        """Return the arguments with their long strings, and remove the strings from this object."""

    def release_when_short(self, release: Callable[[], None], /) -> None:
        """Register a function that frees the long strings. It is called when other calls need the memory."""


def releasing(report: Report, held: HeldArguments, pictures: Sequence[str]) -> Report:
    """A `Report` that makes the pictures releasable at the first report, since the upstream has them then."""
    release = pictures.release if isinstance(pictures, Pictures) else None

    async def report_and_release(progress: float, /, *, message: str) -> None:
        nonlocal release
        if release:
            held.release_when_short(release)
            release = None
        await report(progress, message=message)

    return report_and_release
