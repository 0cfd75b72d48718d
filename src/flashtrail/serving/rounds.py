"""Threads that run rounds away from the event loop, together where several sessions query at once.

The event loop stays free for pings and health probes while a round computes. A round waits for others only while other
sessions are open: BATCH_WAIT_S, or a little longer for a session that is about to ask. A thread is a worker; with more
than one, open sessions are shared out among them, and passes run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashtrail.policies.protocol import Policy
from flashtrail.serving.protocol import Request

BATCH_WAIT_S = 0.001  # a round waits this long for whichever session may ask
# And this part of a pass for the sessions that, going by how long they took so far, will ask within it: sessions that
# fall out of step would each pay for a pass of their own. A simulator that is in mid-chunk is not waited for.
DUE_SHARE = 0.25
MAX_BATCH = 16


@dataclass(eq=False)
class PolicySession:
    """The state of one connection's policy; made in the worker thread, at the first round.

    `answered` is when its last round ended, `pause_s` how long it takes from there to its next request, smoothed.
    """

    state: Any = None
    started: bool = False
    answered: float | None = None
    pause_s: float | None = None

    def asks(self, now: float) -> None:
        """Note that a request came."""
        if self.answered is not None:
            pause = now - self.answered
            self.pause_s = pause if self.pause_s is None else (self.pause_s + pause) / 2
            self.answered = None

    def due(self) -> float | None:
        """When the next request is expected; None where one is here, or nothing is known."""
        return None if self.answered is None or self.pause_s is None else self.answered + self.pause_s


@dataclass(frozen=True)
class RoundResult:
    """The policy's result, the wall time of its `infer` (with those batched with it) and of the wait before, in ms."""

    result: Mapping[str, Any]
    infer_ms: float
    wait_ms: float = 0.0


@dataclass
class _Job:
    session: PolicySession
    request: Request
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[RoundResult] = field(repr=False)
    submitted: float = field(default_factory=time.perf_counter)


class RoundWorker:
    """Runs submitted rounds in `workers` daemon threads until `stop`; in one where the policy is not reentrant.

    `open_sessions` tells how many could ask; `max_batch` bounds how many rounds are taken at once (1: no batching).
    """

    def __init__(
        self,
        policy: Policy,
        open_sessions: Callable[[], int] = lambda: 1,
        max_batch: int = MAX_BATCH,
        workers: int = 1,
    ) -> None:
        self._policy, self._open_sessions = policy, open_sessions
        self._infer_many = getattr(policy, "infer_many", None)
        self._max_batch = max_batch if self._infer_many is not None else 1
        self._leaving = False
        self._sessions: weakref.WeakSet[PolicySession] = weakref.WeakSet()
        self._pass_s = 0.0  # how long the last pass took
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._taking = threading.Lock()  # one worker at a time gathers a batch: two would take it from each other
        self._workers = workers if getattr(policy, "reentrant", False) else 1
        # Daemons, so that a round that never ends cannot keep the process from leaving.
        self._threads = [
            threading.Thread(target=self._work, name=f"policy-rounds-{worker}", daemon=True)
            for worker in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, session: PolicySession, request: Request) -> RoundResult:
        """Wait for the round's turn and return its result; whatever the policy raises is raised here.

        A round whose caller is cancelled before its turn is not run.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[RoundResult] = loop.create_future()
        session.asks(time.perf_counter())
        self._jobs.put(_Job(session, request, loop, answer))
        return await answer

    def stop(self, timeout_s: float) -> bool:
        """End the threads after the rounds at hand; False if one is still busy at the time limit."""
        until = time.perf_counter() + timeout_s
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.perf_counter()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while not self._leaving:
            with self._taking:
                taken = self._take()
            jobs = [job for job in taken if not job.answer.cancelled()]
            start = time.perf_counter()
            if len(jobs) == 1:
                self._run(jobs[0])
            elif jobs:
                self._run_together(jobs)
            self._pass_s = time.perf_counter() - start

    def _take(self) -> list[_Job]:
        """Return the next round and what is batched with it: what has come by now, or comes while it may wait.

        At most a worker's share of the open sessions: the others are for the worker that takes next.
        """
        jobs: list[_Job] = []
        self._add(jobs, None)
        start = time.perf_counter()
        while (
            jobs and not self._leaving and len(jobs) < min(self._max_batch, -(-self._open_sessions() // self._workers))
        ):
            if not self._add(jobs, max(0.0, self._wait_until(jobs, start) - time.perf_counter())):
                break
        return jobs

    def _wait_until(self, jobs: Sequence[_Job], start: float) -> float:
        """Until when rounds taken at `start` wait: longer than BATCH_WAIT_S only while a session is due."""
        self._sessions.update(job.session for job in jobs)
        while_due = DUE_SHARE * self._pass_s
        due = any(
            (when := session.due()) is not None and abs(when - start) <= while_due for session in list(self._sessions)
        )
        return start + max(BATCH_WAIT_S, while_due if due else 0.0)

    def _add(self, jobs: list[_Job], timeout_s: float | None) -> bool:
        try:
            job = self._jobs.get(timeout=timeout_s) if timeout_s else self._jobs.get(block=timeout_s is None)
        except queue.Empty:
            return False
        if job is None:
            self._leaving = True
        else:
            jobs.append(job)
        return job is not None

    def _run(self, job: _Job) -> None:
        start = time.perf_counter()
        try:
            session, observation, executed_steps, reset, noise_seed = self._arguments(job)
            result = self._policy.infer(
                session, observation, executed_steps=executed_steps, reset=reset, noise_seed=noise_seed
            )
        except Exception as error:
            self._answer(job, start, error)
        else:
            self._answer(job, start, result)

    def _run_together(self, jobs: list[_Job]) -> None:
        """Answer each round as it ends; if the policy itself breaks, those without an answer get its error."""
        assert self._infer_many is not None
        start, waiting = time.perf_counter(), dict(enumerate(jobs))
        try:
            rounds = [self._arguments(job) for job in jobs]
            for index, result in self._infer_many(rounds, self._max_batch):
                self._answer(waiting.pop(index), start, result)
            failure: Exception = RuntimeError("the policy left a round without an answer")
        except Exception as error:
            failure = error
        for job in waiting.values():
            self._answer(job, start, failure)

    def _arguments(self, job: _Job) -> tuple[Any, dict[str, Any], int | None, bool, list[int] | int | None]:
        session, request = job.session, job.request
        if not session.started:
            session.state = self._policy.new_session()
            session.started = True
        return session.state, request.observation, request.executed_steps, request.reset, request.noise_seed

    @staticmethod
    def _answer(job: _Job, start: float, result: Mapping[str, Any] | Exception) -> None:
        infer_ms, wait_ms = (time.perf_counter() - start) * 1000, (start - job.submitted) * 1000

        job.session.answered = time.perf_counter()

        def deliver() -> None:
            if job.answer.done():
                return
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(RoundResult(result, infer_ms, wait_ms))

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
            job.loop.call_soon_threadsafe(deliver)
