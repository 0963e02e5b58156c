"""Builds the hosted app from the settings of the environment, to check whether a server starts with them.

`doctor` runs this module with `python -m`, since it sets up logging and metrics for the whole process.
The exit status is 2 if the settings are refused; the reason is printed on stdout.
"""

import sys

from mcp_seedream.assembly import hosted, set_up_process
from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.core.settings import read_settings


def main() -> int:
    """Build the app, and discard it; returns the exit status."""
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
