"""From rounds to a record: percentiles with intervals, shares of the roofline, ratios, and targets with verdicts.

Plain data in and out, ready for JSON. Knows statistics and costs; no device and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.benchmark.costs import ROUTE_STAGES, Ceiling, Cost, route_costs
from flashtrail.benchmark.turns import Samples
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import LEVEL, P99_MIN_ROUNDS, Quantile

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
HALF_ERROR = 1 - (1 - LEVEL) / 2  # of each of two quantiles, so that their quotient holds at LEVEL

# What is aimed at: key -> (bound, whether values below it meet it). docs/kernels.md says why.
TARGETS: dict[str, tuple[float, bool]] = {
    "full round, engine / official": (0.75, True),
    "draft round, engine / official": (0.75, True),
    "full round, p99 / p50": (1.1, True),
    "draft round, p99 / p50": (1.1, True),
    "full round, share of the roofline": (0.60, False),
    "draft round, share of the roofline": (0.45, False),
    "draft round / full round": (0.5, True),
    "full round, engine / torch.compile": (1.0, True),
}
ON_CUDA = tuple(TARGETS)[:6]
ON_CPU = tuple(TARGETS)[6:]


def summary(times: Sequence[float]) -> dict[str, Any]:
    """n, mean, maximum and percentiles in ms, each with its distribution-free interval.

    Beyond the median a percentile is None where so few rounds do not bound it on both sides (p90 under 36, p95 under
    72), and p99 under 500.
    """
    out: dict[str, Any] = {"n": len(times), "mean": sum(times) / len(times), "max": max(times)}
    for name, q in PERCENTILES.items():
        found = intervals.quantile(times, q)
        known = name == "p50" or (found.interval is not None and (name != "p99" or len(times) >= P99_MIN_ROUNDS))
        out[name] = _plain(found) if known else None
    return out


def _plain(found: Quantile) -> dict[str, Any]:
    interval = None if found.interval is None else [found.interval.low, found.interval.high]
    return {"value": found.value, "interval": interval}


def rounds(samples: Samples) -> dict[str, dict[str, dict[str, Any]]]:
    """Contender -> route -> stage -> summary."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, route), stages in samples.items():
        out.setdefault(name, {})[route] = {stage: summary(times) for stage, times in stages.items()}
    return out


def demands(stages: Mapping[str, Cost], ceiling: Ceiling | None) -> dict[str, Any]:
    """Stage -> FLOPs and bytes from the dims and, with a ceiling, the time it allows at least and what sets it."""
    out: dict[str, Any] = {}
    for name, cost in stages.items():
        out[name] = {"flops": cost.flops, "bytes": cost.bytes}
        if ceiling is not None:
            out[name] |= {"floor_ms": cost.floor_ms(ceiling), "bound": cost.bound(ceiling)}
    return out


def floors(stages: Mapping[str, Cost], ceiling: Ceiling) -> dict[str, float]:
    """Route -> the sum of its stages' floors in ms."""
    return {route: sum(c.floor_ms(ceiling) for c in costs) for route, costs in route_costs(dict(stages)).items()}


def comparisons(samples: Samples, floor_ms: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What is compared -> value and interval: other contenders, the two routes, p99 to p50, share of the roofline."""
    out: dict[str, dict[str, Any]] = {}

    def of(name: str, route: str) -> list[float]:
        return samples.get((name, route), {}).get("round", [])

    for name, route in samples:
        if name != "engine":
            out[f"{route} round, engine / {name}"] = _ratio(of("engine", route), of(name, route))
    if of("engine", "draft"):
        out["draft round / full round"] = _ratio(of("engine", "draft"), of("engine", "full"))
    for route in ROUTE_STAGES:
        times = of("engine", route)
        if not times:
            continue
        if len(times) >= P99_MIN_ROUNDS:
            out[f"{route} round, p99 / p50"] = _steadiness(times)
        if route in floor_ms:
            out[f"{route} round, share of the roofline"] = _share(times, floor_ms[route])
    return out


def _ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Medians' ratio; without an interval where there are too few rounds for one."""
    found = intervals.median_ratio(a, b)
    if found is not None:
        return {"value": found.ratio, "interval": [found.interval.low, found.interval.high]}
    return {"value": intervals.quantile(a, 0.5).value / intervals.quantile(b, 0.5).value, "interval": None}


def _steadiness(times: Sequence[float]) -> dict[str, Any]:
    top, middle = intervals.quantile(times, 0.99, HALF_ERROR), intervals.quantile(times, 0.5, HALF_ERROR)
    interval = None
    if top.interval is not None and middle.interval is not None:
        interval = [top.interval.low / middle.interval.high, top.interval.high / middle.interval.low]
    return {"value": top.value / middle.value, "interval": interval}


def _share(times: Sequence[float], floor_ms: float) -> dict[str, Any]:
    found = intervals.quantile(times, 0.5)
    interval = None if found.interval is None else [floor_ms / found.interval.high, floor_ms / found.interval.low]
    return {"value": floor_ms / found.value, "interval": interval}


def verdicts(compared: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each target of `names`: `met` or `not met` if the whole interval says so, else `open`; `not measured`."""
    out = []
    for name in names:
        bound, below = TARGETS[name]
        entry: dict[str, Any] = {"target": name, "bound": bound, "at_most": below, "verdict": "not measured"}
        found = compared.get(name)
        if found is not None:
            entry |= {"value": found["value"], "interval": found["interval"], "verdict": _verdict(found, bound, below)}
        out.append(entry)
    return out


def _verdict(found: Mapping[str, Any], bound: float, below: bool) -> str:
    if found["interval"] is None:
        return "open"
    low, high = found["interval"]
    if below:
        return "met" if high <= bound else "not met" if low > bound else "open"
    return "met" if low >= bound else "not met" if high < bound else "open"
