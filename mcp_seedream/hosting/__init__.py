"""The server over HTTP: the ASGI app, middleware, key verification, limits, probes, pages, workers.

Front door: `app.build_app` puts an MCP server behind everything that a public endpoint needs; `workers.serve` runs
it in one process or several.

Each caller brings an API key or signs in; the server's own token is never used for them. It keeps no state of its
own but what Redis shares.
"""
