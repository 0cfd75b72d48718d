"""What a product of few rows could reach on a card, from its tile alone: a prediction, never a measurement.

Such a product reads its weight once from memory, and its rows once from the L2 cache for each block of columns. Three
things bound it: memory bandwidth; bytes on their way (Little's law: bandwidth is at most bytes in flight / latency);
and what the L2 cache gives. Latencies and cache bandwidths are assumptions (launches.CARDS), and the time between
kernels is left out, so only ratios of two tiles mean much.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.benchmark.launches import Card, Launch
from flashtrail.benchmark.resources import Compiled

# Kernel -> where its weight stands among its tensors, and the constants that make a program's columns.
PRODUCTS = {"norm_qkv_rope": (2, "BC", 2), "norm_gated": (2, "BN", 2), "linear_residual": (1, "BN", 1)}


@dataclass(frozen=True)
class Stream:
    """One launch of a product: bytes as they move, and the programs that move them."""

    name: str
    rows: int
    weight: int  # bytes, read from memory
    cached: int  # bytes that leave the L2 cache: the weight for each row block, rows for each column block, parts
    programs: int
    in_flight: int  # bytes of the weight that all resident programs have asked for ahead

    def seconds(self, card: Card) -> dict[str, float]:
        """What each bound alone would take."""
        return {
            "memory": self.weight / card.bandwidth,
            "in flight": self.weight * card.latency / self.in_flight,
            "cache": self.cached / card.cache_bandwidth,
        }

    def predicted(self, card: Card) -> tuple[float, str]:
        """Seconds, and the bound that sets them; one latency for the first bytes is added."""
        bounds = self.seconds(card)
        bound = max(bounds, key=lambda name: bounds[name])
        return bounds[bound] + card.latency, bound


def stream(launch: Launch, card: Card, blocks: int) -> Stream | None:
    """Of a product's smallest grid, with so many programs resident on a processor; None for another kernel."""
    if launch.kernel not in PRODUCTS:
        return None
    weight_at, side, outputs = PRODUCTS[launch.kernel]
    (_, inner), weight = launch.shapes[0], launch.shapes[weight_at]
    grid = min(launch.grids, key=lambda g: g[1])
    columns, row_blocks, *split = (int(n) for n in grid)
    parts = split[0] if split else 1
    # Specialisations are shared by launches of other batch sizes: rows are those of the smallest grid.
    rows = min(launch.shapes[0][0], row_blocks * int(launch.constants["BM"]))
    width = 4 if "float32" in str(launch.arguments[0].dtype) else 2
    c = launch.constants
    size = weight[0] * weight[1] * width
    merged = 2 * 4 * parts * rows * weight[1] if parts > 1 else 0
    programs = columns * row_blocks * parts
    resident = min(programs, card.processors * blocks)
    tile = int(c["BK"]) * int(c[side]) * outputs * width
    return Stream(
        launch.kernel,
        rows,
        size,
        row_blocks * size + columns * rows * inner * width + merged,
        programs,
        resident * (int(c["num_stages"]) - 1) * tile,
    )


def table(card: Card, compiled: list[Compiled]) -> str:
    """The products of one session's passes (at most 64 rows), one row each; '' if there are none."""
    lines = []
    for one in compiled:
        found = None if one.resources is None else stream(one.launch, card, one.resources.blocks(card))
        if found is None or found.rows > 64:
            continue
        seconds, bound = found.predicted(card)
        shape = "x".join(map(str, one.launch.shapes[PRODUCTS[one.launch.kernel][0]]))
        lines.append(
            f"{found.name:16} {found.rows:3} rows, weight {shape:11} {found.weight / 1e6:6.1f} MB: "
            f"{found.programs:4} programs, {found.in_flight / 1e6:5.2f} MB in flight, "
            f"{found.cached / 1e6:6.1f} MB from the cache; predicted {seconds * 1e6:5.1f} us ({bound}), "
            f"{found.weight / card.bandwidth / seconds:.0%} of bandwidth"
        )
    if not lines:
        return ""
    head = (
        f"Predicted, not timed: {card.name} with {card.bandwidth / 1e9:.0f} GB/s needs {card.in_flight / 1e6:.1f} MB "
        f"in flight at an assumed {card.latency * 1e9:.0f} ns"
    )
    return "\n".join([head, *sorted(set(lines))])
