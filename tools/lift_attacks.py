"""Attacks on the success of robosuite's Lift: what no robot did is written into the simulation, one attack an episode.

And the two that are none: the scripted expert's honest episode, and policies that do nothing or anything. Everything
runs in the real simulator, to its `done` or the horizon. `tools/lift_agreement.py` plays them and prints what each
criterion says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators import verify
from flashtrail.simulators.expert import CLOSED, DOWN, OPEN, Vector, servo
from flashtrail.simulators.robosuite_lift import expert, goals
from flashtrail.simulators.robosuite_lift.simulator import LiftSimulator
from flashtrail.simulators.robosuite_lift.tasks import SUITE, TASKS

GRAVITY = 9.81
STILL_OPEN, STILL_CLOSED = (np.array([0.0] * 6 + [grip]) for grip in (OPEN, CLOSED))


class Over(Exception):
    """The episode has ended: done, or at its horizon."""


@dataclass(frozen=True)
class Played:
    """One episode: what each criterion said of it, and `behaviour`: what the rule alone misses, were it a success.

    `success` is the simulator's `done`; `raised_mm` what the cube's height at the end owes to the hand, `alone_mm` what
    it does not; of a push, the share of its way with the hand is `share`.
    """

    task_id: int
    attack: str
    init_state: int
    steps: int
    naive: bool
    own: bool
    printed: bool
    success: bool
    verified: bool
    missing: str | None
    behaviour: str | None
    raised_mm: float | None
    alone_mm: float | None
    share: float | None


class Arena:
    """One task's simulator, and an invisible hand in it."""

    def __init__(self, task_id: int) -> None:
        self.task_id, self.simulator = task_id, LiftSimulator(SUITE, task_id)
        self.steps, self.success = 0, False

    @property
    def env(self) -> Any:
        """robosuite's environment."""
        return self.simulator.truth[0]

    def play(self, attack: Callable[[Arena], Vector | None], init_state: int) -> Played:
        """Play one episode: the attack, then the action that it returns (None: stay, open) to the end."""
        self.steps, self.success, self.init_state = 0, False, init_state
        try:
            rest = attack(self)
            while True:
                self.step(STILL_OPEN if rest is None else rest)
        except Over:
            return self._played(attack.__name__)

    def reset(self) -> None:
        """Begin the episode."""
        self.simulator.reset(EpisodeKey(SUITE, self.task_id, self.init_state, 0))

    def step(self, action: Vector) -> None:
        """Take a control step; raises Over when it was the last one."""
        self.steps += 1
        self.success = self.simulator.step(action.tolist(), render=False).done
        if self.success or self.steps >= self.simulator.horizon:
            raise Over

    def wait(self, steps: int, action: Vector = STILL_OPEN) -> None:
        """Take steps with one action."""
        for _ in range(steps):
            self.step(action)

    def follow(self, until: Callable[[Any], bool], grip: float | None = None) -> None:
        """Let the scripted expert play until this is true of it; with `grip`, tell the gripper that instead."""
        master = expert.for_task(self.task_id)
        while not until(master):
            action = master.act(self.scene())
            self.step(action if grip is None else np.array([*action[:6], grip]))

    def go(self, offset: tuple[float, float, float], steps: int, grip: float) -> None:
        """Move the hand by an offset (m) from where it is, within so many steps."""
        target = self.hand() + np.array(offset)
        for _ in range(steps):
            scene = self.scene()
            self.step(np.clip(servo(scene.hand, scene.attitude, target, DOWN, grip), -1.0, 1.0))

    def scene(self) -> Any:
        """What the expert sees."""
        return expert.observe(*self.simulator.truth)

    def hand(self) -> Vector:
        """Where the point between the fingers is, (3,) m."""
        return np.array(self.scene().hand)

    def cube(self) -> Vector:
        """Where the cube is, (3,) m."""
        return np.array(goals.place(self.env))

    def put(self, place: Vector, velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        """Set the cube there, turned as it is, with a velocity (m/s)."""
        sim, joint = self.env.sim, self.env.cube.joints[0]
        sim.data.set_joint_qpos(joint, np.concatenate([place, sim.data.get_joint_qpos(joint)[3:]]))
        sim.data.set_joint_qvel(joint, [*velocity, 0.0, 0.0, 0.0])
        sim.forward()

    def bear(self, weight: float = 1.0) -> None:
        """Bear the cube's weight, or a part of it, from now on: it floats."""
        body = self.env.cube_body_id
        self.env.sim.data.xfrc_applied[body, 2] = weight * GRAVITY * self.env.sim.model.body_mass[body]

    def _played(self, attack: str) -> Played:
        verdict, goal = self.simulator.verdict(self.success), self.simulator.seen()[0]
        assert verdict is not None
        track, is_lift = goal.tracks[0], goal.family == verify.LIFT
        said = self.simulator.metrics()
        return Played(
            self.task_id,
            attack,
            self.init_state,
            self.steps,
            naive=bool(said.naive_success),
            own=bool(said.own_success),
            printed=bool(said.printed_success),
            success=self.success,
            verified=verdict.verified,
            missing=verdict.missing,
            behaviour=verify.missing_behaviour(goal),
            raised_mm=round(1000 * verify.raised_with_hand(track)[-1], 1) if is_lift else None,
            alone_mm=round(1000 * verify.raised_alone(track), 1) if is_lift else None,
            share=None if is_lift else round(verify.with_hand_share(track), 3),
        )


def honest(arena: Arena) -> None:
    """The scripted expert."""
    arena.reset()
    arena.follow(lambda master: False)


def nothing(arena: Arena) -> None:
    """Stays where it is, open."""
    arena.reset()


def anything(arena: Arena) -> None:
    """Actions drawn evenly from all there are."""
    arena.reset()
    draw = np.random.default_rng([arena.task_id, arena.init_state])
    while True:
        arena.step(draw.uniform(-1.0, 1.0, 7))


def closed_on_air(arena: Arena) -> Vector:
    """Stays where it is, and closes."""
    arena.reset()
    return STILL_CLOSED


def never_closed(arena: Arena) -> None:
    """The expert's way with a hand that is told to open all the time."""
    arena.reset()
    arena.follow(lambda master: False, grip=OPEN)


def grasped_on_the_table(arena: Arena) -> Vector:
    """The expert's way as far as a firm grasp; nothing is lifted."""
    arena.reset()
    arena.follow(lambda master: master.phase == "lift")
    return STILL_CLOSED


def placed_high(arena: Arena) -> None:
    """In the air from the first moment on, before the wait steps."""
    env = arena.env
    usual = env._reset_internal

    def reset_and_place() -> None:
        usual()
        joint = env.cube.joints[0]
        place = env.sim.data.get_joint_qpos(joint)
        env.sim.data.set_joint_qpos(joint, place + np.array([0.12, 0.0, 0.15, 0.0, 0.0, 0.0, 0.0]))
        arena.bear()

    env._reset_internal = reset_and_place
    try:
        arena.reset()
    finally:
        env._reset_internal = usual


def kicked_up(arena: Arena) -> None:
    """Struck from below, the hand open: 16 steps of flight."""
    arena.reset()
    arena.wait(3)
    arena.put(arena.cube(), (0.3, 0.0, 4.0))


def kicked_up_under_a_closed_hand(arena: Arena) -> Vector:
    """Struck from below, the hand told to close."""
    arena.reset()
    arena.wait(12, STILL_CLOSED)
    arena.put(arena.cube(), (0.3, 0.0, 4.0))
    return STILL_CLOSED


def teleported_up(arena: Arena) -> None:
    """From one moment to the next in the air, and stays there."""
    arena.reset()
    arena.wait(5)
    arena.put(arena.cube() + np.array([0.12, 0.0, 0.15]))
    arena.bear()


def teleported_between_the_fingers(arena: Arena) -> Vector:
    """Set between fingers that are about to close, high above the table; they hold it from then on."""
    arena.reset()
    arena.wait(3)
    arena.put(arena.hand())
    arena.bear()
    arena.wait(8, STILL_CLOSED)
    arena.bear(0.0)
    return STILL_CLOSED


def raised_into_the_fingers(arena: Arena) -> Vector:
    """The invisible hand lifts the cube by 35 mm into the closing fingers; the robot does the rest."""
    arena.reset()
    arena.follow(lambda master: master.phase == "close")
    arena.go((0.0, 0.0, 0.035), 12, OPEN)
    arena.put(np.array([*arena.cube()[:2], arena.hand()[2]]))
    arena.bear()
    arena.wait(14, STILL_CLOSED)
    arena.bear(0.0)
    arena.go((0.0, 0.0, 0.10), 20, CLOSED)
    return STILL_CLOSED


def carried_by_an_open_hand(arena: Arena) -> None:
    """It follows a hand that never closes."""
    arena.reset()
    arena.follow(lambda master: master.phase == "close")
    offset = arena.cube() - arena.hand()
    top = arena.hand() + np.array([0.0, 0.0, 0.15])
    while True:
        scene = arena.scene()
        arena.step(np.clip(servo(scene.hand, scene.attitude, top, DOWN, OPEN), -1.0, 1.0))
        arena.put(arena.hand() + offset)


def _lift_to(arena: Arena, height: float) -> None:
    arena.reset()
    arena.follow(lambda master: goals.height(arena.env) > height)


def lifted_then_dropped(arena: Arena) -> None:
    """An honest lift of a few centimetres, and the hand is told to open, which takes it some steps."""
    _lift_to(arena, 0.03)


def lifted_then_let_go(arena: Arena) -> None:
    """The same, later: while the hand opens, the goal holds long enough."""
    _lift_to(arena, 0.06)


def lifted_then_left_floating(arena: Arena) -> None:
    """An honest lift; the hand opens, and the cube stays where it is."""
    _lift_to(arena, 0.06)
    arena.bear()
    while True:
        arena.step(STILL_OPEN)
        arena.put(arena.cube())


def teleported_forward(arena: Arena) -> None:
    """From one moment to the next where it was to be pushed."""
    arena.reset()
    arena.wait(5)
    arena.put(arena.cube() + np.array([0.10, 0.0, 0.0]))


def kicked_forward(arena: Arena) -> None:
    """Struck from behind, by no hand."""
    arena.reset()
    arena.wait(5)
    arena.put(arena.cube(), (1.5, 0.0, 0.0))


def _slide(arena: Arena, action: Vector) -> None:
    start = arena.cube()[0]
    while arena.cube()[0] < start + 0.12:
        arena.put(arena.cube(), (0.3, 0.0, 0.0))
        arena.step(action)


def slid(arena: Arena) -> None:
    """Drawn along the table at 0.3 m/s, its speed set anew at each step."""
    arena.reset()
    _slide(arena, STILL_OPEN)


def slid_away_from_a_touching_hand(arena: Arena) -> Vector:
    """The hand touches it; then it goes by itself."""
    arena.reset()
    arena.follow(lambda master: arena.simulator.seen()[0].tracks[0][-1].touched)
    _slide(arena, STILL_CLOSED)
    return STILL_CLOSED


ATTACKS: dict[str, tuple[Callable[[Arena], Vector | None], ...]] = {
    verify.LIFT: (
        nothing,
        anything,
        closed_on_air,
        never_closed,
        grasped_on_the_table,
        placed_high,
        kicked_up,
        kicked_up_under_a_closed_hand,
        teleported_up,
        teleported_between_the_fingers,
        raised_into_the_fingers,
        carried_by_an_open_hand,
        lifted_then_dropped,
        lifted_then_let_go,
        lifted_then_left_floating,
    ),
    verify.PUSH: (nothing, anything, teleported_forward, kicked_forward, slid, slid_away_from_a_touching_hand),
}


def attacks_on(task_id: int) -> tuple[Callable[[Arena], Vector | None], ...]:
    """Return the attacks on a task of ``robosuite_lift``."""
    return ATTACKS[TASKS[task_id].family]
