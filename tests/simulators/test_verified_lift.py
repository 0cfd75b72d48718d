"""Verified success of Lift in the real simulator: no attack is verified, the expert is, with every robot.

A small form of ``make verify-lift``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from flashtrail.simulators import verify

ROOT = Path(__file__).resolve().parents[2]
LIFTED, PUSHED = 0, 7
# What each criterion says (naive, robosuite's own, printed, the simulator's done), and what the rule alone misses.
TABLE, AIR = (True, False, False, False), (True, True, False, True)
SAID = {
    (LIFTED, "nothing"): (*TABLE, verify.NEVER_GRASPED),
    (LIFTED, "anything"): (*TABLE, verify.NEVER_GRASPED),
    (LIFTED, "closed_on_air"): (*TABLE, verify.NEVER_GRASPED),
    (LIFTED, "never_closed"): (*TABLE, verify.NEVER_GRASPED),
    (LIFTED, "grasped_on_the_table"): (True, False, True, False, verify.NEVER_LIFTED),
    (LIFTED, "placed_high"): (*AIR, verify.NEVER_GRASPED),
    (LIFTED, "kicked_up"): (*AIR, verify.NEVER_GRASPED),
    (LIFTED, "kicked_up_under_a_closed_hand"): (*AIR, verify.NEVER_GRASPED),
    (LIFTED, "teleported_up"): (*AIR, verify.NEVER_GRASPED),
    (LIFTED, "teleported_between_the_fingers"): (True, True, True, True, verify.NEVER_LIFTED),
    (LIFTED, "raised_into_the_fingers"): (True, True, True, True, verify.MOVED_ALONE),
    (LIFTED, "carried_by_an_open_hand"): (*AIR, verify.NEVER_GRASPED),
    (LIFTED, "lifted_then_dropped"): (True, True, True, False, verify.NOT_HELD),
    (LIFTED, "lifted_then_let_go"): (True, True, True, True, verify.NOT_HELD),
    (LIFTED, "lifted_then_left_floating"): (True, True, True, True, verify.NOT_HELD),
    (PUSHED, "nothing"): (*TABLE, verify.NEVER_TOUCHED),
    (PUSHED, "anything"): (*TABLE, verify.NEVER_TOUCHED),
    (PUSHED, "teleported_forward"): (True, False, False, True, verify.NEVER_TOUCHED),
    (PUSHED, "kicked_forward"): (True, False, False, True, verify.NEVER_TOUCHED),
    (PUSHED, "slid"): (True, False, False, True, verify.NEVER_TOUCHED),
    (PUSHED, "slid_away_from_a_touching_hand"): (True, False, False, True, verify.MOVED_ALONE),
}
CRITERIA = ["naive", "own", "printed", "success", "behaviour"]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> pd.DataFrame:
    """One init state of each attack with a Panda, and of the expert with every robot."""
    out = tmp_path_factory.mktemp("lift") / "episodes.csv"
    command = [sys.executable, str(ROOT / "tools" / "lift_agreement.py"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    options = ["--honest", "1", "--attacks", "1", "--elsewhere", "0"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr[-3000:]
    return pd.read_csv(out)


@pytest.mark.simulator
@pytest.mark.slow
def test_no_attack_is_verified_whatever_other_criteria_say(episodes):
    attacks = episodes[episodes.attack != "honest"]
    assert not attacks.verified.any()
    found = {(row.task_id, row.attack): tuple(getattr(row, name) for name in CRITERIA) for row in attacks.itertuples()}
    assert found == SAID
    missing = attacks.set_index(["task_id", "attack"]).missing
    assert missing[LIFTED, "placed_high"] == verify.HELD_BEFORE
    assert missing[LIFTED, "lifted_then_dropped"] == verify.NO_SUCCESS


@pytest.mark.simulator
@pytest.mark.slow
def test_the_expert_is_verified_with_every_robot(episodes):
    honest = episodes[episodes.attack == "honest"]
    assert list(honest.task_id) == list(range(8)) and honest.verified.all()
    assert list(honest.own) == [task_id != PUSHED for task_id in range(8)]
