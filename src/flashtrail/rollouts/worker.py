"""One simulator in a process of its own: receives an episode, answers with its record.

Started by `processes.SimulatorProcess` as ``python -m flashtrail.rollouts.worker FD``; talks JSON over that socket: one
request, signs of life, one answer. A process per simulator because MuJoCo may crash or hang natively, robosuite uses
global random state, and cores are there to be used. Started by the run's keeper (`keeper.py`) it keeps its simulator
from one shard's spec to the next one's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.experiment.clocks import Running as RunningClock
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import EXPERT, ShardSpec
from flashtrail.experiment.suites import suite_of
from flashtrail.rollouts import conditions, guards, latency
from flashtrail.rollouts.episode import EpisodeError, PolicySession, Query, Reply, Running, run_episode
from flashtrail.rollouts.expert import ExpertSession
from flashtrail.rollouts.film import Film
from flashtrail.rollouts.lending import KEPT
from flashtrail.rollouts.processes import SIMULATOR_NEEDS, leave_with_parent
from flashtrail.rollouts.recordings import Recording
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving.client import PolicyClient, PolicyError, ServerUnavailable
from flashtrail.simulators import registry, seeds
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Metrics, Sense, Simulator, Step
from flashtrail.simulators.verify import Verdict

_CONNECT_S = 20.0
_REPLY_S = 600.0  # a first round may compile kernels
_PING_S = 60.0  # an official server answers no ping while it infers: there, as long as a reply may take
_LONG_S = 600.0  # building a simulator (imports, 600 MB of assets), encoding a film
_BEAT_S = 1.0
# What went wrong, for whoever decides on the next attempt.
POLICY, SERVER, SIMULATOR, FATAL = "policy", "server", "simulator", "fatal"


class Heartbeat:
    """Says by when the next sign of life is due, before each thing that could hang; once a second at the most.

    Said by the thread that does the work, so that a simulator stuck in native code says nothing more.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send, self._due = send, 0.0

    def within(self, seconds: float) -> None:
        """Promise a next sign of life within `seconds`."""
        due = time.monotonic() + seconds
        if abs(due - self._due) > _BEAT_S:
            self._send({"within_s": seconds})
            self._due = due


class _WatchedSimulator:
    """A simulator that announces each call."""

    def __init__(self, simulator: Simulator, heartbeat: Heartbeat, stall_s: float) -> None:
        self._simulator, self._heartbeat, self._stall_s = simulator, heartbeat, stall_s
        self.prompt, self.horizon = simulator.prompt, simulator.horizon

    def reset(self, key: EpisodeKey) -> None:
        self._heartbeat.within(self._stall_s)
        self._simulator.reset(key)

    def observe(self) -> Observation:
        self._heartbeat.within(self._stall_s)
        return self._simulator.observe()

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        self._heartbeat.within(self._stall_s)
        return self._simulator.step(action, render=render)

    def verdict(self, success: bool) -> Verdict | None:
        return self._simulator.verdict(success)

    def sense(self) -> Sense | None:
        return self._simulator.sense()

    def metrics(self) -> Metrics:
        return self._simulator.metrics()

    def close(self) -> None:
        self._simulator.close()


class _WatchedPolicy:
    """A policy session that announces each round."""

    def __init__(self, client: PolicySession, heartbeat: Heartbeat, stall_s: float) -> None:
        self._client, self._heartbeat, self._stall_s = client, heartbeat, stall_s

    def infer(self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]) -> Reply:
        self._heartbeat.within(_REPLY_S + self._stall_s)  # the client itself gives up after _REPLY_S
        reply = self._client.infer(obs, executed_steps, reset, noise_seed)
        self._heartbeat.within(self._stall_s)
        return reply


class Worker:
    """Runs episodes of one shard, one after another, with one simulator and one policy session at a time.

    `simulator`: this process's, where it has had one for another shard of equal needs.
    """

    def __init__(self, spec: ShardSpec, heartbeat: Heartbeat, simulator: Simulator | None = None) -> None:
        self._spec, self._heartbeat, self._built = spec, heartbeat, simulator is not None
        self._simulator = simulator
        self._client: PolicyClient | None = None
        self._running: Running | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the episode ``request["key"]`` against ``request["url"]``; never raises for what an episode can meet."""
        try:
            return self._run(request)
        except (PolicyError, EpisodeError) as error:
            return self._failed(POLICY, error)
        except ServerUnavailable as error:
            return self._failed(SERVER, error)
        except UserError as error:
            return self._failed(FATAL, error)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._simulator = None
                return self._failed(SIMULATOR, error)
            return self._failed(
                FATAL, UserError(f"disk full while writing {error.filename or 'a film'}: free some space")
            )
        except Exception as error:  # whatever the simulator throws: an infrastructure error of this episode
            traceback.print_exc()
            self._simulator = None
            return self._failed(SIMULATOR, error)

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        spec, key = self._spec, EpisodeKey(*request["key"])
        if self._simulator is None:
            if self._built:
                raise RuntimeError("this process already had a simulator: a second one renders different pictures")
            self._built = True
            self._heartbeat.within(_LONG_S)
            self._simulator = make_simulator(spec)
        if isinstance(spec.clock, RunningClock) and self._running is None:
            self._running = Running(spec.clock, latency.load(spec.clock.source))
        film = Film(request["film"], spec.condition.title, spec.guard.title) if request.get("film") else None
        seen = Recording(request["seen"], key) if request.get("seen") else None

        def watch(query: Query) -> None:
            for watcher in (film, seen):
                if watcher is not None:
                    watcher.add(query)

        patience_s = _REPLY_S if request.get("elsewhere") else _PING_S
        self._heartbeat.within(_LONG_S)
        stall_s = spec.stall_timeout_s
        record = run_episode(
            _WatchedSimulator(self._simulator, self._heartbeat, stall_s),
            _WatchedPolicy(self._session(request["url"], patience_s), self._heartbeat, stall_s),
            key,
            condition=conditions.build(spec.condition, seeds.derive(spec.seed, key, "perturbation")),
            guard=guards.build(spec.guard),
            limits=spec.limits,
            handoff=spec.handoff,
            expert=partial(registry.expert, spec.suite, self._simulator) if suite_of(spec.suite).expert else None,
            seed=spec.seed,
            replan_steps=spec.replan_steps,
            window_lag=spec.window_lag,
            answer=spec.answer,
            running=self._running,
            on_query=watch,
        )
        self._heartbeat.within(_LONG_S)
        earned = record.episode["success"] and record.episode["verified_success"] is not False
        keep = film is not None and (spec.video != "failures" or not earned)
        video = film.write() if film is not None and keep else None
        if seen is not None:
            seen.write()
        return {"episode": record.episode, "rounds": record.rounds, "steps": record.steps, "video": video}

    def _session(self, url: str, patience_s: float) -> PolicySession:
        if url == EXPERT:
            assert self._simulator is not None
            return ExpertSession(self._simulator, self._spec.suite)
        if self._client is None or self._client.url != url:
            token = os.environ.get(TOKEN_VARIABLE)
            limits: dict[str, Any] = {"reply_timeout_s": _REPLY_S, "ping_timeout_s": patience_s}
            holds = self._spec.limits is not None and self._spec.limits.act  # they hold what is not finite
            self._client = PolicyClient(url, _CONNECT_S, token=token, finite=not holds, **limits)
        return self._client

    def leave(self) -> Simulator | None:
        """End the policy session; return the simulator."""
        if self._client is not None:
            self._client.close()
            self._client = None
        return self._simulator

    def _failed(self, kind: str, error: Exception) -> dict[str, Any]:
        self.leave()
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return {"failed": kind, "error": " ".join(message.split())}


def make_simulator(spec: ShardSpec) -> Simulator:
    """Return the shard's simulator."""
    return registry.make(**{name: getattr(spec, name) for name in SIMULATOR_NEEDS})


def serve(connection: Connection, kept: bool = False) -> None:
    """Answer requests until the other end is closed; the first message is the shard's spec.

    `kept`: the message null ends a shard, and another one's log and spec follow.
    """

    def send(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    simulator = None
    own = os.dup(2)
    with contextlib.suppress(EOFError):
        while True:
            if kept:
                _write_to(recv_handle(connection), once=True)
            spec = ShardSpec.model_validate_json(connection.recv_bytes())
            worker = Worker(spec, Heartbeat(send), simulator)
            while (request := json.loads(connection.recv_bytes())) is not None:
                send(worker.answer(request))
            simulator = worker.leave()
            _write_to(own)


def _write_to(log: int, once: bool = False) -> None:
    """Send all this process prints to the file descriptor `log`, and close it if it serves `once`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    if once:
        os.close(log)


if __name__ == "__main__":
    leave_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the shard, which then ends this process
    os.dup2(2, 1)  # LIBERO prints while it loads; what it prints belongs to the log
    serve(Connection(int(sys.argv[-1])), kept=KEPT[0] in sys.argv)
