"""What MCP clients see: tools, results, resources, prompts, the gallery, the Tasks extension, and stdio.

Front door: `server.build_server` builds an `MCPServer` for any transport; `stdio.serve_stdio` serves it over stdin and
stdout.

`tools` is the only place that turns errors into results, and `sdk` the only one that uses more of the MCP SDK than
its public interface. HTTP belongs to `hosting`.
"""
