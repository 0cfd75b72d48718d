"""Weights arranged for the stages of lean.py: what is constant is multiplied out once, in float64, and rounded once.

Norm scales go into the product that reads the normed rows; products over the same rows lie side by side; rotary halves
become pairs; tanh-GELU's constants go into the products around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flashtrail.policies.pi0 import expert, gemma
from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims

# gelu(x) = x sigmoid(a x + b x^3). With g = GELU_GAIN x this is g sigmoid(g (g^2 + GELU_SHIFT)) / GELU_GAIN.
GELU_GAIN = (2.0 * gemma.GELU_SCALE * gemma.GELU_CUBIC) ** (1.0 / 3.0)
GELU_SHIFT = 2.0 * gemma.GELU_SCALE / GELU_GAIN
MOST_NUMBERS = 1 << 26  # above it products take nearly all of the time, and a second copy too much memory


@dataclass(frozen=True)
class Layer:
    """One Gemma layer. The rows it takes are x / sqrt(sum(x^2) + width * eps): see Rows.norm in lean.py."""

    qkv: Tensor  # [W, (Hq + 2 Hkv) * hd], query and key columns in rotary pairs
    o: Tensor  # [Hq * hd, W]
    gate_up: Tensor  # [2, W, M]
    down: Tensor  # [M, W]


@dataclass(frozen=True)
class Affine:
    """y @ weight + bias."""

    weight: Tensor
    bias: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return torch.addmm(self.bias, y, self.weight)


@dataclass(frozen=True)
class VisionLayer:
    """One SigLIP layer over rows of zero mean and unit variance."""

    qkv: Affine
    o: Affine
    fc1: Affine
    fc2: Affine


@dataclass(frozen=True)
class Weights:
    """A policy's weights; `rotary` [P, hd / 2] complex: the turn of each position."""

    dims: Pi0Dims
    stem: tuple[tuple[Tensor, Tensor], ...]  # (kernel [out, in, k, k], bias) of each layer
    patch: Affine | None
    pos_embed: Tensor
    vision: tuple[VisionLayer, ...]
    projector: Affine
    embed: Tensor  # [vocabulary, W], scaled
    prefix: tuple[Layer, ...]  # the last one: only its key and value columns of qkv
    expert: tuple[Layer, ...]
    state: Affine
    action_in: Tensor  # [D, We]: action projection and the time MLP's first layer in one
    time_in: Affine  # the time embedding's half of that layer, float64, with all biases
    time_out: Affine
    euler: Tensor  # [n, We]: the time biases of the Euler steps
    action_out: Affine
    rotary: Tensor


@dataclass(frozen=True)
class Draft:
    """A draft head's weights; what its learned queries give does not depend on the observation."""

    dims: DraftDims
    kv: Tensor  # [W, 2 * Hkv * hd], key columns in rotary pairs
    state: Affine
    queries: Tensor  # [A, W]
    own: Tensor  # [A, (Hq + 2 Hkv) * hd]: queries, keys and values of the queries before they turn
    layer: Layer
    action: Affine
    rotary: Tensor


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(math.prod(shape) for shape in shapes.values())


def pairs(columns: Tensor, heads: int, head_dim: int) -> Tensor:
    """Columns [.., heads * hd] of heads in two rotary halves -> the same with the halves' partners side by side."""
    halves: Tensor = columns.unflatten(-1, (heads, 2, head_dim // 2))
    return halves.transpose(-1, -2).flatten(-3)


def rotations(count: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Complex [count, hd / 2]: the turn of positions 0 .. count - 1."""
    cos, sin = gemma.rope_tables(torch.arange(count)[None], head_dim, dtype)
    return torch.complex(cos[0, :, 0], sin[0, :, 0])


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """The product that follows an RMSNorm, with the norm's scale in it (float64)."""
    return (math.sqrt(len(scale)) * (1.0 + scale.double()))[:, None] * weight.double()


def _layer(w: Mapping[str, Tensor], d: GemmaDims) -> Layer:
    """From one layer's plain tensors (q, k, v, o, gate, up, down, both norms)."""
    dtype = w["o.weight"].dtype
    turning = [pairs(w["q.weight"], d.num_heads, d.head_dim), pairs(w["k.weight"], d.num_kv_heads, d.head_dim)]
    qkv = _scaled(torch.cat([*turning, w["v.weight"]], dim=-1), w["input_norm.scale"])
    gate = GELU_GAIN * _scaled(w["gate.weight"], w["post_norm.scale"])
    up = _scaled(w["up.weight"], w["post_norm.scale"]) / GELU_GAIN
    o, down = w["o.weight"].clone(), w["down.weight"].clone()
    return Layer(qkv.to(dtype), o, torch.stack((gate, up)).to(dtype).contiguous(), down)


def _stack(w: Mapping[str, Tensor], name: str, d: GemmaDims) -> tuple[Layer, ...]:
    own = {k.removeprefix(f"{name}.layers."): v for k, v in w.items() if k.startswith(f"{name}.layers.")}
    return tuple(_layer({k: v[i] for k, v in own.items()}, d) for i in range(d.depth))


def _affine(w: Mapping[str, Tensor], name: str) -> Affine:
    return Affine(w[f"{name}.weight"].clone(), w[f"{name}.bias"].clone())


def _after_norm(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Affine:
    """The product that follows a LayerNorm, with the norm's scale and shift in it."""
    wide = weight.double()
    both = scale.double()[:, None] * wide, bias.double() + shift.double() @ wide
    return Affine(*(part.to(weight.dtype) for part in both))


def _vision_layer(w: Mapping[str, Tensor]) -> VisionLayer:
    q, k, v, o, fc1, fc2 = (_affine(w, name) for name in ("q", "k", "v", "o", "fc1", "fc2"))
    weight, bias = torch.cat([q.weight, k.weight, v.weight], -1), torch.cat([q.bias, k.bias, v.bias])
    inner = _after_norm(fc1.weight, fc1.bias, w["ln2.scale"], w["ln2.bias"])
    return VisionLayer(
        _after_norm(weight, bias, w["ln1.scale"], w["ln1.bias"]),
        o,
        Affine(GELU_GAIN * inner.weight, GELU_GAIN * inner.bias),
        Affine(fc2.weight / GELU_GAIN, fc2.bias),
    )


def arrange(w: Mapping[str, Tensor], dims: Pi0Dims) -> Weights:
    """From the stacked tensors of a base artifact, on a CPU."""
    dtype, width = w["embed.weight"].dtype, dims.expert.width
    d, v = dims.prefix, dims.vision
    own = {k.removeprefix("vision.layers."): t for k, t in w.items() if k.startswith("vision.layers.")}
    prefix = _stack(w, "prefix", d)
    keys = (d.num_heads * d.head_dim, (d.num_heads + 2 * d.num_kv_heads) * d.head_dim)
    last = prefix[-1]
    prefix = (*prefix[:-1], Layer(last.qkv[:, keys[0] : keys[1]].contiguous(), last.o, last.gate_up, last.down))
    first, bias = w["time_mlp_in.weight"].double(), w["time_mlp_in.bias"].double()
    bias = bias + w["action_in_proj.bias"].double() @ first[:width]
    time_in = Affine(first[width:].clone(), bias)
    out = _scaled(w["action_out_proj.weight"], w["expert.norm.scale"]).to(dtype)
    stem = () if v.stem is None else tuple(_kernel(w, i) for i in range(len(v.stem.layers)))
    most = 4 * v.tokens + dims.max_token_len + dims.action_horizon + 1
    return Weights(
        dims=dims,
        stem=stem,
        patch=None if stem else _affine(w, "vision.patch_embed"),
        pos_embed=w["vision.pos_embed"].clone(),
        vision=tuple(_vision_layer({k: t[i] for k, t in own.items()}) for i in range(v.depth)),
        projector=_after_norm(
            w["vision.head.weight"], w["vision.head.bias"], w["vision.norm.scale"], w["vision.norm.bias"]
        ),
        embed=w["embed.weight"] * math.sqrt(d.width),
        prefix=prefix,
        expert=_stack(w, "expert", dims.expert),
        state=_affine(w, "state_proj"),
        action_in=(w["action_in_proj.weight"].double() @ first[:width]).to(dtype),
        time_in=time_in,
        euler=_biases(time_in, torch.from_numpy(expert.euler_times(dims.num_steps))).to(dtype),
        time_out=_affine(w, "time_mlp_out"),
        action_out=Affine(out, w["action_out_proj.bias"].clone()),
        rotary=rotations(most, d.head_dim, dtype),
    )


def _kernel(w: Mapping[str, Tensor], i: int) -> tuple[Tensor, Tensor]:
    """A stem layer's kernel as its convolution reads it, channels last, and its bias."""
    kernel = w[f"vision.stem.{i}.weight"].permute(3, 2, 0, 1)
    return kernel.contiguous(memory_format=torch.channels_last), w[f"vision.stem.{i}.bias"].clone()


def arrange_draft(w: Mapping[str, Tensor], d: DraftDims, dims: Pi0Dims) -> Draft:
    """From the tensors of a draft artifact, on a CPU."""
    block = GemmaDims(d.width, 1, d.mlp_dim, d.num_heads, d.num_kv_heads, d.head_dim)
    layer, queries = _layer(w, block), w["action_queries"]
    normed = gemma.rms_norm(queries.double(), torch.zeros(d.width, dtype=torch.float64)) / math.sqrt(d.width)
    most = 4 * dims.vision.tokens + dims.max_token_len + d.chunk + 1
    return Draft(
        dims=d,
        kv=layer.qkv[:, d.num_heads * d.head_dim :].contiguous(),
        state=_affine(w, "state_token"),
        queries=queries.clone(),
        own=(normed @ layer.qkv.double()).to(queries.dtype),
        layer=layer,
        action=_affine(w, "action_head"),
        rotary=rotations(most, d.head_dim, queries.dtype),
    )


def time_biases(w: Weights, t: Tensor) -> Tensor:
    """t[n] -> [n, We]: all of the action-time MLP's first layer that does not depend on the actions."""
    return _biases(w.time_in, t).to(w.action_in.dtype)


def _biases(time_in: Affine, t: Tensor) -> Tensor:
    return time_in(expert.time_embedding(t, len(time_in.bias)))
