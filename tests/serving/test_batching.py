"""A real engine behind the server: sessions at once get what each gets alone; and the server leaves when told."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from policies.pi0.conftest import artifact, tokenizer_model  # noqa: F401  (fixtures)
from policies.pi0.test_batch import MIXED, ROUNDS, rounds
from serving.in_process import running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flashtrail.serving import server as policy_server
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.launch import free_port
from flashtrail.serving.protocol import packb, unpackb
from flashtrail.serving.server import Limits


def play(url: str, number: int, replies: dict[int, list], failures: list[BaseException]) -> None:
    pause = random.Random(number)
    try:
        with PolicyClient(url, timeout_s=120) as client:
            for obs, executed, reset, seed in rounds(number):
                time.sleep(pause.choice((0.0, 0.0, 0.01)))
                replies[number].append(client.infer(obs, executed, reset, seed))
    except BaseException as error:
        failures.append(error)


class Gate:
    """A policy whose first round, a doorkeeper's, lasts until `count` others wait for their turn: then they must meet.

    However busy the machine is: nobody's turn comes before all have asked.
    """

    def __init__(self, policy, count: int) -> None:
        self._policy, self._count = policy, count
        self.entered, self.waiting = threading.Event(), lambda: 0

    def __getattr__(self, name: str):
        return getattr(self._policy, name)

    def infer(self, *args, **options):
        if not self.entered.is_set():
            self.entered.set()
            deadline = time.monotonic() + 60
            while self.waiting() < self._count:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.waiting()} of {self._count} sessions asked within a minute")
                time.sleep(0.001)
        return self._policy.infer(*args, **options)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_sessions_at_once_get_what_each_gets_alone(artifact, count) -> None:  # noqa: F811
    from flashtrail.policies.pi0.policy import FlashPolicy

    policy = FlashPolicy.load(*artifact, settings=MIXED)
    replies: dict[int, list] = {number: [] for number in range(count)}
    failures: list[BaseException] = []
    gate = Gate(policy, count)
    with running(gate) as server, PolicyClient(server.url, timeout_s=120) as doorkeeper:
        gate.waiting = server._worker._jobs.qsize
        obs, executed, reset, seed = rounds(count)[0]
        held = threading.Thread(target=doorkeeper.infer, args=(obs, executed, reset, seed))
        held.start()
        assert gate.entered.wait(60)
        threads = [threading.Thread(target=play, args=(server.url, n, replies, failures)) for n in replies]
        for thread in threads:
            thread.start()
        for thread in [*threads, held]:
            thread.join()
    assert not failures
    sizes = same_as_alone(policy, replies)
    # All first rounds are full and came before the first turn: they share one pass, however fast the machine is.
    assert [replies[number][0].policy_timing["batch_size"] for number in replies] == [count] * count
    assert (max(sizes) > 1) == (count > 1)


def same_as_alone(policy, replies: dict[int, list]) -> set[int]:
    """Hold every reply against that of its session by itself; return how many rounds shared a pass."""
    sizes = set()
    for number, seen in replies.items():
        session = policy.new_session()
        for (obs, executed, reset, seed), reply in zip(rounds(number), seen, strict=True):
            want = policy.infer(session, obs, executed_steps=executed, reset=reset, noise_seed=seed)
            np.testing.assert_allclose(reply.actions, want["actions"], rtol=0, atol=2e-5)
            assert reply.accepted_prefix_len == want["accepted_prefix_len"]
            assert reply.policy_timing["route_type"] == want["policy_timing"]["route_type"]
            sizes.add(reply.policy_timing["batch_size"])
        assert len(seen) == ROUNDS
    return sizes


class Crossing:
    """A policy in which two passes meet in the middle, three times: they really run at once."""

    def __init__(self, policy) -> None:
        self._policy, self._meeting, self.crossed = policy, threading.Barrier(2, self._count), 0

    def __getattr__(self, name: str):
        return getattr(self._policy, name)

    def _count(self) -> None:
        self.crossed += 1

    def _cross(self) -> None:
        if self.crossed < 3:
            self._meeting.wait(60)

    def infer(self, *args, **options):
        self._cross()
        return self._policy.infer(*args, **options)

    def infer_many(self, asked, max_batch):
        self._cross()
        return self._policy.infer_many(asked, max_batch)


@pytest.mark.parametrize("count", [2, 8])
def test_sessions_in_two_lanes_get_what_each_gets_alone(artifact, count) -> None:  # noqa: F811
    from flashtrail.policies.pi0.policy import FlashPolicy

    policy = FlashPolicy.load(*artifact, settings=MIXED)
    crossing = Crossing(policy)
    replies: dict[int, list] = {number: [] for number in range(count)}
    failures: list[BaseException] = []
    with running(crossing, limits=Limits(workers=2)) as server:
        threads = [threading.Thread(target=play, args=(server.url, n, replies, failures)) for n in replies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures and crossing.crossed == 3
    assert max(same_as_alone(policy, replies)) <= count // 2


@pytest.mark.parametrize(("round_s", "answered", "code"), [(1.0, True, 0), (60.0, False, 1)])
def test_told_to_leave_the_server_answers_what_it_can_and_is_gone_in_5_s(
    scripted_server, observation, round_s, answered, code
) -> None:
    assert policy_server._DRAIN_S + 2 * policy_server._CLOSE_S + 0.1 < 5.0, "what it waits for, one after the other"
    command, environment = scripted_server
    port = free_port()
    words = command(port, f"slow {round_s}")
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=60).close()  # until it is there
        with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as connection:
            connection.recv(timeout=10)
            connection.send(packb(observation))
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            try:
                assert unpackb(connection.recv(timeout=30))["accepted_prefix_len"] == 12 and answered
            except ConnectionClosed:
                assert not answered
        assert process.wait(30) == code  # long before a round of 60 s is over, however busy this machine
