"""What the scripted policies do: from a round's state and seed to a chunk of actions.

None looks at a picture or reads the prompt. An action is (dx, dy, dz, three of rotation, gripper), each -1 to 1; a
whole one asks robosuite's OSC_POSE for UNIT_M (LIBERO and Lift alike). The gripper opens at -1 and closes at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OPEN, CLOSED = -1.0, 1.0
UNIT_M = 0.05
GAIN = 1.5  # of a commanded motion over the one that is needed, since an arm makes only RESPONSE of it in a step
RESPONSE = 0.25
HOVER_M, GRASP_M, LIFT_M = 0.05, 0.02, 0.15  # of the hand above the table; hover is above the grasp
CLOSE_STEPS = 14  # until the slowest of robosuite's grippers holds
NEAR_M, ARRIVED_M = 0.02, 0.013

Seed = Sequence[int] | int | None


@dataclass(frozen=True)
class Grasp:
    """Where `blind_grasp` closes the hand: over (x, y) of the table, whose top is at z; m, in the state's frame.

    `lift`: how far above the table it then raises the hand; 0 holds where it closed.
    """

    x: float
    y: float
    z: float
    lift: float = LIFT_M


class Script:
    """One episode of a scripted policy: chunks of `shape`, (actions, numbers of each)."""

    def __init__(self, shape: tuple[int, int], grasp: Grasp | None) -> None:
        self.shape, self.grasp = shape, grasp

    def chunk(self, state: NDArray[np.float64], executed: int, seed: Seed) -> NDArray[np.float64]:
        """Return a chunk; `executed`: how many actions of the last one are past."""
        raise NotImplementedError


class Nothing(Script):
    """Holds still, hand open."""

    grip = OPEN

    def chunk(self, state: NDArray[np.float64], executed: int, seed: Seed) -> NDArray[np.float64]:
        chunk = np.zeros(self.shape)
        chunk[:, -1] = self.grip
        return chunk


class CloseOnly(Nothing):
    """Holds still and closes the hand."""

    grip = CLOSED


class Random(Script):
    """Every number uniform in -1 to 1, from the round's seed; without one never twice the same."""

    def chunk(self, state: NDArray[np.float64], executed: int, seed: Seed) -> NDArray[np.float64]:
        return np.random.default_rng(seed).uniform(-1.0, 1.0, self.shape)


class Hostile(Script):
    """All that a broken policy may send: every number at one of its ends or far beyond, a chunk long, mostly down."""

    beyond = 1e6

    def chunk(self, state: NDArray[np.float64], executed: int, seed: Seed) -> NDArray[np.float64]:
        rng = np.random.default_rng(seed)
        action = np.sign(rng.uniform(-1.0, 1.0, self.shape[1])) * rng.choice([1.0, self.beyond])
        if self.shape[1] > 2 and rng.random() < 0.7:
            action[2] = -abs(action[2])
        return np.tile(action, (self.shape[0], 1))


class BlindGrasp(Script):
    """Goes over one place of the table by the state's hand position, descends, closes, lifts; wherever the object is.

    Phases change at queries only, by where the hand is; within a chunk it is taken to follow at RESPONSE.
    """

    def __init__(self, shape: tuple[int, int], grasp: Grasp | None) -> None:
        super().__init__(shape, grasp)
        assert grasp is not None
        self._down = np.array([grasp.x, grasp.y, grasp.z + GRASP_M])
        self._over = self._down + np.array([0.0, 0.0, HOVER_M])
        self._up = self._down if grasp.lift == 0 else np.array([grasp.x, grasp.y, grasp.z + grasp.lift])
        self._phase, self._closing = "approach", 0

    def chunk(self, state: NDArray[np.float64], executed: int, seed: Seed) -> NDArray[np.float64]:
        hand = np.array(state[:3], np.float64)
        self._go_on(hand, executed)
        target, fastest = {
            "approach": (self._over, 1.0),
            "descend": (self._down, 0.7),
            "close": (hand.copy(), 0.0),
            "lift": (self._up, 1.0),
        }[self._phase]
        chunk = np.zeros(self.shape)
        chunk[:, -1] = OPEN if self._phase in ("approach", "descend") else CLOSED
        for action in chunk:
            step = GAIN * (target - hand) / UNIT_M
            action[:3] = step * min(1.0, fastest / max(np.abs(step).max(), 1e-9))
            hand += action[:3] * UNIT_M * RESPONSE
        return chunk

    def _go_on(self, hand: NDArray[np.float64], executed: int) -> None:
        if self._phase == "approach" and np.linalg.norm(hand - self._over) < NEAR_M:
            self._phase = "descend"
        elif self._phase == "descend" and np.abs(hand - self._down).max() < ARRIVED_M:
            self._phase = "close"
        elif self._phase == "close":
            self._closing += executed
            if self._closing >= CLOSE_STEPS:
                self._phase = "lift"


SCRIPTS: dict[str, Callable[[tuple[int, int], Grasp | None], Script]] = {
    "nothing": Nothing,
    "random": Random,
    "close_only": CloseOnly,
    "hostile": Hostile,
    "blind_grasp": BlindGrasp,
}
