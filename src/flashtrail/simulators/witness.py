"""Reads from robosuite what `verify` judges: contacts of the gripper with each goal's subject, and motion.

Which goals there are, and which bodies are their subjects, each simulator says in its `goals`.

Looks at the state after each control step and writes nothing, so the physics is the same whether someone looks or not.
Contacts and poses are of one moment, the last physics step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashtrail.simulators import verify

_LEFT, _RIGHT, _ELSEWHERE = 1, 2, 3
# What counts as the left and as the right finger: robosuite's names of groups of a gripper's geoms.
Fingers = tuple[tuple[str, ...], tuple[str, ...]]
FINGERS: Fingers = ("left_finger", "left_fingerpad"), ("right_finger", "right_fingerpad")
PADS: Fingers = ("left_fingerpad",), ("right_fingerpad",)


@dataclass(frozen=True)
class _Touch:
    """Where a part of the gripper touched a subject: the point in the world and in the frames of both bodies, (3,)."""

    at: np.ndarray
    in_subject: np.ndarray
    finger: int
    in_finger: np.ndarray


@dataclass
class Track:
    """One subject: a body, its geoms, the joint that moves it (drawers, knobs) and what it is to be put on."""

    body: int
    geoms: np.ndarray  # (ngeom,) bool
    joint: int | None = None  # its address in qpos
    target: tuple[str, int] | None = None  # ("site" or "body", id)
    instants: list[verify.Instant] = field(default_factory=list)
    touching: _Touch | None = None


WatchedGoal = tuple[str | None, bool, list[Track]]  # family, held before the robot acted, subjects


class Witness:
    """Watches one episode of a robosuite environment; made after the wait steps, before the robot acts."""

    def __init__(self, env: Any, goals: Sequence[WatchedGoal], fingers: Fingers = FINGERS) -> None:
        self._env, self._goals = env, goals
        self._gripper = _gripper_geoms(env, fingers)
        self.look(closed=False)

    def look(self, *, closed: bool) -> None:
        """Note the present moment; `closed`: the gripper was told to close in the step that has just ended."""
        model, data = self._env.sim.model._model, self._env.sim.data._data
        first, second = data.contact.geom1, data.contact.geom2
        touching = np.flatnonzero((self._gripper[first] > 0) != (self._gripper[second] > 0))
        swapped = self._gripper[first[touching]] == 0
        ours = np.where(swapped, second[touching], first[touching])
        others = np.where(swapped, first[touching], second[touching])
        for _, _, tracks in self._goals:
            for track in tracks:
                hits = np.flatnonzero(track.geoms[others])
                moved = _motion(data, track)
                parts = self._gripper[ours[hits]]
                track.instants.append(
                    verify.Instant(
                        closed,
                        bool((parts == _LEFT).any()),
                        bool((parts == _RIGHT).any()),
                        len(hits) > 0,
                        _point(data.xpos[track.body]),
                        _target(data, track),
                        0.0 if track.joint is None else float(data.qpos[track.joint]),
                        *moved,
                    )
                )
                track.touching = None
                if len(hits):
                    at = data.contact.pos[touching[hits]].mean(0)
                    finger = int(model.geom_bodyid[ours[hits[0]]])
                    track.touching = _Touch(at, _inside(data, track.body, at), finger, _inside(data, finger, at))

    def verdict(self, success: bool) -> verify.Verdict:
        """Return the verdict on the episode so far; `success`: the simulator's own."""
        held_before = all(held for _, held, _ in self._goals)  # as each of the simulators asks for all of its goals
        return verify.judge(success, held_before, self.goals())

    def goals(self) -> list[verify.Goal]:
        """Return what was seen, goal by goal."""
        return [verify.Goal(family, held, [t.instants for t in tracks]) for family, held, tracks in self._goals]


def geoms_of(model: Any, body: int) -> np.ndarray:
    """Return which geoms belong to a body or to what hangs on it; (ngeom,) bool."""
    belongs = np.zeros(model.nbody, bool)
    belongs[body] = True
    for child in range(body + 1, model.nbody):  # parents come before their children
        belongs[child] = belongs[child] or belongs[model.body_parentid[child]]
    chosen: np.ndarray = belongs[model.geom_bodyid]
    return chosen


def _gripper_geoms(env: Any, fingers: Fingers) -> np.ndarray:
    """Return what each geom is: left finger, right finger, elsewhere on the gripper or hand, or 0; (ngeom,)."""
    gripper, model = env.robots[0].gripper, env.sim.model
    kinds = np.zeros(model.ngeom, np.int8)
    kinds[[model.geom_name2id(name) for name in gripper.contact_geoms]] = _ELSEWHERE
    for kind, groups in zip((_LEFT, _RIGHT), fingers, strict=True):
        names = [name for group in groups for name in gripper.important_geoms[group]]
        kinds[[model.geom_name2id(name) for name in names]] = kind
    return kinds


def _motion(data: Any, track: Track) -> tuple[float, float, float]:
    """Return how far the points that touched at the last look have gone since: the subject's, the hand's, the gap."""
    if track.touching is None:
        return 0.0, 0.0, 0.0
    touch = track.touching
    subject = _outside(data, track.body, touch.in_subject) - touch.at
    hand = _outside(data, touch.finger, touch.in_finger) - touch.at
    return float(np.linalg.norm(subject)), float(np.linalg.norm(hand)), float(np.linalg.norm(subject - hand))


def _inside(data: Any, body: int, point: np.ndarray) -> np.ndarray:
    local: np.ndarray = data.xmat[body].reshape(3, 3).T @ (point - data.xpos[body])
    return local


def _outside(data: Any, body: int, point: np.ndarray) -> np.ndarray:
    world: np.ndarray = data.xmat[body].reshape(3, 3) @ point + data.xpos[body]
    return world


def _target(data: Any, track: Track) -> verify.Point:
    if track.target is None:
        return (0.0, 0.0, 0.0)
    kind, number = track.target
    return _point(data.site_xpos[number] if kind == "site" else data.xpos[number])


def _point(values: np.ndarray) -> verify.Point:
    return float(values[0]), float(values[1]), float(values[2])
