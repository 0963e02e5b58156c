"""Exports OpenTelemetry spans: the SDK makes one for each call, `upstream.connections` one for each request."""

from __future__ import annotations

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.core.errors import ConfigurationError


def unusable_propagators() -> str:
    """Why OTEL_PROPAGATORS can't be used, so that importing OpenTelemetry would fail; empty if it can be used."""
    try:
        import opentelemetry.propagate  # noqa: F401, PLC0415
    except ValueError as error:
        return str(error)
    return ""


def export_spans() -> None:
    """Send spans to the collector that OpenTelemetry's own `OTEL_…` variables configure.

    Raises:
        ConfigurationError: The exporter is not installed, or rejects a variable.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is not installed. Install {DISTRIBUTION}[otel]."
        ) from error
    from opentelemetry.trace import set_tracer_provider  # noqa: PLC0415

    try:
        provider = TracerProvider(
            resource=Resource.create({"service.name": "mcp-seedream", "service.version": __version__})
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"OpenTelemetry rejects an OTEL_ variable: {error}") from error
    set_tracer_provider(provider)
