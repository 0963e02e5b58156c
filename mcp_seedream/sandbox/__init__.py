"""An emulation of the upstream with drawn pictures, for trials, tests and demonstrations.

Front door: `app.Sandbox` (an ASGI app) and `app.running` (served on a loopback port). `python -m
mcp_seedream.sandbox` serves it alone. `faults` has the prompt words that cause errors.

It behaves like the production API, including its refusals; its rules come from the capability table. It makes no
connections except for callbacks on loopback.
"""
