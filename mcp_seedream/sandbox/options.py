"""Options of the sandbox, as the command line has them; importing them loads nothing of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Whether the sandbox is used, and how it behaves.

    Args:
        enabled: Whether it replaces the upstream.
        seconds: How long a picture takes; None: 2 to 4 s, depending on the prompt.
        as_documented: Whether it accepts everything on the vendor's page, including what production refuses.
    """

    enabled: bool = False
    seconds: float | None = None
    as_documented: bool = False

    @property
    def switches(self) -> list[str]:
        """The command-line options that start a server with this sandbox."""
        switches = ["--sandbox-as-documented" if self.as_documented else "--sandbox"]
        return switches if self.seconds is None else [*switches, "--sandbox-seconds", str(self.seconds)]
