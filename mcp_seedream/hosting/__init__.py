"""The server over HTTP: the ASGI app, middleware, key verification, limits, probes, pages, workers.

Front door: `app.build_app` builds the app from an MCP server, with all routes and middleware;
`workers.serve_in_process` and `workers.serve_in_workers` run it.

`access` refuses hosts, origins and keys, and slows down refusals; `key_verifier` checks keys; `request_bodies` limits
bodies; `limits` counts the calls of each caller; `probes.Readiness` decides what `/ready` returns.

Each caller sends an API key or signs in; the server's own token is never used for callers. Processes share state in
Redis only.
"""
