"""What scripted experts share: what they see, the servo, the phase machine, and picking something up.

An expert reads the simulator's true state and answers with the next clean action. It can start from any state of the
arm, closes only when it has arrived, notices a grasp that missed (fingers met, or the object stayed behind) and tries
again. Lengths are metres, world frame; one control unit is 0.05 m or 0.5 rad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]
OPEN, CLOSED = -1.0, 1.0
UNIT_M, UNIT_RAD = 0.05, 0.5
DOWN: Vector = np.diag([1.0, -1.0, -1.0])  # fingers straight down
CLOSE_STEPS = 12  # the gripper needs about ten control steps; eight then lift lost every bowl
ARRIVED = 0.013  # a tighter test is a knife edge in the labels: the policy hovers at it and never closes


def servo(hand: Vector, attitude: Vector, target: Vector, wanted: Vector, grip: float, top: float = 1.0) -> Vector:
    """Proportional step (7,) from hand position (3,) and attitude (3, 3) to the target; speed <= `top` units."""
    step = (target - hand) / UNIT_M * 1.5
    fastest = np.abs(step).max()
    if fastest > top:
        step = step / fastest * top
    turn = np.clip(Rotation.from_matrix(wanted @ attitude.T).as_rotvec() / UNIT_RAD, -0.6, 0.6)
    return np.concatenate([step, turn, [grip]])


@dataclass(frozen=True)
class Scene:
    """What the expert sees at one instant."""

    hand: Vector  # (3,)
    attitude: Vector  # (3, 3)
    width: float  # between the fingers
    objects: Mapping[str, Vector]  # movable objects' positions
    place: Callable[[str], Vector]  # fixture site or geom name -> position
    attitudes: Mapping[str, Vector] = field(default_factory=dict)  # (3, 3), of objects that are grasped by their faces


class Expert:
    """A phase machine: `phase` names the current one, `ticks` counts its steps, `anchor` is where it began."""

    first = ""

    def __init__(self) -> None:
        self.phase, self.ticks, self.anchor = "", 0, np.zeros(3)

    def act(self, scene: Scene) -> Vector:
        """The clean action (7,) for this instant; every entry within [-1, 1]."""
        if not self.phase:
            self.enter(self.first, scene)
        self.ticks += 1
        return np.clip(self.step(scene), -1.0, 1.0)

    def enter(self, phase: str, scene: Scene) -> None:
        """Begin a phase here."""
        if phase != self.phase:
            self.phase, self.ticks, self.anchor = phase, 0, scene.hand.copy()

    def step(self, scene: Scene) -> Vector:
        """One step of the machine."""
        raise NotImplementedError


@dataclass(frozen=True)
class PickPlace:
    """Geometry of one pick-and-place: what to grasp where, how high to carry it, where to let go."""

    item: str
    grasp: tuple[float, float, float]  # hand minus object at the grasp
    hover: float  # above the grasp
    carry_z: float
    goal: str  # "site:NAME"
    goal_offset: tuple[float, float, float]
    release: float  # above the goal
    held_width: float  # the fingers stay wider than this around the object


class PickPlaceExpert(Expert):
    """Approach, descend, close, lift, carry, lower, release, rise; a lost object sends it back to the approach."""

    first = "approach"

    def __init__(self, job: PickPlace) -> None:
        super().__init__()
        self.job, self.hold = job, np.zeros(3)  # hold: object minus hand, taken when the gripper has closed
        self.attitude = DOWN

    def _held(self, scene: Scene) -> bool:
        gap = scene.objects[self.job.item] - scene.hand - self.hold
        return bool(np.linalg.norm(gap) < 0.05) and scene.width > self.job.held_width

    def step(self, scene: Scene) -> Vector:
        if self.phase in ("lift", "carry", "lower") and self.ticks > 4 and not self._held(scene):
            self.enter("retreat", scene)
        target, grip, top = getattr(self, "_" + self.phase)(scene)
        return servo(scene.hand, scene.attitude, target, self.attitude, grip, top)

    def _grasp(self, scene: Scene) -> Vector:
        return scene.objects[self.job.item] + np.array(self.job.grasp)

    def _approach(self, scene: Scene) -> tuple[Vector, float, float]:
        target = self._grasp(scene) + np.array([0.0, 0.0, self.job.hover])
        if np.linalg.norm((scene.hand - target)[:2]) > 0.06:  # far away: do not sink on the way
            target[2] = max(target[2], min(scene.hand[2], target[2] + 0.03))
        if np.linalg.norm(scene.hand - target) < 0.02:
            self.enter("descend", scene)
        return target, OPEN, 1.0

    def _descend(self, scene: Scene) -> tuple[Vector, float, float]:
        target = self._grasp(scene)
        aside, above = float(np.linalg.norm((scene.hand - target)[:2])), scene.hand[2] - target[2]
        if aside > 0.03:
            self.enter("approach", scene)
        elif aside < ARRIVED and above < ARRIVED:
            self.enter("close", scene)
        if aside > 0.015:  # sink only when above the grasp
            target[2] = max(target[2], scene.hand[2])
        return target, OPEN, 0.7

    def _close(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks >= CLOSE_STEPS:
            self.hold = scene.objects[self.job.item] - scene.hand
            self.enter("lift", scene)
        return self.anchor, CLOSED, 1.0

    def _retreat(self, scene: Scene) -> tuple[Vector, float, float]:
        target = self.anchor + np.array([0.0, 0.0, 0.12])
        if self.ticks > 15 or scene.hand[2] > target[2] - 0.02:
            self.enter("approach", scene)
        return target, OPEN, 1.0

    def _over(self, scene: Scene) -> Vector:
        """Hand position that puts the held object over the goal; uses the grasp as it came out."""
        return scene.place(self.job.goal) + np.array(self.job.goal_offset) - self.hold

    def _lift(self, scene: Scene) -> tuple[Vector, float, float]:
        if scene.hand[2] > self.job.carry_z - 0.02:
            self.enter("carry", scene)
        return np.array([*self.anchor[:2], self.job.carry_z]), CLOSED, 1.0

    def _carry(self, scene: Scene) -> tuple[Vector, float, float]:
        target = np.array([*self._over(scene)[:2], self.job.carry_z])
        if np.linalg.norm((scene.hand - target)[:2]) < 0.015:
            self.enter("lower", scene)
        return target, CLOSED, 1.0

    def _lower(self, scene: Scene) -> tuple[Vector, float, float]:
        target = self._over(scene) + np.array([0.0, 0.0, self.job.release])
        if scene.hand[2] - target[2] < 0.012:
            self.enter("release", scene)
        return target, CLOSED, 0.7

    def _release(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks > 10:
            self.enter("rise", scene)
        return self.anchor, OPEN, 1.0

    def _rise(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks > 25:  # still no success: the object is somewhere else, grasp it again
            self.enter("approach", scene)
        return self.anchor + np.array([0.0, 0.0, 0.15]), OPEN, 1.0
