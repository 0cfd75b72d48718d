"""The five stages on the kernels, as recorded programs over static buffers: one observation at a time.

A subclass of the PyTorch runtime: the same weights, inputs, snapshots and answers, so that the engine and rounds of
several sessions (flash/batch.py, which stays with PyTorch) need not know. Prompts are padded to buckets; the valid
length is data. Judging happens on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashtrail.flash import expert
from flashtrail.flash.batch import OFFICIAL_TIME_FLOOR
from flashtrail.flash.dims import DraftDims, Pi0Dims
from flashtrail.flash.kernels import graphs, launch, stages
from flashtrail.flash.prefix import PrefixCache
from flashtrail.flash.runtime import ModelInputs, TorchRuntime
from flashtrail.flash.settings import FlashSettings
from flashtrail.flash.verify import Floats, Verdict

MOST_VIEWS = 3


@dataclass(frozen=True, eq=False)
class Snapshot(PrefixCache):
    """A prefix cache of its own memory and exact length, and the capacity of the slots it was computed in."""

    capacity: int


@dataclass(frozen=True)
class Padded:
    """A placed observation: it lies in the buffers of `front`, until the next one is placed."""

    front: Front
    tokens: int
    state: Tensor  # [1, action_dim], for the PyTorch stages too


class Front:
    """Buffers of encoder and draft for one number of views and one prompt bucket."""

    def __init__(self, run: TritonRuntime, views: int, bucket: int) -> None:
        dims, size = run.dims, run.dims.vision.image_size
        self.views, self.bucket = views, bucket
        self.capacity = stages.capacity_of(dims, views, bucket)
        self.images = run.zeros(1, views, size, size, 3)
        self.token_ids = run.zeros(1, bucket, dtype=torch.int64)
        self.length = run.zeros(1, dtype=torch.int32)
        self.state = run.zeros(1, dims.action_dim)
        self.embeddings = run.zeros(1, self.capacity, dims.prefix.width)
        self.draft = run.zeros(1, dims.action_horizon, dims.action_dim, dtype=torch.float32)


class Back:
    """Buffers of prefill, denoise and verify for one prefix capacity; `holds` is the snapshot that lies there."""

    def __init__(self, run: TritonRuntime, capacity: int) -> None:
        dims = run.dims
        shape = (dims.prefix.depth, 1, capacity, dims.prefix.num_kv_heads, dims.prefix.head_dim)
        chunk = (1, dims.action_horizon, dims.action_dim)
        self.cache = stages.Cache(run.zeros(*shape), run.zeros(*shape), run.zeros(1, dtype=torch.int32))
        self.state = run.zeros(1, dims.action_dim)
        self.noise = run.zeros(*chunk, dtype=torch.float32)
        self.draft = run.zeros(*chunk, dtype=torch.float32)
        self.chunk = run.zeros(*chunk, dtype=torch.float32)
        self.last = run.zeros(1, dtype=torch.float32)
        self.rules = run.zeros(6, dtype=torch.float32)
        self.holds: PrefixCache | None = None


class Verification:
    """Buffers of one capacity and number of times: what verify reads besides, and all that it gives in one piece."""

    def __init__(self, run: TritonRuntime, times: int) -> None:
        dims = run.dims
        horizon, dim = dims.action_horizon, dims.action_dim
        self.size = horizon * dim
        self.times = run.zeros(times, dtype=torch.float32)
        self.biases = run.zeros(times, dims.expert.width, dtype=torch.float32)
        self.set_for: tuple[Any, ...] | None = None
        # verdict and chunk | draft | x0_hat
        self.packed = run.zeros(4 + self.size * (2 + times), dtype=torch.float32)
        self.verdict = self.packed[: 4 + self.size].view(1, -1)
        self.draft = self.packed[4 + self.size : 4 + 2 * self.size].view(1, horizon, dim)
        self.x0_hat = self.packed[4 + 2 * self.size :].view(1, times, horizon, dim)


class TritonRuntime(TorchRuntime):
    """TorchRuntime with the stages of one observation on the kernels.

    `recorder` None: CUDA graphs on a CUDA device, no graphs in Triton's interpreter.
    """

    backend = "triton"

    def __init__(
        self,
        base: Mapping[str, Tensor],
        dims: Pi0Dims,
        draft: Mapping[str, Tensor] | None = None,
        draft_dims: DraftDims | None = None,
        manifests: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        recorder: graphs.Recorder | None = None,
    ) -> None:
        super().__init__(base, dims, draft, draft_dims, manifests, directory)
        if recorder is None:
            recorder = graphs.CudaGraphs(self.device) if self.device.type == "cuda" else graphs.Eager()
        self.counters = graphs.Counters()
        self.counters.watch_compilations()
        self._programs = graphs.Programs(recorder, self.counters)
        self.buckets = graphs.buckets_for(dims.max_token_len)
        self._packed = stages.pack(self._w)
        self._packed_draft = stages.pack_draft(self._wd) if self._wd else {}
        most = stages.capacity_of(dims, MOST_VIEWS, self.buckets[-1]) + dims.action_horizon + 1
        self._rope = stages.all_positions(most, dims.prefix.head_dim, self.device)
        draft_head = 0 if draft_dims is None else draft_dims.head_dim
        self._draft_rope = stages.all_positions(most, draft_head or 2, self.device)
        with torch.inference_mode():
            self._euler = stages.time_biases(
                self._packed, torch.from_numpy(expert.euler_times(dims.num_steps)).to(self.device)
            )
            self._step = torch.full((1,), -1.0 / dims.num_steps, device=self.device)
        self._fronts: dict[tuple[int, int], Front] = {}
        self._backs: dict[int, Back] = {}
        self._verifications: dict[tuple[int, int], Verification] = {}

    @torch.inference_mode()
    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A static buffer; the default dtype is the model's."""
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"prompt_buckets": list(self.buckets), **self.counters.late}

    def warm_up(self, settings: FlashSettings | None = None) -> None:
        """Record every program that rounds of up to num_views views and any prompt need; late work counts from here."""
        settings = settings or FlashSettings()
        size, dims = self.dims.vision.image_size, self.dims
        noise = np.zeros((dims.action_horizon, dims.action_dim), np.float32)
        for views in range(1, dims.num_views + 1):
            for bucket in self.buckets:
                images = np.zeros((views, size, size, 3), np.float32)
                inputs = ModelInputs(images, np.zeros(bucket, np.int64), np.zeros(dims.action_dim, np.float32))
                placed = self.place(inputs)
                embeddings = self.encode(placed)
                snapshot = self.prefill(embeddings)
                self.denoise(snapshot, placed, noise)
                if self.has_draft:
                    self.settle(snapshot, placed, self.draft(embeddings, placed), noise, settings, 0.0)
        self.synchronize()
        self.counters.settle()

    # --- stages ---

    @torch.inference_mode()
    def place(self, inputs: ModelInputs) -> Padded:  # type: ignore[override]
        views, tokens = len(inputs.images), len(inputs.token_ids)
        key = (views, graphs.bucket_of(tokens, self.buckets))
        front = self._fronts.get(key)
        if front is None:
            front = self._fronts[key] = Front(self, *key)
        ids = np.zeros((1, key[1]), np.int64)
        ids[0, :tokens] = inputs.token_ids
        graphs.fill(front.images, np.ascontiguousarray(inputs.images)[None])
        graphs.fill(front.token_ids, ids)
        graphs.fill(front.length, np.array([stages.capacity_of(self.dims, views, tokens)], np.int32))
        graphs.fill(front.state, inputs.state[None])
        return Padded(front, tokens, front.state)

    @torch.inference_mode()
    def encode(self, placed: Padded) -> Padded:  # type: ignore[override]
        """The prefix embeddings stay in the front's buffer, padded."""
        f = placed.front

        def body() -> None:
            stages.encode(self._packed, self.dims, f.images, f.token_ids, f.embeddings)

        self._programs.run(("encoder", f.views, f.bucket), body)
        return placed

    @torch.inference_mode()
    def prefill(self, embeddings: Padded) -> Snapshot:  # type: ignore[override]
        f = embeddings.front
        back = self._back(f.capacity)
        back.holds = None
        back.cache.lengths.copy_(f.length)

        def body() -> None:
            stages.prefill(self._packed, self.dims, f.embeddings, self._rope, back.cache)

        self._programs.run(("prefill", f.views, f.bucket), body)
        length = stages.capacity_of(self.dims, f.views, embeddings.tokens)
        k, v = (t[:, :, :length].clone() for t in (back.cache.k, back.cache.v))
        back.holds = snapshot = Snapshot(k, v, None, f.capacity)
        return snapshot

    def _back(self, capacity: int) -> Back:
        if capacity not in self._backs:
            self._backs[capacity] = Back(self, capacity)
        return self._backs[capacity]

    def _held(self, snapshot: PrefixCache) -> tuple[int, Back]:
        """The buffers with this snapshot in them; it is copied there unless it lies there already."""
        capacity = snapshot.capacity if isinstance(snapshot, Snapshot) else self._capacity_for(snapshot.length)
        back = self._back(capacity)
        if back.holds is not snapshot:
            back.cache.k[:, :, : snapshot.length] = snapshot.k
            back.cache.v[:, :, : snapshot.length] = snapshot.v
            back.cache.lengths.fill_(snapshot.length)
            back.holds = snapshot
        return capacity, back

    def _capacity_for(self, length: int) -> int:
        """Of a snapshot that came from elsewhere: the least capacity that rounds of this runtime use."""
        known = (stages.capacity_of(self.dims, v, b) for v in range(MOST_VIEWS + 1) for b in self.buckets)
        return min((c for c in known if c >= length), default=length)

    @torch.inference_mode()
    def denoise(self, snapshot: PrefixCache, placed: Padded, noise: Floats) -> Floats:  # type: ignore[override]
        capacity, back = self._held(snapshot)
        graphs.fill(back.noise, noise[None])
        back.state.copy_(placed.state)

        def body() -> None:
            back.chunk.copy_(back.noise)
            stages.denoise(
                self._packed, self.dims, back.cache, back.state, self._rope, self._euler, self._step, back.chunk
            )

        self._programs.run(("denoise", capacity), body)
        return back.chunk[0].cpu().numpy().copy()

    @torch.inference_mode()
    def draft(self, embeddings: Padded, placed: Padded) -> Tensor:  # type: ignore[override]
        """-> [H, action_dim] on the device, zero beyond the head's dims; valid until the next draft."""
        assert self.draft_dims is not None, "no draft was loaded"
        f, d = embeddings.front, self.draft_dims

        def body() -> None:
            stages.draft(self._packed_draft, d, f.embeddings, f.length, f.state, self._draft_rope, f.draft)

        self._programs.run(("draft", f.views, f.bucket), body)
        return f.draft[0]

    @torch.inference_mode()
    def settle(
        self,
        snapshot: PrefixCache,
        placed: Padded,
        draft: Tensor | Floats,
        noise: Floats,
        settings: FlashSettings,
        last_gripper: float,
    ) -> tuple[Floats, Floats, Verdict]:
        """Stage verify with its judgement -> draft [H, D], x0_hat [K, H, D], verdict: one copy from the device."""
        dims, count = self.dims, len(settings.t_list)
        horizon, dim = dims.action_horizon, dims.action_dim
        capacity, back = self._held(snapshot)
        v = self._verification(capacity, settings)
        graphs.fill(back.noise, noise[None])
        graphs.fill(back.draft, draft[None])
        back.state.copy_(placed.state)
        graphs.fill(back.rules, np.array(stages.rules(settings, horizon, dim), np.float32))
        back.last.fill_(last_gripper)

        def body() -> None:
            v.draft.copy_(back.draft)
            common = (self._packed, dims, back.cache, back.state, self._rope)
            stages.verify(*common, v.biases, v.times, v.draft, back.noise, v.x0_hat)
            launch.judge(v.draft, v.x0_hat, back.last, back.rules, out=v.verdict)

        self._programs.run(("verify", capacity, count), body)
        packed = v.packed.cpu().numpy().copy()
        size = v.size
        verdict = stages.unpack_verdict(packed[: 4 + size], horizon, dim)
        proposal = packed[4 + size : 4 + 2 * size].reshape(horizon, dim)
        return proposal, packed[4 + 2 * size :].reshape(count, horizon, dim), verdict

    def verify(  # type: ignore[override]
        self, snapshot: PrefixCache, placed: Padded, draft: Tensor | Floats, noise: Floats, settings: FlashSettings
    ) -> Floats:
        """The estimates alone -> x0_hat [K, H, D]."""
        return self.settle(snapshot, placed, draft, noise, settings, 0.0)[1]

    def _verification(self, capacity: int, settings: FlashSettings) -> Verification:
        """Its buffers, with these settings' times in them; biases are formed anew only when the times change."""
        key = (capacity, len(settings.t_list))
        v = self._verifications.get(key)
        if v is None:
            v = self._verifications[key] = Verification(self, key[1])
        wanted = (settings.t_list, settings.official_time_bias)
        if v.set_for != wanted:
            times = torch.tensor(settings.t_list, dtype=torch.float32)
            condition = times.clamp(min=OFFICIAL_TIME_FLOOR) if settings.official_time_bias else times
            graphs.fill(v.times, times)
            v.biases.copy_(stages.time_biases(self._packed, condition.to(self.device)))
            v.set_for = wanted
        return v
