"""The stages over observations of several sessions in one pass of the device.

A session sees nothing of the others: prompts of other lengths and masked views are padded behind the valid slots and
masked, where they take no position and no weight. What differs from a round alone is the order of float sums in wider
products (docs/precision.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flashtrail.policies.pi0 import prefix
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.stages import Stages
from flashtrail.policies.pi0.verify import Floats, Verdict, judge

MAX_BATCH = 16  # rounds in a pass
OFFICIAL_TIME_FLOOR = 0.10  # the official Triton verifier has no time bias below its last Euler time


@dataclass(frozen=True)
class ModelInputs:
    """One observation as the model takes it: only valid views and tokens, so there is nothing to mask."""

    images: NDArray[np.float32]  # [V, H, W, 3] in [-1, 1]; masked views left out
    token_ids: NDArray[np.int64]  # [P]
    state: NDArray[np.float32]  # [action_dim], normalised and zero-padded


@dataclass(frozen=True)
class PlacedBatch:
    """B observations on the device; views and prompt tokens of all of them lie one after another."""

    images: Tensor  # [sum V, H, W, 3]
    token_ids: Tensor  # [sum P]
    state: Tensor  # [B, action_dim]
    views: tuple[int, ...]
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class Embeddings:
    """Prefix embeddings [B, S, W] with their valid slots [B, S] (None: all), and each row's own length."""

    rows: Tensor
    valid: Tensor | None
    lengths: tuple[int, ...]


class BatchedStages:
    """The five stages over B observations, for a runtime that has weights; results are in the order of the inputs.

    The stages of one observation are those of a batch of one.
    """

    dims: Pi0Dims
    draft_dims: DraftDims | None
    device: torch.device
    dtype: torch.dtype
    _stages: Stages

    # --- one observation ---

    def place(self, inputs: ModelInputs) -> Any:
        return self.place_many([inputs])

    def encode(self, placed: Any) -> Any:
        return self.encode_many(placed)

    def prefill(self, embeddings: Any) -> prefix.PrefixCache:
        return self.split_snapshot(self.prefill_many(embeddings), embeddings)[0]

    def denoise(self, snapshot: prefix.PrefixCache, placed: Any, noise: Floats) -> Floats:
        chunk: Floats = self.denoise_many(self.join_snapshots([snapshot]), placed, noise[None])[0]
        return chunk

    def denoise_again(self, snapshot: Any, placed: Any, noise: Floats) -> Floats:
        """Further answers to one observation: noise [N, H, D] -> chunks [N, H, D], in one pass over its prefix."""
        return self.denoise_many(self.join_snapshots([snapshot] * len(noise)), placed, noise)

    def draft(self, embeddings: Any, placed: Any) -> Any:
        return self.draft_many(embeddings, placed)[0]

    def settle(
        self,
        snapshot: prefix.PrefixCache,
        placed: Any,
        draft: Any,
        noise: Floats,
        settings: FlashSettings,
        last_gripper: float,
    ) -> tuple[Floats, Floats, Verdict]:
        cache = self.join_snapshots([snapshot])
        drafts, x0_hats, verdicts = self.settle_many(cache, placed, draft[None], noise[None], settings, [last_gripper])
        return drafts[0], x0_hats[0], verdicts[0]

    def verify(self, snapshot: Any, placed: Any, draft: Any, noise: Floats, settings: FlashSettings) -> Floats:
        """The estimates alone -> x0_hat [K, H, D]."""
        return self.settle(snapshot, placed, draft, noise, settings, 0.0)[1]

    # --- several ---

    def _tensor(self, array: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(array).to(device=self.device, dtype=dtype)

    @torch.inference_mode()
    def place_many(self, inputs: Sequence[ModelInputs]) -> PlacedBatch:
        """Inputs to the device. ValueError where the images are not all of one size."""
        return PlacedBatch(
            self._tensor(np.concatenate([i.images for i in inputs]), self.dtype),
            self._tensor(np.concatenate([i.token_ids for i in inputs]), torch.int64),
            self._tensor(np.stack([i.state for i in inputs]), self.dtype),
            tuple(len(i.images) for i in inputs),
            tuple(len(i.token_ids) for i in inputs),
        )

    @torch.inference_mode()
    def encode_many(self, placed: PlacedBatch) -> Embeddings:
        """Stage encoder."""
        parts = list(self._stages.embed_prompt(placed.token_ids).split(placed.prompts))
        if len(placed.images):
            seen = self._stages.encode_images(placed.images[:, None])
            views = [view.flatten(0, 1) for view in seen.split(placed.views)]
            parts = [torch.cat(pair) for pair in zip(views, parts, strict=True)]
        lengths = tuple(len(part) for part in parts)
        return Embeddings(pad_sequence(parts, batch_first=True), self._valid(lengths), lengths)

    def _valid(self, lengths: tuple[int, ...]) -> Tensor | None:
        if len(set(lengths)) == 1:
            return None
        slots = torch.arange(max(lengths), device=self.device)
        return slots[None] < torch.tensor(lengths, device=self.device)[:, None]

    @torch.inference_mode()
    def prefill_many(self, embeddings: Embeddings) -> prefix.PrefixCache:
        """Stage prefill: one cache for all."""
        return self._stages.prefill(embeddings.rows, embeddings.valid)

    @torch.inference_mode()
    def split_snapshot(self, cache: prefix.PrefixCache, embeddings: Embeddings) -> list[prefix.PrefixCache]:
        """A snapshot for each session, its own length and its own memory: one that stays holds no other's."""
        if cache.batch == 1:
            return [cache]
        return [
            prefix.PrefixCache(cache.k[:, i : i + 1, :n].clone(), cache.v[:, i : i + 1, :n].clone(), None)
            for i, n in enumerate(embeddings.lengths)
        ]

    @torch.inference_mode()
    def join_snapshots(self, snapshots: Sequence[prefix.PrefixCache]) -> prefix.PrefixCache:
        """Snapshots of one session each, padded to the longest, as one cache."""
        if len(snapshots) == 1:
            return snapshots[0]
        lengths = tuple(s.length for s in snapshots)
        valid = self._valid(lengths)
        if valid is None:
            return prefix.PrefixCache(
                torch.cat([s.k for s in snapshots], dim=1), torch.cat([s.v for s in snapshots], dim=1), None
            )
        first = snapshots[0].k
        shape = (first.shape[0], len(snapshots), max(lengths), *first.shape[3:])
        k, v = first.new_zeros(shape), first.new_zeros(shape)
        for i, s in enumerate(snapshots):
            k[:, i, : s.length], v[:, i, : s.length] = s.k[:, 0], s.v[:, 0]
        return prefix.PrefixCache(k, v, valid)

    @torch.inference_mode()
    def denoise_many(self, cache: prefix.PrefixCache, placed: PlacedBatch, noise: Floats) -> Floats:
        """Stage denoise: noise [B, H, D] -> chunks [B, H, D]."""
        start = self._tensor(noise, torch.promote_types(self.dtype, torch.float32))
        return self._stages.denoise(cache, placed.state, start).float().cpu().numpy()

    @torch.inference_mode()
    def draft_many(self, embeddings: Embeddings, placed: PlacedBatch) -> Floats:
        """Stage draft -> [B, H, action_dim], zero beyond the head's dims."""
        assert self.draft_dims is not None, "no draft was loaded"
        d = self.draft_dims
        head = self._stages.draft(embeddings.rows, embeddings.valid, placed.state).float()
        out = np.zeros((len(head), d.chunk, self.dims.action_dim), np.float32)
        out[..., : d.out_dim] = head.cpu().numpy()
        return out

    @torch.inference_mode()
    def verify_many(
        self, cache: prefix.PrefixCache, placed: PlacedBatch, drafts: Floats, noise: Floats, settings: FlashSettings
    ) -> Floats:
        """Stage verify: drafts and noise [B, H, D] -> x0_hat [B, K, H, D]; all sessions and times in one pass."""
        wide = torch.promote_types(self.dtype, torch.float32)
        batch, count = len(drafts), len(settings.t_list)
        t = torch.tensor(settings.t_list, dtype=torch.float32, device=self.device)
        mix = t.to(wide)[None, :, None, None]
        x_t = mix * self._tensor(noise, wide)[:, None] + (1.0 - mix) * self._tensor(drafts, wide)[:, None]
        condition = t.clamp(min=OFFICIAL_TIME_FLOOR) if settings.official_time_bias else t
        v = self._stages.velocity(cache, placed.state, x_t.flatten(0, 1), condition.repeat(batch))
        return (x_t - mix * v.view(batch, count, *x_t.shape[2:])).float().cpu().numpy()

    def settle_many(
        self,
        cache: prefix.PrefixCache,
        placed: PlacedBatch,
        drafts: Floats,
        noise: Floats,
        settings: FlashSettings,
        last_grippers: Sequence[float],
    ) -> tuple[Floats, Floats, list[Verdict]]:
        """Stage verify with the judgement -> drafts [B, H, D], x0_hat [B, K, H, D], a verdict for each session."""
        x0_hats = self.verify_many(cache, placed, drafts, noise, settings)
        rows = zip(drafts, x0_hats, last_grippers, strict=True)
        return drafts, x0_hats, [judge(draft, x0_hat, last, settings) for draft, x0_hat, last in rows]
