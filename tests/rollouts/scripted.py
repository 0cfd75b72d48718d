"""A simulator and a policy that are scripts, in this process, for tests of the loop and of what records it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Metrics, Step

KEY = EpisodeKey("libero_goal", 2, 5, 1)


@dataclasses.dataclass
class Reply:
    actions: np.ndarray
    accepted_prefix_len: int
    policy_timing: dict[str, Any]
    server_timing: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"policy_time_ms": 4.0, "serve_time_ms": 5.0}
    )
    roundtrip_ms: float = 6.0


class Policy:
    """Answers with a list of (accepted, timing); the actions of round r are r + i/100."""

    def __init__(self, script):
        self.script, self.asked = script, []

    def infer(self, obs, executed_steps, reset, noise_seed):
        number = len(self.asked)
        self.asked.append((executed_steps, reset, noise_seed, obs))
        accepted, timing = self.script[min(number, len(self.script) - 1)]
        actions = number + np.arange(50)[:, None] / 100 + np.zeros(7)
        return Reply(actions, accepted, timing)


class Simulator:
    prompt, horizon = "open it", 40
    seen = None  # the verdict on what was seen
    other = Metrics()  # what other criteria say

    def __init__(self, success_at=None):
        self.success_at, self.taken, self.rendered = success_at, [], []

    def reset(self, key):
        self.taken.append(("reset", key))

    def observe(self):
        steps = len(self.taken) - 1
        return Observation(
            np.full((224, 224, 3), steps, np.uint8), np.full((224, 224, 3), 9, np.uint8), np.zeros(8), ""
        )

    def step(self, action, *, render):
        self.taken.append(tuple(action))
        self.rendered.append(render)
        steps = len(self.taken) - 1
        done = steps == self.success_at
        return Step(float(done), done, np.array([steps, 0, 0], float))

    def verdict(self, success):
        return self.seen

    def sense(self):
        return None

    def metrics(self):
        return self.other


FULL, DRAFT = {"route_type": "full", "radius_dist": float("nan")}, {"route_type": "draft", "radius_dist": 0.2}


def run(script, simulator=None, condition=None, guard=None, **settings):
    policy, simulator = Policy(script), simulator or Simulator()
    record = run_episode(
        simulator,
        policy,
        KEY,
        condition=conditions.build(condition or {"kind": "none"}),
        guard=guards.build(guard or {"kind": "none"}),
        seed=7,
        **settings,
    )
    return record, policy, simulator
