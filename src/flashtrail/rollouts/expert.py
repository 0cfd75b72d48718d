"""The simulator's own expert in the place of a policy: one action a round, from the true state; no server, no wire.

It goes through the same episode loop, tables and films as a policy. An upper bound, and what a drill of the loop is
tried on; not a policy, since no robot is told its object's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashtrail.simulators import registry
from flashtrail.simulators.protocol import Simulator


@dataclass(frozen=True)
class Answer:
    """One round's answer: a chunk of one action, (1, 7); see `episode.Reply`."""

    actions: np.ndarray
    roundtrip_ms: float
    policy_timing: Mapping[str, Any] = field(default_factory=lambda: {"route_type": "full", "fallback_cause": ""})
    server_timing: Mapping[str, Any] = field(default_factory=dict)
    accepted_prefix_len: int = 1


class ExpertSession:
    """Answers as `episode.PolicySession` does; a new expert at each episode's first round."""

    def __init__(self, simulator: Simulator, suite: str) -> None:
        self._simulator, self._suite = simulator, suite
        self._act: Callable[[], Sequence[float]] | None = None

    def infer(self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]) -> Answer:
        """Return the expert's action for the state as it is; what was observed is not looked at."""
        start = time.perf_counter()
        if reset or self._act is None:
            self._act = registry.expert(self._suite, self._simulator)
        action = np.asarray(self._act(), np.float64)
        return Answer(action[None], (time.perf_counter() - start) * 1e3)
