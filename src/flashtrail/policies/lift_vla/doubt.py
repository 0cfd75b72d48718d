"""doubt.safetensors, which an artifact may have: by it a policy says how sure it is of a chunk, and changes no chunk.

Heads: the decoder's last layer and output, trained anew on bootstrap samples of the demonstrations; all below is
shared. Where they differ, the demonstrations did not settle the answer. Mean and whitening of what the vision made of
the training frames: how far an observation lies from them (Mahalanobis distance).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.model import LiftVLA, Recalled, decoder_layer

FILE = "doubt.safetensors"
HEADS = 4


class Head(nn.Module):
    """The decoder's last layer and what follows it."""

    def __init__(self, dims: LiftDims) -> None:
        super().__init__()
        self.layer: nn.Module = decoder_layer(dims)
        self.norm: nn.Module = nn.LayerNorm(dims.width)
        self.out: nn.Module = nn.Linear(dims.width, dims.action_dim)

    @classmethod
    def of(cls, model: LiftVLA) -> Self:
        """A network's own head; its tensors are shared."""
        head = cls(model.dims)
        assert model.decoder.norm is not None and model.out is not None
        head.layer, head.norm, head.out = model.decoder.layers[-1], model.decoder.norm, model.out
        return head

    def forward(self, queries: Tensor, memory: Tensor, missing: Tensor | None) -> Tensor:
        """As `LiftVLA.conclude`."""
        last = self.layer(queries, memory, memory_key_padding_mask=missing)
        out: Tensor = self.out(self.norm(last))
        return out


class Doubt(nn.Module):
    """What doubt.safetensors holds; empty until it is read."""

    mean: Tensor  # (V * width,)
    whitening: Tensor  # (V * width, V * width)

    def __init__(self, dims: LiftDims) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(dims) for _ in range(HEADS))
        size = dims.views * dims.width
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.zeros(size, size))

    def answers(self, recalled: Recalled) -> Tensor:
        """Each head's normalised chunk, (B, HEADS, horizon, action_dim)."""
        return torch.stack([head(*recalled) for head in self.heads], 1)

    def novelty(self, seen: Tensor) -> Tensor:
        """Views (B, V, width) -> Mahalanobis distance over the root of its dimensions (B,): about 1 in training."""
        return ((seen.flatten(1) - self.mean) @ self.whitening).square().mean(1).sqrt()
