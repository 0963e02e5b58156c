"""An MCP server for Seedream: pictures from text and from pictures, through AceDataCloud."""

__version__ = "0.1.0"
DISTRIBUTION = "mcp-seedream-acedatacloud"
"""This package's name on the package index, where `mcp-seedream` is an unrelated project."""
