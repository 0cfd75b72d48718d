"""Remedies at the client: after the condition, before the policy.

A guard has memory (a cache, ages), so each episode gets its own. It is given the damaged observation and nothing
else: the undamaged frame is out of its reach. Knows no condition, no policy and no simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from flashtrail.errors import UserError
from flashtrail.rollouts.conditions import build_kind
from flashtrail.rollouts.observation import Observation


@dataclass(frozen=True)
class GuardRecord:
    """What a guard saw and did at one query: columns of the rounds table; None where it looked at nothing."""

    health_std: float | None = None
    health_range: float | None = None
    healthy: bool | None = None
    cache_hit: bool | None = None
    cache_age: int | None = None
    replaced: bool | None = None


class Guard(Protocol):
    """A remedy during one episode."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Return what the policy is to see at this query (0, 1, ... per episode) and what was found."""


@dataclass(frozen=True)
class NoGuard:
    """Passes everything."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Return the observation as it is."""
        return observation, GuardRecord()


@dataclass
class WristHealthGuard:
    """Replaces an unhealthy wrist frame by the last healthy one, if that is not too old.

    Healthy: standard deviation >= `std_min` and max - min >= `range_min`, over all pixels and channels (0-255). A
    healthy frame is copied into the cache with its query index. An unhealthy one is replaced by the cached frame if
    there is one at most `max_age` queries old; using the cache does not refresh it. Otherwise it passes: a miss,
    `healthy` and `cache_hit` both False. `cache_age` (queries) is given whenever an unhealthy frame met a cache.
    """

    std_min: float = 1.0
    range_min: float = 5.0
    max_age: int = 8
    _cached: np.ndarray | None = field(default=None, init=False, repr=False)
    _cached_at: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.std_min < 0 or self.range_min < 0 or self.max_age < 0:
            raise UserError("guard wrist_health: std_min, range_min and max_age must not be negative")

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Judge the wrist frame, then keep it, replace it or let it pass."""
        wrist = observation.wrist
        std, spread = float(np.std(wrist)), float(wrist.max()) - float(wrist.min())
        healthy = std >= self.std_min and spread >= self.range_min
        if healthy:
            self._cached, self._cached_at = wrist.copy(), query
            return observation, GuardRecord(std, spread, True, False, None, False)
        if self._cached is None:
            return observation, GuardRecord(std, spread, False, False, None, False)
        age = query - self._cached_at
        if age > self.max_age:
            return observation, GuardRecord(std, spread, False, False, age, False)
        return replace(observation, wrist=self._cached), GuardRecord(std, spread, False, True, age, True)


KINDS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "none": (NoGuard, ()),
    "wrist_health": (WristHealthGuard, ("std_min", "range_min", "max_age")),
}


def build(spec: Mapping[str, Any]) -> Guard:
    """Return a fresh guard for one episode from ``{kind: wrist_health, std_min: 1.0, ...}``; errors as conditions."""
    made: Guard = build_kind("guard", KINDS, spec)
    return made


def check(spec: Mapping[str, Any]) -> None:
    """Raise UserError where `build` would."""
    build(spec)
