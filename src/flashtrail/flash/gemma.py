"""The parts of a Gemma block that prefix, expert and draft share: norm, rotary positions, attention, MLP.

Pure functions on tensors; knows neither names of weights nor who calls. All weights are in x out (y = x @ w).
Source: Gemma as used by pi0 (RMSNorm 1 + scale with eps 1e-6, half-split RoPE with theta 10000, GeGLU tanh).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RMS_EPS = 1e-6
ROPE_THETA = 10_000.0


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x[..., W] / rms(x) * (1 + scale[W]); the mean square is taken in float32 or better."""
    return F.rms_norm(x, (x.shape[-1],), 1.0 + scale, RMS_EPS)


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


def grouped_mask(allowed: Tensor | None, num_groups: int) -> Tensor | None:
    """Boolean mask [B, Tq or 1, Tk] -> what `attend` takes: rows repeated per query head of a group."""
    if allowed is None:
        return None
    if allowed.shape[1] != 1:
        allowed = allowed.repeat_interleave(num_groups, dim=1)
    return allowed[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: q[B, Tq, Hq, hd], k and v[B, Tk, Hkv, hd] -> [B, Tq, Hq * hd].

    The query heads of a group become extra rows over one shared K/V head, so that K and V are read once and,
    with a single K/V head, nothing is copied. `mask` is from `grouped_mask`; None means all may be seen.
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


def geglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(gelu_tanh(x @ gate) * (x @ up)) @ down."""
    return (F.gelu(x @ gate, approximate="tanh") * (x @ up)) @ down


def positions_of(valid: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """Positions [B, S] = cumsum(valid) - 1: a masked slot takes no position, so dropping it changes nothing."""
    if valid is None:
        return torch.arange(length, device=device).expand(batch, length)
    return valid.to(torch.int64).cumsum(dim=1) - 1
