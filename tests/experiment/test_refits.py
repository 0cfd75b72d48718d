"""Policies that are refits, in the config: what they are made of, what is refused, what others stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.claims import named_files
from flashtrail.experiment import config
from flashtrail.experiment.sections import Policy

ROOT = Path(__file__).parents[2]
SHIPPED = documents.mapping(ROOT / "config.yaml")
LIFT = {"suite": "robosuite_lift", "tasks": "1", "episodes": 5}
ADDED = {
    "policies": {
        "lift_nano": {"artifact": "resources/lift_nano"},
        "expert": {"expert": True},
        "first": {"refit": {"of": "lift_nano", "corrections": ["helped"], "count": 3}},
        "second": {"refit": {"of": "first", "corrections": ["helped", "helped_2"]}},
        "shown": {"refit": {"of": "lift_nano", "corrections": ["played"]}},
    },
    "conditions": {"dark": {"kind": "zero", "view": "agent"}, "old": {"kind": "stale", "queries": 2}},
    "handoffs": {"doubt": {"signal": "overlap", "alarm": 0.3, "to": "expert"}},
    "arms": {
        "helped": LIFT | {"policy": "lift_nano", "handoff": "doubt", "condition": "dark"},
        "helped_2": LIFT | {"policy": "first", "handoff": "doubt", "first_init_state": 5},
        "played": LIFT | {"policy": "expert"},
        "judged": LIFT | {"policy": "second", "first_init_state": 10},
    },
}


def parsed(**more):
    return config.parse(config.merge(SHIPPED, ADDED, more))


def test_a_refit_goes_back_to_an_artifact_and_the_rounds_stand_in_one_config(monkeypatch):
    experiment = parsed()
    assert {experiment.artifact(name) for name in ("lift_nano", "first", "second", "shown")} == {"resources/lift_nano"}
    assert experiment.artifact("pi0_nano") is None
    assert "second" in experiment.used_policies and experiment.engine("second") == experiment.engine("lift_nano")
    monkeypatch.chdir(ROOT)
    named_files.check(experiment)


def refused(said, **more):
    with pytest.raises(UserError) as error:
        parsed(**more)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("first", {"of": "lift_nan"}, "policies.first.refit.of: unknown name 'lift_nan'"),
        ("first", {"corrections": ["helpd"]}, "policies.first.refit.corrections: unknown name 'helpd'"),
        ("first", {"corrections": ["judged"]}, "it is made of itself (first of second of first)"),
        ("first", {"of": "second"}, "it is made of itself (first of second of first)"),
        ("first", {"of": "pi0_nano"}, "policies.first.refit.of: 'pi0_nano' has no artifact"),
        ("first", {"corrections": ["clean"]}, "policies.first.refit.corrections: in clean no expert acts"),
        ("first", {"corrections": []}, "count and keep are of corrections"),
        ("first", {"parts": "trunk"}, "parts"),
        ("first", {"rate": 0}, "rate"),
    ],
)
def test_a_refit_that_cannot_be_made_is_refused_in_one_line(name, changed, said):
    refused(said, policies={name: {"refit": changed}})


def test_two_sources_are_refused():
    refused("refit and artifact exclude each other", policies={"first": {"artifact": "resources/lift_nano"}})
    with pytest.raises(ValueError, match="expert and refit exclude each other"):
        Policy.model_validate({"expert": True, "refit": {"of": "a"}})


@pytest.mark.parametrize("changed", [{"condition": "old"}, {"condition": "wrist_zero_every4", "guard": "wrist_health"}])
def test_corrections_whose_pictures_no_replay_knows_are_refused(changed):
    refused("policies.first.refit.corrections: helped: needs guard none", arms={"helped": changed})


@pytest.mark.parametrize("start", [4, 9])
def test_a_policy_is_not_judged_on_starts_that_it_or_its_parent_was_corrected_in(start):
    source = {4: "helped", 9: "helped_2"}[start]
    refused(
        f"trained on corrections of {source} from the same start (task 1", arms={"judged": {"first_init_state": start}}
    )


def test_another_task_has_other_starts():
    assert parsed(arms={"judged": {"first_init_state": 0, "tasks": "0"}}).tasks_of("judged") == [0]


def test_another_family_and_a_missing_file_are_refused_in_one_line(monkeypatch):
    monkeypatch.chdir(ROOT)
    other = {"policies": {"lift_nano": {"artifact": "resources/fluid_nano"}}}
    with pytest.raises(UserError, match=r"policies\.first\.refit\.of: lift_nano goes back to the family fluid"):
        named_files.check(parsed(**other))
    with pytest.raises(UserError, match=r"policies\.first\.refit\.demonstrations: zzz\.hdf5 is no file"):
        named_files.check(parsed(policies={"first": {"refit": {"demonstrations": "zzz.hdf5"}}}))


def test_an_experiment_without_refits_is_what_it_was():
    plain, beside = config.parse(SHIPPED), parsed()
    assert {name: beside.arm(name) for name in plain.all_arms} == {name: plain.arm(name) for name in plain.all_arms}
