"""The five stages on the kernels, as recorded programs over static buffers, one observation or several at a time.

A subclass of the PyTorch runtime: the same weights, inputs, snapshots and answers, so that the engine and the rounds
of several sessions (batch.py) need not know. Prompts are padded to buckets and batches to powers of two; valid
lengths are data. Judging happens on the device. Observations with different numbers of views, or more than
MOST_TOGETHER of them, stay with PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashtrail.policies.pi0 import expert
from flashtrail.policies.pi0.batch import OFFICIAL_TIME_FLOOR, ModelInputs
from flashtrail.policies.pi0.kernels import graphs, launch, stages
from flashtrail.policies.pi0.kernels.buffers import Back, Front, Kind, Snapshot, Verification
from flashtrail.policies.pi0.kernels.tiles import power_of_two
from flashtrail.policies.pi0.prefix import PrefixCache
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats, Verdict

MOST_VIEWS = 3
MOST_TOGETHER = 16


@dataclass(frozen=True)
class Padded:
    """Placed observations: they lie in the first rows of `front`'s buffers, until the next ones are placed there."""

    front: Front
    lengths: tuple[int, ...]  # valid prefix slots of each
    state: Tensor  # [B, action_dim], B observations


class TritonRuntime(TorchRuntime):
    """TorchRuntime with its stages on the kernels.

    Made of the same things; `recorder` None: CUDA graphs on a CUDA device, no graphs in Triton's interpreter.
    """

    backend = "triton"

    def __init__(self, *policy: Any, recorder: graphs.Recorder | None = None, **more: Any) -> None:
        super().__init__(*policy, **more)
        dims, draft_dims = self.dims, self.draft_dims
        if recorder is None:
            recorder = graphs.CudaGraphs(self.device) if self.device.type == "cuda" else graphs.Eager()
        self.counters = graphs.Counters()
        self.counters.watch_compilations()
        self._programs = graphs.Programs(recorder, self.counters)
        self.buckets = graphs.buckets_for(dims.max_token_len)
        self._packed = stages.pack(self._w)
        self._packed_draft = stages.pack_draft(self._wd, dims.action_dim) if self._wd else {}
        most = stages.capacity_of(dims, MOST_VIEWS, self.buckets[-1]) + dims.action_horizon + 1
        self._rope = stages.all_positions(most, dims.prefix.head_dim, self.device)
        draft_head = 0 if draft_dims is None else draft_dims.head_dim
        self._draft_rope = stages.all_positions(most, draft_head or 2, self.device)
        with torch.inference_mode():
            self._euler = stages.time_biases(
                self._packed, torch.from_numpy(expert.euler_times(dims.num_steps)).to(self.device)
            )
            self._step = torch.full((1,), -1.0 / dims.num_steps, device=self.device)
        self._kind = Kind(dims, self.dtype, self.device)
        self._fronts: dict[tuple[int, int, int], Front] = {}
        self._backs: dict[tuple[int, int], Back] = {}
        self._verifications: dict[tuple[int, int], Verification] = {}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"prompt_buckets": list(self.buckets), **self.counters.late}

    def warm_up(self, settings: FlashSettings | None = None, together: int = 1) -> None:
        """Record every program that rounds of up to num_views views, any prompt and `together` sessions need.

        What is recorded or compiled later counts as late.
        """
        settings = settings or FlashSettings()
        most = power_of_two(min(together, MOST_TOGETHER))
        for batch in (2**n for n in range(most.bit_length())):
            for views in range(1, self.dims.num_views + 1):
                for bucket in self.buckets:
                    self._warm_up(settings, batch, views, bucket)
        self.synchronize()
        self.counters.settle()

    def _warm_up(self, settings: FlashSettings, batch: int, views: int, bucket: int) -> None:
        size, dims = self.dims.vision.image_size, self.dims
        images, ids = np.zeros((views, size, size, 3), np.float32), np.zeros(bucket, np.int64)
        inputs = [ModelInputs(images, ids, np.zeros(dims.action_dim, np.float32))] * batch
        noise = np.zeros((batch, dims.action_horizon, dims.action_dim), np.float32)
        placed = self._place(inputs)
        embeddings = self.encode_many(placed)
        back = self.prefill_many(embeddings)
        snapshots = self.split_snapshot(back, embeddings)
        self.denoise_many(back, placed, noise)
        if self.has_draft:
            draft = self.draft_many(embeddings, placed)
            self.settle_many(self.join_snapshots(snapshots), placed, draft, noise, settings, [0.0] * batch)

    # --- the stages; what the kernels are not made for goes to PyTorch ---

    def place_many(self, inputs: Sequence[ModelInputs]) -> Any:
        """-> Padded; the PyTorch stages' PlacedBatch where views differ or there are more than MOST_TOGETHER."""
        if len({len(i.images) for i in inputs}) > 1 or len(inputs) > MOST_TOGETHER:
            return super().place_many(inputs)
        return self._place(inputs)

    @torch.inference_mode()
    def _place(self, inputs: Sequence[ModelInputs]) -> Padded:
        views, tokens = len(inputs[0].images), [len(i.token_ids) for i in inputs]
        key = (power_of_two(len(inputs)), views, graphs.bucket_of(max(tokens), self.buckets))
        front = self._fronts.get(key)
        if front is None:
            front = self._fronts[key] = Front(self._kind, *key)
        front.fill(self.dims, inputs)
        lengths = tuple(stages.capacity_of(self.dims, views, n) for n in tokens)
        return Padded(front, lengths, front.state[: len(inputs)])

    @torch.inference_mode()
    def encode_many(self, placed: Any) -> Any:
        if not isinstance(placed, Padded):
            return super().encode_many(placed)
        f = placed.front

        def body() -> None:
            stages.encode(self._packed, self.dims, f.images, f.token_ids, f.embeddings)

        self._programs.run(("encoder", f.batch, f.views, f.bucket), body)
        return placed

    @torch.inference_mode()
    def prefill_many(self, embeddings: Any) -> Any:
        """-> Back, whose first rows are the caches."""
        if not isinstance(embeddings, Padded):
            return super().prefill_many(embeddings)
        f = embeddings.front
        back = self._back(f.batch, f.capacity)
        back.holds = ()
        back.cache.lengths.copy_(f.lengths)

        def body() -> None:
            stages.prefill(self._packed, self.dims, f.embeddings, self._rope, back.cache)

        self._programs.run(("prefill", f.batch, f.views, f.bucket), body)
        return back

    def _back(self, batch: int, capacity: int) -> Back:
        key = (batch, capacity)
        if key not in self._backs:
            self._backs[key] = Back(self._kind, batch, capacity)
        return self._backs[key]

    @torch.inference_mode()
    def split_snapshot(self, cache: Any, embeddings: Any) -> list[Any]:
        if not isinstance(cache, Back):
            return list(super().split_snapshot(cache, embeddings))
        return list(cache.snapshots(embeddings.lengths))

    @torch.inference_mode()
    def join_snapshots(self, snapshots: Sequence[PrefixCache]) -> Any:
        """-> Back with these snapshots in its first rows; they are copied there unless they lie there already."""
        if len(snapshots) > MOST_TOGETHER:
            return super().join_snapshots(snapshots)
        needed = (s.capacity if isinstance(s, Snapshot) else self._capacity_for(s.length) for s in snapshots)
        back = self._back(power_of_two(len(snapshots)), max(needed))
        back.hold(snapshots)
        return back

    def _capacity_for(self, length: int) -> int:
        """Of a snapshot that came from elsewhere: the least capacity that rounds of this runtime use."""
        known = (stages.capacity_of(self.dims, v, b) for v in range(MOST_VIEWS + 1) for b in self.buckets)
        return min((c for c in known if c >= length), default=length)

    @torch.inference_mode()
    def denoise_many(self, cache: Any, placed: Any, noise: Floats) -> Floats:
        if not isinstance(cache, Back):
            return super().denoise_many(cache, placed, noise)
        back, count = cache, len(noise)
        graphs.fill(back.noise[:count], noise)
        back.state[:count] = placed.state

        def body() -> None:
            back.chunk.copy_(back.noise)
            stages.denoise(self._suffix(back), self._euler, self._step, back.chunk)

        self._programs.run(("denoise", back.batch, back.capacity), body)
        return back.chunk[:count].cpu().numpy().copy()

    def _suffix(self, back: Back) -> stages.Suffix:
        return stages.Suffix(self._packed, self.dims, back.cache, back.state, self._rope)

    @torch.inference_mode()
    def draft_many(self, embeddings: Any, placed: Any) -> Any:
        """-> [B, H, action_dim] on the device, valid until the next draft (an array from the PyTorch stages)."""
        if not isinstance(embeddings, Padded):
            return super().draft_many(embeddings, placed)
        assert self.draft_dims is not None, "no draft was loaded"
        f, d = embeddings.front, self.draft_dims

        def body() -> None:
            stages.draft(self._packed_draft, d, f.embeddings, f.lengths, f.state, self._draft_rope, f.draft)

        self._programs.run(("draft", f.batch, f.views, f.bucket), body)
        return f.draft[: len(embeddings.lengths)]

    @torch.inference_mode()
    def settle_many(
        self,
        cache: Any,
        placed: Any,
        drafts: Any,
        noise: Floats,
        settings: FlashSettings,
        last_grippers: Sequence[float],
    ) -> tuple[Floats, Floats, list[Verdict]]:
        """Verification and judgement in one program -> drafts, x0_hat, verdicts: one copy from the device."""
        if not isinstance(cache, Back):
            return super().settle_many(cache, placed, drafts, noise, settings, last_grippers)
        dims, back, count = self.dims, cache, len(noise)
        horizon, dim = dims.action_horizon, dims.action_dim
        v = self._verification(back.batch, settings)
        graphs.fill(back.noise[:count], noise)
        graphs.fill(back.draft[:count], drafts)
        graphs.fill(back.last[:count], np.array(last_grippers, np.float32))
        graphs.fill(back.rules, np.array(stages.rules(settings, horizon, dim), np.float32))
        back.state[:count] = placed.state

        def body() -> None:
            v.draft.copy_(back.draft)
            stages.verify(self._suffix(back), v.biases, v.times, v.draft, back.noise, v.x0_hat)
            launch.judge(v.draft, v.x0_hat, back.last, back.rules, out=v.verdict)

        self._programs.run(("verify", back.batch, back.capacity, len(settings.t_list)), body)
        verdicts, drafted, x0_hats = v.parts(v.packed.cpu().numpy().copy())
        judged = [stages.unpack_verdict(row, horizon, dim) for row in verdicts[:count]]
        return drafted[:count], x0_hats[:count], judged

    def _verification(self, batch: int, settings: FlashSettings) -> Verification:
        """Its buffers, with these settings' times in them; biases are formed anew only when the times change."""
        key = (batch, len(settings.t_list))
        v = self._verifications.get(key)
        if v is None:
            v = self._verifications[key] = Verification(self._kind, *key)
        wanted = (settings.t_list, settings.official_time_bias)
        if v.set_for != wanted:
            times = torch.tensor(settings.t_list, dtype=torch.float32)
            condition = times.clamp(min=OFFICIAL_TIME_FLOOR) if settings.official_time_bias else times
            graphs.fill(v.times, times)
            v.biases.copy_(stages.time_biases(self._packed, condition.to(self.device)))
            v.set_for = wanted
        return v
