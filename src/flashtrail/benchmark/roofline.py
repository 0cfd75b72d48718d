"""`python -m flashtrail.benchmark.roofline`: what a policy's rounds cost on a device at best, before anything is timed.

From the dims and the device's ceilings alone: no weights, no GPU. The floor of a round is the sum of its stages', each
bound by memory or by arithmetic. With several sessions in a pass weights are read once for all: what batching can
give at most follows from the same numbers. Knows no measurement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.benchmark.costs import PUBLISHED, Ceiling, Cost, route_costs, stage_costs
from flashtrail.benchmark.presets import preset
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables; 2 and one line for a mistake."""
    parser = commands.Parser(prog="python -m flashtrail.benchmark.roofline", description=_first_line())
    add = parser.add_argument
    add("--policy", default="pi0_libero", help="pi0_libero or pi0_nano (default: pi0_libero)")
    add("--views", type=int, default=2)
    add("--prompt", type=int, default=20, metavar="TOKENS")
    add("--width", type=int, default=2, metavar="BYTES", help="bytes of a number (default: 2, bfloat16)")
    add("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="rounds in a pass")
    add("--device", nargs=3, action="append", metavar=("NAME", "GB/s", "TFLOP/s"), help="another device's ceilings")
    found = parser.parse_args(words)
    try:
        print(text(found))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _first_line() -> str:
    return (__doc__ or "").split("\n")[0]


def text(words: argparse.Namespace) -> str:
    """The tables of stages and of batches."""
    dims, draft = preset(words.policy)
    sizes = [words.views, words.prompt, words.width, *words.batch]
    if min(sizes) < 1:
        raise UserError("--views, --prompt, --width and --batch are at least 1")
    ceilings = [_ceiling(*device) for device in words.device or ()] or list(PUBLISHED.values())
    shape = {"views": words.views, "prompt": words.prompt, "width": words.width}
    lines = [f"{words.policy}, {words.views} views, {words.prompt} tokens, {words.width} bytes a number", ""]
    lines += [*_stages(dims, draft, shape, ceilings), "", *_batches(dims, draft, shape, ceilings, words.batch)]
    return "\n".join(lines)


def _ceiling(name: str, gb_per_s: str, tflop_per_s: str) -> Ceiling:
    try:
        memory, arithmetic = float(gb_per_s) * 1e9, float(tflop_per_s) * 1e12
    except ValueError:
        raise UserError(f"--device {name} {gb_per_s} {tflop_per_s}: two numbers are needed, GB/s and TFLOP/s") from None
    if not (memory > 0 and arithmetic > 0):
        raise UserError(f"--device {name} {gb_per_s} {tflop_per_s}: both numbers must be more than 0")
    return Ceiling(name, memory, arithmetic)


def _stages(dims: Pi0Dims, draft: DraftDims, shape: dict[str, int], ceilings: Sequence[Ceiling]) -> list[str]:
    stages = stage_costs(dims, draft, **shape)
    head = f"{'stage':14}{'GFLOP':>10}{'MB':>10}" + "".join(f"{c.name.split(',')[0] + ', ms':>22}" for c in ceilings)
    lines = [head]
    for name, cost in stages.items():
        lines.append(_row(name, cost) + "".join(f"{cost.floor_ms(c):12.3f} {cost.bound(c):>9}" for c in ceilings))
    for route, costs in route_costs(stages).items():
        total = Cost(sum(c.flops for c in costs), sum(c.bytes for c in costs))
        floors = "".join(f"{route_ms(costs, c):12.3f} {'':>9}" for c in ceilings)
        lines.append(_row(f"{route} round", total) + floors)
    return lines


def _row(name: str, cost: Cost) -> str:
    return f"{name:14}{cost.flops / 1e9:10.4g}{cost.bytes / 1e6:10.4g}"


def route_ms(costs: Sequence[Cost], ceiling: Ceiling) -> float:
    """Floor of a round in ms: of its stages, one after another."""
    return sum(cost.floor_ms(ceiling) for cost in costs)


def gain(dims: Pi0Dims, draft: DraftDims, shape: dict[str, int], ceiling: Ceiling, route: str, batch: int) -> float:
    """How many times the rounds per second of one session `batch` sessions can have at most, both at their floors."""
    alone, together = (route_costs(stage_costs(dims, draft, **shape, batch=n))[route] for n in (1, batch))
    return batch * route_ms(alone, ceiling) / route_ms(together, ceiling)


def _batches(
    dims: Pi0Dims, draft: DraftDims, shape: dict[str, int], ceilings: Sequence[Ceiling], batches: Sequence[int]
) -> list[str]:
    lines = [f"{'rounds in a pass':34}" + "".join(f"{n:>8}" for n in batches)]
    for ceiling in ceilings:
        for route in ("full", "draft"):
            gains = (gain(dims, draft, shape, ceiling, route, n) for n in batches)
            name = f"{ceiling.name.split(',')[0]}, {route}: gain at most"
            lines.append(f"{name:34}" + "".join(f"{g:8.2f}" for g in gains))
    return lines


if __name__ == "__main__":
    sys.exit(commands.run(main, "roofline"))
