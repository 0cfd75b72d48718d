"""Stages `denoise` and the pass behind `verify`: the action expert over a prefix cache.

Flow matching as pi0 has it: x_t = t * noise + (1 - t) * x0, v close to noise - x0, t from 1 (noise) to 0.
Differentiable and batch-first; nothing is written in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.policies.pi0.gemma import additive_mask, attend, mlp, positions_of, project_qkv, rms_norm, rope_tables
from flashtrail.policies.pi0.prefix import PrefixCache

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


def time_embedding(t: Tensor, width: int) -> Tensor:
    """t[B] -> [B, width] float64: sine then cosine of 2 pi t / period, periods geometric from 4e-3 to 4.

    The fastest angle is 1571 rad at t = 1, where float32 sines are off by 1e-4; float64 as upstream's torch model.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=t.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = t.to(torch.float64)[:, None] * (2.0 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


@dataclass(frozen=True)
class Suffix:
    """What every pass over one prefix and state shares: the state token, rotary tables, mask, per-layer prefix K/V."""

    state_token: Tensor
    tables: tuple[Tensor, Tensor]
    mask: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def suffix_mask(valid: Tensor | None, length: int, rows: int, device: torch.device) -> Tensor:
    """Allowed [B or 1, rows, S + rows]: the state (row 0) sees prefix and itself; actions see all that is valid."""
    own = torch.ones(rows, rows, dtype=torch.bool, device=device)
    own[0, 1:] = False
    prefix = torch.ones(1, length, dtype=torch.bool, device=device) if valid is None else valid
    batch = prefix.shape[0]
    return torch.cat((prefix[:, None, :].expand(batch, rows, length), own.expand(batch, rows, rows)), dim=-1)


def prepare_suffix(w: Mapping[str, Tensor], dims: Pi0Dims, cache: PrefixCache, state: Tensor, batch: int) -> Suffix:
    """Gather what a pass of `batch` rows over `cache` needs; cache and state rows repeat to fill the batch."""
    if batch % cache.batch or batch % state.shape[0]:
        raise ValueError(
            f"batch {batch} is not a multiple of the cache's {cache.batch} or the state's {state.shape[0]}"
        )
    cache = cache.repeat(batch // cache.batch)
    d, rows, device = dims.expert, dims.action_horizon + 1, state.device
    token = state.to(w["state_proj.weight"].dtype) @ w["state_proj.weight"] + w["state_proj.bias"]
    token = token.repeat_interleave(batch // state.shape[0], dim=0)[:, None]
    # Suffix positions go on where the valid prefix ends.
    start = positions_of(cache.valid, 1 if cache.valid is None else batch, cache.length, device)[:, -1:] + 1
    tables = rope_tables(start + torch.arange(rows, device=device), d.head_dim, token.dtype)
    allowed = suffix_mask(cache.valid, cache.length, rows, device)
    mask = additive_mask(allowed, d.num_heads // d.num_kv_heads, token.dtype)
    assert mask is not None
    return Suffix(token, tables, mask, cache.k.unbind(0), cache.v.unbind(0))


def time_bias(w: Mapping[str, Tensor], t: Tensor) -> Tensor:
    """t[B] -> [B, We]: the time half of the action-time MLP's first layer, with its bias."""
    width = w["time_mlp_in.bias"].shape[0]
    emb = time_embedding(t, width).to(w["time_mlp_in.weight"].dtype)
    return emb @ w["time_mlp_in.weight"][width:] + w["time_mlp_in.bias"]


def embed_actions(w: Mapping[str, Tensor], x_t: Tensor, bias: Tensor) -> Tensor:
    """Noisy actions [B, 50, 32] and a time bias [B, We] -> action tokens [B, 50, We].

    W_in [a; e(t)] is split into W_in[:We] a + (W_in[We:] e(t) + b), so that ten steps share one time product.
    """
    width = bias.shape[-1]
    a = x_t.to(bias.dtype) @ w["action_in_proj.weight"] + w["action_in_proj.bias"]
    hidden = F.silu(a @ w["time_mlp_in.weight"][:width] + bias[:, None])
    return hidden @ w["time_mlp_out.weight"] + w["time_mlp_out.bias"]


def suffix_velocity(w: Mapping[str, Tensor], dims: Pi0Dims, suffix: Suffix, x_t: Tensor, bias: Tensor) -> Tensor:
    """One expert pass: x_t[B, 50, 32], time bias [B, We] -> v[B, 50, 32] in x_t's dtype."""
    d = dims.expert
    x = torch.cat((suffix.state_token, embed_actions(w, x_t, bias)), dim=1)
    for i in range(d.depth):
        y = rms_norm(x, w["expert.layers.input_norm.scale"][i])
        q, k, v = project_qkv(w, "expert", i, y, d, suffix.tables)
        k = torch.cat((suffix.keys[i], k), dim=1)
        v = torch.cat((suffix.values[i], v), dim=1)
        x = x + attend(q, k, v, suffix.mask) @ w["expert.layers.o.weight"][i]
        x = mlp(w, "expert", i, x)
    x = rms_norm(x[:, 1:], w["expert.norm.scale"])
    return (x @ w["action_out_proj.weight"] + w["action_out_proj.bias"]).to(x_t.dtype)


def velocity(
    w: Mapping[str, Tensor], dims: Pi0Dims, cache: PrefixCache, state: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """state[B, 32], x_t[B, 50, 32], t[B] -> v[B, 50, 32].

    The batches of cache and state may be divisors of x_t's (several draws per prefix): rows then repeat in place.
    """
    suffix = prepare_suffix(w, dims, cache, state, x_t.shape[0])
    return suffix_velocity(w, dims, suffix, x_t, time_bias(w, t))


def euler_times(num_steps: int) -> NDArray[Any]:
    """The float32 times [num_steps] of the Euler steps: 1 - i / n, each rounded once.

    The JAX reference accumulates -1/n in float32 instead and ends 7e-8 off, which the fastest time frequency
    turns into 6e-5 of an action; upstream's torch model has these times.
    """
    return (1.0 - np.arange(num_steps) / num_steps).astype(np.float32)


def denoise(
    w: Mapping[str, Tensor], dims: Pi0Dims, cache: PrefixCache, state: Tensor, noise: Tensor, num_steps: int
) -> Tensor:
    """Euler from noise[B, 50, 32] at t = 1 to actions[B, 50, 32] at t = 0 in num_steps equal steps."""
    suffix = prepare_suffix(w, dims, cache, state, noise.shape[0])
    biases = time_bias(w, torch.from_numpy(euler_times(num_steps)).to(noise.device))
    x, dt = noise, -1.0 / num_steps
    for i in range(num_steps):
        x = x + dt * suffix_velocity(w, dims, suffix, x, biases[i : i + 1])
    return x
