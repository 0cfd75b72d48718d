"""What a round must move and compute, from the dims alone: bytes, FLOPs and the time no device can beat.

Counts weights and each observation's prefix K/V once per pass, and multiply-adds as two FLOPs; activations are left out
(they stay in cache). Source: docs/reference/FLASH.md A.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.base.stages import OF_ROUTE
from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of one stage of one pass."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, n: int) -> Cost:
        """n passes, each reading everything again."""
        return Cost(self.flops * n, self.bytes * n)

    def floor_ms(self, ceiling: Ceiling) -> float:
        """The time in ms that neither the memory nor the arithmetic of a device can beat."""
        return 1e3 * max(self.flops / ceiling.flops_per_s, self.bytes / ceiling.bytes_per_s)

    def bound(self, ceiling: Ceiling) -> str:
        """Which of the two sets that time."""
        return "memory" if self.bytes / ceiling.bytes_per_s > self.flops / ceiling.flops_per_s else "compute"


@dataclass(frozen=True)
class Ceiling:
    """What a device can do at most."""

    name: str
    bytes_per_s: float
    flops_per_s: float


def _dense(rows: float, inner: int, outer: int, width: int) -> Cost:
    """rows x inner by inner x outer, the weight read once (`width` bytes a number)."""
    return Cost(2.0 * rows * inner * outer, float(inner) * outer * width)


def _qkv(rows: float, d: GemmaDims, width: int) -> Cost:
    return _dense(rows, d.width, (d.num_heads + 2 * d.num_kv_heads) * d.head_dim, width)


def _block(rows: float, keys: float, d: GemmaDims, width: int) -> Cost:
    """One Gemma layer over `rows` rows that each see `keys` keys."""
    inner = d.num_heads * d.head_dim
    attention = Cost(4.0 * rows * keys * inner, 0.0)
    out = _dense(rows, inner, d.width, width)
    return _qkv(rows, d, width) + attention + out + _dense(rows, d.width, 3 * d.mlp_dim, width)


def _encoder(dims: Pi0Dims, views: int, width: int) -> Cost:
    d, rows = dims.vision, views * dims.vision.tokens
    heads = d.num_heads * d.head_dim
    if d.stem is None:
        total = _dense(rows, 3 * int(d.patch or 1) ** 2, d.width, width)
    else:
        side, channels, total = d.image_size // d.stem.pool, 3, Cost(0.0, 0.0)
        for layer in d.stem.layers:
            side = (side + 2 * (layer.kernel // 2) - layer.kernel) // layer.stride + 1
            total += _dense(views * side * side, layer.kernel**2 * channels, layer.channels, width)
            channels = layer.channels
    attention = Cost(4.0 * rows * d.tokens * heads, 0.0)
    layer_cost = _dense(rows, d.width, 4 * heads, width) + attention + _dense(rows, d.width, 2 * d.mlp_dim, width)
    return total + layer_cost.times(d.depth) + _dense(rows, d.width, dims.prefix.width, width)


def _expert(dims: Pi0Dims, length: int, suffixes: int, width: int) -> Cost:
    """One expert pass of `suffixes` suffixes over one prefix of `length` rows."""
    d, rows = dims.expert, dims.action_horizon + 1
    layer = _block(suffixes * rows, length + rows, d, width).times(d.depth)
    actions = suffixes * dims.action_horizon
    ends = _dense(actions, dims.action_dim, d.width, width) + _dense(actions, 2 * d.width, d.width, width)
    ends += _dense(actions, d.width, d.width, width) + _dense(actions, d.width, dims.action_dim, width)
    return layer + ends + Cost(0.0, 2.0 * d.depth * length * dims.kv_width * width)


def stage_costs(
    dims: Pi0Dims, draft: DraftDims | None, *, views: int, prompt: int, times: int = 2, width: int = 2
) -> dict[str, Cost]:
    """Stage name -> cost of one pass over an observation with `views` views and `prompt` tokens.

    Numbers have `width` bytes; verification takes `times` times. The last prefix layer computes keys and values only;
    the draft block computes nothing else for its prefix rows.
    """
    d, length = dims.prefix, views * dims.vision.tokens + prompt
    out = {
        "encoder": _encoder(dims, views, width),
        "prefill": _block(length, length, d, width).times(d.depth - 1)
        + _dense(length, d.width, 2 * dims.kv_width, width),
        "denoise": _expert(dims, length, 1, width).times(dims.num_steps),
    }
    if draft is not None:
        block = GemmaDims(draft.width, 1, draft.mlp_dim, draft.num_heads, draft.num_kv_heads, draft.head_dim)
        kv = Cost(2.0 * (length + 1) * draft.width * 2 * draft.num_kv_heads * draft.head_dim, 0.0)
        rows = _block(draft.chunk, length + 1 + draft.chunk, block, width)
        ends = _dense(1, draft.state_dim, draft.width, width) + _dense(draft.chunk, draft.width, draft.out_dim, width)
        queries = Cost(0.0, float(draft.chunk) * draft.width * width)
        out["draft"] = rows + kv + ends + queries
        out["verify"] = _expert(dims, length, times, width)
    return out


def route_costs(stages: dict[str, Cost]) -> dict[str, list[Cost]]:
    """Route -> its stages' costs; the draft route only where there is a draft head."""
    return {r: [stages[s] for s in names] for r, names in OF_ROUTE.items() if all(s in stages for s in names)}
