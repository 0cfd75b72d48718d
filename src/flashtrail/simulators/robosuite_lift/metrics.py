"""What other criteria say of an episode with Lift's cube, beside verified success; no verdict uses them.

Each asks whether it held at the end of any one step after the wait steps, whatever the task asks for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashtrail.simulators.protocol import Metrics

HEIGHT_M = 0.08  # absolute, as printed: the table's top is at 0.8 m, so it holds for a cube that nobody touched
ALIKE_M_S = 0.05
NOTHING_YET = Metrics(naive_success=False, own_success=False, printed_success=False)


def after_step(before: Metrics, env: Any, *, closed: bool) -> Metrics:
    """Return what holds after one more step of robosuite's Lift; `closed`: the gripper was told to close in it.

    Naive: the cube's height, absolute, is above HEIGHT_M. Own: robosuite's check, 40 mm above the table's top. Printed:
    naive, the gripper told to close, both pads on the cube, and cube and hand moving alike, to ALIKE_M_S.
    """
    high = bool(env.sim.data.body_xpos[env.cube_body_id][2] > HEIGHT_M)
    printed = before.printed_success or (high and closed and _grasped(env) and _apart_m_s(env) < ALIKE_M_S)
    return Metrics(
        naive_success=before.naive_success or high,
        own_success=before.own_success or bool(env._check_success()),
        printed_success=printed,
    )


def _grasped(env: Any) -> bool:
    return bool(env._check_grasp(gripper=env.robots[0].gripper, object_geoms=env.cube))


def _apart_m_s(env: Any) -> float:
    """Return the length of the difference between the velocities of the cube and of the point between the fingers."""
    data, hand = env.sim.data, env.robots[0].gripper.important_sites["grip_site"]
    return float(np.linalg.norm(data.get_body_xvelp(env.cube.root_body) - data.get_site_xvelp(hand)))
