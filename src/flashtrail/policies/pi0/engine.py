"""The FLASH engine: takes a session one round further, full or draft, and times its stages.

Inputs and outputs are normalised.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.pi0 import backends, schedule
from flashtrail.policies.pi0.batch import MAX_BATCH, BatchedStages, ModelInputs, PlacedBatch
from flashtrail.policies.pi0.errors import ArtifactError
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.schedule import Cause, SessionState
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats, Verdict, window

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

    def denoise_again(self, snapshot: Any, placed: Any, noise: Floats) -> Floats:
        """Stage samples: noise [N, H, D] -> chunks [N, H, D] of the same observation."""

    def draft(self, embeddings: Any, placed: Any) -> Any:
        """Stage draft: -> draft chunk [H, D], zero beyond the dims the head gives; it may stay on the device."""

    def settle(
        self, snapshot: Any, placed: Any, draft: Any, noise: Floats, settings: FlashSettings, last_gripper: float
    ) -> tuple[Floats, Floats, Verdict]:
        """Stage verify with the judgement: -> draft [H, D], x0_hat [K, H, D] (one per time of t_list), verdict."""


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
    samples: Floats | None = None  # of a full round: [N, H, D] under the further noises, where they were asked for
    batch: int = 1  # rounds that shared this pass; the times are the whole pass's


@dataclass(frozen=True)
class Call:
    """What `Engine.infer` is asked, as data. The sessions of the calls of one batch are all different."""

    session: Session
    inputs: ModelInputs
    noise: Floats  # [H, D], or [samples, H, D]
    executed_steps: int | None = None
    reset: bool = False


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

        noise [H, D] float32: a full round starts from it, a draft round mixes it for every verification time. Of noise
        [samples, H, D] a full round also answers the others, a draft round uses the first alone.
        """
        state, cause = self.begin(session, executed_steps, reset)
        placed = self.runtime.place(inputs)
        noise, others = (noise[0], noise[1:]) if noise.ndim == 3 else (noise, noise[:0])
        start = self.edge()
        stage_ms: dict[str, float] = {}
        if cause is not None:
            state, result = self._full(state, cause, placed, noise, others, stage_ms)
        else:
            state, result = self._draft(state, placed, noise, stage_ms)
        session.state, session.rounds = state, session.rounds + 1
        return dataclasses.replace(result, wall_ms=(self.edge() - start) * 1e3)

    def infer_many(
        self, calls: Sequence[Call], max_batch: int = MAX_BATCH
    ) -> Iterator[tuple[int, RoundResult | Exception]]:
        """Yield (index of the call, its result or what it raised), the draft route's first, as each pass ends.

        Calls of one route go through the device together, at most `max_batch` of them. A call by itself, and each
        call of a pass that failed, goes the way of `infer`: one bad call spoils no other.
        """
        begun = [self.begin(call.session, call.executed_steps, call.reset) for call in calls]
        routes = ([i for i, (_, c) in enumerate(begun) if c is None], [i for i, (_, c) in enumerate(begun) if c])
        for members in routes:
            for at in range(0, len(members), max_batch):
                group = members[at : at + max_batch]
                yield from zip(
                    group, _together(self, [calls[i] for i in group], [begun[i] for i in group]), strict=True
                )

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
        self,
        state: SessionState,
        cause: Cause,
        placed: Any,
        noise: Floats,
        others: Floats,
        stage_ms: dict[str, float],
    ) -> tuple[SessionState, RoundResult]:
        run = self.runtime
        embeddings = self.timed("encoder", stage_ms, lambda: run.encode(placed))
        snapshot = self.timed("prefill", stage_ms, lambda: run.prefill(embeddings))
        chunk = self.timed("denoise", stage_ms, lambda: run.denoise(snapshot, placed, noise))
        result = self.full_result(state, cause, chunk, stage_ms)
        if len(others):
            again = self.timed("samples", stage_ms, lambda: run.denoise_again(snapshot, placed, others))
            result = dataclasses.replace(result, samples=again)
        return schedule.after_full(state, chunk, snapshot), result

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

        proposal, x0_hat, verdict = self.timed(
            "verify",
            stage_ms,
            lambda: run.settle(state.snapshot, placed, draft, noise, s, state.last_gripper),
        )
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


# --- several sessions in one pass ---


def _together(
    engine: Engine, calls: Sequence[Call], begun: Sequence[tuple[SessionState, Cause | None]]
) -> Sequence[RoundResult | Exception]:
    alone = any(call.noise.ndim == 3 for call in calls)  # further samples are a batch of their own
    if len(calls) > 1 and isinstance(engine.runtime, BatchedStages) and not alone:
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


_Ended = list[tuple[SessionState, RoundResult]]


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
