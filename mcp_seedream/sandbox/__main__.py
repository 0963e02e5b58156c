"""`python -m mcp_seedream.sandbox`: serves the sandbox alone."""

from mcp_seedream.sandbox.app import main

main()
