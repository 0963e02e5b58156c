"""An MCP server for Seedream: pictures from text and from pictures, through AceDataCloud."""

__version__ = "0.1.0"
