"""Logs, Prometheus metrics and OpenTelemetry traces for operators.

Front door: `logs.log_to_stderr`, `metrics.Metrics` (an `events.Observer` that counts), `tracing.export_spans`.

It must never log a token, a prompt at INFO, picture bytes or a signed URL, and never write to stdout, which carries
MCP messages over stdio.
"""
