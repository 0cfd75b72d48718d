"""One episode of the rollouts' own loop, watched step by step and disturbed by hand.

Everything here stands around `run_episode` and its parts; with nobody pressing a button the episode is the shard's, bit
for bit (tests/studio/test_stage.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import ShardSpec
from flashtrail.rollouts import conditions, film, guards
from flashtrail.rollouts.conditions import Condition
from flashtrail.rollouts.episode import EpisodeRecord, PolicySession, Query, run_episode
from flashtrail.rollouts.shard import episodes_of
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Metrics, Simulator, Step
from flashtrail.simulators.verify import Verdict
from flashtrail.studio import picture

Send = Callable[[dict[str, Any]], None]
Orders = Callable[[float], "dict[str, Any] | None"]
"""What the visitor has ordered since: waits up to so many seconds, and returns None if that was nothing."""


class Ended(Exception):
    """The visitor has ended the episode, or is gone."""


class Breakable:
    """A condition, and whichever fault was chosen last on top of it, from the next query on."""

    def __init__(self, first: Condition, faults: Mapping[str, Condition]) -> None:
        self._first, self._faults = first, dict(faults)
        self.chosen: str | None = None

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        """Return what is left of the observation and whether it was hit; every fault's memory is kept up to date."""
        given, hit = self._first.apply(observation, query, allowed)
        left, struck = given, False
        for name, fault in self._faults.items():
            changed, touched = fault.apply(given, query, allowed and name == self.chosen)
            if touched:
                left, struck = changed, True
        return left, hit or struck


def play(
    simulator: Simulator,
    policy: PolicySession,
    spec: ShardSpec,
    faults: Mapping[str, Any],
    pace_hz: float,
    send: Send,
    orders: Orders,
) -> EpisodeRecord:
    """Play the spec's first episode, send what is to be seen of it, and return its record; Ended if so ordered.

    `faults`: conditions by the names that an order may give. `pace_hz`: control steps a second at the most.
    """
    key = episodes_of(spec)[0]
    seed = seeds.derive(spec.seed, key, "perturbation")
    camera = Breakable(
        conditions.build(spec.condition, seed), {name: conditions.build(f, seed) for name, f in faults.items()}
    )
    watched: Any = _Watched(simulator, spec, camera, 1.0 / pace_hz, send, orders)
    return run_episode(
        watched,
        policy,
        key,
        condition=camera,
        guard=guards.build(spec.guard),
        seed=spec.seed,
        replan_steps=spec.replan_steps,
        window_lag=spec.window_lag,
        answer=spec.answer,
        on_query=watched.asked,
    )


class _Watched:
    """A simulator that draws every step, says what is seen, and takes the visitor's orders in between."""

    def __init__(
        self, simulator: Simulator, spec: ShardSpec, camera: Breakable, pause_s: float, send: Send, orders: Orders
    ) -> None:
        self._simulator, self._camera, self._pause_s = simulator, camera, pause_s
        self._send, self._orders = send, orders
        self._guard = str(spec.guard.kind)
        self._view, self._way = picture.Camera(simulator, spec.suite), list[np.ndarray]()
        self._steps, self._due = 0, 0.0

    def reset(self, key: EpisodeKey) -> None:
        self._simulator.reset(key)
        self._due = time.monotonic()
        self._show(self._simulator.observe(), done=False)

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        self._obey()
        step = self._simulator.step(action, render=True)
        self._steps += 1
        self._way.append(step.eef_pos)
        self._show(self._simulator.observe(), done=step.done)
        return step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulator, name)  # all else as it is

    def asked(self, query: Query) -> None:
        """Say what the policy was given and answered (an `episode.OnQuery`)."""
        reply, given = query.reply, query.given
        self._send(
            {
                "query": query.index,
                "agent": picture.jpeg(given.agent),
                "wrist": picture.jpeg(given.wrist),
                "told": given.prompt,
                "route": str(reply.policy_timing.get("route_type", "full")),
                "accepted": int(reply.accepted_prefix_len),
                "chunk": len(reply.actions),
                "ms": round(float(reply.roundtrip_ms), 1),
                "hit": query.hit,
                "fault": self._camera.chosen if query.hit else None,
                "guard": "none" if self._guard == "none" else film.done(query.guard),
            }
        )

    def _show(self, seen: Observation, done: bool) -> None:
        """Send a frame of the undamaged agent view, and the lights as they stand."""
        verdict = self._simulator.verdict(done)
        self._send(
            {
                "step": self._steps,
                "horizon": self._simulator.horizon,
                "world": picture.jpeg(picture.trail(seen.agent, self._view.points(self._way))),
                "lights": lights(self._simulator.metrics(), done, verdict),
                "missing": verdict.missing if verdict else None,
                "prompt": self._simulator.prompt,
            }
        )

    def _obey(self) -> None:
        """Keep the pace, and do what was ordered meanwhile."""
        self._due = max(self._due + self._pause_s, time.monotonic())
        while (order := self._orders(max(0.0, self._due - time.monotonic()))) is not None:
            if order.get("end"):
                raise Ended
            if "fault" in order:
                self._camera.chosen = str(order["fault"])


def lights(metrics: Metrics, done: bool, verdict: Verdict | None) -> dict[str, bool]:
    """Return the success criteria that the suite has, and what each says by now."""
    own = done if metrics.own_success is None else metrics.own_success
    every = {"naive": metrics.naive_success, "own": own, "printed": metrics.printed_success}
    every["verified"] = None if verdict is None else verdict.verified
    return {name: bool(value) for name, value in every.items() if value is not None}
