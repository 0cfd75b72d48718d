"""Verified success in the real simulator: nothing that the robot did not do is verified, and what it did is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashtrail.simulators import verify

TASKS = [0, 1, 5, 7]
WHY = {
    "teleported": {1: verify.NEVER_GRASPED, 5: verify.NEVER_TOUCHED},
    "placed_from_the_start": {1: verify.HELD_BEFORE},
    "kicked": {1: verify.NEVER_GRASPED},
    "slid": {5: verify.NEVER_TOUCHED},
    "never_closed": {1: verify.NEVER_GRASPED},
    "lifted_then_teleported": {1: verify.NOT_RELEASED},
    "joint_set": {0: verify.NEVER_TOUCHED, 7: verify.NEVER_TOUCHED},
    "joint_set_under_a_resting_hand": {0: verify.MOVED_ALONE},
    "honest": {0: None, 1: None, 5: None, 7: None},
}


@pytest.fixture(scope="module")
def verdicts() -> dict[int, dict]:
    """Of each task, what came of each attack."""
    program = Path(__file__).with_name("adversaries.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # forks, goal_tasks: in tools/
    command = [sys.executable, str(program), *map(str, TASKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return {int(task_id): found for line in done.stdout.splitlines() for task_id, found in json.loads(line).items()}


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("task_id", TASKS)
def test_only_what_the_robot_did_is_verified(task_id, verdicts):
    found = verdicts[task_id]
    print(json.dumps(found, indent=1))
    assert set(found) == {attack for attack, reasons in WHY.items() if task_id in reasons}
    for attack, seen in found.items():
        assert seen["success"], f"{attack} did not even fool the simulator"
        assert (seen["verified"], seen["missing"]) == (attack == "honest", WHY[attack][task_id]), attack
