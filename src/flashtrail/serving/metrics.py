"""What the server counts, as ``GET /metrics`` shows it in Prometheus text.

Label values come from short lists of our own, never from a client, so that nobody can make the page grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from flashtrail.base import stages

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROUTES = ("full", "draft")
ERRORS = ("protocol", "size", "policy", "idle", "full", "unauthorized", "flood", "lost")


class ServerMetrics:
    """The counters of one server; several in a process do not mix."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.sessions = Gauge("flashtrail_sessions", "Open sessions", registry=registry)
        self._opened = Counter("flashtrail_sessions_opened", "Sessions opened", registry=registry)
        self._rounds = Counter("flashtrail_rounds", "Rounds answered", ["route"], registry=registry)
        self._batch = Histogram(
            "flashtrail_batch_rounds",
            "Rounds that shared a pass of the device, by round",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        seconds: dict[str, Any] = {"buckets": _SECONDS, "registry": registry}
        self._wait = Histogram("flashtrail_queue_wait_seconds", "From request to the start of its round", **seconds)
        self._infer = Histogram("flashtrail_infer_seconds", "A round in the policy, with its batch", **seconds)
        self._stage = Histogram(
            "flashtrail_stage_seconds", "A stage of a round's pass, with its batch", ["stage"], **seconds
        )
        self._errors = Counter("flashtrail_errors", "Sessions refused or ended, by cause", ["kind"], registry=registry)
        for route in _ROUTES:
            self._rounds.labels(route)
        for kind in ERRORS:
            self._errors.labels(kind)

    def opened(self) -> None:
        """Count a session that begins."""
        self._opened.inc()
        self.sessions.inc()

    def closed(self) -> None:
        """Count a session that ends, however it does."""
        self.sessions.dec()

    def error(self, kind: str) -> None:
        """Count an error of one of ERRORS."""
        assert kind in ERRORS
        self._errors.labels(kind).inc()

    def round(self, wait_ms: float, infer_ms: float, timing: Mapping[str, Any]) -> None:
        """Count an answered round; `timing` is the policy's own, of which only known numbers are used."""
        route = timing.get("route_type")
        self._rounds.labels(route if route in _ROUTES else "other").inc()
        self._wait.observe(wait_ms / 1000)
        self._infer.observe(infer_ms / 1000)
        batch = timing.get("batch_size", 1)
        self._batch.observe(batch if isinstance(batch, int) else 1)
        for stage, key in stages.WIRE.items():
            value = timing.get(key)
            if isinstance(value, float) and value > 0:
                self._stage.labels(stage).observe(value / 1000)

    def page(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)
