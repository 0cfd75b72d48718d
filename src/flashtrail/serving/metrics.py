"""What the server counts, as ``GET /metrics`` shows it in Prometheus text.

Label values come from short lists of our own, never from a client, so that nobody can make the page grow. `read` takes
in such a page, also a stranger's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from flashtrail.base import stages
from flashtrail.serving.health import FAULTS, VIEWS, SessionHealth

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.04, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
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
        seconds: dict[str, Any] = {"buckets": SECONDS, "registry": registry}
        self._wait = Histogram("flashtrail_queue_wait_seconds", "From request to the start of its round", **seconds)
        self._infer = Histogram("flashtrail_infer_seconds", "A round in the policy, with its batch", **seconds)
        self._whole = Histogram("flashtrail_round_seconds", "From a request's last byte to its answer's", **seconds)
        self._stage = Histogram(
            "flashtrail_stage_seconds", "A stage of a round's pass, with its batch", ["stage"], **seconds
        )
        self._errors = Counter("flashtrail_errors", "Sessions refused or ended, by cause", ["kind"], registry=registry)
        self._health: dict[int, SessionHealth] = {}
        self._add_health()
        for route in _ROUTES:
            self._rounds.labels(route)
        for kind in ERRORS:
            self._errors.labels(kind)

    def _add_health(self) -> None:
        """Of the session in which it is worst; NaN and 0 where none is open."""

        def made(kind: Any, name: str, what: str, *labels: str) -> Any:
            return kind(f"flashtrail_{name}", what, labels, registry=self._registry)

        self._viewed = made(Counter, "view_rounds", "Rounds in which a view was sent", "view")
        self._faulty = made(Counter, "view_faults", "Rounds in which a view was faulty", "view", "fault")
        self._mean = made(Gauge, "view_mean", "Mean of the last picture, 0-255", "view")
        self._std = made(Gauge, "view_std", "Standard deviation of the last picture, 0-255", "view")
        in_a_row = made(Gauge, "view_fault_run", "Faulty rounds in a row, in one open session", "view", "fault")
        since = made(Gauge, "view_fault_since", "Round of that session in which they began", "view", "fault")
        for view in VIEWS:
            self._viewed.labels(view)
            for fault in FAULTS:
                self._faulty.labels(view, fault)
                in_a_row.labels(view, fault).set_function(lambda key=(view, fault): self._longest(key)[0])
                since.labels(view, fault).set_function(lambda key=(view, fault): self._longest(key)[1])
        effort = made(Gauge, "action_effort", "Largest mean |action[:6]| over 40 steps of an episode under way")
        effort.set_function(lambda: _known(max, (one.effort for one in self._health.values())))
        spread = made(Gauge, "action_spread", "How little answers of an episode under way differ, the gripper still")
        spread.set_function(lambda: _known(min, (one.spread for one in self._health.values())))

    def _longest(self, key: tuple[str, str]) -> tuple[int, int]:
        """Return the longest run of a view's fault and the round in which it began; zeros where there is none."""
        runs = ((one.runs[key], one.round - one.runs[key] + 1) for one in self._health.values() if one.runs[key])
        return max(runs, default=(0, 0))

    def opened(self) -> SessionHealth:
        """Count a session that begins."""
        self._opened.inc()
        self.sessions.inc()
        health = SessionHealth()
        self._health[id(health)] = health
        return health

    def closed(self, health: SessionHealth) -> None:
        """Count a session that ends, however it does."""
        self.sessions.dec()
        del self._health[id(health)]

    def looked(self, health: SessionHealth) -> None:
        """Count what a session's last round showed."""
        for view, (mean, std) in health.looks.items():
            self._viewed.labels(view).inc()
            self._mean.labels(view).set(mean)
            self._std.labels(view).set(std)
            for fault in FAULTS:
                self._faulty.labels(view, fault).inc(bool(health.runs[view, fault]))

    def error(self, kind: str) -> None:
        """Count an error of one of ERRORS."""
        assert kind in ERRORS
        self._errors.labels(kind).inc()

    def round(self, wait_ms: float, infer_ms: float, timing: Mapping[str, Any], whole_s: float) -> None:
        """Count an answered round; `timing` is the policy's own, of which only known numbers are used."""
        self._whole.observe(whole_s)
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


def _known(worst: Callable[[Iterable[float]], float], values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return worst(known) if known else math.nan


def read(page: bytes) -> dict[str, float]:
    """Return the finite samples of a page by name, ``flashtrail_view_std{view="wrist"}``, and nothing but ours."""
    found = {}
    for line in page.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("flashtrail_"):
            with contextlib.suppress(ValueError):
                found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}
