"""AceDataCloud's Seedream endpoints: client, types, parsing, errors, retries, connections, polling, streams.

Front door: `client.SeedreamClient` (submit, stream, look up), `poller.TaskWaiter` (waits for the tasks of many
callers), `types` (dataclasses for requests, tasks and images).

`client` decides which failures are retried: its docstring has the table. `retries` decides the pauses. A generation
that may have been accepted is never sent again. A token is an argument of each request, and is never stored.
"""
