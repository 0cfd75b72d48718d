"""What a task with Lift's cube asks for: whether it holds now, and its goal as `Witness` watches it."""

from __future__ import annotations

from typing import Any

from flashtrail.simulators import verify
from flashtrail.simulators.witness import Track, WatchedGoal, geoms_of

# m; lifts are measured from where the cube lies on the table, pushes from where it lay before the robot acted.
PUSHED_M = 0.08  # in +x
SIDEWAYS_M = 0.04
ON_TABLE_M = 0.01  # a cube that stands on an edge is 9 mm higher


def place(env: Any) -> verify.Point:
    """Return where the cube's centre is, m, world frame."""
    x, y, z = env.sim.data.body_xpos[env.cube_body_id]
    return float(x), float(y), float(z)


def height(env: Any) -> float:
    """Return how far the cube's centre is above where it would lie on the table, m; the cube's size is drawn anew."""
    geom = env.sim.model.geom_name2id(env.cube.contact_geoms[0])
    rest = env.model.mujoco_arena.table_offset[2] + env.sim.model.geom_size[geom][2]
    return place(env)[2] - float(rest)


def holds(env: Any, family: str, start: verify.Point) -> bool:
    """Return whether the goal of a family, LIFT or PUSH, holds now; `start`: the cube's place before the robot acted.

    Lifting asks for what verified success asks for, RAISED_M; robosuite's own check is content with half of it.
    """
    if family == verify.LIFT:
        return height(env) >= verify.RAISED_M
    ahead, aside = (now - then for now, then in zip(place(env)[:2], start[:2], strict=True))
    return ahead >= PUSHED_M and abs(aside) <= SIDEWAYS_M and abs(height(env)) <= ON_TABLE_M


def goals(env: Any, family: str) -> list[WatchedGoal]:
    """Return the one goal of a task; called before the robot acts, for `Witness`."""
    track = Track(int(env.cube_body_id), geoms_of(env.sim.model._model, int(env.cube_body_id)))
    return [(family, holds(env, family, place(env)), [track])]
