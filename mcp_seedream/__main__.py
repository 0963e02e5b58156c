"""`python -m mcp_seedream`: the same as the command `mcp-seedream`."""

import sys

from mcp_seedream.cli import main

if __name__ == "__main__":  # a worker process imports this file, too
    sys.exit(main())
