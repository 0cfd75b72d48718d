"""Stage `draft`: one Gemma block proposes a whole chunk from the prefix embeddings, without prefill or denoising.

Reads the pre-transformer embeddings of the current observation. Differentiable and batch-first. Source: FLASH's
DraftChunkHead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flashtrail.policies.pi0.dims import DraftDims
from flashtrail.policies.pi0.gemma import additive_mask, apply_rope, attend, gelu, positions_of, rms_norm, rope_tables


def draft(
    wd: Mapping[str, Tensor], ddims: DraftDims, prefix_emb: Tensor, valid: Tensor | None, state: Tensor
) -> Tensor:
    """Prefix embeddings [B, S, W], valid [B, S] (None: all), normalised state [B, 32] -> chunk [B, 50, 7].

    Sequence = prefix, one state token, learned queries. Prefix and state never see the queries, and with a single
    layer nobody reads their outputs, so they only give keys and values. No norm before the action head.
    """
    d = ddims
    batch, length = prefix_emb.shape[:2]
    context = length + 1
    token = state.to(prefix_emb.dtype) @ wd["state_token.weight"] + wd["state_token.bias"]
    queries = wd["action_queries"].expand(batch, -1, -1)
    y = rms_norm(torch.cat((prefix_emb, token[:, None], queries), dim=1), wd["input_norm.scale"])
    rows = torch.ones(batch, 1 + d.chunk, dtype=torch.bool, device=y.device)
    seen = None if valid is None else torch.cat((valid, rows), dim=1)
    cos, sin = rope_tables(positions_of(seen, 1 if seen is None else batch, y.shape[1], y.device), d.head_dim, y.dtype)
    k = apply_rope((y @ wd["k.weight"]).view(batch, -1, d.num_kv_heads, d.head_dim), (cos, sin))
    v = (y @ wd["v.weight"]).view(batch, -1, d.num_kv_heads, d.head_dim)
    q = (y[:, context:] @ wd["q.weight"]).view(batch, d.chunk, d.num_heads, d.head_dim)
    q = apply_rope(q, (cos[:, context:], sin[:, context:]))
    mask = additive_mask(None if seen is None else seen[:, None, :], d.num_heads // d.num_kv_heads, y.dtype)
    x = queries + attend(q, k, v, mask) @ wd["o.weight"]
    y = rms_norm(x, wd["post_norm.scale"])
    x = x + (gelu(y @ wd["gate.weight"]) * (y @ wd["up.weight"])) @ wd["down.weight"]
    return x @ wd["action_head.weight"] + wd["action_head.bias"]
