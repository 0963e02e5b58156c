"""What an operator sees: logs, Prometheus metrics, and OpenTelemetry traces.

Front door: `logs.log_to_stderr`, `metrics.Metrics` (an `events.Observer` that counts), `tracing.export_spans`.

It must never log a token, a prompt at INFO, picture bytes or a signed URL, and never write to stdout, which is the
wire.
"""
