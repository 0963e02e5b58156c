"""AceDataCloud's Seedream endpoints: client, types, parsing, errors, retries, connections, polling, streams.

Front door: `client.SeedreamClient` (submit, stream, look up), `poller.TaskWaiter` (waits for tasks of many
callers), `types` (requests, tasks and images as objects).

The table in `client` says what is repeated and what is not: a generation that may have been accepted is never sent
again. A token is an argument of each call and is kept nowhere.
"""
