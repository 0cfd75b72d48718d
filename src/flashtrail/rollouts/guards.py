"""Remedies at the client: after the condition, before the policy.

A guard has memory (a cache, ages), so each episode gets its own. It is given the damaged observation and nothing else:
the undamaged frame is out of its reach. The one exception is `Oracle`, which is not a `Guard` and has another
method, so that nothing else can be given the undamaged frame by accident. Parameters are in `experiment.guards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from flashtrail.experiment import guards as kinds
from flashtrail.simulators.observation import Observation


@dataclass(frozen=True)
class GuardRecord:
    """What a guard saw and did at one query: columns of the rounds table; None where it looked at nothing."""

    health_std: float | None = None
    health_range: float | None = None
    healthy: bool | None = None
    cache_hit: bool | None = None
    cache_age: int | None = None
    replaced: bool | None = None
    masked: bool | None = None


class Guard(Protocol):
    """A remedy during one episode."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Return what the policy is to see at this query (0, 1, ... per episode) and the guard's record."""


@dataclass(frozen=True)
class NoGuard:
    """Passes everything."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Return the observation as it is."""
        return observation, GuardRecord()


class WristHealthGuard:
    """Replaces an unhealthy wrist frame by the last healthy one, if that is not too old.

    Healthy: standard deviation >= `std_min` and max - min >= `range_min`, over all pixels and channels (0-255). A
    healthy frame is copied into the cache with its query index. An unhealthy one is replaced by the cached frame if
    there is one at most `max_age` queries old; using the cache does not refresh it. Otherwise it passes: a miss,
    `healthy` and `cache_hit` both False. `cache_age` (queries) is given whenever an unhealthy frame met a cache.
    """

    def __init__(self, given: kinds.WristHealth) -> None:
        self._given = given
        self._cached: np.ndarray | None = None
        self._cached_at = 0

    def apply(self, observation: Observation, query: int) -> tuple[Observation, GuardRecord]:
        """Judge the wrist frame, then keep it, replace it or let it pass."""
        wrist, given = observation.wrist, self._given
        std, spread = float(np.std(wrist)), float(wrist.max()) - float(wrist.min())
        healthy = std >= given.std_min and spread >= given.range_min
        if healthy:
            self._cached, self._cached_at = wrist.copy(), query
            return observation, GuardRecord(std, spread, True, False, None, False, False)
        age = None if self._cached is None else query - self._cached_at
        if self._cached is None or age is None or age > given.max_age:
            return self._missed(observation, GuardRecord(std, spread, False, False, age, False, False))
        return replace(observation, wrist=self._cached), GuardRecord(std, spread, False, True, age, True, False)

    def _missed(self, observation: Observation, record: GuardRecord) -> tuple[Observation, GuardRecord]:
        return observation, record


class WristMaskGuard(WristHealthGuard):
    """As `WristHealthGuard`, but a frame that it cannot replace is declared missing (`masked`) instead of sent."""

    def _missed(self, observation: Observation, record: GuardRecord) -> tuple[Observation, GuardRecord]:
        return replace(observation, wrist_missing=True), replace(record, masked=True)


class Oracle:
    """Restores what the condition took: an upper bound for every guard, and not a guard that a robot could have."""

    def restore(self, damaged: Observation, undamaged: Observation) -> tuple[Observation, GuardRecord]:
        """Return the undamaged observation; `healthy` means here that the condition left the pictures unchanged."""
        wrist = damaged.wrist
        same = damaged is undamaged or all(
            np.array_equal(getattr(damaged, view), getattr(undamaged, view)) for view in ("agent", "wrist")
        )
        std, spread = float(np.std(wrist)), float(wrist.max()) - float(wrist.min())
        return undamaged, GuardRecord(std, spread, same, False, None, not same, False)


def build(spec: kinds.Kind | Mapping[str, Any]) -> Guard | Oracle:
    """Return a fresh guard for one episode, of a kind or of its JSON: ``{kind: wrist_health, std_min: 1.0, ...}``."""
    given = kinds.read(spec)
    if isinstance(given, kinds.Oracle):
        return Oracle()
    if isinstance(given, kinds.WristMask):
        return WristMaskGuard(given)
    return WristHealthGuard(given) if isinstance(given, kinds.WristHealth) else NoGuard()
