"""Policies of several robots, in the config: how they are asked for, what is refused, what others stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump
from flashtrail.claims import claims, named_files
from flashtrail.experiment import config
from flashtrail.experiment.sections import Policy

ROOT = Path(__file__).parents[2]
SHIPPED = documents.mapping(ROOT / "config.yaml")
LIFT = {"suite": "robosuite_lift", "episodes": 3}
ADDED = {
    "policies": {
        "alone": {"train": {"robots": {"iiwa": 5}}},
        "joint": {"train": {"robots": {"panda": 5, "panda_3dof": 4}, "steps": 7}},
        "more": {"train": {"of": "joint", "like": "panda", "robots": {"panda": 5, "ur5e": 2}}},
        "shipped": {"artifact": "resources/lift_nano"},
        "further": {"train": {"of": "shipped", "robots": {"iiwa": 5}}},
    },
    "arms": {
        "alone": LIFT | {"policy": "alone", "tasks": "3"},
        "joint": LIFT | {"policy": "joint", "tasks": "2", "settings": {"embodiment": "panda_3dof", "token": "panda"}},
        "more": LIFT | {"policy": "more", "tasks": "4", "settings": {"embodiment": "ur5e"}},
        "first": LIFT | {"policy": "more", "tasks": "2", "settings": {"embodiment": "panda_3dof"}},
    },
}


def parsed(**more):
    return config.parse(config.merge(SHIPPED, ADDED, more))


def refused(said, **more):
    with pytest.raises(UserError) as error:
        parsed(**more)
    assert said in str(error.value) and "\n" not in str(error.value)


def artifact(path: Path, **manifest) -> dict:
    """A policy whose artifact is a manifest alone, of several robots unless it is told otherwise."""
    dims = {"dims": {"embodiments": [{"name": "panda", "task": 0}, {"name": "ur5e", "task": 4}]}}
    path.mkdir()
    json_dump({"family": "lift_vla"} | dims | manifest, path / "manifest.json")
    return {"artifact": str(path)}


def test_an_artifact_that_a_training_of_robots_cannot_begin_from_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    named_files.check(parsed(policies={"shipped": artifact(tmp_path / "several")}))
    for number, (said, manifest) in enumerate(
        [
            ("of one robot: name a policy of several", {"dims": {}}),
            ("of one robot: name a policy of several", {"dims": None}),
            ("of the family nothing: name a policy of lift_vla with several robots", {"family": "nothing"}),
        ]
    ):
        with pytest.raises(UserError, match=rf"^policies\.further\.train\.of: shipped is {said}$"):
            named_files.check(parsed(policies={"shipped": artifact(tmp_path / str(number), **manifest)}))


def test_each_is_tried_as_a_robot_of_its_own_in_that_robots_task(tmp_path, monkeypatch):
    experiment = parsed(policies={"shipped": artifact(tmp_path / "several")})
    tried = {name: (experiment.smoke_task(name), experiment.plain_arm("smoke", name, 2)) for name in ADDED["policies"]}
    tasks, own = ({name: one[place] for name, one in tried.items()} for place in (0, 1))
    assert (tasks["alone"], tasks["joint"], tasks["more"]) == (3, 2, 4)
    assert own["joint"]["settings"] == {"embodiment": "panda_3dof"} and own["more"]["settings"] == {
        "embodiment": "ur5e"
    }
    assert "settings" not in own["alone"] and own["alone"]["suite"] == "robosuite_lift"
    assert experiment.arm("joint")["settings"] == {"embodiment": "panda_3dof", "token": "panda"}
    monkeypatch.chdir(ROOT)
    named_files.check(experiment)


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("joint", {"robots": {"kuka": 3}}, "unknown robot 'kuka'"),
        ("joint", {"robots": {"pandas": 3}}, "did you mean 'panda'?"),
        ("joint", {"robots": {"panda": 0}}, "policies.joint.train.robots.panda: must be at least 1, not 0"),
        ("alone", {"like": "iiwa"}, "like is a robot of the policy that training begins from: give of"),
        ("more", {"of": "joints"}, "policies.more.train.of: unknown name 'joints'; did you mean 'joint'?"),
        ("more", {"of": "pi0_nano"}, "policies.more.train.of: 'pi0_nano' is of one robot"),
        ("joint", {"of": "more"}, "it is made of itself ("),
        ("more", {"like": "iiwa"}, "policies.more.train.like: joint has no robot 'iiwa'; it has panda, panda_3dof"),
        ("more", {"like": "iiwas"}, "did you mean 'iiwa'?"),
        ("more", {"of": "alone", "like": None, "robots": {"ur5e": 0}}, "must be at least 1, not 0"),
        ("more", {"like": "panda_3dof"}, "train.like: the head of panda_3dof is of another size than ur5e's"),
        ("joint", {"steps": 0}, "policies.joint.train.steps: must be at least 1"),
        ("joint", {"demos": 3}, "policies.joint.train.demos"),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_one_line(name, changed, said):
    refused(said, policies={name: {"train": changed}})


def test_like_is_for_new_robots():
    train = {"of": "joint", "like": "panda", "robots": {"panda": 5}}
    refused("policies.old.train.like: joint has all of these robots already", policies={"old": {"train": train}})


@pytest.mark.parametrize(
    ("arm", "settings", "said"),
    [
        ("joint", {"embodiment": "ur5e"}, "arms.joint.settings.embodiment: joint has no robot 'ur5e'; it has panda, "),
        ("joint", {"token": "ur5e"}, "arms.joint.settings.token: joint has no robot 'ur5e'; it has panda, panda_3dof"),
        ("joint", {"token": "pand"}, "did you mean 'panda'?"),
        (
            "joint",
            {"embodiment": None},
            "arms.joint.settings: joint has several robots: add embodiment: panda or panda",
        ),
        ("alone", {"embodiment": "panda"}, "arms.alone.settings.embodiment: alone has no robot 'panda'; it has iiwa"),
        ("alone", {"doubt": True}, "arms.alone.settings.doubt: alone is trained here and cannot say its doubt"),
        ("joint", {"doubt": True}, "arms.joint.settings.doubt: joint is trained here and cannot say its doubt"),
    ],
)
def test_an_arm_that_names_no_robot_of_its_policy_is_refused_in_one_line(arm, settings, said):
    refused(said, arms={arm: {"settings": settings}})


def test_an_arm_of_another_suite_and_a_profile_of_no_robot_are_refused_in_one_line():
    refused("arms.joint: joint is trained for robosuite_lift: add suite: ", arms={"joint": {"suite": "libero_goal"}})
    apart = {"policies": {"other": {"train": {"robots": {"panda": 5, "iiwa": 5}}}}, "profile": {"policy": "other"}}
    refused("profile.policy: 'other' is of several robots, and no arm says which is timed: add one", **apart)
    parsed(**apart, arms={"other": LIFT | {"policy": "other", "tasks": "3", "settings": {"embodiment": "iiwa"}}})


def test_the_documented_snippet_is_a_config_as_it_stands():
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8").split("## More than one robot")[1]
    lines = [line[4:] for line in text.split("| key of `train`")[0].splitlines() if line.startswith("    ")]
    experiment = config.parse(config.merge(SHIPPED, yaml.safe_load("\n".join(lines))))
    assert {experiment.suite_of(name) for name in ("joint_iiwa", "token_iiwa", "iiwa_as_panda", "new_0")} == {
        "robosuite_lift"
    }


def test_settings_of_another_family_and_two_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    several = {"shipped": artifact(tmp_path / "several")}
    for key, value in (("epsilon", 0.1), ("samples", 3)):
        with pytest.raises(UserError, match=rf"arms\.alone\.settings\.{key}: the family lift_vla has no such setting"):
            named_files.check(parsed(policies=several, arms={"alone": {"settings": {key: value}}}))
    refused("train and artifact exclude each other", policies={"alone": {"artifact": "resources/lift_nano"}})
    refused(
        "measured.sensitivity: 'joint' is of several robots",
        measured={"sensitivity": ["joint"]},
        profile={"episodes": 2},
    )
    with pytest.raises(ValueError, match="refit and train exclude each other"):
        Policy.model_validate({"refit": {"of": "a"}, "train": {"robots": {"panda": 1}}})


def test_an_experiment_without_several_robots_is_what_it_was():
    plain, beside = config.parse(SHIPPED), parsed()
    assert {name: beside.arm(name) for name in plain.all_arms} == {name: plain.arm(name) for name in plain.all_arms}
    for path in sorted(ROOT.glob("profiles/*/overlay.yaml")):
        if path.parent.name != "robots":
            other = config.load(ROOT / "config.yaml", path)
            named = [other.arm(name).get("settings", {}) for name in other.all_arms]
            assert not any({"embodiment", "token"} & set(settings) for settings in named)


def test_the_profile_compares_equal_demonstrations_and_equal_frames():
    """What each claim of joint and alone says: as many demonstrations of that robot, as many steps for it."""
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/robots/overlay.yaml")
    judged = {claim.id: claim for claim in claims.load(ROOT / "claims-robots.yaml").claims}
    for claim in judged.values():
        ours, control = (experiment.arms[name] for name in (claim.arm, claim.control))
        assert (ours.tasks, ours.init_states, ours.execution) == (control.tasks, control.init_states, control.execution)
        trained = [experiment.policies[arm.policy].train for arm in (ours, control)]
        assert trained[0].steps == trained[1].steps and trained[0].rate == trained[1].rate
        if "only_" in claim.control:
            (robot,) = trained[1].robots
            assert ours.settings.embodiment == robot and trained[0].robots[robot] == trained[1].robots[robot]
        if "token_" in claim.control:
            assert ours.policy == control.policy and ours.settings.token is None
            assert ours.settings.embodiment == control.settings.embodiment != control.settings.token
