"""Verified success: was the behaviour that the task implies seen, or does the world merely look as if?

The simulator's own success is a predicate on the last state; an object that was kicked, teleported or set there
passes it. Here the whole episode is judged, goal by goal: contacts of the fingers, and whether what moved went with
the hand that touched it. Pure rules over numbers; knows no simulator (`witness` reads one), no policy and no table.
Sampled once a control step (50 ms), so what begins and ends within one is not seen. docs/rollouts.md has the rules in
words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PICK_PLACE, PUSH, DRAWER, KNOB, LIFT = "pick-place", "push", "drawer", "knob", "lift"

Point = tuple[float, float, float]

# Lengths in metres. How far from these the scripted expert's honest episodes stay: docs/rollouts.md.
LIFTED_M = 0.02  # that much rise in the hand makes a lift
RAISED_M = 0.04  # what the family `lift` asks for, at the end of the episode
ALONE_M = 0.02  # of its height at the end, what it may owe to something else than the hand
RELEASE_M = 0.10  # horizontally, from where both fingers last held it to where it is at the end
WITH_HAND_SHARE = 0.7  # of a joint's or a pushed object's way
HAND_KEEPS_UP = 0.5  # the touching point of the hand goes at least this part of the touched point's way
SLIP_SHARE, SLIP_M = 0.3, 0.004  # a lifted object may slip in the fingers by so much of its way, or so far, a step
BRIDGED_STEPS = 2  # a grasp may lose a finger's contact for so many steps

NO_SUCCESS = "no success"
HELD_BEFORE = "goal held before the robot acted"
NEVER_GRASPED = "never grasped"
NEVER_LIFTED = "never lifted with the hand"
NOT_RELEASED = "not released at the goal"
NEVER_TOUCHED = "never touched"
MOVED_ALONE = "moved without the hand"
NOT_HELD = "not held at the end"
NO_RULE = "no rule for this goal"


@dataclass(frozen=True)
class Instant:
    """The subject of a goal at the end of one control step; the first one is before the robot acted.

    `moved` and `by_hand` tell of the two points that touched at the step's start, how far each went during it, `slip`
    the length of the difference; all zero where nothing touched.
    """

    closed: bool  # the gripper was told to close
    left: bool  # the left finger touches the subject
    right: bool
    touched: bool  # any part of the gripper touches it
    place: Point  # of the subject, m, world frame
    target: Point  # of what it is to be put on or into; a drawer may carry both away
    joint: float = 0.0  # m or rad; of a drawer or knob
    moved: float = 0.0
    by_hand: float = 0.0
    slip: float = 0.0


@dataclass(frozen=True)
class Goal:
    """What became of one goal: its family, whether it held before the robot acted, and its subject's instants.

    A goal with several joints has a track for each; one that passes is enough.
    """

    family: str | None  # None: a predicate without a rule
    held_before: bool
    tracks: Sequence[Sequence[Instant]]


@dataclass(frozen=True)
class Grasp:
    """Both fingers on the subject, told to close: from instant `first` to `last`; `lifted`: metres up with the hand."""

    first: int
    last: int
    lifted: float


@dataclass(frozen=True)
class Verdict:
    """`verified`, and which behaviour is missing (None: none); grasps and lifts are those of the goals' subjects."""

    verified: bool
    missing: str | None
    grasps: int
    lifts: int


def judge(success: bool, held_before: bool, goals: Sequence[Goal]) -> Verdict:
    """Return the verdict on an episode; `held_before`: the simulator called it a success before the robot acted.

    A goal that held from the start asks for no behaviour, as long as another one did not.
    """
    grasped = [grasp for goal in goals for track in goal.tracks for grasp in grasps(track)]
    missing = NO_SUCCESS if not success else HELD_BEFORE if held_before else None
    if missing is None:
        open_goals = [goal for goal in goals if not goal.held_before]
        missing = next((reason for reason in map(missing_behaviour, open_goals) if reason), None)
    return Verdict(missing is None, missing, len(grasped), sum(grasp.lifted >= LIFTED_M for grasp in grasped))


def missing_behaviour(goal: Goal) -> str | None:
    """Return which behaviour of the goal's family was not seen; None if all was."""
    rule = {PICK_PLACE: _pick_place, PUSH: _push, DRAWER: _joint, KNOB: _joint, LIFT: _lift}.get(goal.family or "")
    if rule is None or not goal.tracks:
        return NO_RULE
    reasons = [rule(track) for track in goal.tracks]
    return None if None in reasons else reasons[0]


def grasps(track: Sequence[Instant]) -> list[Grasp]:
    """Return the grasps of a subject in order.

    One begins when the gripper is told to close and both fingers touch; it lasts, told to open or not, until they no
    longer do for more than BRIDGED_STEPS steps.
    """
    grasped: list[Grasp] = []
    first = last = -1
    for index, now in enumerate(track):
        if now.left and now.right and (first >= 0 or now.closed):
            first, last = (index if first < 0 else first), index
        elif first >= 0 and index - last > BRIDGED_STEPS:
            grasped.append(Grasp(first, last, _lifted(track, first, last)))
            first = last = -1
    return [*grasped, Grasp(first, last, _lifted(track, first, last))] if first >= 0 else grasped


def with_hand_share(track: Sequence[Instant]) -> float:
    """Return which share of a pushed subject's way, start to end, it went while the hand touched it and kept up."""
    start, end = track[0].place, track[-1].place
    way = (end[0] - start[0], end[1] - start[1])
    length = math.hypot(*way)
    if length == 0:
        return 0.0
    return sum(
        ((now.place[0] - before.place[0]) * way[0] + (now.place[1] - before.place[1]) * way[1]) / length**2
        for before, now in pairwise(track)
        if _keeps_up(before, now)
    )


def joint_share(track: Sequence[Instant]) -> float:
    """Return which share of a joint's way, start to end, it went while the hand touched it and kept up."""
    way = track[-1].joint - track[0].joint
    if way == 0:
        return 0.0
    pairs = pairwise(track)
    return sum((now.joint - before.joint) / way for before, now in pairs if _keeps_up(before, now))


def release_distance(track: Sequence[Instant], last: int) -> float:
    """Return how far (m, horizontally, relative to the target) the subject was at instant `last` from its end."""
    then, end = track[last], track[-1]
    x, y = (end.place[i] - end.target[i] - then.place[i] + then.target[i] for i in (0, 1))
    return math.hypot(x, y)


def raised_with_hand(track: Sequence[Instant]) -> list[float]:
    """Return at each instant how much of the subject's height it owes to the hand, m, never below zero.

    A step up counts where both fingers hold the subject and it went with them; where it slipped more, less the slip. A
    step down always counts.
    """
    in_hand = {index for grasp in grasps(track) for index in range(grasp.first, grasp.last)}  # where a step begins
    raised = [0.0]
    for index, (before, now) in enumerate(pairwise(track)):
        rise = now.place[2] - before.place[2]
        if rise > 0 and index not in in_hand:
            rise = 0.0
        elif rise > 0 and not _with_fingers(before, now):
            rise = max(0.0, rise - now.slip)
        raised.append(max(0.0, raised[-1] + rise))
    return raised


def raised_alone(track: Sequence[Instant]) -> float:
    """Return how much higher the subject is at the end than at the start without owing it to the hand, m."""
    return track[-1].place[2] - track[0].place[2] - raised_with_hand(track)[-1]


def _pick_place(track: Sequence[Instant]) -> str | None:
    grasped = grasps(track)
    if not grasped:
        return NEVER_GRASPED
    if max(grasp.lifted for grasp in grasped) < LIFTED_M:
        return NEVER_LIFTED
    return NOT_RELEASED if release_distance(track, grasped[-1].last) > RELEASE_M else None


def _push(track: Sequence[Instant]) -> str | None:
    if not any(now.touched for now in track):
        return NEVER_TOUCHED
    return MOVED_ALONE if with_hand_share(track) < WITH_HAND_SHARE else None


def _joint(track: Sequence[Instant]) -> str | None:
    if not any(now.touched for now in track):
        return NEVER_TOUCHED
    return MOVED_ALONE if joint_share(track) < WITH_HAND_SHARE else None


def _lift(track: Sequence[Instant]) -> str | None:
    grasped, raised, end = grasps(track), raised_with_hand(track), len(track) - 1
    if not grasped:
        return NEVER_GRASPED
    if max(raised) < RAISED_M:
        return NEVER_LIFTED
    if grasped[-1].last < end or not track[end].closed or raised[end] < RAISED_M:
        return NOT_HELD
    return MOVED_ALONE if raised_alone(track) > ALONE_M else None


def _keeps_up(before: Instant, now: Instant) -> bool:
    return before.touched and now.by_hand >= HAND_KEEPS_UP * now.moved


def _with_fingers(before: Instant, now: Instant) -> bool:
    return before.touched and now.slip <= max(SLIP_M, SLIP_SHARE * now.moved)


def _lifted(track: Sequence[Instant], first: int, last: int) -> float:
    """Return how far up the subject went in steps in which it went with the fingers, m."""
    rise = 0.0
    for before, now in zip(track[first:last], track[first + 1 : last + 1], strict=True):
        up = now.place[2] - before.place[2]
        if up > 0 and _with_fingers(before, now):
            rise += up
    return rise
