"""The five stages over the kernels, B observations at a time, on padded prefixes with their valid lengths as data.

The same functions of weights and tensors as vision, prefix, expert and draft compute, for inference only. Lengths lie
on the device, so that one captured graph serves every prompt of its bucket. cuBLAS does the products of encoder and
prefill, SDPA their attention; the kernels do the rest (docs/kernels.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashtrail.policies.pi0 import vision
from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims
from flashtrail.policies.pi0.expert import time_embedding
from flashtrail.policies.pi0.gemma import additive_mask, attend, rope_tables
from flashtrail.policies.pi0.kernels import launch
from flashtrail.policies.pi0.prefix import embed_prompt
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import GRIPPER, Floats, Verdict, window

Weights = Mapping[str, Any]
HEAD_COLUMNS = 16


@dataclass(frozen=True)
class Cache:
    """Prefix K and V [L, B, S, Hkv, hd] of which the first lengths[b] (int32 [B]) slots are valid."""

    k: Tensor
    v: Tensor
    lengths: Tensor


def pack(w: Mapping[str, Any]) -> dict[str, Any]:
    """Prepared weights (weights.prepare) with what these stages take besides; vision's q, k and v become one."""
    out = dict(w)
    for part in ("weight", "bias"):
        names = [f"vision.layers.{n}.{part}" for n in ("q", "k", "v")]
        layers = zip(*(out.pop(n) for n in names), strict=True)
        out[f"vision.layers.qkv.{part}"] = tuple(torch.cat(layer, dim=-1) for layer in layers)
    width = w["time_mlp_in.bias"].shape[0]
    first = w["time_mlp_in.weight"][:width].float()
    out["fused_in"] = (w["action_in_proj.weight"].float() @ first).to(w["time_mlp_in.weight"].dtype)
    out["fused_bias"] = w["action_in_proj.bias"].float() @ first + w["time_mlp_in.bias"].float()
    return out


def pack_draft(w: Weights, columns: int) -> dict[str, Any]:
    """A draft head's weights with its products side by side; their plain forms are dropped.

    The action head gets columns of zeros up to a multiple of 16, if `columns` (of the action buffer) has room for
    them: rows of 7 numbers of 2 bytes could only be loaded one number at a time.
    """
    out = dict(w)
    spare = -w["action_head.bias"].shape[0] % HEAD_COLUMNS
    if w["action_head.bias"].shape[0] + spare <= columns:
        out |= {f"action_head.{n}": F.pad(w[f"action_head.{n}"], (0, spare)) for n in ("weight", "bias")}
    out["qkv.weight"] = torch.cat([w[f"{n}.weight"] for n in ("q", "k", "v")], dim=-1)
    out["kv.weight"] = torch.cat([w[f"{n}.weight"] for n in ("k", "v")], dim=-1)
    out["gate_up.weight"] = torch.cat([w["gate.weight"], w["up.weight"]], dim=-1)
    for name in ("q", "k", "v", "gate", "up"):
        del out[f"{name}.weight"]
    return out


def all_positions(count: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine float32 [count, head_dim / 2] of positions 0 .. count - 1."""
    cos, sin = rope_tables(torch.arange(count, device=device)[None], head_dim, torch.float32)
    return cos[0, :, 0].contiguous(), sin[0, :, 0].contiguous()


def _suffix_tables(rope: tuple[Tensor, Tensor], lengths: Tensor, draws: int, rows: int) -> tuple[Tensor, Tensor]:
    """Tables [B * draws * rows, hd / 2] of rows whose positions go on where each valid prefix ends."""
    steps = torch.arange(rows, device=lengths.device)
    at = (lengths.repeat_interleave(draws)[:, None] + steps).flatten()
    return rope[0][at], rope[1][at]


# --- encoder and prefill: large products ---


def encode(w: Weights, dims: Pi0Dims, images: Tensor, token_ids: Tensor, out: Tensor) -> None:
    """Views [B, V, H, W, 3] in [-1, 1] and token ids [B, P] -> out[B, V * tokens + P, W]."""
    views = images.shape[1] * dims.vision.tokens
    out[:, views:] = embed_prompt(w, token_ids)
    if views:
        out[:, :views] = _encode_views(w, dims, images)


def _encode_views(w: Weights, dims: Pi0Dims, images: Tensor) -> Tensor:
    d = dims.vision
    pixels = images.flatten(0, 1)
    if d.stem is None:
        x = vision.embed_patches(w, int(d.patch or 1), pixels)
    else:
        x = vision.embed_stem(w, d.stem, d.image_size, pixels)
    count, tokens = x.shape[:2]
    x = (x + w["vision.pos_embed"]).flatten(0, 1)

    def norm(name: str, layer: int) -> Tensor:
        scale, bias = (w[f"vision.layers.{name}.{part}"][layer] for part in ("scale", "bias"))
        return F.layer_norm(x, (d.width,), scale, bias, vision.LAYER_NORM_EPS)

    def linear(name: str, y: Tensor, layer: int) -> Tensor:
        return torch.addmm(w[f"vision.layers.{name}.bias"][layer], y, w[f"vision.layers.{name}.weight"][layer])

    for i in range(d.depth):
        heads = linear("qkv", norm("ln1", i), i).view(count, tokens, 3, d.num_heads, d.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * tokens, -1)
        x = x + linear("o", attended, i)
        x = x + linear("fc2", F.gelu(linear("fc1", norm("ln2", i), i), approximate="tanh"), i)
    x = F.layer_norm(x, (d.width,), w["vision.norm.scale"], w["vision.norm.bias"], vision.LAYER_NORM_EPS)
    x = torch.addmm(w["vision.head.bias"], x, w["vision.head.weight"])
    return x.view(images.shape[0], -1, dims.prefix.width)


def prefill(w: Weights, dims: Pi0Dims, emb: Tensor, rope: tuple[Tensor, Tensor], cache: Cache) -> None:
    """Prefix embeddings [B, S, W], valid up to cache.lengths -> cache.k, cache.v. Slots past them hold no NaN."""
    d, name = dims.prefix, "prefix.layers"
    batch, length = emb.shape[:2]
    tables = (rope[0][:length].repeat(batch, 1), rope[1][:length].repeat(batch, 1))
    valid = torch.arange(length, device=emb.device) < cache.lengths[:, None]
    mask = additive_mask(valid[:, None, :], d.num_heads // d.num_kv_heads, emb.dtype)
    x = emb.reshape(batch * length, d.width)
    for i in range(d.depth):
        last = i == d.depth - 1  # keys and values only: nobody reads more
        heads = (0 if last else d.num_heads) + 2 * d.num_kv_heads
        weight = w[f"{name}.qkv.weight"][i][:, (d.num_heads * d.head_dim if last else 0) :]
        y = launch.rms_norm(x, w[f"{name}.input_norm.scale"][i])
        qkv = (y @ weight).view(batch * length, heads, d.head_dim)
        k, v = cache.k[i].flatten(0, 1), cache.v[i].flatten(0, 1)
        q = launch.rope_into_cache(qkv, tables, 0 if last else d.num_heads, k, v)
        if last:
            return
        a = attend(q.view(batch, length, d.num_heads, d.head_dim), cache.k[i], cache.v[i], mask)
        x = torch.addmm(x, a.flatten(0, 1), w[f"{name}.o.weight"][i])
        y = launch.rms_norm(x, w[f"{name}.post_norm.scale"][i])
        x = torch.addmm(x, launch.gated_gelu(y @ w[f"{name}.gate_up.weight"][i]), w[f"{name}.down.weight"][i])


# --- expert and draft: few rows, many weights ---


def _layer(w: Weights, d: GemmaDims, x: Tensor, tables: tuple[Tensor, Tensor], cache: Cache) -> Tensor:
    """One Gemma layer over rows x[G, R, W] and one layer's prefix cache (k, v [B, S, Hkv, hd])."""
    groups, rows, width = x.shape
    flat = x.view(groups * rows, width)
    turning = d.num_heads + d.num_kv_heads
    qkv = launch.norm_qkv_rope(flat, w["input_norm.scale"], w["qkv.weight"], tables, turning)
    qkv = qkv.view(groups, rows, -1, d.head_dim)
    attended = launch.two_part_attention(qkv, cache.k, cache.v, cache.lengths, d.num_heads)
    flat = launch.linear_residual(attended.view(groups * rows, -1), w["o.weight"], flat)
    inner = launch.norm_gated(flat, w["post_norm.scale"], w["gate_up.weight"])
    return launch.linear_residual(inner, w["down.weight"], flat).view(groups, rows, width)


def time_biases(w: Weights, t: Tensor) -> Tensor:
    """t[n] -> float32 [n, We]: all of the action-time MLP's first layer that does not depend on the actions."""
    width = w["fused_bias"].shape[0]
    return time_embedding(t, width).float() @ w["time_mlp_in.weight"][width:].float() + w["fused_bias"]


def state_tokens(w: Weights, state: Tensor) -> Tensor:
    """state[B, D] -> [B, We]."""
    return torch.addmm(w["state_proj.bias"], state.to(w["state_proj.weight"].dtype), w["state_proj.weight"])


@dataclass(frozen=True)
class Suffix:
    """What passes of the expert read besides their own rows: weights, prefix caches, states [B, D], all positions."""

    w: Weights
    dims: Pi0Dims
    cache: Cache
    state: Tensor
    rope: tuple[Tensor, Tensor]

    def token(self) -> Tensor:
        """State tokens [B, We]."""
        return state_tokens(self.w, self.state)

    def tables(self, draws: int) -> tuple[Tensor, Tensor]:
        """Tables of the rows of `draws` groups for each prefix."""
        return _suffix_tables(self.rope, self.cache.lengths, draws, self.dims.action_horizon + 1)


def expert_pass(
    s: Suffix,
    x_t: Tensor,
    bias: Tensor,
    token: Tensor,
    tables: tuple[Tensor, Tensor],
    factors: Tensor,
    out: Tensor,
) -> None:
    """out = x_t + factor * velocity(x_t): x_t, out float32 [G, A, D] (may be one), factors and bias [G or 1, ...].

    Groups are B x draws: `token`[B, We] and cache [L, B, ...] are shared by consecutive groups.
    """
    w, dims, cache = s.w, s.dims, s.cache
    x = launch.embed_actions(x_t, w["fused_in"], bias, w["time_mlp_out.weight"], w["time_mlp_out.bias"], token)
    layers = {k.removeprefix("expert.layers."): v for k, v in w.items() if k.startswith("expert.layers.")}
    for i in range(dims.expert.depth):
        own = {k: v[i] for k, v in layers.items()}
        x = _layer(own, dims.expert, x, tables, Cache(cache.k[i], cache.v[i], cache.lengths))
    head = w["action_out_proj.weight"], w["action_out_proj.bias"]
    launch.project_update(x, *head, scale=w["expert.norm.scale"], base=x_t, factors=factors, out=out)


def denoise(s: Suffix, biases: Tensor, step: Tensor, x: Tensor) -> None:
    """Euler steps in place: x float32 [B, A, D] from noise to actions, one per row of `biases`; step[1] is -1 / n."""
    tables, token = s.tables(1), s.token()
    for i in range(len(biases)):
        expert_pass(s, x, biases[i : i + 1], token, tables, step, x)


def verify(s: Suffix, biases: Tensor, times: Tensor, draft: Tensor, noise: Tensor, out: Tensor) -> None:
    """draft, noise float32 [B, A, D], times[K], biases[K, We] -> out [B, K, A, D], estimates of the clean chunk.

    All times in one pass; each attends the prefix where it lies and its own rows, never another time's.
    """
    batch, count = len(draft), len(times)
    t = times[None, :, None, None]
    x_t = (t * noise[:, None] + (1.0 - t) * draft[:, None]).flatten(0, 1)
    rows = biases.repeat(batch, 1), (-times).repeat(batch)
    expert_pass(s, x_t, rows[0], s.token(), s.tables(count), rows[1], out.view_as(x_t))


def draft(
    w: Weights, d: DraftDims, emb: Tensor, lengths: Tensor, state: Tensor, rope: tuple[Tensor, Tensor], out: Tensor
) -> None:
    """Prefix embeddings [B, S, W] valid up to lengths -> out float32 [B, chunk, >= out_dim], its first columns.

    State and queries are one group of rows, as state and actions are in the expert: the state row is computed and
    not read. Prefix rows give keys and values only.
    """
    batch, length, width = emb.shape
    tables = (rope[0][:length], rope[1][:length])
    kv = launch.norm_qkv_rope(emb.reshape(-1, width), w["input_norm.scale"], w["kv.weight"], tables, d.num_kv_heads)
    kv = kv.view(batch, length, 2 * d.num_kv_heads, d.head_dim)
    cache = Cache(kv[:, :, : d.num_kv_heads], kv[:, :, d.num_kv_heads :], lengths)
    token = torch.addmm(w["state_token.bias"], state.to(emb.dtype), w["state_token.weight"])
    x = torch.cat((token[:, None], w["action_queries"].expand(batch, -1, -1)), dim=1)
    block = GemmaDims(d.width, 1, d.mlp_dim, d.num_heads, d.num_kv_heads, d.head_dim)
    x = _layer(w, block, x, _suffix_tables(rope, lengths, 1, d.chunk + 1), cache)
    launch.project_update(x, w["action_head.weight"], w["action_head.bias"], out=out)


# --- judgement ---


def rules(settings: FlashSettings, horizon: int, dim: int) -> list[float]:
    """What launch.judge takes of the settings, as six numbers: data, so that a graph serves every setting."""
    s = settings
    counted = min(s.dist_dims, dim, GRIPPER) if dim > GRIPPER else min(s.dist_dims, dim)
    steps = window(s.max_exec_steps, horizon)
    flags = [float(s.enable_gripper_verify), float(s.enable_gripper_post_verify)]
    return [s.tau_radius, float(counted), float(steps), s.gripper_switch_threshold, *flags]


def unpack_verdict(packed: Floats, horizon: int, dim: int) -> Verdict:
    """One row of launch.judge's output -> Verdict."""
    accepted, radius, stop, cut = (float(v) for v in packed[:4])
    return Verdict(packed[4:].reshape(horizon, dim).copy(), int(accepted), radius, bool(stop), bool(cut))


def capacity_of(dims: Pi0Dims, views: int, bucket: int) -> int:
    """Prefix slots of so many views and a prompt bucket."""
    return views * dims.vision.tokens + bucket
