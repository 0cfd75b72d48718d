"""Which arm another one is held against: under limits, with a fault, late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashtrail.base import documents
from flashtrail.claims.campaign import Campaign
from flashtrail.experiment import config

ROOT = Path(__file__).parents[2]
DEPLOYMENT = [documents.mapping(ROOT / "config.yaml"), documents.overlay(ROOT / "profiles/deployment/overlay.yaml")]
LIMITED = {arm: own for arm, own in DEPLOYMENT[1]["arms"].items() if arm.startswith(("limits_", "__only__"))}
ALONE = [DEPLOYMENT[0], {**DEPLOYMENT[1], "arms": LIMITED}]
BLACK = {"policy": "lift_nano", "condition": "black", "execution": {"replan_steps": 5}}
FAULTS = {"arms": {"black": BLACK, "black_table": {**BLACK, "limits": "table"}}}
FAULTS |= {"conditions": {"black": {"kind": "zero", "view": "both", "every": 1}}}
LATE = DEPLOYMENT[1]["arms"]["limits_late"]["clock"]


def campaign(experiment: config.Experiment) -> Campaign:
    """Summaries of a config's arms as far as their setting goes, the last arm first."""
    found: dict[str, dict[str, Any]] = {}
    for name in reversed(experiment.arms):
        arm = experiment.arm(name)
        about = {
            key: json.dumps(arm[key])
            for key in ("condition", "guard", "limits", "handoff", "execution", "settings")
            if key in arm
        }
        late = arm["clock"] != "paused"
        found[name] = {
            **{"arm": name, "policy": arm["policy"], "suite": arm["suite"], "guard": None, "clock": late or None},
            "condition": {"rounds_hit": int(arm["condition"]["kind"] != "none")},
            "tasks": [{"task_id": task} for task in experiment.tasks_of(name)],
            "metadata": about | ({"clock": json.dumps(arm["clock"])} if late else {}),
        }
    return Campaign.of_frames(summaries=found)


@pytest.fixture(scope="module")
def run() -> Campaign:
    return campaign(config.parse(config.merge(*ALONE, FAULTS)))


def test_an_arm_under_limits_is_held_against_the_same_one_without(run: Campaign) -> None:
    shipped = campaign(config.parse(config.merge(*DEPLOYMENT)))
    named = [arm for arm in shipped.summaries if arm.startswith(("limits_", "ho_")) and not arm.endswith("_none")]
    pairs = {arm: shipped.reference_of(arm) for arm in named}
    assert pairs.pop("limits_nano") == "limits_none"
    assert pairs.pop("ho_never") == "limits_none", "without its fault"
    limited = {f"limits_{name}": f"limits_{name}_none" for name in ("late", "unnorm", "hostile", "random")}
    assert pairs == limited | {f"ho_{name}": "ho_never" for name in ("overlap", "random", "oracle")}


def test_a_fault_is_held_against_no_arm_of_other_limits_or_another_clock(run: Campaign) -> None:
    wanted = {"black": "limits_none", "black_table": "limits_nano"}
    assert {arm: run.without_fault(arm) for arm in wanted} == wanted
    assert {arm: run.reference_of(arm) for arm in wanted} == wanted
    assert run.control_of("limits_random") in ("limits_nano", "limits_unnorm")  # both under limits, unlike *_none
    del run.summaries["limits_nano"]
    assert run.without_fault("black_table") is None
    assert run.reference_of("black_table") == "limits_late", "none ran alike: one of the same limits"


def test_the_chapter_on_faults_has_no_arm_of_other_limits_or_another_clock() -> None:
    late = {"arms": {"black_late": {**BLACK, "clock": LATE}}}
    made = config.parse(config.merge(*ALONE, FAULTS, late))
    assert made.arms_of_chapter("robustness") == ["limits_none", "limits_nano", "black", "black_table"]
    only = config.parse(config.merge(*ALONE, {"arms": {"black": BLACK}, "conditions": FAULTS["conditions"]}))
    assert only.arms_of_chapter("robustness") == ["limits_none", "black"]
