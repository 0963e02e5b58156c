"""One paid call from its check to its task, so that it is never lost and never paid for twice.

Front door: `service.ImageService` generates or edits and waits; `lookups.TaskLookups` looks up earlier tasks;
`attempts.Attempts` stores the calls that are in progress or whose callers left; `claims` decides which of them a
repeated call joins or claims.

A call is submitted once. It is submitted again only if the upstream refused a model or size that the caller had not
named. If a caller leaves, an identical call finds its task: in memory, in the journal (SQLite), or in Redis.
"""
