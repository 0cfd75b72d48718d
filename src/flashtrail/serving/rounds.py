"""One thread that runs rounds, one at a time and in the order in which they came, away from the event loop.

Knows a policy only as an object with ``new_session()`` and ``infer(...)``; knows no socket and no message. The
event loop stays free for pings and health probes while a round computes. Batching has its place in `_take`: more
than one waiting round may be handed to the device together there, without a change for those who submit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flashtrail.serving.protocol import Request


class Policy(Protocol):
    """What the server asks of a policy; `FlashPolicy` is one, a test's script is another."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the policy says of itself; JSON-serialisable, without paths."""

    def new_session(self) -> Any:
        """Return fresh per-episode state; opaque to the server."""

    def infer(
        self,
        session: Any,
        obs: dict[str, Any],
        *,
        executed_steps: int | None,
        reset: bool,
        noise_seed: list[int] | int | None,
    ) -> Mapping[str, Any]:
        """Run one round: ``actions`` (H, D) float, ``accepted_prefix_len`` int, ``policy_timing`` map."""


@dataclass
class PolicySession:
    """The state of one connection's policy; made in the worker thread, at the first round."""

    state: Any = None
    started: bool = False


@dataclass(frozen=True)
class RoundResult:
    """The policy's result and the wall time of its `infer`, without any waiting, in ms."""

    result: Mapping[str, Any]
    infer_ms: float


@dataclass
class _Job:
    session: PolicySession
    request: Request
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[RoundResult] = field(repr=False)


class RoundWorker:
    """Runs submitted rounds in one daemon thread until `stop`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A daemon, so that a round that never ends cannot keep the process from leaving.
        self._thread = threading.Thread(target=self._work, name="policy-rounds", daemon=True)
        self._thread.start()

    async def submit(self, session: PolicySession, request: Request) -> RoundResult:
        """Wait for the round's turn and return its result; whatever the policy raises is raised here."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[RoundResult] = loop.create_future()
        self._jobs.put(_Job(session, request, loop, answer))
        return await answer

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to leave after the rounds at hand; False where it is still busy at the time limit."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _take(self) -> list[_Job] | None:
        job = self._jobs.get()
        return None if job is None else [job]

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            for job in jobs:
                self._run(job)

    def _run(self, job: _Job) -> None:
        if job.answer.cancelled():
            return
        try:
            outcome = self._infer(job.session, job.request)
        except Exception as error:
            self._answer(job, None, error)
        else:
            self._answer(job, outcome, None)

    def _infer(self, session: PolicySession, request: Request) -> RoundResult:
        if not session.started:
            session.state = self._policy.new_session()
            session.started = True
        start = time.perf_counter()
        result = self._policy.infer(
            session.state,
            request.observation,
            executed_steps=request.executed_steps,
            reset=request.reset,
            noise_seed=request.noise_seed,
        )
        return RoundResult(result, (time.perf_counter() - start) * 1000)

    @staticmethod
    def _answer(job: _Job, outcome: RoundResult | None, error: Exception | None) -> None:
        def deliver() -> None:
            if job.answer.done():
                return
            if error is not None:
                job.answer.set_exception(error)
            elif outcome is not None:
                job.answer.set_result(outcome)

        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            job.loop.call_soon_threadsafe(deliver)
