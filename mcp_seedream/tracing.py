"""Spans for a collector, where one is configured: the SDK's for each call, and ours for each upstream request."""

from __future__ import annotations

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.errors import ConfigurationError


def export_spans() -> None:
    """Send spans to the collector that the `OTEL_…` variables name; they are OpenTelemetry's own, and it reads them.

    Raises:
        ConfigurationError: What exports them is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is there to export with. Install {DISTRIBUTION}[otel]."
        ) from error
    from opentelemetry.trace import set_tracer_provider  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({"service.name": "mcp-seedream", "service.version": __version__})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    set_tracer_provider(provider)
