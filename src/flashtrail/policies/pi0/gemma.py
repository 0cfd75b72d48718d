"""The parts of a Gemma block that prefix, expert and draft share: norm, rotary positions, attention, MLP.

Pure functions on tensors; knows nothing of what a row means or who calls. All weights are in x out (y = x @ w).
Source: Gemma as used by pi0 (RMSNorm 1 + scale with eps 1e-6, half-split RoPE with theta 10000, GeGLU tanh).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from flashtrail.policies.pi0.dims import GemmaDims

RMS_EPS = 1e-6
ROPE_THETA = 10_000.0
GELU_SCALE, GELU_CUBIC = math.sqrt(2.0 / math.pi), 0.044715


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x[..., W] / rms(x) * (1 + scale[W]), computed in float32 or better, returned in x's dtype."""
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + RMS_EPS)
    return (normed * (1.0 + scale.to(wide.dtype))).to(x.dtype)


def rope_tables(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [B, T, 1, head_dim / 2], of integer positions [B, T].

    Angles reach hundreds of radians, so they are formed in float64 and rounded once.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angle = (positions.to(torch.float64)[..., None] * ROPE_THETA**-exponent)[..., None, :]
    # RoPE itself runs in float32 at least: bf16 tables would cost more than the model's own rounding.
    wide = torch.promote_types(dtype, torch.float32)
    return angle.cos().to(wide), angle.sin().to(wide)


def apply_rope(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x[B, T, H, hd]: the first half of the head pairs with the second (half-split layout)."""
    cos, sin = tables
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def additive_mask(allowed: Tensor | None, num_groups: int, dtype: torch.dtype) -> Tensor | None:
    """Boolean mask [B, Tq or 1, Tk] -> what `attend` takes: 0 or -inf, rows repeated per query head of a group.

    Additive and in the model's dtype, because attention would convert a boolean mask anew in every layer.
    """
    if allowed is None:
        return None
    if allowed.shape[1] != 1:
        allowed = allowed.repeat_interleave(num_groups, dim=1)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, float("-inf"))[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: q[B, Tq, Hq, hd], k and v[B, Tk, Hkv, hd] -> [B, Tq, Hq * hd].

    The query heads of a group become extra rows over one shared K/V head, so that K and V are read once and,
    with a single K/V head, nothing is copied. `mask` is from `additive_mask`; None means all may be seen.
    """
    batch, rows, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    groups = heads // kv_heads
    q = (
        q.view(batch, rows, kv_heads, groups, head_dim)
        .transpose(1, 2)
        .reshape(batch, kv_heads, rows * groups, head_dim)
    )
    out = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.view(batch, kv_heads, rows, groups, head_dim).transpose(1, 2).reshape(batch, rows, heads * head_dim)


def project_qkv(
    w: Mapping[str, Tensor], stack: str, layer: int, y: Tensor, d: GemmaDims, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Normed rows y[B, T, W] -> rotated q[B, T, Hq, hd], rotated k and plain v[B, T, Hkv, hd] of one layer.

    Takes one fused product where the weights hold `qkv` (see weights.prepare), else the three plain ones.
    """
    batch, rows = y.shape[:2]
    fused = w.get(f"{stack}.layers.qkv.weight")
    if fused is None:
        parts = [y @ w[f"{stack}.layers.{name}.weight"][layer] for name in ("q", "k", "v")]
        qkv = torch.cat(parts, dim=-1)
    else:
        qkv = y @ fused[layer]
    heads = qkv.view(batch, rows, d.num_heads + 2 * d.num_kv_heads, d.head_dim)
    turning, v = heads.split((d.num_heads + d.num_kv_heads, d.num_kv_heads), dim=2)
    q, k = apply_rope(turning, tables).split((d.num_heads, d.num_kv_heads), dim=2)
    return q, k, v


def gelu(x: Tensor) -> Tensor:
    """tanh-GELU, x * sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    # The same function; on the CPU a sigmoid is vectorised better than a tanh, and without a graph in place is safe.
    inner = (x * x).mul_(2.0 * GELU_CUBIC * GELU_SCALE).add_(2.0 * GELU_SCALE).mul_(x)
    return inner.sigmoid_().mul_(x)


def mlp(w: Mapping[str, Tensor], stack: str, layer: int, x: Tensor) -> Tensor:
    """x + the gated MLP of one layer over the normed x[B, T, W]."""
    y = rms_norm(x, w[f"{stack}.layers.post_norm.scale"][layer])
    fused = w.get(f"{stack}.layers.gate_up.weight")
    if fused is None:
        gate, up = y @ w[f"{stack}.layers.gate.weight"][layer], y @ w[f"{stack}.layers.up.weight"][layer]
    else:
        gate, up = (y @ fused[layer]).chunk(2, dim=-1)
    return x + (gelu(gate) * up) @ w[f"{stack}.layers.down.weight"][layer]


def positions_of(valid: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """Positions [B, S] = cumsum(valid) - 1: a masked slot takes no position, so dropping it changes nothing."""
    if valid is None:
        return torch.arange(length, device=device).expand(batch, length)
    return valid.to(torch.int64).cumsum(dim=1) - 1
