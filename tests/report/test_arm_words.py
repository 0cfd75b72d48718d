"""Arms in words: every kind of condition and guard of the config has some, and nothing is said that is not recorded."""

import json

import pytest
from pydantic import ValidationError

from flashtrail.base.errors import UserError
from flashtrail.experiment import conditions, guards
from flashtrail.report import arm_words, palette

NEEDS = {
    "stale": {"queries": 2},
    "prompt": {"template": "do: {instruction}"},
    "instruction": {"text": "push it"},
    "occlusion": {"size": 0.3},
    "noise": {"sigma": 25.0},
    "bursts": {"probability": 0.1},
    "all_of": {"parts": [{"kind": "zero"}, {"kind": "noise", "sigma": 2.5}]},
}


def summary(condition=None, guard=None, policy="p", draft=3, clock=None, **more):
    specs = {
        "condition": conditions.read(condition or {"kind": "none"}),
        "guard": guards.read(guard or {"kind": "none"}),
    }
    hit = condition is not None
    return {
        "policy": policy,
        "routes": {"n": 4, "draft": draft},
        "condition": {"rounds_hit": int(hit), "rounds": 4},
        "guard": {"rounds": 4} if guard else None,
        "clock": clock,
        "metadata": {name: json.dumps(spec.called(name)) for name, spec in specs.items()},
    } | more


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"kind": "none"}, ""),
        ({"kind": "zero", "every": 4}, "wrist camera black every 4th round"),
        ({"kind": "zero", "view": "both"}, "both cameras black in every round"),
        ({"kind": "zero", "every": 2, "start": 5}, "wrist camera black every 2nd round from round 5 on"),
        ({"kind": "zero", "every": 11}, "wrist camera black every 11th round"),
        ({"kind": "zero", "every": 23}, "wrist camera black every 23rd round"),
        ({"kind": "freeze", "every": 8, "length": 3}, "wrist camera frozen in 3 of every 8 rounds"),
        ({"kind": "stale", "queries": 2, "view": "agent"}, "agent camera late by 2 rounds in every round"),
        ({"kind": "prompt", "template": "do: {instruction}"}, "instruction reworded"),
        ({"kind": "instruction", "text": "push it"}, "told \u201cpush it\u201d instead"),
        ({"kind": "noise", "sigma": 2.5}, "noise on wrist camera, 2.5 grey levels in every round"),
        ({"kind": "bursts", "probability": 0.1}, "wrist camera black in random bursts"),
        (
            [{"kind": "zero", "every": 4}, {"kind": "swap"}],
            "wrist camera black every 4th round and cameras swapped in every round",
        ),
    ],
)
def test_a_condition_in_words(condition, words):
    assert arm_words.condition_words(conditions.read(condition).model_dump(mode="json")) == words


def test_what_becomes_of_the_actions_is_said():
    stats = {"action_stats": "resources/drills/bridge_like.json"}
    scaled = ", actions scaled by bridge_like"
    for execution, words in (({"answer": "first"}, ", the first answer in every round"), (stats, scaled), ({}, "")):
        said = summary(metadata={"execution": json.dumps(execution)})
        assert arm_words._routes(said).endswith(words or "FLASH")
    for count, words in ((1, ", 1 step a round"), (5, ", 5 steps a round")):
        said = summary(metadata={"execution": json.dumps({"replan_steps": count})})
        assert arm_words._routes(said).endswith(words)


def test_two_arms_that_differ_in_a_setting_have_two_names():
    for usual in ("p", "another"):
        plain, calm, few = (
            arm_words.short(summary(metadata={"settings": json.dumps(own)}), usual)
            for own in ({}, {"epsilon": 0.12}, {"max_steps": 4})
        )
        assert len({plain, calm, few}) == 3 and "no fault, epsilon 0.12" in calm and "no fault, max steps 4" in few


@pytest.mark.parametrize("kind", conditions.KINDS)
def test_every_kind_of_condition_has_words_of_its_own(kind):
    spec = conditions.read({"kind": kind, **NEEDS.get(kind, {})}).model_dump(mode="json")
    assert bool(arm_words.condition_words(spec)) == (kind != "none") and kind not in arm_words._VIEWS
    if kind not in ("none", "bursts", "all_of"):
        assert kind in arm_words._WHAT, f"{kind} is called by its key"


@pytest.mark.parametrize("kind", ["wrist_health", "wrist_mask", "oracle", "of_tomorrow"])
def test_every_guard_has_words(kind):
    try:
        guards.read({"kind": kind})
    except (UserError, ValidationError):
        assert kind == "of_tomorrow"
    told = summary({"kind": "zero"}, {"kind": "wrist_health"})
    told["metadata"]["guard"] = json.dumps({"kind": kind})
    words = arm_words.remedy(told, "p")
    assert ("upper bound" in words) == (kind == "oracle") and (kind == "of_tomorrow") == (f"guard: {kind}" == words)


def test_a_fault_that_no_round_tells_of_is_not_called_none():
    untold = summary() | {"metadata": {}, "condition": {"rounds_hit": 0, "rounds_told": 0, "rounds": 4}}
    assert arm_words.words(untold, "p") == "fault not recorded; FLASH"
    assert arm_words.short(untold, "p") == "fault not recorded, FLASH"
    untold["condition"]["rounds_told"] = 4
    assert arm_words.words(untold, "p") == "no fault; FLASH"


def test_an_arm_in_words():
    assert arm_words.words(summary(), "p") == "no fault; FLASH"
    assert arm_words.words(summary(draft=0), "p") == "no fault; every round full"
    guarded = summary({"kind": "zero", "every": 4}, {"kind": "wrist_health"}, policy="q")
    assert (
        arm_words.words(guarded, "p")
        == "wrist camera black every 4th round; guard: last healthy frame; policy q; FLASH"
    )
    assert arm_words.short(guarded, "p") == "guard, policy q, wrist camera black every 4th round"
    running = summary(clock={"hz": 100.0, "mean_ms": 58.0})
    assert arm_words.short(running, "p") == "clock running at 100 Hz, 58.0\u00a0ms a round, FLASH"
    assert arm_words.words(running, "p") == "no fault; clock running at 100 Hz, 58.0\u00a0ms a round; FLASH"


def test_what_is_not_on_record_is_counted_not_guessed():
    """Imported rows say neither condition nor guard; their rounds say what was hit and what a guard looked at."""
    unknown = summary({"kind": "zero"}, {"kind": "wrist_health"}, metadata={}, routes={"n": 0, "draft": 0})
    assert arm_words.words(unknown, "p") == "a fault in 1 of 4 rounds; guard"


def test_every_role_has_a_colour():
    faults, guard = {"kind": "zero"}, {"kind": "wrist_health"}
    arms = [summary(), summary(faults), summary(faults, guard), summary(faults, policy="q")]
    assert [arm_words.role(arm, "p") for arm in arms] == list(palette.ROLES)
