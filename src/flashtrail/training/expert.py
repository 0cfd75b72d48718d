"""The scripted experts of LIBERO's tasks: what they see there, how the drawer is pulled, what is carried where.

A closed-loop phase machine per task (`simulators.expert`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from flashtrail.base.errors import UserError
from flashtrail.simulators.expert import (
    ARRIVED,
    CLOSE_STEPS,
    CLOSED,
    DOWN,
    OPEN,
    Expert,
    PickPlace,
    PickPlaceExpert,
    Scene,
    Vector,
    servo,
)


def observe(env: Any, obs: Mapping[str, Any]) -> Scene:
    """A Scene from a LIBERO task environment and its observation."""
    data = env.sim.data

    def place(name: str) -> Vector:
        kind, _, key = name.partition(":")
        return np.array(data.get_site_xpos(key) if kind == "site" else data.get_geom_xpos(key))

    fingers = obs["robot0_gripper_qpos"]
    names = [key.removesuffix("_pos") for key in obs if key.endswith("_1_pos")]
    return Scene(
        hand=np.array(obs["robot0_eef_pos"]),
        attitude=Rotation.from_quat(obs["robot0_eef_quat"]).as_matrix(),
        width=float(fingers[0] - fingers[1]),
        objects={name: np.array(obs[name + "_pos"]) for name in names},
        place=place,
    )


class DrawerExpert(Expert):
    """Pull a cabinet drawer: hand tilted 75 degrees, since the handle above blocks a grasp from the top."""

    first = "line_up"
    attitude = Rotation.from_euler("x", -75.0, degrees=True).as_matrix() @ DOWN

    def __init__(self, handle: str) -> None:
        super().__init__()
        self.handle = handle

    def step(self, scene: Scene) -> Vector:
        if self.phase == "pull" and self.ticks > CLOSE_STEPS and scene.width < 0.004:
            self.enter("back", scene)  # closed on air
        target, grip, top = getattr(self, "_" + self.phase)(scene)
        return servo(scene.hand, scene.attitude, target, self.attitude, grip, top)

    @property
    def _fingers(self) -> Vector:
        return self.attitude[:, 2]

    def _line_up(self, scene: Scene) -> tuple[Vector, float, float]:
        target = scene.place(self.handle) - 0.12 * self._fingers
        turn = Rotation.from_matrix(self.attitude @ scene.attitude.T).magnitude()
        if np.linalg.norm(scene.hand - target) < 0.02 and turn < 0.12:
            self.enter("reach", scene)
        return target, OPEN, 1.0

    def _reach(self, scene: Scene) -> tuple[Vector, float, float]:
        target = scene.place(self.handle) + 0.004 * self._fingers
        gap = scene.hand - target
        if np.linalg.norm(gap) < ARRIVED:
            self.enter("close", scene)
        elif np.linalg.norm(gap - self._fingers * (gap @ self._fingers)) > 0.04:
            self.enter("line_up", scene)
        return target, OPEN, 0.7

    def _close(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks >= CLOSE_STEPS:
            self.enter("pull", scene)
        return self.anchor, CLOSED, 1.0

    def _pull(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks > 45:
            self.enter("back", scene)
        return self.anchor + np.array([0.0, 0.22, 0.0]), CLOSED, 1.0

    def _back(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks > 12:
            self.enter("line_up", scene)
        return self.anchor - 0.08 * self._fingers, OPEN, 1.0


# Per object, whatever its goal: how to grasp it, how far to clear it.
ABOVE = (0.0, 0.0, 0.0)  # right over the goal
BOWL = partial(
    PickPlace, item="akita_black_bowl_1", grasp=(0.0, 0.050, 0.037), hover=0.10, goal_offset=ABOVE, held_width=0.002
)  # by its rim
BOTTLE = partial(PickPlace, item="wine_bottle_1", hover=0.14, held_width=0.01)

BOWL_ON_STOVE = BOWL(carry_z=1.08, goal="site:flat_stove_1_cook_region", release=0.012)
BOTTLE_ON_CABINET = BOTTLE(
    grasp=(0.0, 0.0, 0.120),
    carry_z=1.38,
    goal="site:wooden_cabinet_1_top_side",
    goal_offset=(-0.03, 0.03, 0.0),
    release=0.012,
)

TASKS: dict[int, Callable[[], Expert]] = {
    0: lambda: DrawerExpert("geom:wooden_cabinet_1_g29"),
    1: lambda: PickPlaceExpert(BOWL_ON_STOVE),
    2: lambda: PickPlaceExpert(BOTTLE_ON_CABINET),
}


def for_task(task_id: int, known: Mapping[int, Callable[[], Expert]] = TASKS) -> Expert:
    """A fresh expert for a libero_goal task; UserError for a task outside `known`."""
    if task_id not in known:
        raise UserError(f"the scripted expert plays libero_goal tasks {sorted(known)}, not {task_id}")
    return known[task_id]()
