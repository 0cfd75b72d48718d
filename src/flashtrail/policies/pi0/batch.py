"""Rounds of several sessions in one pass of the device: the stages over a batch, and how rounds are grouped by route.

A session sees nothing of its company: prompts of other lengths and masked views are padded behind the valid slots and
masked, where they take no position and no weight. What differs from a round alone is the order of float sums in wider
products (docs/precision.md). Knows neither units nor sockets nor why rounds came together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flashtrail.policies.pi0 import prefix, schedule
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.schedule import Cause, SessionState
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.stages import Stages
from flashtrail.policies.pi0.verify import Floats, Verdict, judge

if TYPE_CHECKING:
    from flashtrail.policies.pi0.engine import Engine, RoundResult, Session
    from flashtrail.policies.pi0.runtime import ModelInputs

MAX_BATCH = 16  # rounds in a pass
OFFICIAL_TIME_FLOOR = 0.10  # the official Triton verifier has no time bias below its last Euler time


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
    """The five stages over B observations, for a runtime that has weights; results are in the order of the inputs."""

    dims: Pi0Dims
    draft_dims: DraftDims | None
    device: torch.device
    dtype: torch.dtype
    _stages: Stages

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
        return [
            prefix.PrefixCache(cache.k[:, i : i + 1, :n].clone(), cache.v[:, i : i + 1, :n].clone(), None)
            for i, n in enumerate(embeddings.lengths)
        ]

    @torch.inference_mode()
    def join_snapshots(self, snapshots: Sequence[prefix.PrefixCache]) -> prefix.PrefixCache:
        """Snapshots of one session each, padded to the longest, as one cache."""
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


# --- rounds ---


@dataclass(frozen=True)
class Call:
    """What `Engine.infer` is asked, as data. The sessions of the calls of one batch are all different."""

    session: Session
    inputs: ModelInputs
    noise: Floats  # [H, D]
    executed_steps: int | None = None
    reset: bool = False


def infer_many(
    engine: Engine, calls: Sequence[Call], max_batch: int = MAX_BATCH
) -> Iterator[tuple[int, RoundResult | Exception]]:
    """Yield (index of the call, its result or what it raised), the draft route's first, as each pass ends.

    Calls of one route go through the device together, at most `max_batch` of them. A call by itself, and each call of
    a pass that failed, goes the way of `Engine.infer`: one bad call spoils no other.
    """
    begun = [engine.begin(call.session, call.executed_steps, call.reset) for call in calls]
    routes = ([i for i, (_, c) in enumerate(begun) if c is None], [i for i, (_, c) in enumerate(begun) if c])
    for members in routes:
        for at in range(0, len(members), max_batch):
            group = members[at : at + max_batch]
            yield from zip(group, _together(engine, [calls[i] for i in group], [begun[i] for i in group]), strict=True)


def _together(
    engine: Engine, calls: Sequence[Call], begun: Sequence[tuple[SessionState, Cause | None]]
) -> Sequence[RoundResult | Exception]:
    if len(calls) > 1 and isinstance(engine.runtime, BatchedStages):
        try:
            return _pass(engine, engine.runtime, calls, begun)
        except Exception:
            pass  # nothing was committed; each alone says what is wrong with it
    return [_alone(engine, call) for call in calls]


def _alone(engine: Engine, call: Call) -> RoundResult | Exception:
    try:
        return engine.infer(call.session, call.inputs, call.noise, executed_steps=call.executed_steps, reset=call.reset)
    except Exception as error:
        return error


def _pass(
    engine: Engine,
    run: BatchedStages,
    calls: Sequence[Call],
    begun: Sequence[tuple[SessionState, Cause | None]],
) -> Sequence[RoundResult]:
    """One route for all of `calls`: states are committed only when every stage has ended."""
    placed = run.place_many([call.inputs for call in calls])
    noise = np.stack([call.noise for call in calls])
    route = _draft_pass if begun[0][1] is None else _full_pass
    start = engine.edge()
    ended = route(engine, run, placed, noise, begun)
    wall_ms = (engine.edge() - start) * 1e3
    for call, (state, _) in zip(calls, ended, strict=True):
        call.session.state, call.session.rounds = state, call.session.rounds + 1
    return [dataclasses.replace(result, wall_ms=wall_ms, batch=len(calls)) for _, result in ended]


_Ended = list[tuple[SessionState, "RoundResult"]]


def _full_pass(
    engine: Engine, run: BatchedStages, placed: PlacedBatch, noise: Floats, begun: Sequence[tuple[SessionState, Any]]
) -> _Ended:
    ms: dict[str, float] = {}
    embeddings = engine.timed("encoder", ms, lambda: run.encode_many(placed))
    cache = engine.timed("prefill", ms, lambda: run.prefill_many(embeddings))
    chunks = engine.timed("denoise", ms, lambda: run.denoise_many(cache, placed, noise))
    snapshots = run.split_snapshot(cache, embeddings)
    return [
        (schedule.after_full(state, chunk, snapshot), engine.full_result(state, cause, chunk, ms))
        for (state, cause), chunk, snapshot in zip(begun, chunks, snapshots, strict=True)
    ]


def _draft_pass(
    engine: Engine, run: BatchedStages, placed: PlacedBatch, noise: Floats, begun: Sequence[tuple[SessionState, Any]]
) -> _Ended:
    ms: dict[str, float] = {}
    s, states = engine.settings, [state for state, _ in begun]
    cache = run.join_snapshots([state.snapshot for state in states])
    embeddings = engine.timed("encoder", ms, lambda: run.encode_many(placed))
    drafts = engine.timed("draft", ms, lambda: run.draft_many(embeddings, placed))

    last = [state.last_gripper for state in states]
    drafts, x0_hats, verdicts = engine.timed(
        "verify", ms, lambda: run.settle_many(cache, placed, drafts, noise, s, last)
    )
    return [
        (schedule.after_draft(state, verdict, s), engine.draft_result(state, verdict, ms, draft, x0_hat))
        for state, verdict, draft, x0_hat in zip(states, verdicts, drafts, x0_hats, strict=True)
    ]
