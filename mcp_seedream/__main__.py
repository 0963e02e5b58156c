"""`python -m mcp_seedream`: the same as the command `mcp-seedream`."""

import sys

from mcp_seedream.cli import main

sys.exit(main())
