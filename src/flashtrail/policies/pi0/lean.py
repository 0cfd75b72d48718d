"""The stages in few operations: what the engine runs in float32 on a CPU, where a small policy's time goes to dispatch.

The same functions as vision.py, prefix.py, expert.py and draft.py, which stay the reference, arranged for inference:
weights from lean_weights.py, buffers and their views made once a call and written in place, keys and values in place
where attention reads them. Two facts about pi0 save work besides. The state token sees the prefix and itself only, so
it gives the same keys and values at every step and time: it is computed once, and no mask is left. The draft's queries
are learned, so their projections are constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flashtrail.policies.pi0 import gemma
from flashtrail.policies.pi0 import vision as vision_reference
from flashtrail.policies.pi0.dims import GemmaDims
from flashtrail.policies.pi0.lean_weights import GELU_SHIFT, Draft, Layer, Weights, pairs, rotations
from flashtrail.policies.pi0.prefix import PrefixCache

PAD = 8  # further columns of a residual row, for the norm's epsilon: whole vectors, so that rows stay aligned


@dataclass(frozen=True)
class Slots:
    """One layer's keys and values [G, Hkv, T, hd] as attention reads them, and where the rows' own ones go."""

    keys: Tensor
    values: Tensor
    own_keys: Tensor  # complex [G, Hkv, A, hd / 2], a view of keys
    own_values: Tensor  # [G, Hkv, A, hd], a view of values


class Rows:
    """G groups of A rows on their way through a Gemma stack: the residual stream and every buffer beside it.

    `turn`: complex [G or 1, A, hd / 2], each row's rotation. `mask`: additive, or None.
    """

    def __init__(self, d: GemmaDims, groups: int, count: int, turn: Tensor, mask: Tensor | None, like: Tensor) -> None:
        n, kv, half = groups * count, d.num_kv_heads, d.head_dim // 2
        per, heads = d.num_heads // kv, d.num_heads + 2 * kv
        self.stream = like.new_empty(n, d.width + PAD)
        # What the padding adds to a row's sum of squares is the norm's epsilon.
        self.stream[:, d.width :] = (gemma.RMS_EPS * d.width / PAD) ** 0.5
        self.x, self.y = self.stream[:, : d.width], like.new_empty(n, d.width)
        self.size, self.mask = like.new_empty(n, 1), mask
        self.qkv = like.new_empty(n, heads * d.head_dim)
        by_head = self.qkv.view(groups, count, heads, d.head_dim).transpose(1, 2)
        turning = torch.view_as_complex(by_head.unflatten(-1, (half, 2)))
        queries = turning[:, : d.num_heads].unflatten(1, (kv, per))
        self.q_in, self.k_in = queries.transpose(2, 3), turning[:, d.num_heads : d.num_heads + kv]
        self.v_in = by_head[:, d.num_heads + kv :]
        # Query heads of one key head are rows of one product.
        self.q = like.new_empty(groups, kv, count * per, d.head_dim)
        self.q_out = torch.view_as_complex(self.q.view(groups, kv, count, per, half, 2))
        self.q_turn, self.k_turn = turn[:, None, :, None], turn[:, None]
        self.split = groups, kv, count, per, d.head_dim
        self.twice = self.y.expand(2, n, d.width)
        self.hidden = like.new_empty(2, n, d.mlp_dim)
        self.gate, self.up = self.hidden.unbind(0)
        self.inner, self.shift = like.new_empty(n, d.mlp_dim), like.new_tensor(GELU_SHIFT)

    def norm(self) -> Tensor:
        """RMSNorm of the stream but for its scale and a factor sqrt(width), which the weights hold -> y [n, W]."""
        torch.linalg.vector_norm(self.stream, dim=-1, keepdim=True, out=self.size)
        return torch.div(self.x, self.size, out=self.y)

    def project(self, qkv: Tensor, slots: Slots) -> None:
        """Queries of the normed stream into q, keys and values into their slots."""
        torch.mm(self.norm(), qkv, out=self.qkv)
        self.turn_into(slots)

    def turn_into(self, slots: Slots) -> None:
        """Queries, keys and values that lie in qkv: the first two turned, all to where attention reads them."""
        torch.mul(self.q_in, self.q_turn, out=self.q_out)
        torch.mul(self.k_in, self.k_turn, out=slots.own_keys)
        slots.own_values.copy_(self.v_in)

    def finish(self, w: Layer, slots: Slots) -> None:
        """Attention over the slots and the gated MLP, added to the stream."""
        groups, kv, count, per, head_dim = self.split
        attended = F.scaled_dot_product_attention(self.q, slots.keys, slots.values, attn_mask=self.mask)
        attended = attended.view(groups, kv, count, per, head_dim).transpose(1, 2)
        self.x.addmm_(attended.reshape(groups * count, -1), w.o)
        self.norm()
        torch.bmm(self.twice, w.gate_up, out=self.hidden)
        gated(self.gate, self.shift, self.inner).mul_(self.up)
        self.x.addmm_(self.inner, w.down)

    def layer(self, w: Layer, slots: Slots) -> None:
        """One Gemma layer."""
        self.project(w.qkv, slots)
        self.finish(w, slots)


def gated(g: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """g = GELU_GAIN * x -> GELU_GAIN * gelu(x), into `out`."""
    torch.addcmul(shift, g, g, out=out)
    return out.mul_(g).sigmoid_().mul_(g)


def _turns(rotary: Tensor, valid: Tensor | None, start: int, count: int) -> Tensor:
    """Rotations [B or 1, count, hd / 2] of the slots from `start` on, where masked slots take no position.

    `rotary` has those of a policy's own views and prompts; for more they are formed anew.
    """
    end = start + count
    if len(rotary) < end:
        rotary = rotations(end, 2 * rotary.shape[1], torch.empty(0, dtype=rotary.dtype).real.dtype)
    if valid is None:
        return rotary[None, start:end]
    seen = F.pad(valid, (0, end - valid.shape[1]), value=True)
    return rotary[gemma.positions_of(seen, len(seen), end, seen.device)[:, start:]]


def _hidden(valid: Tensor | None, more: int, draws: int, dtype: torch.dtype) -> Tensor | None:
    """valid [B, S] -> additive mask [B * draws, 1, 1, S + more]: `more` slots behind the prefix are all seen."""
    if valid is None:
        return None
    seen = F.pad(valid, (0, more), value=True).repeat_interleave(draws, dim=0)
    return gemma.additive_mask(seen[:, None], 1, dtype)


# --- encoder ---


def encode_images(w: Weights, images: Tensor) -> Tensor:
    """Views [B, V, H, W, 3], float in [-1, 1] -> prefix embeddings [B, V * tokens, W]."""
    d = w.dims.vision
    batch, views = images.shape[:2]
    x = _patches(w, images.flatten(0, 1)) + w.pos_embed
    count, tokens = x.shape[:2]
    x = x.view(count * tokens, d.width)
    shift = x.new_tensor(GELU_SHIFT)

    def norm() -> Tensor:
        return F.layer_norm(x, (d.width,), None, None, vision_reference.LAYER_NORM_EPS)

    for layer in w.vision:
        heads = layer.qkv(norm()).view(count, tokens, 3, d.num_heads, d.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * tokens, -1)
        x += layer.o(attended)
        g = layer.fc1(norm())
        x += layer.fc2(gated(g, shift, torch.empty_like(g)))
    return w.projector(norm()).view(batch, views * tokens, -1)


def _patches(w: Weights, pixels: Tensor) -> Tensor:
    """Images [N, H, W, 3] -> patch or stem tokens [N, tokens, Wv], row-major, in memory of their own."""
    d = w.dims.vision
    if d.stem is None:
        assert w.patch is not None
        p, (n, height, width, _) = int(d.patch or 1), pixels.shape
        grid = pixels.reshape(n, height // p, p, width // p, p, 3).transpose(2, 3)
        return w.patch(grid.reshape(n * (height // p) * (width // p), -1)).view(n, -1, d.width)
    if d.stem.pool > 1 and pixels.shape[1] == d.image_size:
        pixels = pooled(pixels, d.stem.pool)
    x = pixels.permute(0, 3, 1, 2)
    for i, (layer, (kernel, bias)) in enumerate(zip(d.stem.layers, w.stem, strict=True)):
        x = F.conv2d(x, kernel, bias, stride=layer.stride, padding=layer.kernel // 2)
        if i + 1 < len(w.stem):
            x.relu_()
    return x.flatten(2).transpose(1, 2)


def pooled(pixels: Tensor, side: int) -> Tensor:
    """Average over squares: [N, H, W, 3] -> [N, H // side, W // side, 3]; rows first, which lie one after another."""
    n, height, width, channels = pixels.shape
    rows, columns = height // side, width // side
    cut = pixels[:, : rows * side].view(n, rows, side, width * channels)
    total = cut[:, :, 0] + cut[:, :, 1]
    for i in range(2, side):
        total += cut[:, :, i]
    across: Tensor = total.view(n, rows, width, channels)[:, :, : columns * side].unflatten(2, (columns, side))
    total = across[:, :, :, 0] + across[:, :, :, 1]
    for i in range(2, side):
        total += across[:, :, :, i]
    return total.mul_(1.0 / side**2)


def embed_prompt(w: Weights, token_ids: Tensor) -> Tensor:
    """Token ids [...] -> language embeddings [..., W]."""
    return F.embedding(token_ids, w.embed)


# --- prefill ---


def prefill(w: Weights, emb: Tensor, valid: Tensor | None) -> PrefixCache:
    """Prefix embeddings [B, S, W] and valid [B, S] (None: all) -> PrefixCache."""
    d = w.dims.prefix
    batch, length = emb.shape[:2]
    rows = Rows(d, batch, length, _turns(w.rotary, valid, 0, length), _hidden(valid, 0, 1, emb.dtype), emb)
    rows.x.copy_(emb.view(batch * length, d.width))
    keys, values = (emb.new_empty(d.depth, batch, d.num_kv_heads, length, d.head_dim) for _ in range(2))
    complex_keys = torch.view_as_complex(keys.unflatten(-1, (-1, 2)))
    for layer, *slot in zip(w.prefix[:-1], keys, values, complex_keys, values, strict=False):
        rows.layer(layer, Slots(*slot))
    # Of the last layer keys and values only: nobody reads more.
    kv = (rows.norm() @ w.prefix[-1].qkv).view(batch, length, 2, d.num_kv_heads, d.head_dim).permute(2, 0, 3, 1, 4)
    torch.mul(torch.view_as_complex(kv[0].unflatten(-1, (-1, 2))), rows.k_turn, out=complex_keys[-1])
    values[-1] = kv[1]
    halves = keys.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # the layout of a cache
    return PrefixCache(halves.transpose(2, 3).contiguous(), values.transpose(2, 3).contiguous(), valid)


# --- denoise and verify ---


class Suffix:
    """Passes of the expert over one prefix and state: `groups` is a multiple of the cache's rows and of the state's."""

    def __init__(self, w: Weights, cache: PrefixCache, state: Tensor, groups: int) -> None:
        self.w, d, horizon = w, w.dims.expert, w.dims.action_horizon
        batch, length, dtype = cache.batch, cache.length, w.action_in.dtype
        if groups % batch or groups % len(state):
            raise ValueError(f"{groups} groups are not a multiple of the cache's {batch} or the state's {len(state)}")
        draws, total = groups // batch, length + 1 + horizon
        shape = (d.depth, batch, draws, d.num_kv_heads, total, d.head_dim)
        keys, values = (w.action_in.new_empty(shape) for _ in range(2))
        keys[..., :length, :] = pairs(cache.k, 1, d.head_dim).transpose(2, 3)[:, :, None]
        values[..., :length, :] = cache.v.transpose(2, 3)[:, :, None]
        keys, values = keys.flatten(1, 2), values.flatten(1, 2)
        turn = _turns(w.rotary, cache.valid, length, 1 + horizon)
        turn = turn if len(turn) == 1 else turn.repeat_interleave(draws, dim=0)
        # The state, alone: what it gives is the same in every pass.
        self._slots = self._cut(keys, values, length, 1)
        alone = Rows(d, groups, 1, turn[:, :1], _hidden(cache.valid, 1, draws, dtype), w.action_in)
        alone.x.copy_(w.state(state.to(dtype)).repeat_interleave(groups // len(state), dim=0))
        for layer, slots in zip(w.expert[:-1], self._slots[:-1], strict=True):
            alone.layer(layer, slots)
        alone.project(w.expert[-1].qkv, self._slots[-1])
        self._slots = self._cut(keys, values, length + 1, horizon)
        self._rows = Rows(d, groups, horizon, turn[:, 1:], _hidden(cache.valid, 1 + horizon, draws, dtype), w.action_in)
        self._tokens = w.action_in.new_empty(groups, horizon, d.width)

    @staticmethod
    def _cut(keys: Tensor, values: Tensor, start: int, count: int) -> list[Slots]:
        """Slots of each layer for `count` rows from `start`, which see all before them and one another."""
        end = start + count
        turned = torch.view_as_complex(keys.unflatten(-1, (-1, 2)))[..., start:end, :]
        own = values[..., start:end, :]
        return [Slots(*four) for four in zip(keys[..., :end, :], values[..., :end, :], turned, own, strict=True)]

    def velocity(self, x_t: Tensor, bias: Tensor) -> Tensor:
        """x_t [G, A, D], time biases [G or 1, We] -> v [G * A, D]."""
        w, rows = self.w, self._rows
        torch.mm(x_t.reshape(-1, x_t.shape[-1]), w.action_in, out=self._tokens.view(-1, bias.shape[-1]))
        hidden = F.silu(self._tokens.add_(bias[:, None]), inplace=True).view(-1, bias.shape[-1])
        torch.addmm(w.time_out.bias, hidden, w.time_out.weight, out=rows.x)
        for layer, slots in zip(w.expert, self._slots, strict=True):
            rows.layer(layer, slots)
        return w.action_out(rows.norm())


def denoise(w: Weights, cache: PrefixCache, state: Tensor, noise: Tensor) -> Tensor:
    """Euler from noise [B, A, D] at t = 1 to actions [B, A, D] at t = 0 in the dims' number of equal steps."""
    steps = w.dims.num_steps
    suffix = Suffix(w, cache, state, len(noise))
    x = noise.clone()
    flat = x.view(-1, x.shape[-1])
    for i in range(steps):
        flat.add_(suffix.velocity(x, w.euler[i : i + 1]), alpha=-1.0 / steps)
    return x


def velocity(w: Weights, cache: PrefixCache, state: Tensor, x_t: Tensor, biases: Tensor) -> Tensor:
    """state [B, 32], x_t [G, A, D], time biases [G, We] -> v [G, A, D]; B of cache and state may be divisors of G."""
    return Suffix(w, cache, state, len(x_t)).velocity(x_t, biases).view_as(x_t)


# --- draft ---


def draft(w: Draft, emb: Tensor, valid: Tensor | None, state: Tensor) -> Tensor:
    """Prefix embeddings [B, S, W], valid [B, S] (None: all), normalised state [B, 32] -> chunk [B, A, out_dim]."""
    d = w.dims
    batch, length = emb.shape[:2]
    block = GemmaDims(d.width, 1, d.mlp_dim, d.num_heads, d.num_kv_heads, d.head_dim)
    context, total = length + 1, length + 1 + d.chunk
    keys, values = (emb.new_empty(batch, d.num_kv_heads, total, d.head_dim) for _ in range(2))
    turned = torch.view_as_complex(keys.unflatten(-1, (-1, 2)))
    turn = _turns(w.rotary, valid, 0, total)
    # Prefix and state: keys and values only.
    rows = emb.new_empty(batch, context, d.width + PAD)
    rows[..., d.width :] = (gemma.RMS_EPS * d.width / PAD) ** 0.5
    rows[:, :length, : d.width] = emb
    rows[:, length, : d.width] = w.state(state.to(emb.dtype))
    normed = rows[..., : d.width] / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    kv = (normed @ w.kv).view(batch, context, 2, d.num_kv_heads, d.head_dim).permute(2, 0, 3, 1, 4)
    torch.mul(
        torch.view_as_complex(kv[0].unflatten(-1, (-1, 2))), turn[:, None, :context], out=turned[..., :context, :]
    )
    values[..., :context, :] = kv[1]
    # The queries: their projections are there already.
    queries = Rows(block, batch, d.chunk, turn[:, context:], _hidden(valid, 1 + d.chunk, 1, emb.dtype), emb)
    queries.x.view(batch, d.chunk, d.width).copy_(w.queries)
    queries.qkv.view(batch, d.chunk, -1).copy_(w.own)
    slots = Slots(keys, values, turned[..., context:, :], values[..., context:, :])
    queries.turn_into(slots)
    queries.finish(w.layer, slots)
    return w.action(queries.x).view(batch, d.chunk, -1)
