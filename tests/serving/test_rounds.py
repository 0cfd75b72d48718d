"""The worker's thread: who shares a pass with whom, how long a round waits, and who answers for a failure."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from flashtrail.serving.protocol import Request
from flashtrail.serving.rounds import BATCH_WAIT_S, PolicySession, RoundWorker

ASK = Request({}, 0, False, None)


class Batching:
    """Notes which rounds came together; a round is a number, the answer is what came with it."""

    def __init__(self) -> None:
        self.metadata: dict = {}
        self.passes: list[list] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failures: dict[int, Exception] = {}
        self.sessions = 0

    def new_session(self) -> int:
        self.sessions += 1
        return self.sessions

    def infer(self, session, obs, *, executed_steps, reset, noise_seed):
        return dict(self.infer_many([(session, obs, executed_steps, reset, noise_seed)], 1))[0]

    def infer_many(self, asked, max_batch):
        self.passes.append([session for session, *_ in asked])
        self.entered.set()
        assert self.gate.wait(10)
        for index, (session, *_) in enumerate(asked):
            yield index, self.failures.get(session, {"policy_timing": {}, "session": session, "n": len(asked)})


async def held_back(policy: Batching, worker: RoundWorker, count: int) -> list:
    """Ask for one round that is held back, then for `count` more; let all go and return those answers."""
    policy.gate.clear()
    first = asyncio.ensure_future(worker.submit(PolicySession(), ASK))
    await asyncio.to_thread(policy.entered.wait, 10)
    others = [asyncio.ensure_future(worker.submit(PolicySession(), ASK)) for _ in range(count)]
    await asyncio.sleep(0.02)
    policy.gate.set()
    await first
    return await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.parametrize(("sessions", "max_batch", "passes"), [(9, 8, [1, 5]), (9, 2, [1, 2, 2, 1]), (1, 8, [1] * 6)])
def test_rounds_that_wait_go_together(sessions, max_batch, passes) -> None:
    policy = Batching()
    worker = RoundWorker(policy, lambda: sessions, max_batch)
    answers = asyncio.run(held_back(policy, worker, 5))
    assert [len(p) for p in policy.passes] == passes
    assert [a.result["session"] for a in answers] == [2, 3, 4, 5, 6]
    assert all(a.wait_ms > 10 for a in answers)
    assert worker.stop(5)


def test_a_policy_without_infer_many_is_asked_one_by_one(policy) -> None:
    worker = RoundWorker(policy, lambda: 8)
    answers = asyncio.run(held_back(policy, worker, 3))
    assert len(policy.calls) == 4 and policy.most_at_once == 1
    assert [a.result["accepted_prefix_len"] for a in answers] == [1, 1, 1]


def limits_of(worker: RoundWorker, rounds: int) -> list[tuple[bool, float | None]]:
    """Ask for rounds one by one; return how the queue was asked for more: (block, time limit) by call."""
    limits, get = [], worker._jobs.get

    class Watched:
        put = worker._jobs.put

        @staticmethod
        def get(block: bool = True, timeout: float | None = None):
            limits.append((block, timeout))
            return get(block, timeout)

    async def ask() -> None:
        for _ in range(rounds):
            await worker.submit(PolicySession(), ASK)

    worker._jobs = Watched()
    asyncio.run(ask())
    assert worker.stop(5)
    return limits


@pytest.mark.parametrize("sessions", [1, 8])
def test_a_lone_round_waits_no_longer_than_a_millisecond(sessions) -> None:
    """In all, from when it is taken until it is run, by the time limits: whatever a busy machine's clock says."""
    waited = [0.0]
    for block, timeout in limits_of(RoundWorker(Batching(), lambda: sessions), 41):
        if block and timeout is None:  # for the next round to come
            waited.append(0.0)
        waited[-1] += timeout or 0.0
    assert BATCH_WAIT_S == 0.001 and len(waited) >= 41 and max(waited) <= BATCH_WAIT_S


@pytest.mark.parametrize("sessions", [1, 8])
def test_no_round_is_let_wait_longer_than_a_millisecond_for_whoever_may_come(sessions) -> None:
    """By the time limits that the queue is asked with, whatever the clock of a busy machine says."""
    limits = limits_of(RoundWorker(Batching(), lambda: sessions), 5)
    # Without a limit: for a round to come at all. The first of these was asked before anybody watched.
    waits = [timeout for block, timeout in limits if timeout is not None]
    assert all(0 < timeout <= 0.001 for timeout in waits)
    assert len(waits) >= 5 if sessions > 1 else not waits
    assert [block for block, timeout in limits if timeout is None].count(True) >= 4


def test_one_failure_is_one_sessions_own() -> None:
    policy = Batching()
    worker = RoundWorker(policy, lambda: 8)
    policy.failures[3] = ValueError("a bad observation")
    answers = asyncio.run(held_back(policy, worker, 3))
    assert [type(a).__name__ for a in answers] == ["RoundResult", "ValueError", "RoundResult"]


@pytest.mark.parametrize("broken", ["raises", "forgets"])
def test_every_round_of_a_broken_pass_is_answered(broken) -> None:
    policy = Batching()
    whole = policy.infer_many

    def infer_many(asked, max_batch):
        for index, answer in whole(asked, max_batch):
            if len(asked) > 1 and index == 1:
                if broken == "raises":
                    raise RuntimeError("the device is gone")
                return
            yield index, answer

    policy.infer_many = infer_many
    worker = RoundWorker(policy, lambda: 8)
    answers = asyncio.run(held_back(policy, worker, 3))
    assert [type(a).__name__ for a in answers] == ["RoundResult", "RuntimeError", "RuntimeError"]
    assert len(asyncio.run(held_back(policy, worker, 1))) == 1  # and the thread lives


def test_a_round_nobody_waits_for_is_not_run() -> None:
    async def leave(policy: Batching, worker: RoundWorker) -> None:
        policy.gate.clear()
        first = asyncio.ensure_future(worker.submit(PolicySession(), ASK))
        await asyncio.to_thread(policy.entered.wait, 10)
        second = asyncio.ensure_future(worker.submit(PolicySession(), ASK))
        await asyncio.sleep(0)
        second.cancel()
        policy.gate.set()
        await first

    policy = Batching()
    worker = RoundWorker(policy, lambda: 1)
    asyncio.run(leave(policy, worker))
    assert worker.stop(5)
    assert policy.passes == [[1]]


async def played(worker: RoundWorker, pauses: list[float], rounds: int) -> None:
    """Sessions that ask again a pause after each answer."""

    async def play(pause: float) -> None:
        session = PolicySession()
        for _ in range(rounds):
            await worker.submit(session, ASK)
            await asyncio.sleep(pause)

    await asyncio.gather(*(play(pause) for pause in pauses))


class Slow(Batching):
    """A pass takes 100 ms, and each answer comes 10 ms after the one before: sessions tend to fall out of step."""

    def infer_many(self, asked, max_batch):
        time.sleep(0.1)
        for answer in super().infer_many(asked, max_batch):
            yield answer
            time.sleep(0.01)


def test_sessions_that_ask_again_at_once_stay_in_step() -> None:
    policy = Slow()
    asyncio.run(played(RoundWorker(policy, lambda: 3), [0.005] * 3, 8))
    assert [len(p) for p in policy.passes].count(3) >= 5


def test_a_session_in_a_long_pause_is_not_waited_for() -> None:
    policy = Slow()
    worker = RoundWorker(policy, lambda: 2)
    asyncio.run(played(worker, [0.0, 0.5], 3))
    session, start = PolicySession(), time.perf_counter()

    async def once() -> float:
        return (await worker.submit(session, ASK)).wait_ms

    assert sorted(asyncio.run(once()) for _ in range(5))[2] < 10
    assert time.perf_counter() - start < 5


class Reentrant(Batching):
    """Says that threads may come at once, and notes whether they did: the first passes meet at a barrier."""

    reentrant = True

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.meeting, self.met = threading.Barrier(workers), 0

    def infer_many(self, asked, max_batch):
        answers = list(super().infer_many(asked, max_batch))
        if not self.met:
            self.meeting.wait(10)
            self.met = self.meeting.parties
        yield from answers


@pytest.mark.parametrize("workers", [2, 3])
def test_passes_run_side_by_side_and_share_the_sessions(workers) -> None:
    policy = Reentrant(workers)
    worker = RoundWorker(policy, lambda: 8, workers=workers)
    answers = asyncio.run(held_back(policy, worker, 7))
    assert policy.met == workers
    assert [a.result["session"] for a in answers] and len({a.result["session"] for a in answers}) == 7
    assert max(len(p) for p in policy.passes) <= -(-8 // workers)
    assert worker.stop(5)


def test_a_policy_that_is_not_reentrant_is_asked_by_one_thread(policy) -> None:
    worker = RoundWorker(policy, lambda: 8, workers=4)
    asyncio.run(held_back(policy, worker, 7))
    assert policy.most_at_once == 1 and len(policy.calls) == 8
    assert worker.stop(5)


def test_a_lane_that_does_not_end_is_told() -> None:
    async def ask() -> None:
        asked = asyncio.ensure_future(worker.submit(PolicySession(), ASK))
        await asyncio.to_thread(policy.entered.wait, 10)
        asked.cancel()

    policy = Batching()
    policy.reentrant = True
    worker = RoundWorker(policy, lambda: 2, workers=2)
    policy.gate.clear()
    asyncio.run(ask())
    assert not worker.stop(0.05)
    policy.gate.set()
    assert worker.stop(5)
