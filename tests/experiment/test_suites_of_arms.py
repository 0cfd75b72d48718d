"""One config with arms of several suites: what an arm's suite and tasks change, and what they leave as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashtrail.base.errors import UserError
from flashtrail.experiment import config, outlook
from flashtrail.experiment.shard import config_digest

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
LIFT = {"policy": "lift", "suite": "robosuite_lift", "tasks": "0,3-4", "episodes": 100}
# Of `clean` and `drill_no_flip` below, as the version without suites of arms gave them: their shards are found again.
DIGESTS = {"clean": "a3ca2f634c48756e", "drill_no_flip": "de7922769cbf494a", "checkup": "235c00af3f441ab7"}


def with_lift(**more: Any) -> config.Experiment:
    data = copy.deepcopy(SHIPPED)
    data["policies"]["lift"] = {"artifact": "resources/still"}
    data["arms"]["lifted"] = {**LIFT, **more}
    return config.parse(data)


def small() -> config.Experiment:
    policy = {"candidates": ["a"], "tokenizer": "b"}
    arm = {"policy": "p", "episodes": 3}
    return config.parse(
        {
            "policies": {"p": policy},
            "conditions": {"clean": {"kind": "none"}},
            "guards": {"none": {"kind": "none"}},
            "arms": {"clean": arm},
            "drills": {"policy": "p", "names": ["no_flip"]},
            "profile": {"policy": "p"},
            "checkup": {"policy": "p"},
        }
    )


def test_arms_without_a_suite_of_their_own_keep_their_digests():
    experiment = small()
    assert {name: config_digest(experiment.arm(name)) for name in DIGESTS} == DIGESTS
    shipped, both = config.parse(SHIPPED), with_lift()
    assert {name: both.arm(name) for name in shipped.all_arms} == {n: shipped.arm(n) for n in shipped.all_arms}


def test_an_arm_has_its_own_suite_tasks_and_init_states():
    experiment = with_lift(first_init_state=900)
    arm = experiment.arm("lifted")
    assert (arm["suite"], experiment.tasks_of("lifted")) == ("robosuite_lift", [0, 3, 4])
    assert arm["init_states"] == list(range(900, 1000))
    assert experiment.arm("clean")["suite"] == "libero_goal" and experiment.tasks_of("clean") == [0, 1, 2]
    assert experiment.used_suites == ["libero_goal", "robosuite_lift"]
    assert config.parse(SHIPPED).used_suites == ["libero_goal"]


def test_a_policy_is_tried_where_its_arms_are():
    experiment = with_lift()
    assert experiment.home_of("lift") == ("robosuite_lift", [0, 3, 4]) and experiment.smoke_task("lift") == 0
    assert experiment.plain_arm("smoke", "lift", 2)["suite"] == "robosuite_lift"
    assert experiment.home_of("pi0_nano") == ("libero_goal", [0, 1, 2]) and experiment.smoke_task("pi0_nano") == 0
    assert experiment.plain_arm("smoke", "pi0_nano", 2) == config.parse(SHIPPED).plain_arm("smoke", "pi0_nano", 2)


def test_an_arm_may_be_of_fewer_tasks_than_the_others():
    experiment = with_lift(suite=None, tasks=2, episodes=1, policy="pi0_nano")
    assert experiment.tasks_of("lifted") == [2] and experiment.arm("lifted")["suite"] == "libero_goal"


def test_lines_give_their_suite_to_all_their_arms():
    line = {"policy": "lift", "suite": "robosuite_lift", "tasks": 1}
    data = copy.deepcopy(SHIPPED) | {
        "grids": {"dark": {**line, "fault": "zero", "view": "both", "severity": {"every": [1, 2]}}},
        "sweeps": {"late": {**line, "constant_ms": [0, 50], "episodes": 1}},
        "drills": {**line, "names": ["no_flip"]},
        "checkup": {"policy": "lift", "suite": "robosuite_lift", "task": 7, "episodes": 200},
    }
    data["policies"]["lift"] = {"artifact": "resources/still"}
    experiment = config.parse(data)
    made = [name for name in experiment.all_arms if name not in SHIPPED["arms"]]
    assert len(made) == 2 + 2 + 3 + 1
    assert {experiment.suite_of(name) for name in made} == {"robosuite_lift"}
    assert [experiment.tasks_of(name) for name in made] == [[1]] * 7 + [[7]]


def test_the_ledger_expects_each_arms_own_tasks(tmp_path):
    found = [(shard.arm, shard.task_id) for shard in outlook.shards(with_lift(), tmp_path)]
    assert [task for arm, task in found if arm == "lifted"] == [0, 3, 4]
    assert [task for arm, task in found if arm == "clean"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"suite": "robosuite_lif"}, "unknown suite 'robosuite_lif'; did you mean 'robosuite_lift'?"),
        ({"suite": "reach"}, "reach says nothing about a policy"),
        ({"tasks": None}, "arms.lifted.tasks: the experiment's tasks '0-2' are libero_goal's: say which of"),
        ({"tasks": "8"}, "arms.lifted.tasks: task 8 is out of range 0-7 of robosuite_lift"),
        ({"first_init_state": 950}, "arms.lifted.episodes: init state 1049 is out of range 0-999"),
        ({"suite": "libero_goal"}, "arms.lifted.episodes: init state 99 is out of range 0-49"),
    ],
)
def test_a_mistake_is_one_line(more, words):
    with pytest.raises(UserError) as caught:
        with_lift(**more)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkup_is_of_one_task():
    with pytest.raises(UserError, match=r"checkup\.tasks: a checkup is of one task: give task instead"):
        config.parse({**SHIPPED, "checkup": {"policy": "pi0_nano", "tasks": "0-2"}})
