"""What the honest episodes' table says, and when the program fails; the episodes themselves are the program's."""

from __future__ import annotations

import json

import agreement
import goal_tasks
import numpy as np
import pytest
from agreement import Played

from flashtrail.base.errors import UserError
from flashtrail.training import expert

UP = np.array([0.0, 0.0, 1.0])


def played(init_state, success=True, verified=True, missing=None, **other):
    counts = {"grasps": 1, "lifts": 1, "lifted": 0.12, "released": 0.01, "share": None, "wall_s": 3.0}
    return Played(1, init_state, 80, success, verified, missing, **counts | other)


def test_disagreements_and_lost_episodes_are_listed_and_margins_are_the_worst():
    episodes = [played(0), played(1, lifted=0.05, released=0.03), played(2, True, False, "never grasped")]
    text = agreement.table([*episodes, played(3, False, False, "no success")])
    assert "1 3/4 3/4 0.301 to 0.954" in " ".join(text.split()) and "0.050 m" in text and "0.030 m" in text
    assert "task 1 init state 2: success True, verified False (never grasped), 80 steps" in text
    assert "task 1 init state 3: success False, verified False (no success), 80 steps" in text
    assert "init state 0" not in text


@pytest.mark.parametrize(("apart", "code"), [(0, 0), (1, 0), (2, 1)])
def test_under_95_percent_agreement_the_program_fails(monkeypatch, tmp_path, capsys, apart, code):
    """20 successes; failures of the expert, on which the two verdicts agree, do not help."""
    episodes = [played(i, verified=i >= apart) for i in range(20)] + [played(20 + i, False, False) for i in range(40)]
    monkeypatch.setattr(agreement, "play_all", lambda *_: episodes)
    assert agreement.main(["--out", str(tmp_path / "out.json")]) == code
    assert f"{20 - apart:>3}/20" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())["episodes"]) == 60


def scene(hand, **objects):
    places = {"site:main_table_stove_front_region": np.array([0.2, 0.0, 0.9]), "geom:flat_stove_1_g19": np.zeros(3)}
    return expert.Scene(np.array(hand, float), expert.DOWN, 0.08, objects, places.__getitem__)


def test_the_plate_is_pushed_toward_its_goal_from_inside_its_rim():
    master, plate = goal_tasks.for_task(5), np.array([-0.1, 0.0, 0.9])
    inside = plate + np.array([0.030, 0.0, 0.012])
    master.act(scene(inside + 0.08 * UP, plate_1=plate))
    master.act(scene(inside, plate_1=plate))
    action = master.act(scene(inside, plate_1=plate))
    assert master.phase == "push" and action[0] > 0.3 and abs(action[1]) < 1e-9 and action[6] == expert.CLOSED


def test_the_knob_is_turned_about_z_with_the_gripper_closed():
    master = goal_tasks.for_task(7)
    bar = np.array([0.012, 0.0, 0.012])
    master.act(scene(bar + 0.1 * UP))
    for _ in range(expert.CLOSE_STEPS + 1):
        master.act(scene(bar))
    action = master.act(scene(bar))
    assert master.phase == "turn_it" and action[6] == expert.CLOSED
    assert action[5] > 0.5 and np.abs(action[3:5]).max() < 1e-6


def test_a_task_that_does_not_exist_is_named():
    assert sorted(goal_tasks.TASKS) == list(range(10))
    with pytest.raises(UserError, match=r"7, 8, 9\], not 10"):
        goal_tasks.for_task(10)
