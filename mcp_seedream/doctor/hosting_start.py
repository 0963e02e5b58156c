"""Builds the hosted app from the environment's settings, to see whether a server would start with them.

`doctor` runs this with `python -m`, since building the app changes its process: logging, metrics and the collector.
The exit status is 2 where the settings are refused; the reason is on stdout.
"""

import sys

from mcp_seedream.assembly import hosted, set_up_process
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import read_settings


def main() -> int:
    """Build the app, and discard it."""
    try:
        settings = read_settings()
        set_up_process(settings)
        hosted(settings)
    except ConfigurationError as error:
        print(error.message)  # noqa: T201  (read by `doctor`)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
