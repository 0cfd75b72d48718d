"""What a LIBERO task asks for, as `Witness` watches it: family and subjects of each goal in the task's BDDL file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashtrail.simulators import verify
from flashtrail.simulators.witness import Track, WatchedGoal, geoms_of

_FAMILIES = {
    "open": verify.DRAWER,
    "close": verify.DRAWER,
    "turnon": verify.KNOB,
    "turnoff": verify.KNOB,
    "in": verify.PICK_PLACE,
    "on": verify.PICK_PLACE,
}


def goals(env: Any) -> list[WatchedGoal]:
    """Return the goals of a LIBERO task environment, and whether each holds now."""
    stated = env.parsed_problem["goal_state"]
    return [(_family(env, goal), bool(env._eval_predicate(goal)), _tracks(env, goal)) for goal in stated]


def _family(env: Any, goal: Sequence[str]) -> str | None:
    """Return a goal's family; something to be put on a region of the table itself may be pushed there."""
    family = _FAMILIES.get(goal[0].lower())
    if family == verify.PICK_PLACE:
        state = env.object_states_dict[goal[2]]
        if state.object_state_type == "site" and env.get_object(state.parent_name) is None:
            return verify.PUSH
    return family


def _tracks(env: Any, goal: Sequence[str]) -> list[Track]:
    family, model = _FAMILIES.get(goal[0].lower()), env.sim.model
    if family is None:
        return []
    if family == verify.PICK_PLACE:
        body = int(env.obj_body_id[goal[1]])
        if env.object_states_dict[goal[2]].object_state_type == "site":
            target = ("site", int(model.site_name2id(goal[2])))
        else:
            target = ("body", int(env.obj_body_id[goal[2]]))
        return [Track(body, geoms_of(model._model, body), target=target)]
    holder = env.object_sites_dict[goal[1]] if goal[1] in env.object_sites_dict else env.get_object(goal[1])
    tracks = []
    for name in holder.joints:
        body = int(model.jnt_bodyid[model.joint_name2id(name)])
        tracks.append(Track(body, geoms_of(model._model, body), joint=int(model.get_joint_qpos_addr(name))))
    return tracks
