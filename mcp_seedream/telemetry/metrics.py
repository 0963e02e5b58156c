"""Prometheus metrics: tool calls, generations, upstream requests, limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from mcp_seedream.core.events import Observer, ToolCall, UpstreamRequest

_CALL_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 120, 300, 600)
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MAX_OUTCOMES = 50
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Observer):
    """Counts events in its own registry.

    Args:
        models: Model ids that are used as labels. All others are counted as "other", which limits the number of labels.
        on_key_refused: As for `Observer`.
        folder: The folder in which several processes share their metrics; None for one process.
    """

    def __init__(
        self,
        models: Collection[str],
        *,
        on_key_refused: Callable[[str], None] = lambda _: None,
        folder: str | None = None,
    ) -> None:
        super().__init__(on_key_refused)
        self._models = frozenset(models)
        self._outcomes: set[str] = set()
        self._folder = folder
        self._registry = registry = CollectorRegistry()
        self._calls = Counter(
            "seedream_calls", "Tool calls that ended", ("tool", "model", "outcome"), registry=registry
        )
        histogram = partial(Histogram, registry=registry)
        self._seconds = histogram("seedream_call_seconds", "How long callers waited", ("tool",), buckets=_CALL_BUCKETS)
        self._generating = histogram(
            "seedream_generation_seconds", "How long pictures took", ("model",), buckets=_CALL_BUCKETS
        )
        self._in_progress = Gauge(
            "seedream_waiting_calls", "Calls being answered", registry=registry, multiprocess_mode="livesum"
        )
        self._upstream = histogram(
            "seedream_upstream_seconds",
            "Requests to the upstream, until their responses ended",
            ("kind", "status"),
            buckets=_REQUEST_BUCKETS,
        )
        text = "1 if the last readiness probe could not reach the upstream"
        self._unreachable = Gauge("seedream_upstream_unreachable", text, registry=registry, multiprocess_mode="livemax")
        self._bytes = Counter(
            "seedream_upstream_bytes", "Bytes of request and response bodies", ("direction",), registry=registry
        )
        self._refused = Counter(
            "seedream_refused_choices",
            "Models, and sizes of models, that the upstream refused",
            ("model", "part"),
            registry=registry,
        )
        self._limits = Counter("seedream_limits_hit", "Calls refused because of a limit", ("limit",), registry=registry)

    def on_tool_call(self, call: ToolCall) -> None:
        super().on_tool_call(call)
        model = self._model(call.model)
        self._calls.labels(call.tool, model, self._outcome(call.outcome)).inc()
        self._seconds.labels(call.tool).observe(call.seconds)
        if call.generating is not None:
            self._generating.labels(model).observe(call.generating)

    def on_upstream_request(self, request: UpstreamRequest) -> None:
        kind = request.kind.replace(" ", "_")
        self._upstream.labels(kind, request.status).observe(request.seconds)
        self._bytes.labels("sent").inc(request.sent)
        self._bytes.labels("received").inc(request.received)

    def on_choice_refused(self, model: str, part: str) -> None:
        self._refused.labels(self._model(model), part).inc()

    def on_upstream_checked(self, is_reachable: bool) -> None:
        self._unreachable.set(not is_reachable)

    def on_limit_reached(self, name: str) -> None:
        self._limits.labels(name).inc()

    def on_calls_in_progress(self, calls: int) -> None:
        """The number of calls in progress changed. It is stored at once: another process may serve the metrics."""
        self._in_progress.set(calls)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._folder is None:
            return generate_latest(self._registry)
        _remove_dead_processes(Path(self._folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _outcome(self, code: str) -> str:
        """The label for an outcome. The upstream may send any code, so the number of labels is limited."""
        if len(self._outcomes) < _MAX_OUTCOMES:
            self._outcomes.add(code)
        return code if code in self._outcomes else "other"

    def _model(self, id_: str) -> str:
        return id_ if id_ in self._models else "other" if id_ else ""


def _remove_dead_processes(folder: Path) -> None:
    """Remove the gauges of killed processes; their counters stay."""
    if sys.platform == "win32":
        return  # os.kill would end the process
    for file in folder.glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another process removed it
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
