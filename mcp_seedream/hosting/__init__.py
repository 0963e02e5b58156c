"""The server over HTTP: the ASGI app, middleware, key verification, limits, probes, pages, workers.

Front door: `app.build_app` puts an MCP server behind everything that a public endpoint needs;
`workers.serve_in_process` and `workers.serve_in_workers` run it.

Each caller sends an API key or signs in; the server's own token is never used for callers. Processes share state in
Redis only.
"""
