"""Exports OpenTelemetry spans: the SDK makes one for each call, `upstream.connections` one for each request."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.core.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context


def unusable_propagators() -> str:
    """Why OTEL_PROPAGATORS can't be used, so that importing OpenTelemetry would fail; empty if it can be used."""
    try:
        import opentelemetry.propagate  # noqa: F401, PLC0415
    except ValueError as error:
        return str(error)
    return ""


def span_name(name: str, known: Collection[str]) -> str:
    """The name of a span, without words that only a caller knows.

    Args:
        name: As the SDK has it (the method and the tool that a caller sent), or a name of this project.
        known: Methods, and methods with a tool.
    """
    method = name.partition(" ")[0]
    return name if name in known or method == "seedream" else method if method in known else "other"


def export_spans(known: Collection[str]) -> None:
    """Send spans to the collector that OpenTelemetry's own `OTEL_…` variables configure.

    Args:
        known: The names that spans of the SDK may have.

    Raises:
        ConfigurationError: The exporter is not installed, or rejects a variable.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is not installed. Install {DISTRIBUTION}[otel]."
        ) from error
    from opentelemetry.trace import set_tracer_provider  # noqa: PLC0415

    class LimitNames(SpanProcessor):
        """Limits the names of spans: the SDK takes the method and the tool that a caller sends."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            span.update_name(span_name(span.name, known))

    try:
        provider = TracerProvider(
            resource=Resource.create({"service.name": "mcp-seedream", "service.version": __version__})
        )
        provider.add_span_processor(LimitNames())
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"OpenTelemetry rejects an OTEL_ variable: {error}") from error
    set_tracer_provider(provider)
