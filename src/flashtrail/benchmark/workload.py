"""What is timed: random inputs of one shape, random or loaded weights, and rounds of the engine on them.

A contender gives one round's times at a time, so that several can take turns (turns.py). Knows no clock but the
engine's and no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.policies.pi0 import backends, weights
from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats

ROUTES = ("full", "draft")
POOL = 4  # different observations and noises, taken in turn


class Contender(Protocol):
    """Something whose rounds can be timed."""

    @property
    def name(self) -> str: ...

    @property
    def routes(self) -> tuple[str, ...]: ...

    def round(self, route: str, index: int) -> dict[str, float]:
        """One round -> ms by stage, and of the whole as `round`."""


@dataclass(frozen=True)
class Workload:
    """One shape of input, and the policy that it is for."""

    dims: Pi0Dims
    draft: DraftDims | None
    views: int
    prompt: int
    seed: int = 0

    def __post_init__(self) -> None:
        most = self.dims.max_token_len
        if not 1 <= self.prompt <= most:
            raise UserError(f"--prompt {self.prompt}: this policy takes 1 to {most} tokens")
        if not 1 <= self.views <= self.dims.num_views:
            raise UserError(f"--views {self.views}: this policy takes 1 to {self.dims.num_views} views")

    def inputs(self) -> list[ModelInputs]:
        """POOL observations: random images in [-1, 1], token ids and normalised states."""
        rng, size = np.random.default_rng(self.seed), self.dims.vision.image_size
        found = []
        for _ in range(POOL):
            images = rng.uniform(-1, 1, (self.views, size, size, 3)).astype(np.float32)
            tokens = rng.integers(0, self.dims.vocab_size, self.prompt)
            found.append(ModelInputs(images, tokens, rng.standard_normal(self.dims.action_dim).astype(np.float32)))
        return found

    def noises(self) -> list[Floats]:
        """POOL draws of flow noise [H, D]."""
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.dims.action_horizon, self.dims.action_dim)
        return [rng.standard_normal(shape).astype(np.float32) for _ in range(POOL)]


def random_weights(shapes: Mapping[str, tuple[int, ...]], device: str, dtype: str, seed: int) -> dict[str, Tensor]:
    """Weights of these shapes, made on the device: norms as at initialisation, the rest normal / sqrt(fan in)."""
    where, number = weights.resolve_device(device), weights.resolve_dtype(dtype)
    generator = torch.Generator(where).manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape, device=where, dtype=number)
        if name.endswith(".scale") and name.startswith("vision."):
            tensor.fill_(1.0)
        elif not name.endswith((".bias", ".scale")):
            fan_in = shape[-1] if name in ("embed.weight", "vision.pos_embed", "action_queries") else shape[-2]
            tensor.normal_(0.0, 1.0 / math.sqrt(fan_in), generator=generator)
        out[name] = tensor
    return out


def random_runtime(
    dims: Pi0Dims, draft: DraftDims, device: str, dtype: str, backend: str, settings: FlashSettings
) -> TorchRuntime:
    """A runtime of these dims with random weights, warmed up where it records. Raises DeviceError, SettingsError."""
    choice = backends.choose(backend, device, dtype)
    backends.check_device(device, dtype, dims)
    base = random_weights(weights.base_shapes(dims), device, dtype, 0)
    head = random_weights(weights.draft_shapes(draft), device, dtype, 1)
    runtime = backends.runtime_class(choice.name)(base, dims, head, draft)
    runtime.backend_why = choice.why
    backends.warm_up(runtime, settings)
    return runtime


def loaded_runtime(
    base: Path, draft: Path | None, device: str, dtype: str, backend: str, settings: FlashSettings
) -> TorchRuntime:
    """A runtime from artifact directories. Raises ArtifactError, DeviceError."""
    return backends.load_runtime(base, draft, device, dtype, backend, settings)


class EngineRounds:
    """Full and draft rounds of our engine in one session, each forced.

    A draft round is verified against the snapshot of the latest full round, as in an episode.
    """

    name = "engine"

    def __init__(self, runtime: TorchRuntime, workload: Workload, settings: FlashSettings) -> None:
        self.runtime = runtime
        self.routes = ROUTES if runtime.has_draft else ROUTES[:1]
        plain = replace(settings, full_fallback=False, periodic_full_every_n_draft_rounds=0)
        forced = {"full": replace(plain, force_full_each_round=True), "draft": plain}
        self._engines = {route: Engine(runtime, forced[route]) for route in self.routes}
        self._session = self._engines["full"].new_session()
        self._inputs, self._noises = workload.inputs(), workload.noises()
        self._engines["full"].infer(self._session, self._inputs[0], self._noises[0])

    def round(self, route: str, index: int) -> dict[str, float]:
        """Stage times, `round` from edge to edge of the device's work, and `call` with the placing of inputs too."""
        engine, at = self._engines[route], index % POOL
        start = engine.edge()
        result = engine.infer(self._session, self._inputs[at], self._noises[at])
        call_ms = (engine.edge() - start) * 1e3
        if result.route != route:
            raise RuntimeError(f"a {result.route} round came where a {route} round was forced")
        return {**result.stage_ms, "round": result.wall_ms, "call": call_ms}

    def about(self) -> dict[str, Any]:
        """What the runtime says of itself, with captures and compilations after its warm-up, if it counts them."""
        return self.runtime.describe()
