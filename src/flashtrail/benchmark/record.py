"""From rounds to a record, and the record as text: percentiles with intervals, shares of the roofline, targets.

Plain data in and out, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flashtrail.base.stages import OF_ROUTE
from flashtrail.benchmark.costs import Ceiling, Cost, route_costs
from flashtrail.benchmark.workload import Samples
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import LEVEL, P99_MIN_ROUNDS, Quantile

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
HALF_ERROR = 1 - (1 - LEVEL) / 2  # of each of two quantiles, so that their quotient holds at LEVEL

# What is aimed at, by kind of device: key -> (bound, whether values below it meet it). docs/kernels.md says why.
TARGETS: dict[str, dict[str, tuple[float, bool]]] = {
    "cuda": {
        "full round, engine / official": (0.75, True),
        "draft round, engine / official": (0.75, True),
        "full round, engine / torch.compile": (0.5, True),
        "draft round, engine / torch.compile": (0.6, True),
        "full round, p99 / p50": (1.1, True),
        "draft round, p99 / p50": (1.1, True),
        "full round, share of the roofline": (0.60, False),
        "draft round, share of the roofline": (0.45, False),
    },
    "cpu": {"draft round / full round": (0.5, True), "full round, engine / torch.compile": (1.0, True)},
}


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


def judged(samples: Samples, demands: Mapping[str, Cost], ceiling: Ceiling | None, kind: str) -> dict[str, Any]:
    """What is made of the rounds on a device of this kind: summaries, demands and floors, comparisons, targets."""
    rounds: dict[str, dict[str, dict[str, Any]]] = {}  # contender -> route -> stage -> summary
    for (name, route), stages in samples.items():
        rounds.setdefault(name, {})[route] = {stage: summary(times) for stage, times in stages.items()}
    floor_ms = {} if ceiling is None else floors(demands, ceiling)
    compared = comparisons(samples, floor_ms)
    return {
        "ceiling": None if ceiling is None else asdict(ceiling),
        "rounds": rounds,
        "demands": {name: _demand(cost, ceiling) for name, cost in demands.items()},
        "floors_ms": floor_ms,
        "comparisons": compared,
        "targets": verdicts(compared, TARGETS[kind]),
    }


def _demand(cost: Cost, ceiling: Ceiling | None) -> dict[str, Any]:
    """FLOPs and bytes from the dims and, with a ceiling, the time in ms that it allows at least and what sets it."""
    limits = {} if ceiling is None else {"floor_ms": cost.floor_ms(ceiling), "bound": cost.bound(ceiling)}
    return {**asdict(cost), **limits}


def floors(stages: Mapping[str, Cost], ceiling: Ceiling) -> dict[str, float]:
    """Route -> the sum of its stages' floors in ms."""
    return {route: sum(c.floor_ms(ceiling) for c in costs) for route, costs in route_costs(dict(stages)).items()}


def comparisons(samples: Samples, floor_ms: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What is compared -> value and interval: other contenders, the two routes, p99 to p50, share of the roofline."""
    times = {key: stages.get("round", []) for key, stages in samples.items()}
    out = {
        f"{route} round, engine / {name}": _quotient(times["engine", route], other)
        for (name, route), other in times.items()
        if name != "engine"
    }
    if ("engine", "draft") in times:
        out["draft round / full round"] = _quotient(times["engine", "draft"], times["engine", "full"])
    for route in (route for route in OF_ROUTE if ("engine", route) in times):
        own = times["engine", route]
        if len(own) >= P99_MIN_ROUNDS:
            out[f"{route} round, p99 / p50"] = _quotient(own, own, 0.99)
        if route in floor_ms:
            out[f"{route} round, share of the roofline"] = _share(own, floor_ms[route])
    return out


def _quotient(above: Sequence[float], below: Sequence[float], q: float = 0.5) -> dict[str, Any]:
    """A quantile over a median; without an interval where there are too few rounds for one (Bonferroni of two)."""
    top, bottom = intervals.quantile(above, q, HALF_ERROR), intervals.quantile(below, 0.5, HALF_ERROR)
    interval = None
    if top.interval is not None and bottom.interval is not None:
        interval = [top.interval.low / bottom.interval.high, top.interval.high / bottom.interval.low]
    return {"value": top.value / bottom.value, "interval": interval}


def _share(times: Sequence[float], floor_ms: float) -> dict[str, Any]:
    found = intervals.quantile(times, 0.5)
    interval = None if found.interval is None else [floor_ms / found.interval.high, floor_ms / found.interval.low]
    return {"value": floor_ms / found.value, "interval": interval}


def verdicts(
    compared: Mapping[str, Mapping[str, Any]], targets: Mapping[str, tuple[float, bool]]
) -> list[dict[str, Any]]:
    """Each of `targets`: `met` or `not met` if the whole interval says so, else `open`; `not measured`."""
    out = []
    for name, (bound, below) in targets.items():
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


# --- as text ---

_ORDER = ("encoder", "prefill", "denoise", "samples", "draft", "verify", "round", "call")


def text(record: Mapping[str, Any]) -> str:
    """The whole record, ready to print."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    work, engine, device = record["workload"], record["engine"], record["device"]
    yield (
        f"{work['policy']}: {work['views']} views, {work['prompt']} prompt tokens, chunk {work['chunk']}, "
        f"{work['steps']} steps, {engine['dtype']}, batch 1"
    )
    yield f"engine: backend {engine['backend']} ({engine['backend_why']}), {_times(record)}"
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    yield f"device: {device['device']}, {device['name']}; {versions}"
    if ceiling := record["ceiling"]:
        yield (
            f"ceilings, {ceiling['name']}: {ceiling['bytes_per_s'] / 1e9:,.1f} GB/s (one large copy), "
            f"{ceiling['flops_per_s'] / 1e12:,.2f} TFLOP/s (one large product)"
        )
    for when in ("before", "after"):
        if clocks := {k: v for k, v in record["state"][when].items() if k.startswith(("clocks.", "power", "temp"))}:
            yield f"read {when}: " + ", ".join(f"{name} {value}" for name, value in clocks.items())
    if official := record.get("official"):
        said = f"a stand-in: {official['stand_in']}" if official["stand_in"] else f"commit {official['commit']}"
        yield f"official checkout: {said}"
    for note in record["notes"]:
        yield f"note: {note}"
    for name, routes in record["rounds"].items():
        for route, stages in routes.items():
            yield ""
            yield from _block(name, route, stages, record["demands"] if name == "engine" else {}, record["floors_ms"])
    yield ""
    for what, found in record["comparisons"].items():
        yield f"{what}: {_with_interval(found, '.3f')}"
    yield ""
    for target in record["targets"]:
        sign = "<=" if target["at_most"] else ">="
        seen = _with_interval(target, ".3f") if "value" in target else "-"
        yield f"target {target['target']} {sign} {target['bound']:g}: {seen}, {target['verdict']}"


def _times(record: Mapping[str, Any]) -> str:
    if record["settings"]["official_time_bias"]:
        return "verification times clamped as the official verifier does (official_time_bias)"
    return "verification at the true times"


def _with_interval(found: Mapping[str, Any], form: str) -> str:
    if found["interval"] is None:
        return f"{found['value']:{form}} (too few rounds for an interval)"
    low, high = found["interval"]
    return f"{found['value']:{form}} [{low:{form}}, {high:{form}}]"


def _block(
    name: str,
    route: str,
    stages: Mapping[str, Any],
    demands: Mapping[str, Any],
    floors: Mapping[str, float],
) -> Iterator[str]:
    count = stages["round"]["n"]
    yield f"{name}, {route} round, n = {count}, ms"
    yield (
        f"{'stage':<9} {'p50':>9} {'95 % interval':>21} {'p90':>9} {'p95':>9} {'p99':>9} {'max':>9}"
        f" {'GFLOP':>9} {'MB':>9} {'floor':>8} {'share':>6}"
    )
    for stage in (s for s in _ORDER if s in stages):
        found = stages[stage]
        cells = [_number(found[p]) for p in ("p90", "p95", "p99")]
        line = f"{stage:<9} {_number(found['p50'])} {_interval(found['p50']):>21} {' '.join(cells)} {found['max']:9.3f}"
        demand = demands.get(stage)
        floor = demand.get("floor_ms") if demand else floors.get(route) if stage == "round" and demands else None
        line += f" {demand['flops'] / 1e9:9.3f} {demand['bytes'] / 1e6:9.2f}" if demand else f" {'':9} {'':9}"
        if floor is not None:
            line += f" {floor:8.3f} {100 * floor / found['p50']['value']:5.1f}%"
        yield line.rstrip()
    tails = {p: stages["round"][p] for p in ("p90", "p95", "p99") if stages["round"][p] is not None}
    if tails:
        yield "round, 95 % intervals: " + ", ".join(f"{p} {_interval(found)}" for p, found in tails.items())


def _number(found: Mapping[str, Any] | None) -> str:
    return f"{'-':>9}" if found is None else f"{found['value']:9.3f}"


def _interval(found: Mapping[str, Any]) -> str:
    return "-" if found["interval"] is None else f"[{found['interval'][0]:.3f}, {found['interval'][1]:.3f}]"
