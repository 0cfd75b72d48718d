"""Static buffers of the recorded programs: what a graph reads and writes, by batch, views, prompt bucket and capacity.

Left unwritten until the first round (every program writes what it later reads); knows no stage and no session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.policies.pi0.kernels import graphs, stages
from flashtrail.policies.pi0.prefix import PrefixCache


@dataclass(frozen=True)
class Kind:
    """What buffers are made of: dims, the model's dtype, the device."""

    dims: Pi0Dims
    dtype: torch.dtype
    device: torch.device

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An unwritten buffer; the default dtype is the model's."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)


@dataclass(frozen=True, eq=False)
class Snapshot(PrefixCache):
    """A prefix cache of its own memory and exact length, and the capacity of the slots it was computed in."""

    capacity: int


class Front:
    """Buffers of encoder and draft for one batch size, number of views and prompt bucket."""

    def __init__(self, kind: Kind, batch: int, views: int, bucket: int) -> None:
        dims, size = kind.dims, kind.dims.vision.image_size
        self.batch, self.views, self.bucket = batch, views, bucket
        self.capacity = stages.capacity_of(dims, views, bucket)
        self.images = kind.new(batch, views, size, size, 3)
        self.token_ids = kind.new(batch, bucket, dtype=torch.int64)
        self.lengths = kind.new(batch, dtype=torch.int32)
        self.state = kind.new(batch, dims.action_dim)
        self.embeddings = kind.new(batch, self.capacity, dims.prefix.width)
        # The head writes its first columns only.
        self.draft = kind.new(batch, dims.action_horizon, dims.action_dim, dtype=torch.float32).zero_()

    def fill(self, dims: Pi0Dims, inputs: Sequence[ModelInputs]) -> None:
        """Observations with this many views into the first rows; the rows left over compute what nobody reads."""
        count = len(inputs)
        ids, lengths = np.zeros((self.batch, self.bucket), np.int64), np.ones(self.batch, np.int32)
        for row, seen in enumerate(inputs):
            tokens = len(seen.token_ids)
            ids[row, :tokens] = seen.token_ids
            lengths[row] = stages.capacity_of(dims, self.views, tokens)
        graphs.fill(self.images[:count], np.stack([seen.images for seen in inputs]))
        graphs.fill(self.token_ids, ids)
        graphs.fill(self.lengths, lengths)
        graphs.fill(self.state[:count], np.stack([seen.state for seen in inputs]))


class Back:
    """Buffers of prefill, denoise and verify for one batch size and prefix capacity.

    `holds` are the snapshots that lie in its first rows.
    """

    def __init__(self, kind: Kind, batch: int, capacity: int) -> None:
        dims = kind.dims
        self.batch, self.capacity = batch, capacity
        shape = (dims.prefix.depth, batch, capacity, dims.prefix.num_kv_heads, dims.prefix.head_dim)
        chunk = (batch, dims.action_horizon, dims.action_dim)
        lengths = kind.new(batch, dtype=torch.int32).fill_(1)
        self.cache = stages.Cache(kind.new(*shape), kind.new(*shape), lengths)
        self.state = kind.new(batch, dims.action_dim)
        self.noise = kind.new(*chunk, dtype=torch.float32)
        self.draft = kind.new(*chunk, dtype=torch.float32)
        self.chunk = kind.new(*chunk, dtype=torch.float32)
        self.last = kind.new(batch, dtype=torch.float32)
        self.rules = kind.new(6, dtype=torch.float32)
        self.holds: tuple[PrefixCache, ...] = ()

    def hold(self, snapshots: Sequence[PrefixCache]) -> None:
        """Snapshots of one session each into the first rows, unless they lie there already."""
        if len(self.holds) == len(snapshots) and all(a is b for a, b in zip(self.holds, snapshots, strict=True)):
            return
        self.holds = ()
        for row, snapshot in enumerate(snapshots):
            self.cache.k[:, row, : snapshot.length] = snapshot.k[:, 0]
            self.cache.v[:, row, : snapshot.length] = snapshot.v[:, 0]
        lengths = np.ones(self.batch, np.int32)
        lengths[: len(snapshots)] = [snapshot.length for snapshot in snapshots]
        graphs.fill(self.cache.lengths, lengths)
        self.holds = tuple(snapshots)

    def snapshots(self, lengths: Sequence[int]) -> list[Snapshot]:
        """What prefill left in the first rows, each in memory of its own; they are held from now on."""
        k, v = self.cache.k, self.cache.v
        found = [
            Snapshot(k[:, i : i + 1, :n].clone(), v[:, i : i + 1, :n].clone(), None, self.capacity)
            for i, n in enumerate(lengths)
        ]
        self.holds = tuple(found)
        return found


class Verification:
    """Buffers of one batch size and number of times: what verify reads besides, and all that it gives in one piece."""

    def __init__(self, kind: Kind, batch: int, times: int) -> None:
        dims = kind.dims
        self.shape = batch, times, dims.action_horizon, dims.action_dim
        size = dims.action_horizon * dims.action_dim
        self.times = kind.new(times, dtype=torch.float32)
        self.biases = kind.new(times, dims.expert.width, dtype=torch.float32)
        self.set_for: tuple[Any, ...] | None = None
        # Verdicts with their chunks | drafts | x0_hat: contiguous each, and one copy takes all.
        self._ends = ends = tuple(np.cumsum([batch * (4 + size), batch * size, batch * times * size]).tolist())
        self.packed = kind.new(ends[-1], dtype=torch.float32)
        self.verdict, self.draft, self.x0_hat = self.parts(self.packed)

    def parts(self, packed: Any) -> tuple[Any, Any, Any]:
        """Views of one packed row of numbers: verdicts [B, 4 + H * D], drafts [B, H, D], x0_hat [B, K, H, D]."""
        batch, times, horizon, dim = self.shape
        first, second, last = self._ends
        return (
            packed[:first].reshape(batch, -1),
            packed[first:second].reshape(batch, horizon, dim),
            packed[second:last].reshape(batch, times, horizon, dim),
        )
