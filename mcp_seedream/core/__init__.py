"""What every package stands on: errors, settings, credentials, events, shutdown, and the Redis client.

Front door: `errors` (the one tree of exceptions), `settings.Settings` and `settings.sources` (every setting and
where it comes from), `events.Observer` (what happens, for logs and metrics).

It imports no other package of this project. It must never do anything when it is imported: no I/O, no logging
setup, no look at the environment. `settings` alone reads the environment and `.env`; `redis_client` alone connects
to Redis.
"""
