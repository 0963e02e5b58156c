"""One paid call from its check to its task, so that it is never lost and never paid for twice.

Front door: `service.ImageService` generates or edits and waits; `lookups.TaskLookups` looks up earlier tasks;
`attempts.Attempts` keeps the calls that are in progress or whose callers left.

A call is submitted once. It is submitted again only where production refused a choice that the caller left open.
What a caller leaves behind is found by the same call, made again: in memory, in the journal (SQLite), or over
Redis.
"""
