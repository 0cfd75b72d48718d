"""The tasks of the suite ``robosuite_lift``: which robot, where the cube may lie, what is asked.

Knows no simulator, so that whoever only needs a task's words or numbers imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.simulators.verify import LIFT, PUSH

SUITE = "robosuite_lift"


@dataclass(frozen=True)
class Task:
    """One task. `half_width`: the cube's centre lies so far (m) from the table's in x and y at the most.

    `controller`: robosuite's OSC_POSE takes (dx, dy, dz, three of rotation), OSC_POSITION the first three alone.
    `fingers`: of the gripper's joints the one that tells of each side, left and right; metres for Panda, else radians.
    `family`: by which rules it is verified. `pads`: both pads have to touch the cube in a grasp; else any part of both
    fingers (of Jaco's, pads and links lie in one another, and which of them touch changes in a firm grasp).
    """

    prompt: str = "lift the red cube"
    robot: str = "Panda"
    half_width: float = 0.03
    controller: str = "OSC_POSE"
    fingers: tuple[int, int] = (0, 1)
    family: str = LIFT
    pads: bool = True


_ROBOTIQ, _JACO = (0, 3), (2, 0)  # finger_joint and right_outer_knuckle_joint; joint_index and joint_thumb

# By number; append, never insert.
TASKS = (
    Task(),
    Task(half_width=0.10),
    Task(controller="OSC_POSITION"),
    Task(robot="IIWA", fingers=_ROBOTIQ),
    Task(robot="UR5e", fingers=_ROBOTIQ),
    Task(robot="Kinova3", fingers=_ROBOTIQ),
    Task(robot="Jaco", fingers=_JACO, pads=False),
    Task(prompt="push the red cube forward", family=PUSH),
)
