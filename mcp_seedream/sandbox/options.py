"""Options of the sandbox on the command line. Importing this module does not load the sandbox."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Whether the sandbox is used, and how it behaves.

    Args:
        enabled: Whether it replaces the upstream.
        seconds: Seconds that a picture takes; None for 2 to 4 s, depending on the prompt.
        as_documented: Whether it accepts all models and sizes of the vendor's page, even if production refuses them.
    """

    enabled: bool = False
    seconds: float | None = None
    as_documented: bool = False

    @property
    def arguments(self) -> list[str]:
        """The command-line options that start a server with this sandbox."""
        arguments = ["--sandbox-as-documented" if self.as_documented else "--sandbox"]
        return arguments if self.seconds is None else [*arguments, "--sandbox-seconds", str(self.seconds)]
