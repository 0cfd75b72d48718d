"""The robots of robosuite's Lift that a policy may have a token and a head for, by the names that configs give them.

Written down here, since neither config nor policies may know a simulator; a test holds them to its tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.base.errors import nearest

SUITE = "robosuite_lift"
FAMILY = "lift_vla"  # whose policies may be of several robots


@dataclass(frozen=True)
class Embodiment:
    """`task`: of `SUITE`, in which it is demonstrated. `action_dim`: of its controller, the gripper among them."""

    task: int
    action_dim: int = 7


EMBODIMENTS = {
    "panda": Embodiment(0),
    "panda_3dof": Embodiment(2, action_dim=4),
    "iiwa": Embodiment(3),
    "ur5e": Embodiment(4),
    "kinova3": Embodiment(5),
    "jaco": Embodiment(6),
}


def named(name: str) -> str:
    """Return a robot's name; ValueError with the nearest one for another."""
    if name not in EMBODIMENTS:
        raise ValueError(f"unknown robot {name!r}{nearest(name, EMBODIMENTS)}")
    return name
