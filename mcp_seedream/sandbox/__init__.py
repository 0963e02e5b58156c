"""An emulation of the upstream with drawn pictures, for trying, tests and demonstrations.

Front door: `app.Sandbox` (an ASGI app) and `app.running` (served on a loopback port). `python -m
mcp_seedream.sandbox` serves it alone. `faults` has the prompt words that cause errors.

It behaves as production does, including refusals; its rules are those of the capability table. It connects to nothing
except callbacks on loopback.
"""
