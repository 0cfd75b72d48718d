"""What the episode loop asks of a simulator, and what it gets back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.verify import Verdict


@dataclass(frozen=True)
class Step:
    """What one control step returned; `eef_pos` (3,) m, as the policy would read it after the step."""

    reward: float
    done: bool
    eef_pos: np.ndarray


@dataclass(frozen=True)
class Sense:
    """What limits go by; lengths in the world's frame.

    `hand`: (3,) m, the point that actions move. `points`: (n, 3) m, corners of all parts of the gripper, the same ones
    in the same order throughout an episode. `force_n`: of the wrist's force sensor, N; None where there is none.
    """

    hand: np.ndarray
    points: np.ndarray
    force_n: float | None = None


@dataclass(frozen=True)
class Metrics:
    """What criteria other than `done` and the verdict say of an episode so far; None where the suite has none.

    Each is a column of the episodes' table; no verdict uses them.
    """

    naive_success: bool | None = None
    own_success: bool | None = None
    printed_success: bool | None = None


class Simulator(Protocol):
    """What the episode loop asks of a simulator."""

    @property
    def prompt(self) -> str:
        """The task's instruction."""

    @property
    def horizon(self) -> int:
        """Control steps of an episode, wait steps not counted."""

    def reset(self, key: EpisodeKey) -> None:
        """Set up the scene and the init state of an episode and let the objects settle."""

    def observe(self) -> Observation:
        """Return what the policy sees now; only after a reset or a step with ``render=True``."""

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        """Advance by one control step (50 ms); render both views only if an observation is wanted after it."""

    def verdict(self, success: bool) -> Verdict | None:
        """Return what was seen of the task's behaviour since the reset; None where the suite has no verdict."""

    def sense(self) -> Sense | None:
        """Return where the gripper is and what presses on it, now; None where nothing says so."""

    def metrics(self) -> Metrics:
        """Return what other criteria say of the episode since the reset."""

    def close(self) -> None:
        """Free the simulator."""
