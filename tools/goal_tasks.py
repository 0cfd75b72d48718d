"""The scripted expert for all ten libero_goal tasks: the three that pi0_nano learns, and the other seven.

For checks that need honest episodes of every kind of task (`tools/agreement.py`), not for demonstrations. Lengths are
metres, world frame; docs/reference/LIBERO.md, 4, has an earlier version's success and the pitfalls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

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
from flashtrail.training import expert
from flashtrail.training.expert import ABOVE, BOTTLE, BOWL, DrawerExpert

_Target = tuple[Vector, Vector, float, float]  # position, attitude, gripper, top speed


BOWL_ON_CABINET = BOWL(carry_z=1.30, goal="site:wooden_cabinet_1_top_side", release=0.02)
BOWL_ON_PLATE = BOWL(carry_z=1.06, goal="body:plate_1", release=0.02)
BOWL_IN_DRAWER = BOWL(carry_z=1.24, goal="site:wooden_cabinet_1_top_region", release=0.06)
BOTTLE_ON_RACK = BOTTLE(
    grasp=(0.0, 0.0, 0.115), carry_z=1.42, goal="site:wine_rack_1_top_region", goal_offset=ABOVE, release=0.0
)
CHEESE_IN_BOWL = PickPlace(
    item="cream_cheese_1",
    grasp=(0.0, 0.0, 0.002),
    hover=0.10,
    carry_z=1.08,
    goal="body:akita_black_bowl_1",
    goal_offset=ABOVE,
    release=0.045,
    held_width=0.01,
)


class PlacedOnObject(PickPlaceExpert):
    """A pick-and-place whose goal is another movable object."""

    def _over(self, scene: Scene) -> Vector:
        name = self.job.goal.removeprefix("body:")
        return scene.objects[name] + np.array(self.job.goal_offset) - self.hold


class BottleOnRack(PickPlaceExpert):
    """Lowers as far as the rack lets it, then lets go: how the bottle comes to lie is the rack's affair."""

    def _lower(self, scene: Scene) -> tuple[Vector, float, float]:
        if self.ticks > 40:
            self.enter("release", scene)
        return super()._lower(scene)


class TurnedBowl(PickPlaceExpert):
    """Takes the bowl with the hand turned by 45 degrees, past the drawer that stands open."""

    rotation = Rotation.from_euler("z", 45.0, degrees=True).as_matrix()
    attitude = rotation @ DOWN

    def _grasp(self, scene: Scene) -> Vector:
        return scene.objects[self.job.item] + self.rotation @ np.array(self.job.grasp)

    def step(self, scene: Scene) -> Vector:
        action = super().step(scene)
        action[3:6] = servo(scene.hand, scene.attitude, scene.hand, self.attitude, OPEN)[3:6]
        return action


class DrawerThenBowl(Expert):
    """Opens the top drawer far enough, lets go, rises, and puts the bowl into it."""

    first = "open"
    opened_m = 0.13

    def __init__(self) -> None:
        super().__init__()
        self.drawer, self.bowl = DrawerExpert("geom:wooden_cabinet_1_g18"), TurnedBowl(BOWL_IN_DRAWER)
        self.shut: float | None = None

    def step(self, scene: Scene) -> Vector:
        handle = scene.place(self.drawer.handle)
        self.shut = handle[1] if self.shut is None else self.shut
        if self.phase == "open":
            if handle[1] - self.shut < self.opened_m:
                return self.drawer.act(scene)
            self.enter("let_go", scene)
        if self.phase == "let_go":
            if self.ticks > 12:
                self.enter("away", scene)
            return servo(scene.hand, scene.attitude, self.anchor, self.drawer.attitude, OPEN)
        if self.phase == "away":
            back = self.anchor + np.array([0.0, 0.08, 0.0])
            if self.ticks > 12:
                self.enter("rise", scene)
            return servo(scene.hand, scene.attitude, back, self.drawer.attitude, OPEN)
        if self.phase == "rise":
            target = np.array([*self.anchor[:2], 1.22])
            turn = Rotation.from_matrix(self.bowl.attitude @ scene.attitude.T).magnitude()
            if scene.hand[2] > 1.18 and turn < 0.15:
                self.enter("bowl", scene)
            wanted = self.drawer.attitude if scene.hand[2] < 1.12 else self.bowl.attitude
            return servo(scene.hand, scene.attitude, target, wanted, OPEN)
        return self.bowl.act(scene)


class PushExpert(Expert):
    """Pushes the plate: closed fingers inside its rim, then toward the goal."""

    first = "over"

    def __init__(self, item: str, goal: str) -> None:
        super().__init__()
        self.item, self.goal = item, goal

    def step(self, scene: Scene) -> Vector:
        plate, goal = scene.objects[self.item], scene.place(self.goal)
        ahead = goal - plate
        ahead[2] = 0.0
        ahead /= max(float(np.linalg.norm(ahead)), 1e-6)
        contact = plate + 0.030 * ahead + np.array([0.0, 0.0, 0.012])
        if self.phase == "over":
            target, top = contact + np.array([0.0, 0.0, 0.08]), 1.0
            if np.linalg.norm(scene.hand - target) < 0.015:
                self.enter("press", scene)
        elif self.phase == "press":
            target, top = contact, 0.5
            if scene.hand[2] - target[2] < 0.008 or self.ticks > 25:
                self.enter("push", scene)
        else:
            target, top = contact + 0.05 * ahead, 0.5
            if self.ticks > 100 or np.linalg.norm((scene.hand - plate)[:2]) > 0.12:
                self.enter("over", scene)
        return servo(scene.hand, scene.attitude, target, DOWN, CLOSED, top)


class KnobExpert(Expert):
    """Grasps the bar of the stove's knob from above and turns the hand about z."""

    first = "over"
    turned = Rotation.from_euler("z", 80.0, degrees=True).as_matrix() @ DOWN

    def __init__(self, knob: str) -> None:
        super().__init__()
        self.knob = knob

    def step(self, scene: Scene) -> Vector:
        target, attitude, grip, top = getattr(self, "_" + self.phase)(scene)
        return servo(scene.hand, scene.attitude, target, attitude, grip, top)

    def _bar(self, scene: Scene) -> Vector:
        return scene.place(self.knob) + np.array([0.012, 0.0, 0.012])

    def _over(self, scene: Scene) -> _Target:
        target = self._bar(scene) + np.array([0.0, 0.0, 0.10])
        if np.linalg.norm(scene.hand - target) < 0.015:
            self.enter("down", scene)
        return target, DOWN, OPEN, 1.0

    def _down(self, scene: Scene) -> _Target:
        target = self._bar(scene)
        if np.linalg.norm(scene.hand - target) < ARRIVED or self.ticks > 40:
            self.enter("close", scene)
        return target, DOWN, OPEN, 0.7

    def _close(self, scene: Scene) -> _Target:
        if self.ticks >= CLOSE_STEPS:
            self.enter("turn_it", scene)
        return self.anchor, DOWN, CLOSED, 1.0

    def _turn_it(self, scene: Scene) -> _Target:
        if self.ticks > 60:
            self.enter("up", scene)
        return self.anchor, self.turned, CLOSED, 1.0

    def _up(self, scene: Scene) -> _Target:
        if self.ticks > 20:
            self.enter("over", scene)
        return self.anchor + np.array([0.0, 0.0, 0.10]), DOWN, OPEN, 1.0


TASKS: dict[int, Callable[[], Expert]] = {
    **expert.TASKS,
    3: DrawerThenBowl,
    4: lambda: PickPlaceExpert(BOWL_ON_CABINET),
    5: lambda: PushExpert("plate_1", "site:main_table_stove_front_region"),
    6: lambda: PlacedOnObject(CHEESE_IN_BOWL),
    7: lambda: KnobExpert("geom:flat_stove_1_g19"),
    8: lambda: PlacedOnObject(BOWL_ON_PLATE),
    9: lambda: BottleOnRack(BOTTLE_ON_RACK),
}


def for_task(task_id: int) -> Expert:
    """A fresh expert for a libero_goal task; UserError for one that does not exist."""
    return expert.for_task(task_id, TASKS)
