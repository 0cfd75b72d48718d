"""Which arrangement of the stages a PyTorch runtime computes with: the reference's, or the one in few operations.

Both take the same tensors and give the same numbers but for the order of float sums. Which one is taken follows from
the device, the number format and the size of the policy, and is part of a runtime's description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from flashtrail.policies.pi0 import draft as draft_head
from flashtrail.policies.pi0 import expert, lean, lean_weights, prefix, vision
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.prefix import PrefixCache

MOST_TIMES = 64  # sets of times that are kept: settings and batch sizes, far fewer


class Stages(Protocol):
    """The stages over a batch B; `valid` [B, S] None: all prefix slots are."""

    name: str

    def encode_images(self, images: Tensor) -> Tensor:
        """Views [B, V, H, W, 3] in [-1, 1] -> prefix embeddings [B, V * tokens, W]."""

    def embed_prompt(self, token_ids: Tensor) -> Tensor:
        """Token ids [...] -> language embeddings [..., W]."""

    def prefill(self, emb: Tensor, valid: Tensor | None) -> PrefixCache:
        """Prefix embeddings [B, S, W] -> keys and values."""

    def denoise(self, cache: PrefixCache, state: Tensor, noise: Tensor) -> Tensor:
        """State [B, D], noise [B, A, D] -> actions [B, A, D]."""

    def velocity(self, cache: PrefixCache, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [G, A, D] at t [G] -> v [G, A, D]; G is a multiple of the batches of cache and state."""

    def draft(self, emb: Tensor, valid: Tensor | None, state: Tensor) -> Tensor:
        """Prefix embeddings [B, S, W], state [B, D] -> chunk [B, A, out_dim]."""


class Plain:
    """The reference functions, over prepared weights (weights.prepare)."""

    name = "plain"

    def __init__(
        self, w: Mapping[str, Tensor], dims: Pi0Dims, wd: Mapping[str, Tensor], draft_dims: DraftDims | None
    ) -> None:
        self._w, self._dims, self._wd, self._draft_dims = w, dims, wd, draft_dims

    def encode_images(self, images: Tensor) -> Tensor:
        return vision.encode_images(self._w, self._dims, images)

    def embed_prompt(self, token_ids: Tensor) -> Tensor:
        return prefix.embed_prompt(self._w, token_ids)

    def prefill(self, emb: Tensor, valid: Tensor | None) -> PrefixCache:
        return prefix.prefill(self._w, self._dims, emb, valid)

    def denoise(self, cache: PrefixCache, state: Tensor, noise: Tensor) -> Tensor:
        return expert.denoise(self._w, self._dims, cache, state, noise, self._dims.num_steps)

    def velocity(self, cache: PrefixCache, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return expert.velocity(self._w, self._dims, cache, state, x_t, t)

    def draft(self, emb: Tensor, valid: Tensor | None, state: Tensor) -> Tensor:
        assert self._draft_dims is not None, "no draft was loaded"
        return draft_head.draft(self._wd, self._draft_dims, emb, valid, state)


class Lean:
    """The functions of lean.py, over weights of their own."""

    name = "lean"

    def __init__(
        self, base: Mapping[str, Tensor], dims: Pi0Dims, draft: Mapping[str, Tensor], draft_dims: DraftDims | None
    ) -> None:
        with torch.inference_mode():
            self._w = lean_weights.arrange(base, dims)
            self._draft = None if draft_dims is None else lean_weights.arrange_draft(draft, draft_dims, dims)
        self._biases: dict[tuple[float, ...], Tensor] = {}  # of verification times: the same ones round after round

    def encode_images(self, images: Tensor) -> Tensor:
        return lean.encode_images(self._w, images)

    def embed_prompt(self, token_ids: Tensor) -> Tensor:
        return lean.embed_prompt(self._w, token_ids)

    def prefill(self, emb: Tensor, valid: Tensor | None) -> PrefixCache:
        return lean.prefill(self._w, emb, valid)

    def denoise(self, cache: PrefixCache, state: Tensor, noise: Tensor) -> Tensor:
        return lean.denoise(self._w, cache, state, noise)

    def velocity(self, cache: PrefixCache, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        times = tuple(t.tolist())
        biases = self._biases.get(times)  # kept here as well: another thread may clear what is shared
        if biases is None:
            biases = lean_weights.time_biases(self._w, t)
            if len(self._biases) >= MOST_TIMES:
                self._biases.clear()
            self._biases[times] = biases
        return lean.velocity(self._w, cache, state, x_t, biases)

    def draft(self, emb: Tensor, valid: Tensor | None, state: Tensor) -> Tensor:
        assert self._draft is not None, "no draft was loaded"
        return lean.draft(self._draft, emb, valid, state)


def choose(
    base: Mapping[str, Tensor],
    prepared: Mapping[str, Any],
    dims: Pi0Dims,
    draft: Mapping[str, Tensor],
    draft_dims: DraftDims | None,
) -> Stages:
    """What serves a policy: Lean where it suits, else Plain over the prepared weights."""
    return Lean(base, dims, draft, draft_dims) if lean_suits(base) else Plain(prepared, dims, draft, draft_dims)


def lean_suits(base: Mapping[str, Tensor]) -> bool:
    """Whether few operations pay: float32 or wider on a CPU, and a policy small enough for a second copy."""
    embed = base["embed.weight"]
    if embed.device.type != "cpu" or embed.dtype not in (torch.float32, torch.float64):
        return False
    return lean_weights.numbers({name: tensor.shape for name, tensor in base.items()}) <= lean_weights.MOST_NUMBERS
