"""Limits at the client: from the action that is due and what is felt of the robot to the action that is sent to it.

In this order, each on what the one before it left: a number that is not finite (the hand holds, the gripper keeps its
command), the gripper's rate, step, turn, jerk, force, box. So the box has the last word: it may brake harder than the
jerk allows, and a retreat ends at its sides. Where what is felt is no number, the hand holds as well.

Of an action robosuite's controllers (OSC, critically damped) make a goal that lies so far from where the hand *is*,
anew in each control step. The hand ends up REACH of the way to a goal that is replaced by its own place after one step,
and rolls on for ROLL_S at the speed that it has. Both follow from the controller's stiffness alone. A point of the
gripper therefore comes to rest at place + ROLL_S * speed + REACH * (step + turn x arm), and this is what the box holds,
for every corner of the gripper: from a state that can be stopped inside the box the next one can be, too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrail.experiment import limits as kinds
from flashtrail.simulators.expert import OPEN, UNIT_M, UNIT_RAD
from flashtrail.simulators.protocol import Sense
from flashtrail.tables.schemas import LIMITED

Vector = NDArray[np.float64]
STEP_S = 0.05
_SPRING = math.sqrt(150.0)  # 1/s, robosuite's kp of 150 at a damping ratio of 1
_LEFT = math.exp(-_SPRING * STEP_S)
_KEPT = (1 - _SPRING * STEP_S) * _LEFT  # of the speed after a control step with a goal where the hand is
_GAINED = _SPRING**2 * STEP_S * _LEFT  # speed per length of an offset, 1/s
ROLL_S = STEP_S * _LEFT / (1 - _KEPT)  # 34 ms
REACH = 1 - (1 + _SPRING * STEP_S) * _LEFT + ROLL_S * _GAINED  # 0.27
# robosuite's controller takes a turn of exactly zero for none, and goes on to the goal of the last one.
NO_TURN = 1e-6
RETREAT_STEPS = 10  # a retreat goes to where the hand was so many steps before, in as many steps at the most
_SAME = 1e-12


@dataclass(frozen=True)
class Sent:
    """What is sent in the place of an action: (7,), and the limits that changed it, in the order of their turn."""

    action: list[float]
    by: tuple[str, ...] = ()


class Limiter:
    """One episode's limits, and what was measured. `sense`: of the state in which the first action is due."""

    def __init__(self, given: kinds.Limits, sense: Sense) -> None:
        self._given, self._now, self._before = given, sense, sense
        self._grip, self._grip_age = OPEN, given.min_gripper_steps or 0  # the first change is let through
        self._last, self._last_change = np.zeros(3), np.zeros(3)  # of the commanded motion, m
        self._path: deque[Vector] = deque([sense.hand], maxlen=RETREAT_STEPS)
        self._forced_steps, self._was_forced = 0.0, False  # for how many more steps the force decides
        self._limited_steps = self._stops = 0
        self._worst_m: float | None = None
        self._peak_n: float | None = None

    def apply(self, action: Sequence[float]) -> Sent:
        """Return what is to be sent in the place of an action (7,); `felt` has to follow it."""
        if not self._given.act:
            return Sent(list(action))
        asked, by = np.array(action, np.float64), list[str]()
        if not np.isfinite(asked).all():
            asked = np.array([0.0] * 6 + [self._grip])
            by.append("finite")
        asked = np.clip(asked, -1, 1)  # the controller would
        grip = self._gripped(float(asked[6]))
        parts = {"step": asked[:3] * UNIT_M * REACH, "turn": asked[3:6] * UNIT_RAD * REACH}
        if grip != asked[6]:
            by.append("gripper")
        for name, step, turn in self._rules(**parts):
            if not all(np.allclose(a, b, 0, _SAME) for a, b in zip(parts.values(), (step, turn), strict=True)):
                by.append(name)
                parts = {"step": step, "turn": turn}
        if not np.isfinite([*parts.values()]).all():  # what is felt is no number
            parts, by = dict.fromkeys(parts, np.zeros(3)), [*dict.fromkeys(("finite", *by))]
        self._last_change, self._last = parts["step"] - self._last, parts["step"]
        self._limited_steps += bool(by)
        moved, turned = parts["step"] / UNIT_M / REACH, parts["turn"] / UNIT_RAD / REACH
        if not by:
            moved, turned = asked[:3], asked[3:6]
        if not turned.any():
            turned[0] = NO_TURN
        return Sent([*np.clip(moved, -1, 1).tolist(), *np.clip(turned, -1, 1).tolist(), grip], tuple(by))

    def felt(self, sense: Sense) -> None:
        """Take what is felt at the end of the control step."""
        self._before, self._now = self._now, sense
        if self._given.box is not None:
            self._worst_m = _worse(self._worst_m, excursion(self._given.box, sense.points))
        if sense.force_n is not None:
            self._peak_n = _worse(self._peak_n, sense.force_n)

    @property
    def totals(self) -> dict[str, float | None]:
        """What the episodes' table has of it; counts only where limits act."""
        counts = (self._limited_steps, self._stops) if self._given.act else (None, None)
        worst_mm = None if self._worst_m is None else self._worst_m * 1e3
        return dict(zip(LIMITED, (*counts, worst_mm, self._peak_n), strict=True))

    def _gripped(self, asked: float) -> float:
        """Return the gripper's command: its sign changes at most once in so many steps."""
        self._grip_age += 1
        least = self._given.min_gripper_steps
        if (asked > 0) != (self._grip > 0):
            if least and self._grip_age < least:
                return self._grip
            self._grip_age = 0
        self._grip = asked
        return asked

    def _rules(self, step: Vector, turn: Vector) -> list[tuple[str, Vector, Vector]]:
        """Return step and turn (m, rad; as far as the hand would go) after each limit, in the order of their turn."""
        given, after = self._given, list[tuple[str, Vector, Vector]]()
        if given.max_step_m is not None:
            step = _shortened(step, given.max_step_m)
            after.append(("step", step, turn))
        if given.max_turn_rad is not None:
            turn = _shortened(turn, given.max_turn_rad)
            after.append(("turn", step, turn))
        if given.max_jerk_m_s3 is not None:
            step = eased(step, self._last, self._last_change, given.max_jerk_m_s3 * STEP_S**3)
            after.append(("jerk", step, turn))
        if self._forced():
            step, turn = self._away(), np.zeros(3)
            after.append(("force", step, turn))
        else:
            self._path.append(self._now.hand)
        if given.box is not None:
            speed = (self._now.points - self._before.points) / STEP_S
            rest = self._now.points + ROLL_S * speed
            # At the end of a joint's range a turn that cannot be made drives the hand sideways, by 9 mm a step.
            turn = turn if excursion(given.box, rest) <= 0 else np.zeros(3)
            step, turn = held_inside(given.box, step, turn, rest, self._now.points - self._now.hand)
            after.append(("box", step, turn))
        return after

    def _forced(self) -> bool:
        """Return whether the force decides about this step; count the times at which it began to."""
        most, force = self._given.max_force_n, self._now.force_n
        if most is not None and force is not None and not force <= most:  # a NaN is above, too
            self._stops += not self._was_forced
            self._forced_steps = {"hold": 1, "retreat": RETREAT_STEPS, "stop": math.inf}[self._given.on_force]
        self._was_forced = self._forced_steps > 0
        self._forced_steps = max(0.0, self._forced_steps - 1)
        return self._was_forced

    def _away(self) -> Vector:
        if self._given.on_force != "retreat":
            return np.zeros(3)
        most = min(self._given.max_step_m or math.inf, UNIT_M * REACH)
        return _shortened(self._path[0] - self._now.hand, most)


def _worse(worst: float | None, now: float) -> float:
    """Return the larger one; a NaN counts as infinite, so that it is above every limit, and stays on record."""
    now = math.inf if math.isnan(now) else now
    return now if worst is None else max(worst, now)


def _shortened(vector: Vector, most: float) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector if length <= most else vector * (most / length)


def eased(wanted: Vector, last: Vector, last_change: Vector, most: float) -> Vector:
    """Return the next value on the way to `wanted`: the change of its change is at most `most`, axis by axis.

    The change is also kept so small that it can fade out by then: `wanted`, if it stays, is met and not passed.
    """
    gap = wanted - last
    size = np.abs(gap) / most
    whole = np.floor((np.sqrt(1 + 8 * size) - 1) / 2)  # changes of whole * most, ..., 2 * most, most fit into the gap
    fading = np.sign(gap) * most * (whole + (size - whole * (whole + 1) / 2) / (whole + 1))
    change: Vector = last + np.clip(fading, last_change - most, last_change + most)
    return change


def held_inside(box: kinds.Box, step: Vector, turn: Vector, rest: Vector, arms: Vector) -> tuple[Vector, Vector]:
    """Return step (3,) and turn (3,) after which all points come to rest inside the box.

    `rest`: (n, 3), where the points come to rest if nothing is asked for; `arms`: (n, 3), from the hand to them. The
    step is that of the box's closest admissible one; of the turn so much is left as needs no further step. Points that
    cannot all be inside come to rest as far outside on one side as on the other.
    """
    low, high = np.array(box.low), np.array(box.high)
    least, most = (low - rest).max(axis=0), (high - rest).min(axis=0)
    middle = (least + most) / 2
    fits = least <= most
    step = np.clip(step, np.where(fits, least, middle), np.where(fits, most, middle))
    swing = np.cross(turn, arms)
    room = np.where(swing > 0, high - rest - step, rest + step - low).clip(min=0)
    turning = np.abs(swing) > _SAME
    share = min(1.0, float((room[turning] / np.abs(swing[turning])).min(initial=1.0)))
    return step, turn * share


def excursion(box: kinds.Box, points: Vector) -> float:
    """Return by how much (m) the points (n, 3) lie outside the box at the farthest; negative where all are inside."""
    return float(np.maximum(np.array(box.low) - points, points - np.array(box.high)).max())
