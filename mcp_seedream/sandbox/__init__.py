"""An emulation of the upstream with drawn pictures, for trying, tests and demonstrations.

Front door: `app.Sandbox` (an ASGI app) and `app.running` (served on a loopback port). `python -m
mcp_seedream.sandbox` serves it alone. `faults` are the prompt words that make something go wrong.

It behaves as production does, refusals included; its rules are the capability table's. It never connects anywhere
but to callbacks on loopback.
"""
