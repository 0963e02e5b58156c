"""What MCP clients see: tools, results, resources, prompts, the gallery, the tasks extension, and stdio.

Front door: `server.build_server` builds an `MCPServer` that is ready for any transport; `stdio.serve_stdio` serves
it over standard input and output.

`tools` turns errors into results in one place. Results say everything twice, as text and as structured content,
since clients differ in what they show a model. HTTP and its limits are `hosting`'s.
"""
