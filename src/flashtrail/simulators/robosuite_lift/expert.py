"""The scripted experts of Lift: grasp the cube and lift it, or push it forward; for every robot of the suite.

The lifting one has the source document's four phases: approach (5 cm above the cube, to 2 cm), grasp (`descend` to the
cube's centre, then `close`), lift (15 cm above the table, until the cube is at 10 cm), hold (no motion). Unlike the
document's it notices a cube that stayed behind, and tries again. Neither remembers where the cube lay first, so that a
policy which sees one picture can do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from flashtrail.simulators.expert import ARRIVED, CLOSED, DOWN, Expert, PickPlace, PickPlaceExpert, Scene, Vector, servo
from flashtrail.simulators.robosuite_lift.tasks import TASKS
from flashtrail.simulators.verify import PUSH

if TYPE_CHECKING:
    from flashtrail.simulators.robosuite_lift.simulator import LiftSimulator

CUBE = "cube"
TABLE_Z = 0.8  # m, world frame: the table's top, robosuite's own
LIFTED_Z = TABLE_Z + 0.10  # of the cube: hold from there on
OFF_TABLE_Z = TABLE_Z + 0.04  # of the cube: its centre is at 0.82 where it lies, 0.83 on an edge
LOST_M = 0.02  # a held cube goes with the hand; one that lags so far was not grasped


@dataclass(frozen=True)
class Grip:
    """How a robot's gripper takes the cube: steps until it has closed; whether its fingers must meet faces squarely.

    Flat pads turn the cube between them; the rounded fingers of Jaco let it slip. With Kinova3 the expert
    lifts sooner where they do: 24/24 starts in 46 to 72 steps, not 23/24 in 46 to 96.
    """

    close_steps: int = 14
    square: bool = False


GRIPS = {
    "Panda": Grip(close_steps=10),  # its pads touch after 5 or 6
    "Jaco": Grip(close_steps=30, square=True),
    "Kinova3": Grip(square=True),
}

JOB = PickPlace(
    item=CUBE, grasp=(0.0, 0.0, 0.0), hover=0.05, carry_z=TABLE_Z + 0.15, goal="", goal_offset=(0.0, 0.0, 0.0),
    release=0.0, held_width=0.0,
)  # fmt: skip


def observe(env: Any, obs: Mapping[str, Any]) -> Scene:
    """A Scene from robosuite's Lift and its observation; no width: grippers differ, and the cube tells more."""
    return Scene(
        hand=np.array(obs["robot0_eef_pos"]),
        attitude=Rotation.from_quat(obs["robot0_eef_quat"]).as_matrix(),
        width=float("nan"),
        objects={CUBE: np.array(obs["cube_pos"])},
        place=env.sim.data.get_site_xpos,
        attitudes={CUBE: Rotation.from_quat(obs["cube_quat"]).as_matrix()},
    )


class LiftExpert(PickPlaceExpert):
    """Approach, descend, close, lift, hold; a cube that was not grasped, or was lost, sends it back to the approach.

    One that takes over goes on from where the arm is: it lifts a cube that is held off the table, closes around one
    between the fingers and descends on one below them. To go back first would contradict what a policy that remembers
    nothing has learned of the same places: trained on that, it opens its fingers around the cube.
    """

    def __init__(self, grip: Grip) -> None:
        super().__init__(JOB)
        self.grip = grip

    def _held(self, scene: Scene) -> bool:
        return bool(np.linalg.norm(scene.objects[CUBE] - scene.hand - self.hold) < LOST_M)

    def step(self, scene: Scene) -> Vector:
        if self.phase == self.first and self.ticks == 1:
            self._go_on(scene)
        if self.phase == "hold" and not self._held(scene):
            self.enter("retreat", scene)
        if self.grip.square and self.phase in ("approach", "descend"):
            self.attitude = squarely(scene.attitudes[CUBE])
        return super().step(scene)

    def _go_on(self, scene: Scene) -> None:
        gap = scene.hand - self._grasp(scene)
        if scene.objects[CUBE][2] > OFF_TABLE_Z and self._held(scene):
            self.hold = scene.objects[CUBE] - scene.hand
            self.enter("lift", scene)
        elif np.linalg.norm(gap[:2]) < ARRIVED and gap[2] < self.job.hover:
            self.enter("close" if gap[2] < ARRIVED else "descend", scene)

    def _close(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks >= self.grip.close_steps:
            self.hold = scene.objects[CUBE] - scene.hand
            self.enter("lift", scene)
        return self.anchor, CLOSED, 1.0

    def _lift(self, scene: Scene) -> tuple[Vector, float, float]:
        if scene.objects[CUBE][2] > LIFTED_Z:
            self.enter("hold", scene)
        return np.array([*self.anchor[:2], self.job.carry_z]), CLOSED, 1.0

    def _hold(self, scene: Scene) -> tuple[Vector, float, float]:
        return scene.hand, CLOSED, 1.0


class PushExpert(Expert):
    """Fingers closed: over the table behind the cube, down, forward until the cube is far enough, stay."""

    first = "approach"
    behind, clear, far = 0.065, 0.07, 0.13  # m: hand behind the cube, hand above it, where the cube ends up (x)

    def step(self, scene: Scene) -> Vector:
        target, top = getattr(self, "_" + self.phase)(scene)
        return servo(scene.hand, scene.attitude, target, DOWN, CLOSED, top)

    def _start(self, scene: Scene) -> Vector:
        return scene.objects[CUBE] - np.array([self.behind, 0.0, 0.0])

    def _approach(self, scene: Scene) -> tuple[Vector, float]:
        target = self._start(scene) + np.array([0.0, 0.0, self.clear])
        if scene.hand[2] < target[2] - 0.02:  # low, perhaps on the cube's far side: up first
            return np.array([*scene.hand[:2], target[2]]), 1.0
        if np.linalg.norm(scene.hand - target) < 0.02:
            self.enter("descend", scene)
        return target, 1.0

    def _descend(self, scene: Scene) -> tuple[Vector, float]:
        target = self._start(scene)
        if scene.hand[2] - target[2] < 0.01:
            self.enter("push", scene)
        return target, 0.7

    def _push(self, scene: Scene) -> tuple[Vector, float]:
        cube = scene.objects[CUBE]
        if cube[0] >= self.far:
            self.enter("stay", scene)
            return scene.hand, 1.0
        if cube[0] < scene.hand[0] or abs(cube[1] - scene.hand[1]) > 0.03:  # it slipped past the fingers
            self.enter("approach", scene)
        return np.array([scene.hand[0] + 0.05, cube[1], cube[2]]), 0.7

    def _stay(self, scene: Scene) -> tuple[Vector, float]:
        return scene.hand, 1.0


def squarely(cube: Vector) -> Vector:
    """Attitude (3, 3) of a hand that points down and is turned by the least angle to faces of a cube that lies flat."""
    yaw = np.arctan2(cube[1, 0], cube[0, 0])
    turn: Vector = Rotation.from_euler("z", (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4).as_matrix()
    return turn @ DOWN


def for_task(task_id: int) -> Expert:
    """A fresh expert for a task of ``robosuite_lift``."""
    task = TASKS[task_id]
    return PushExpert() if task.family == PUSH else LiftExpert(GRIPS.get(task.robot, Grip()))


def playing(simulator: LiftSimulator) -> Callable[[], Vector]:
    """Return what gives the next clean action (7,) of one episode for the state that the simulator is in."""
    master = for_task(simulator.task_id)
    return lambda: master.act(observe(*simulator.truth))
