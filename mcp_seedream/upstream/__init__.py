"""AceDataCloud's Seedream endpoints: client, types, parsing, errors, retries, connections, polling, streams.

Front door: `client.SeedreamClient` (submit, stream, look up), `poller.TaskWaiter` (waits for the tasks of many
callers), `types` (dataclasses for requests, tasks and images).

`retries` decides which failures are retried, and the pauses; the docstring of `client` has the table. A generation that
may have been accepted is never sent again. A token is an argument of each request, and is never stored.
"""
