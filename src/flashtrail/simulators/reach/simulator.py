"""A hand that is a point in a box, and a mark on one side of it: success is to be at the mark.

Exact and instant, drawn with numpy. It exercises the path of a rollout without physics; no
result on it says anything about a robot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import check_init_state, check_task, suite_of
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import POLICY_PIXELS, Observation
from flashtrail.simulators.protocol import Metrics, Sense, Step
from flashtrail.simulators.verify import Verdict

SIDES = {0: "left", 1: "right"}  # task: where the mark is
STEP_M = 0.02  # of a whole action (1.0), each control step
CLOSE_M = 0.03
_HALF_M = 0.25  # half the box's side


class ReachSimulator:
    """One task of the suite ``reach``. Actions are (dx, dy, dz, 3 ignored, gripper), -1 to 1, as LIBERO's.

    The start comes from the episode's key; `scene_seed` and `hard_reset` change nothing here.
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        *,
        seed: int = 7,
        scene_seed: str = "episode",
        hard_reset: bool = True,
        horizon: int | None = None,
    ) -> None:
        check_task(suite, task_id)
        self.horizon = suite_of(suite).horizon if horizon is None else horizon
        self.prompt = f"reach the mark on the {SIDES[task_id]}"
        self._seed = seed
        self._mark = np.array([0.0, -0.2 if task_id == 0 else 0.2, 0.0])

    def reset(self, key: EpisodeKey) -> None:
        """Put the hand where the episode's key says, open."""
        check_init_state(key.init_state, f" of {key.suite} task {key.task_id}")
        seed = seeds.derive(self._seed, key, "sim")
        self._hand, self._gripper = np.random.default_rng(seed).uniform(-0.05, 0.05, 3), -1.0

    def observe(self) -> Observation:
        """Return both views: the box from above, and what surrounds the hand."""
        above = _picture([(self._mark[:2], (200, 60, 40)), (self._hand[:2], (40, 80, 200))])
        near = _picture([((self._mark - self._hand)[:2], (200, 60, 40))])
        state = np.concatenate([self._hand, np.zeros(3), np.full(2, 0.02 * (1 - self._gripper))])
        return Observation(above, near, state, self.prompt)

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        """Move the hand; nothing has to be rendered before `observe` draws it."""
        moved = np.clip(np.asarray(action[:3], np.float64), -1, 1) * STEP_M
        self._hand = np.clip(self._hand + moved, -_HALF_M, _HALF_M)
        self._gripper = float(action[6])
        there = bool(np.linalg.norm(self._hand - self._mark) < CLOSE_M)
        return Step(float(there), there, self._hand.copy())

    def verdict(self, success: bool) -> Verdict | None:
        """Nobody looks: where the hand is, is all there is."""
        return None

    def sense(self) -> Sense:
        """The hand is its only point, and nothing presses on it."""
        return Sense(self._hand.copy(), self._hand[None].copy())

    def metrics(self) -> Metrics:
        """There is one criterion of success, and it is `done`."""
        return Metrics()

    def close(self) -> None:
        """Nothing is held."""


def _picture(dots: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Return a (224, 224, 3) picture of coloured dots at (x, y) m on grey."""
    image = np.full((POLICY_PIXELS, POLICY_PIXELS, 3), 225, np.uint8)
    rows, columns = np.mgrid[:POLICY_PIXELS, :POLICY_PIXELS]
    for place, colour in dots:
        row, column = (place / (2 * _HALF_M) + 0.5) * (POLICY_PIXELS - 1)
        image[(rows - row) ** 2 + (columns - column) ** 2 < 64] = colour
    return image
