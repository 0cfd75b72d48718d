"""The drills' section of the config: which arms it is written out as, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment.arms import DRILLS

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text())
TEN = [
    "no_flip",
    "bad_prompt",
    "bad_unnorm",
    "state_antipode",
    "swapped_cameras",
    "stale_frame",
    "long_chunk",
    "short_horizon",
    "late_window",
    "frozen_policy",
]


def with_drills(**more: Any) -> config.Experiment:
    return config.parse({**copy.deepcopy(SHIPPED), "drills": {**SHIPPED["drills"], **more}})


def test_the_shipped_section_is_ten_drills_a_clean_run_and_a_reference():
    experiment = config.parse(SHIPPED)
    assert list(experiment.drill_arms) == ["drill_reference", "drill_clean", *(f"drill_{name}" for name in TEN)]
    assert list(DRILLS) == TEN
    assert experiment.arm("drill_reference")["init_states"] == [10, 11, 12, 13, 14]
    assert {tuple(experiment.arm(f"drill_{name}")["init_states"]) for name in ["clean", *TEN]} == {(5, 6, 7, 8, 9)}
    assert all(experiment.arm(name)["flash"]["force_full_each_round"] for name in experiment.drill_arms)


def test_the_final_report_knows_nothing_of_drills():
    without = config.parse({key: value for key, value in SHIPPED.items() if key != "drills"})
    experiment = config.parse(SHIPPED)
    assert without.drill_arms == {}
    assert list(experiment.arms) == list(without.arms) and experiment.used_policies == without.used_policies
    assert experiment.running_arms == without.running_arms
    assert {name: experiment.arm(name) for name in experiment.arms} == {
        name: without.arm(name) for name in without.arms
    }
    assert not any("execution" in experiment.arm(name) for name in experiment.arms)


def test_a_smaller_section_has_what_it_names():
    experiment = with_drills(names=["no_flip"], episodes=2, first_init_state=3, reference={"episodes": 1})
    assert list(experiment.drill_arms) == ["drill_reference", "drill_clean", "drill_no_flip"]
    assert experiment.arm("drill_no_flip")["init_states"] == [3, 4]
    assert experiment.arm("drill_reference")["init_states"] == [10]
    assert list(experiment.all_conditions) == [*experiment.conditions, "drill_no_flip"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"names": ["no_flop"]}, "drills.names: unknown name 'no_flop'; did you mean 'no_flip'?"),
        ({"names": ["no_flip", "no_flip"]}, "drills.names: give at least one, each once"),
        ({"polcy": "x"}, "unknown key 'drills.polcy'; did you mean 'policy'?"),
        ({"policy": "pi0_nan"}, "drills.policy: unknown name 'pi0_nan'; did you mean 'pi0_nano'?"),
        ({"episodes": 6}, "bounds must come from other episodes"),
        ({"first_init_state": 14}, "bounds must come from other episodes"),
        (
            {"first_init_state": 15, "episodes": 40, "reference": {"first_init_state": 0, "episodes": 5}},
            "init state 54 is out of range 0-49",
        ),
        ({"flash": {"force_full": True}}, "did you mean"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_remedy(more, words):
    with pytest.raises(UserError) as caught:
        with_drills(**more)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_neighbouring_init_states_do_not_meet():
    assert with_drills(first_init_state=0, episodes=10).arm("drill_clean")["init_states"] == list(range(10))
    assert with_drills(first_init_state=15).arm("drill_clean")["init_states"][0] == 15


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("arms", "drill_no_flip", {"policy": "pi0_nano"}),
        ("conditions", "drill_no_flip", {"kind": "zero"}),
    ],
)
def test_a_name_that_is_taken_is_refused(place, name, value):
    with pytest.raises(UserError, match="drills: 'drill_no_flip' is also the name of another arm or condition"):
        config.parse({**SHIPPED, place: {**SHIPPED[place], name: value}})


def arm_with(**more: Any) -> config.Experiment:
    return config.parse({**SHIPPED, "arms": {"mine": {"policy": "pi0_nano", **more}}})


def test_any_arm_may_differ_in_how_it_executes():
    experiment = arm_with(execution={"replan_steps": 5, "horizon": 100, "window_lag": 9, "answer": "first"})
    said = {"replan_steps": 5, "horizon": 100, "window_lag": 9, "answer": "first"}
    assert experiment.arm("mine")["execution"] == said
    assert "execution" not in arm_with().arm("mine")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"execution": {"replan_steps": 50}}, "replan_steps: the policy allows at most 12: raise flash.max_exec_steps"),
        ({"execution": {"replan_steps": 51}}, "replan_steps"),
        ({"execution": {"horizon": 0}}, "horizon"),
        ({"execution": {"window_lag": 0}}, "window_lag: must be at least 1"),
        ({"execution": {"window_lag": 51}}, "window_lag"),
        ({"execution": {"answer": "last"}}, "answer"),
        ({"execution": {"action_stat": "x"}}, "arms.mine.execution"),
        ({"server": "ws://h:1", "execution": {"action_stats": "x"}}, "the server at ws://h:1 has its own statistics"),
    ],
)
def test_an_execution_that_cannot_be_is_refused(more, words):
    with pytest.raises(UserError) as caught:
        arm_with(**more)
    assert words in str(caught.value)


def test_the_profiles_have_drills_of_their_own_policy():
    ci = config.load(ROOT / "config.yaml", ROOT / "profiles/ci/overlay.yaml")
    assert list(ci.drill_arms) == ["drill_reference", "drill_clean", "drill_no_flip", "drill_short_horizon"]
    assert [len(ci.arm(name)["init_states"]) for name in ci.drill_arms] == [2] * 4
    l40s = config.load(ROOT / "config.yaml", ROOT / "profiles/runpod-l40s/overlay.yaml")
    assert {arm.policy for arm in l40s.drill_arms.values()} == {"pi0_libero"}
