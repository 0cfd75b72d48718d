"""The forward pass of a source in PyTorch's safetensors, in plain torch float32 by the names that its file has.

Takes `reference`'s place where the source is no JAX tree; shares no code with the engine, the converter or the reader
of leaves. Each weight is applied as `torch.nn.Linear` does it: no transposition can be wrong twice in the same way.
Held to answers of the real modules, openpi 15a9616 and LeRobot 0.4.4 (golden G6).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from flashtrail.checkpoints import facts, reference
from flashtrail.checkpoints.reference import MASKED, MAX_TOKENS, ROPE_BASE, SLOTS, Prefix

LEROBOT_EPS = 1e-8  # LeRobot normalises by (x - mean) / (std + 1e-8) and unnormalises by x * std + mean
_EPS = 1e-6
_PARTS = {  # what marks a part in any layout's names -> the part's name here; the first that is found counts
    "vision_model.": "tower.",
    "multi_modal_projector.linear.": "projector.",
    "gemma_expert.model.": "expert.",
    "language_model.model.": "prefix.",
    "language_model.": "prefix.",
    "paligemma.": "prefix.",
    "model.": "",
}
Hidden = list[Any] | None


@dataclass(frozen=True)
class Source:
    """A source checkpoint in memory: tensors by part and name, embeddings (V, W); the rest as `reference.Source`."""

    tensors: dict[str, torch.Tensor]
    table: torch.Tensor
    heads: int  # of the picture tower
    draft: dict[str, Any] | None
    draft_heads: tuple[int, int]
    num_steps: int

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply a linear layer, with its bias where it has one."""
        return F.linear(x, self.tensors[name + ".weight"], self.tensors.get(name + ".bias"))

    def layers(self, part: str) -> list[str]:
        """The beginnings of a part's layers, in order."""
        depth = len({name.removeprefix(part).split(".")[0] for name in self.tensors if name.startswith(part)})
        return [f"{part}{i}." for i in range(depth)]


def load_source(source_dir: str | Path, rounded_to: str = "float32") -> Source:
    """Load the safetensors (and draft.pt) as float32; `rounded_to` as for `reference.load_source`."""
    source, extra = Path(source_dir), facts.of_source(Path(source_dir))
    number = getattr(torch, rounded_to)
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        if not path.name.startswith("policy_"):
            tensors |= {_plain(name): x.float().to(number).float() for name, x in load_file(path).items()}
    draft, draft_heads = reference.load_draft(source / "draft.pt")
    reference.round_leaves(draft or {}, reference.jnp.dtype(rounded_to))
    table = next(tensors[n] for n in ("prefix.embed_tokens.weight", "prefix.lm_head.weight") if n in tensors)
    return Source(tensors, table, int(extra.get("vision_heads", 16)), draft, draft_heads, int(extra["num_steps"]))


def _plain(name: str) -> str:
    mark = next((mark for mark in _PARTS if mark in name), None)
    return name if mark is None else _PARTS[mark] + name.partition(mark)[2]


def embedding_table(source: Source) -> np.ndarray:
    """Return the vocabulary's rows (V, W)."""
    return source.table.numpy()


@torch.inference_mode()
def encode_view(source: Source, image: np.ndarray, hidden: Hidden = None) -> np.ndarray:
    """As `reference.encode_view`."""
    hidden = [] if hidden is None else hidden
    kernel, bias, positions = (
        source.tensors[f"tower.embeddings.{name}"]
        for name in ("patch_embedding.weight", "patch_embedding.bias", "position_embedding.weight")
    )
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    x = F.conv2d(pixels, kernel, bias, stride=kernel.shape[-1]).flatten(2)[0].T + positions
    hidden.append(x.numpy())
    for at in source.layers("tower.encoder.layers."):
        y = _layer_norm(source, at + "layer_norm1", x)
        q, k, v = (source.linear(f"{at}self_attn.{name}_proj", y) for name in "qkv")
        q, k, v = (rows.unflatten(-1, (source.heads, -1)).transpose(0, 1) for rows in (q, k, v))
        mixed = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        x = x + source.linear(at + "self_attn.out_proj", mixed.transpose(0, 1).flatten(1))
        y = source.linear(at + "mlp.fc1", _layer_norm(source, at + "layer_norm2", x))
        x = x + source.linear(at + "mlp.fc2", F.gelu(y, approximate="tanh"))
        hidden.append(x.numpy())
    x = _layer_norm(source, "tower.post_layernorm", x)
    return source.linear("projector", x).numpy()


def _layer_norm(source: Source, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], source.tensors[name + ".weight"], source.tensors[name + ".bias"], _EPS)


@torch.inference_mode()
def prefill(source: Source, views: list[Any], token_ids: np.ndarray, hidden: Hidden = None) -> Prefix:
    """As `reference.prefill`: padded to three views and 48 tokens, as both projects pad them."""
    hidden = [] if hidden is None else hidden
    ids = torch.zeros(MAX_TOKENS, dtype=torch.long)
    ids[: len(token_ids)] = torch.from_numpy(token_ids)
    pictures = [torch.from_numpy(np.asarray(view)) for view in views]
    pictures += [torch.zeros_like(pictures[0])] * (SLOTS - len(views))
    x = torch.cat([*pictures, source.table[ids] * source.table.shape[1] ** 0.5])
    embeddings, seen = x.numpy(), np.repeat(np.arange(SLOTS) < len(views), len(pictures[0]))
    valid = np.concatenate([seen, np.arange(MAX_TOKENS) < len(token_ids)])
    positions, allowed = torch.from_numpy(np.cumsum(valid) - 1), torch.from_numpy(valid[:, None] & valid[None])
    cache = []
    for at in source.layers("prefix.layers."):
        x, k, v = _gemma(source, at, x, positions, allowed)
        cache.append((k.numpy()[:, None], v.numpy()[:, None]))
        hidden.append(x.numpy())
    keys, values = (np.stack(part) for part in zip(*cache, strict=True))
    return Prefix(embeddings, valid, keys, values)  # type: ignore[arg-type]


@torch.inference_mode()
def velocity(source: Source, prefix: Prefix, state: Any, x_t: Any, t: float, hidden: Hidden = None) -> np.ndarray:
    """As `reference.velocity`."""
    hidden = [] if hidden is None else hidden
    actions = source.linear("action_in_proj", torch.from_numpy(np.array(x_t, np.float32)))
    periods = 4e-3 * 1000.0 ** torch.linspace(0, 1, actions.shape[1] // 2, dtype=torch.float64)
    angles = 2 * torch.pi / periods * float(np.float32(t))
    moment = torch.cat([angles.sin(), angles.cos()]).float().expand_as(actions)
    tokens = F.silu(source.linear("action_time_mlp_in", torch.cat([actions, moment], -1)))
    first = source.linear("state_proj", torch.from_numpy(np.array(state, np.float32))[None])
    x = torch.cat([first, source.linear("action_time_mlp_out", tokens)])
    hidden.append(x.numpy())
    own = torch.ones(len(x), len(x), dtype=torch.bool)
    own[0, 1:] = False  # the state token does not see the actions
    allowed = torch.cat([torch.from_numpy(prefix.valid).expand(len(x), -1), own], -1)
    positions = int(prefix.valid.sum()) + torch.arange(len(x))
    for i, at in enumerate(source.layers("expert.layers.")):
        past = tuple(torch.from_numpy(np.array(part[i][:, 0])) for part in (prefix.keys, prefix.values))
        x, _, _ = _gemma(source, at, x, positions, allowed, past)
        hidden.append(x.numpy())
    return source.linear("action_out_proj", _rms(source, "expert.norm", x[1:])).numpy()


def _gemma(
    source: Source, at: str, x: torch.Tensor, positions: torch.Tensor, allowed: torch.Tensor, past: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One layer over rows x, after those in the cache `past`: rows, and their own keys and values (rows, hd)."""
    y = _rms(source, at + "input_layernorm", x)
    k, v = (source.linear(f"{at}self_attn.{name}_proj", y) for name in "kv")  # one head for all queries
    q = source.linear(at + "self_attn.q_proj", y).unflatten(-1, (-1, k.shape[-1])).transpose(0, 1)
    q, k = _rotated(q, positions), _rotated(k, positions)
    keys, values = (k, v) if past is None else (torch.cat([past[0], k]), torch.cat([past[1], v]))
    scores = torch.where(allowed, q @ keys.T / k.shape[-1] ** 0.5, MASKED)
    x = x + source.linear(at + "self_attn.o_proj", (torch.softmax(scores, -1) @ values).transpose(0, 1).flatten(1))
    y = _rms(source, at + "post_attention_layernorm", x)
    gated = F.gelu(source.linear(at + "mlp.gate_proj", y), approximate="tanh") * source.linear(at + "mlp.up_proj", y)
    return x + source.linear(at + "mlp.down_proj", gated), k, v


def _rms(source: Source, name: str, x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + _EPS) * (1 + source.tensors[name + ".weight"])


def _rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    angles = positions[:, None].double() / ROPE_BASE ** (torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1)


def statistics(source_dir: Path) -> dict[str, np.ndarray] | None:
    """Return LeRobot's own means and deviations (``state.mean``), by its files; None where openpi's assets count."""
    if any(source_dir.glob("assets/**/norm_stats.json")):
        return None
    order = ("policy_post*.safetensors", "policy_pre*.safetensors", "model*.safetensors")
    kept: list[dict[str, Any]] = [load_file(path) for pattern in order for path in source_dir.glob(pattern)]
    for path in (source_dir / "meta/stats.json", source_dir / "stats.json"):
        content = json.loads(path.read_bytes()) if path.is_file() else {}
        kept.append({f"{key}.{field}": x for key, part in content.items() for field, x in part.items()})
    names = {
        "state": ("observation.state", "normalize_inputs.buffer_observation_state"),
        "actions": ("action", "unnormalize_outputs.buffer_action"),
    }
    return {
        f"{key}.{field}": np.asarray(next(k[f"{n}.{field}"] for k in kept for n in known if f"{n}.{field}" in k), float)
        for key, known in names.items()
        for field in ("mean", "std")
    }
