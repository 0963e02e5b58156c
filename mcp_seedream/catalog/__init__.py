"""The model capability table and everything that is computed from it.

Front door: `table_file.read_table` reads `models.toml` into `table.ModelTable`; `arguments.image_call` checks raw
tool arguments; `selection.choose` and `fallback.ModelChoice` choose a model; `schemas.image_schema` is what tools
publish.

The table is the only place that knows a model. This package does no I/O except for reading the table's file, and
knows nothing of HTTP, MCP or picture files beyond their first bytes.
"""
