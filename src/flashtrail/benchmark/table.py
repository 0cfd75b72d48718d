"""A benchmark's record as text: one block per contender and route, then comparisons and targets.

Knows the record's layout (record.py, __main__.py) and no numbers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ORDER = ("encoder", "prefill", "denoise", "draft", "verify", "round", "call")


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
