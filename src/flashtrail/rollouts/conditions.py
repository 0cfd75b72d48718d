"""Faults of the observation, as pure functions with parameters: what the policy sees instead of what there was.

A condition is made anew for each episode, so that one with memory cannot leak into the next. Knows observations and
query indices; knows no guard, no policy and no simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from flashtrail.errors import UserError, nearest
from flashtrail.rollouts.observation import Observation

_VIEWS = {"wrist": ("wrist",), "agent": ("agent",), "both": ("agent", "wrist")}
_ANYWHERE = ("kind", "name")


class Condition(Protocol):
    """A fault during one episode."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, bool]:
        """Return what is left of the observation at this query (0, 1, ... per episode) and whether it was hit.

        Every request counts as a query, the one that repeats a zero-accept round too.
        """


@dataclass(frozen=True)
class Clean:
    """Nothing happens."""

    def apply(self, observation: Observation, query: int) -> tuple[Observation, bool]:
        """Return the observation as it is."""
        return observation, False


@dataclass(frozen=True)
class Zero:
    """A view is black at the queries with ``query % every == phase``; ``every=1`` means always.

    With the defaults of the reproduction (every 4, phase 0) the first query of an episode is hit.
    """

    view: str = "wrist"
    every: int = 1
    phase: int = 0

    def __post_init__(self) -> None:
        if self.view not in _VIEWS:
            raise UserError(f"condition zero: unknown view {self.view!r}{nearest(self.view, _VIEWS)}")
        if self.every < 1 or not 0 <= self.phase < self.every:
            raise UserError(
                f"condition zero: needs every >= 1 and 0 <= phase < every, not every {self.every}, phase {self.phase}"
            )

    def apply(self, observation: Observation, query: int) -> tuple[Observation, bool]:
        """Blacken the view, if this query is hit."""
        if query % self.every != self.phase:
            return observation, False
        black = {view: np.zeros_like(getattr(observation, view)) for view in _VIEWS[self.view]}
        return replace(observation, **black), True


KINDS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "none": (Clean, ()),
    "zero": (Zero, ("view", "every", "phase")),
}


def build(spec: Mapping[str, Any]) -> Condition:
    """Return a fresh condition for one episode from ``{kind: zero, view: wrist, every: 4, phase: 0}``.

    Parameters of other kinds are allowed under ``none`` (a typed config spells out its defaults). UserError for an
    unknown kind or parameter names the nearest one.
    """
    made: Condition = build_kind("condition", KINDS, spec)
    return made


def check(spec: Mapping[str, Any]) -> None:
    """Raise UserError where `build` would."""
    build(spec)


def build_kind(
    what: str, kinds: Mapping[str, tuple[type[Any], tuple[str, ...]]], spec: Mapping[str, Any], **given: Any
) -> Any:
    """Build one entry of a registry of kinds from a spec; `what` names it in errors."""
    kind = spec.get("kind", "none")
    if kind not in kinds:
        raise UserError(f"{what}: unknown kind {kind!r}{nearest(kind, kinds)}")
    cls, own = kinds[kind]
    known = own if own else tuple(name for _, names in kinds.values() for name in names)
    for key in spec:
        if key not in known and key not in _ANYWHERE:
            raise UserError(f"{what} {kind}: unknown parameter {key!r}{nearest(key, (*known, 'kind'))}")
    return cls(**{key: spec[key] for key in own if key in spec}, **given)
