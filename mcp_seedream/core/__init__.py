"""The foundation of all packages: errors, settings, credentials, events, shutdown, and the Redis client.

Front door: `errors` (all exceptions), `settings.Settings` and `settings.sources` (every setting and its source),
`events.Observer` (events for logs and metrics).

It imports no other package of this project. Importing it must have no effects: no I/O, no logging setup, no access to
the environment. Only `settings` reads the environment and `.env`; only `redis_client` connects to Redis.
"""
