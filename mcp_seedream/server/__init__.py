"""The interface for MCP clients: tools, results, resources, prompts, the gallery, the tasks extension, and stdio.

Front door: `server.build_server` builds an `MCPServer` for any transport; `stdio.serve_stdio` serves it over stdin and
stdout.

Only `tools` turns the errors of calls into results. Only `sdk` uses more of the MCP SDK than its public interface. HTTP
belongs to `hosting`.
"""
