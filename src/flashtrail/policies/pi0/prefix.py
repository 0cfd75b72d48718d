"""Stage `prefill`: prefix embeddings in, per-layer keys and values out.

Differentiable and batch-first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.policies.pi0.gemma import (
    additive_mask,
    apply_rope,
    attend,
    mlp,
    positions_of,
    project_qkv,
    rms_norm,
    rope_tables,
)


@dataclass(frozen=True)
class PrefixCache:
    """Keys (rotated, unscaled) and values of every layer: k, v [L, B, S, Hkv, hd]; valid [B, S] or None = all."""

    k: Tensor
    v: Tensor
    valid: Tensor | None

    @property
    def batch(self) -> int:
        return self.k.shape[1]

    @property
    def length(self) -> int:
        return self.k.shape[2]

    def repeat(self, n: int) -> PrefixCache:
        """Each row n times in place (row 0, row 0, row 1, ...): several noise draws over one prefix."""
        if n == 1:
            return self
        if self.batch == 1:  # a view: nothing is copied
            valid = None if self.valid is None else self.valid.expand(n, -1)
            return PrefixCache(self.k.expand(-1, n, -1, -1, -1), self.v.expand(-1, n, -1, -1, -1), valid)
        valid = None if self.valid is None else self.valid.repeat_interleave(n, dim=0)
        return PrefixCache(self.k.repeat_interleave(n, dim=1), self.v.repeat_interleave(n, dim=1), valid)


def embed_prompt(w: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
    """Token ids [B, P] -> language embeddings [B, P, W], scaled by sqrt(W) as Gemma does."""
    table = w["embed.weight"]
    return table[token_ids] * math.sqrt(table.shape[1])


def prefill(w: Mapping[str, Tensor], dims: Pi0Dims, emb: Tensor, valid: Tensor | None) -> PrefixCache:
    """Prefix embeddings [B, S, W] and valid [B, S] (None: all) -> PrefixCache.

    Valid slots see each other both ways. The last layer stops after its keys and values: nobody reads more.
    """
    d = dims.prefix
    batch, length = emb.shape[:2]
    tables = rope_tables(positions_of(valid, batch, length, emb.device), d.head_dim, emb.dtype)
    mask = additive_mask(None if valid is None else valid[:, None, :], d.num_heads // d.num_kv_heads, emb.dtype)
    keys, values = [], []
    x = emb
    for i in range(d.depth - 1):
        q, k, v = project_qkv(w, "prefix", i, rms_norm(x, w["prefix.layers.input_norm.scale"][i]), d, tables)
        keys.append(k)
        values.append(v)
        x = x + attend(q, k, v, mask) @ w["prefix.layers.o.weight"][i]
        x = mlp(w, "prefix", i, x)
    last = d.depth - 1
    y = rms_norm(x, w["prefix.layers.input_norm.scale"][last])
    shape = (batch, length, d.num_kv_heads, d.head_dim)
    keys.append(apply_rope((y @ w["prefix.layers.k.weight"][last]).view(shape), tables))
    values.append((y @ w["prefix.layers.v.weight"][last]).view(shape))
    return PrefixCache(torch.stack(keys), torch.stack(values), valid)
