"""One paid call from its check to its task, so that it is never lost and never paid for twice.

Front door: `service.make_images` generates or edits and waits; `lookups.get_tasks` looks up earlier tasks;
`services.Services` is what every call works with.

A call is submitted once. It is submitted again only where production refused a choice that the caller left open.
What a caller leaves behind is found by the same call, made again: in memory, in the journal (SQLite), or over
Redis.
"""
