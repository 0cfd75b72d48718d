"""What is timed: random inputs of one shape, random or loaded weights, and rounds of the engine on them.

A contender gives one round's times at a time, so that several can take turns and a drifting device is all's drift.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from flashtrail.base import stages
from flashtrail.base.errors import UserError
from flashtrail.policies.pi0 import backends, weights
from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats

ROUTES = tuple(stages.OF_ROUTE)
POOL = 4  # different observations and noises, taken in turn
Samples = dict[tuple[str, str], dict[str, list[float]]]  # (contender, route) -> stage -> ms of each round


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
        observations = []
        for _ in range(POOL):
            images = rng.uniform(-1, 1, (self.views, size, size, 3)).astype(np.float32)
            tokens = rng.integers(0, self.dims.vocab_size, self.prompt)
            observations.append(
                ModelInputs(images, tokens, rng.standard_normal(self.dims.action_dim).astype(np.float32))
            )
        return observations

    def noises(self, samples: int = 1) -> list[Floats]:
        """POOL draws of flow noise [H, D], or of [samples, H, D]."""
        rng = np.random.default_rng([self.seed, 1])
        shape = (*(() if samples == 1 else (samples,)), self.dims.action_horizon, self.dims.action_dim)
        return [rng.standard_normal(shape).astype(np.float32) for _ in range(POOL)]


def random_runtime(workload: Workload, device: str, dtype: str, backend: str, settings: FlashSettings) -> TorchRuntime:
    """A runtime with random weights, warmed up where it records. Raises DeviceError, SettingsError."""
    choice, dims, draft = backends.choose(backend, device, dtype), workload.dims, workload.draft
    assert draft is not None
    backends.check_device(device, dtype, dims)
    base, head = weights.init_base(dims, 0, device, dtype), weights.init_draft(draft, 1, device, dtype)
    runtime = backends.runtime_class(choice.name)(base, dims, head, draft)
    runtime.backend_why = choice.why
    backends.warm_up(runtime, settings)
    return runtime


class EngineRounds:
    """Full and draft rounds of our engine in one session, each forced.

    A draft round is verified against the snapshot of the latest full round, as in an episode. With `samples` above 1
    only full rounds, each under so many noises.
    """

    def __init__(
        self, runtime: TorchRuntime, workload: Workload, settings: FlashSettings, name: str = "engine", samples: int = 1
    ) -> None:
        self.runtime, self.name = runtime, name
        self.routes = ROUTES if runtime.has_draft and samples == 1 else ROUTES[:1]
        plain = replace(settings, full_fallback=False, periodic_full_every_n_draft_rounds=0)
        forced = {"full": replace(plain, force_full_each_round=True), "draft": plain}
        self._engines = {route: Engine(runtime, forced[route]) for route in self.routes}
        self._session = self._engines["full"].new_session()
        self._inputs, self._noises = workload.inputs(), workload.noises(samples)
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


def take_turns(
    contenders: Sequence[Contender],
    rounds: int,
    warmup: int,
    report: Callable[[str], None] = lambda line: None,
    seconds: float = math.inf,
) -> Samples:
    """Time `rounds` rounds of each contender's each route after `warmup` of them that are not kept.

    After `seconds` no further turn begins.

    Who goes first changes from turn to turn. The routes of a contender keep their order, full first, because a draft
    round needs a full one before it.
    """
    samples: Samples = {(c.name, route): {} for c in contenders for route in c.routes}
    count, began = len(contenders), time.monotonic()
    for turn in range(-warmup, rounds):
        if turn > 0 and time.monotonic() - began > seconds:
            report(f"{turn} of {rounds} turns in {seconds:g} s")
            break
        for offset in range(count):
            contender = contenders[(turn + offset) % count]
            for route in contender.routes:
                times = contender.round(route, turn % (1 << 30))
                if turn < 0:
                    continue
                for stage, ms in times.items():
                    samples[contender.name, route].setdefault(stage, []).append(ms)
        done = turn + 1
        if done > 0 and (done % max(1, rounds // 4) == 0 or done == rounds):
            report(f"{done} of {rounds} turns")
    return samples
