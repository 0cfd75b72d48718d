"""The FLASH engine: takes a session one round further, full or draft, and times its stages.

Knows stages by name and the session machine; not how a stage computes (a `Runtime` does), nor units, prompts or
sockets. Inputs and outputs are normalised.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.pi0 import backends, batch, schedule
from flashtrail.policies.pi0.errors import ArtifactError
from flashtrail.policies.pi0.runtime import ModelInputs, TorchRuntime
from flashtrail.policies.pi0.schedule import Cause, SessionState
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats, Verdict, judge, window

STAGES = ("encoder", "prefill", "denoise", "draft", "verify")


class Runtime(Protocol):
    """The five stages. What they pass on (embeddings, snapshots) is theirs; chunks are float32 arrays [H, D]."""

    has_draft: bool

    def synchronize(self) -> None:
        """Wait until the device has done everything asked of it."""

    def place(self, inputs: Any) -> Any:
        """Inputs to the device; outside all stage times."""

    def encode(self, placed: Any) -> Any:
        """Stage encoder: views and prompt -> prefix embeddings."""

    def prefill(self, embeddings: Any) -> Any:
        """Stage prefill: prefix embeddings -> snapshot."""

    def denoise(self, snapshot: Any, placed: Any, noise: Floats) -> Floats:
        """Stage denoise: noise [H, D] -> chunk [H, D]."""

    def draft(self, embeddings: Any, placed: Any) -> Any:
        """Stage draft: -> draft chunk [H, D], zero beyond the dims the head gives; an array, unless JudgesItself."""

    def verify(self, snapshot: Any, placed: Any, draft: Floats, noise: Floats, settings: FlashSettings) -> Floats:
        """Stage verify: -> estimates x0_hat [K, H, D], one per time of settings.t_list."""


@runtime_checkable
class JudgesItself(Protocol):
    """A runtime whose `draft` may stay on the device, because verification and judgement end there in one step."""

    def settle(
        self, snapshot: Any, placed: Any, draft: Any, noise: Floats, settings: FlashSettings, last_gripper: float
    ) -> tuple[Floats, Floats, Verdict]:
        """Stage verify -> draft [H, D], x0_hat [K, H, D], verdict."""


@dataclass
class Session:
    """One episode's state. Sessions are independent; the engine takes one call at a time."""

    state: SessionState = field(default_factory=SessionState)
    rounds: int = 0


@dataclass(frozen=True)
class RoundResult:
    """One round's answer and how it came about."""

    route: Literal["full", "draft"]
    chunk: Floats  # [H, D], normalised
    accepted: int
    stage_ms: dict[str, float]  # of STAGES, those that ran
    cause: Cause | None  # of a full round: why it was full
    verdict: Verdict | None  # of a draft round
    scheduled: Cause | None  # of a draft round: why the next one is full
    last_gripper: float  # the value used in this round, normalised
    wall_ms: float  # the whole round, without placing the inputs
    synchronized: bool
    draft: Floats | None = None  # of a draft round: what the head proposed
    x0_hat: Floats | None = None
    batch: int = 1  # rounds that shared this pass; the times are the whole pass's


class Engine:
    """Rounds over a runtime. `clock` gives seconds; with `synchronize` the device is waited for at stage edges."""

    def __init__(
        self,
        runtime: Runtime,
        settings: FlashSettings | None = None,
        *,
        synchronize: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runtime = runtime
        self.settings = settings or FlashSettings()
        self.synchronize = synchronize
        self._clock = clock

    @classmethod
    def load(
        cls,
        base_dir: str | Path,
        draft_dir: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        settings: FlashSettings | None = None,
        *,
        synchronize: bool = True,
        backend: str = "auto",
        together: int = 1,
    ) -> Engine:
        """From artifact directories. Without a draft every round is full. Raises ArtifactError, DeviceError.

        `together`: how many sessions' rounds may share a pass, which a runtime that records programs prepares for.
        """
        runtime = backends.load_runtime(base_dir, draft_dir, device, dtype, backend, settings, together)
        return cls(runtime, settings, synchronize=synchronize)

    def new_session(self) -> Session:
        return Session()

    def infer(
        self,
        session: Session,
        inputs: ModelInputs | Any,
        noise: NDArray[np.float32],
        *,
        executed_steps: int | None = None,
        reset: bool = False,
    ) -> RoundResult:
        """Take `session` one round further.

        noise [H, D] float32: a full round starts from it, a draft round mixes it for every verification time.
        """
        state, cause = self.begin(session, executed_steps, reset)
        placed = self.runtime.place(inputs)
        start = self.edge()
        stage_ms: dict[str, float] = {}
        if cause is not None:
            state, result = self._full(state, cause, placed, noise, stage_ms)
        else:
            state, result = self._draft(state, placed, noise, stage_ms)
        session.state, session.rounds = state, session.rounds + 1
        return dataclasses.replace(result, wall_ms=(self.edge() - start) * 1e3)

    def infer_many(
        self, calls: Sequence[batch.Call], max_batch: int = batch.MAX_BATCH
    ) -> Iterator[tuple[int, RoundResult | Exception]]:
        """Take several sessions one round further, rounds of one route in one pass; see `batch.infer_many`."""
        return batch.infer_many(self, calls, max_batch)

    def begin(self, session: Session, executed_steps: int | None, reset: bool) -> tuple[SessionState, Cause | None]:
        """Return the state a round starts from and why it must be full (None: a draft round); changes nothing."""
        state = SessionState() if reset else session.state
        state = schedule.advance(state, executed_steps, self.settings)
        cause = schedule.full_cause(state, self.settings)
        if cause is None and not self.runtime.has_draft:
            cause = "forced"
        return state, cause

    def edge(self) -> float:
        """The time in seconds, once the device has done what was asked of it (where it is to be waited for)."""
        if self.synchronize:
            self.runtime.synchronize()
        return self._clock()

    def timed(self, stage: str, stage_ms: dict[str, float], call: Callable[[], Any]) -> Any:
        """Return what `call` gives; its time from edge to edge goes to ``stage_ms[stage]``."""
        start = self.edge()
        value = call()
        stage_ms[stage] = (self.edge() - start) * 1e3
        return value

    def _full(
        self, state: SessionState, cause: Cause, placed: Any, noise: Floats, stage_ms: dict[str, float]
    ) -> tuple[SessionState, RoundResult]:
        run = self.runtime
        embeddings = self.timed("encoder", stage_ms, lambda: run.encode(placed))
        snapshot = self.timed("prefill", stage_ms, lambda: run.prefill(embeddings))
        chunk = self.timed("denoise", stage_ms, lambda: run.denoise(snapshot, placed, noise))
        return schedule.after_full(state, chunk, snapshot), self.full_result(state, cause, chunk, stage_ms)

    def full_result(
        self, state: SessionState, cause: Cause | None, chunk: Floats, stage_ms: dict[str, float]
    ) -> RoundResult:
        """The answer of a full round, its wall time still to be filled in."""
        accepted = window(self.settings.max_exec_steps, chunk.shape[0])  # all that may be executed
        last = state.last_gripper
        return RoundResult("full", chunk, accepted, stage_ms, cause, None, None, last, 0.0, self.synchronize)

    def _draft(
        self, state: SessionState, placed: Any, noise: Floats, stage_ms: dict[str, float]
    ) -> tuple[SessionState, RoundResult]:
        """Fresh images and state, but verified against the last full round's snapshot: that is the method's bet."""
        run, s = self.runtime, self.settings
        embeddings = self.timed("encoder", stage_ms, lambda: run.encode(placed))
        draft = self.timed("draft", stage_ms, lambda: run.draft(embeddings, placed))

        def verify() -> tuple[Floats, Floats, Verdict]:
            if isinstance(run, JudgesItself):
                return run.settle(state.snapshot, placed, draft, noise, s, state.last_gripper)
            x0_hat = run.verify(state.snapshot, placed, draft, noise, s)
            return draft, x0_hat, judge(draft, x0_hat, state.last_gripper, s)

        proposal, x0_hat, verdict = self.timed("verify", stage_ms, verify)
        return schedule.after_draft(state, verdict, s), self.draft_result(state, verdict, stage_ms, proposal, x0_hat)

    def draft_result(
        self, state: SessionState, verdict: Verdict, stage_ms: dict[str, float], draft: Floats, x0_hat: Floats
    ) -> RoundResult:
        """The answer of a draft round, its wall time still to be filled in."""
        return RoundResult(
            "draft",
            verdict.chunk,
            verdict.accepted,
            stage_ms,
            None,
            verdict,
            schedule.fallback(verdict, self.settings),
            state.last_gripper,
            0.0,
            self.synchronize,
            draft,
            x0_hat,
        )


def describe(engine: Engine) -> dict[str, Any]:
    """What a server tells of its engine: artifacts, device, number format, settings."""
    run = engine.runtime
    if not isinstance(run, TorchRuntime):
        raise ArtifactError("only an engine loaded from an artifact can be described")
    return run.describe() | {"settings": engine.settings.to_dict(), "synchronized": engine.synchronize}
