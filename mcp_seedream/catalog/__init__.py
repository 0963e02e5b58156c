"""The model capability table and everything that is computed from it.

Entry points: `table_file.read_table` reads `models.toml` into a `table.ModelTable`; `arguments.image_call` validates
raw tool arguments; `selection.choose` and `fallback.ModelChoice` choose a model; `schemas.image_schema` builds the
tools' input schemas.

Facts about models belong in the table only. Apart from reading the table's file, this package does no I/O. It must
not depend on HTTP or MCP, and it examines only the first bytes of a picture.
"""
