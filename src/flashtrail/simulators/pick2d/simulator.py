"""A hand that picks up a block and puts it on a mark, seen from above: kinematics, drawn with numpy.

Exact, and fast enough that a policy is trained and tried in it in seconds. It has no dynamics: no result on it says
anything about a robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import check_init_state, check_task, suite_of
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import POLICY_PIXELS, Observation
from flashtrail.simulators.protocol import Metrics, Step
from flashtrail.simulators.verify import Verdict

SIDES = {0: "left", 1: "right"}  # task: where the mark is
PROMPTS = {task: f"put the block on the mark on the {side}" for task, side in SIDES.items()}
STEP_M = 0.03  # of a whole action (1.0), each control step
OPEN_M, BLOCK_M, GRIP_M = 0.04, 0.015, 0.0025  # a finger's way when open, at the block; its way in a control step
LOW, HIGH = np.array([-0.25, -0.25, 0.0]), np.array([0.25, 0.25, 0.25])  # m: where the hand may be
GRASP_M, GRASP_Z = 0.025, 0.03  # hand beside the block, and above the table, at the most: else fingers close on air
GOAL_M = 0.05  # block beside the mark's middle at the most
_GREY, _GREEN, _RED, _BLUE = (225, 225, 225), (90, 180, 100), (200, 60, 40), (40, 80, 200)

Vector = NDArray[np.float64]
Dot = tuple[Vector, float, tuple[int, int, int]]  # (x, y) m, radius m, colour


class Pick2dSimulator:
    """One task of the suite ``pick2d``. Actions are (dx, dy, dz, 3 ignored, gripper), -1 to 1, as LIBERO's.

    Success: the block has been let go on the mark. All places come from the episode's key; `scene_seed` and
    `hard_reset` change nothing here.
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
        self.prompt = PROMPTS[task_id]
        self._seed, self._side = seed, -0.2 if task_id == 0 else 0.2

    def reset(self, key: EpisodeKey) -> None:
        """Put hand, block and mark where the episode's key says; the gripper is open."""
        check_init_state(key.init_state, f" of {key.suite} task {key.task_id}", suite_of(key.suite).init_states)
        rng = np.random.default_rng(seeds.derive(self._seed, key, "sim"))
        self.hand = np.array([0.0, 0.0, 0.15]) + rng.uniform(-0.03, 0.03, 3)
        self.block = np.array([*rng.uniform(-0.12, 0.12, 2), 0.0])
        self.goal = np.array([rng.uniform(-0.12, 0.12), self._side, 0.0])
        self.finger, self._held = OPEN_M, np.empty(0)  # of the held block: its place minus the hand's

    def observe(self) -> Observation:
        """Return both views, the box from above and 20 cm around the hand; a hand is larger the higher it is."""
        apart, size = np.array([0.0, self.finger + 0.01]), 0.012 + 0.04 * self.hand[2]
        fingers: list[Dot] = [(self.hand[:2] + side * apart, size, _BLUE) for side in (-1, 1)]
        dots: list[Dot] = [(self.goal[:2], GOAL_M, _GREEN), (self.block[:2], 0.02, _RED), *fingers]
        state = np.concatenate([self.hand, np.zeros(3), np.full(2, self.finger)])
        return Observation(_drawn(dots, np.zeros(2), 0.5), _drawn(dots, self.hand[:2], 0.2), state, self.prompt)

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        """Move hand and fingers; nothing has to be rendered before `observe` draws it."""
        moved = np.clip(np.asarray(action[:3], np.float64), -1, 1) * STEP_M
        self.hand = np.clip(self.hand + moved, LOW, HIGH)
        closing, before = action[6] > 0, self.finger
        near = self.hand[2] <= GRASP_Z and np.linalg.norm((self.hand - self.block)[:2]) <= GRASP_M
        stop = BLOCK_M if self._held.size or (near and before >= BLOCK_M) else 0.0
        self.finger = float(np.clip(before + (-GRIP_M if closing else GRIP_M), stop, OPEN_M))
        if not closing:
            self._held, self.block = np.empty(0), self.block * [1, 1, 0]
        elif self._held.size:
            self.block = self.hand + self._held
        elif stop and self.finger == stop:
            self._held = self.block - self.hand
        there = not self._held.size and bool(np.linalg.norm(self.block - self.goal) < GOAL_M)
        return Step(float(there), there, self.hand.copy())

    def verdict(self, success: bool) -> Verdict | None:
        """Nobody looks: where the block is, is all there is."""
        return None

    def sense(self) -> None:
        """Limits go by robosuite's controller; this hand moves otherwise, and they would not hold."""

    def metrics(self) -> Metrics:
        """There is one criterion of success, and it is `done`."""
        return Metrics()

    def close(self) -> None:
        """Nothing is held."""


def _drawn(dots: Sequence[Dot], middle: Vector, side: float) -> NDArray[Any]:
    """Return (224, 224, 3) uint8: `side` m around `middle`, x down, y to the right; later dots on top."""
    image = np.full((POLICY_PIXELS, POLICY_PIXELS, 3), _GREY, np.uint8)
    for place, radius, colour in dots:
        row, column = ((place - middle) / side + 0.5) * (POLICY_PIXELS - 1)
        reach = radius / side * POLICY_PIXELS
        top, left = max(0, int(row - reach)), max(0, int(column - reach))
        part = image[top : max(0, int(row + reach) + 2), left : max(0, int(column + reach) + 2)]
        rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
        part[(rows + top - row) ** 2 + (columns + left - column) ** 2 < reach**2] = colour
    return image
