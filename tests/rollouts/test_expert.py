"""The simulator's own expert in the place of a server: how an arm asks for it, and the rows that come of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from rollouts.shards import rows, spec

from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment.shard import EXPERT
from flashtrail.record import replay
from flashtrail.rollouts.expert import ExpertSession
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec
from flashtrail.simulators import registry

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text())
LIFT = {"suite": "robosuite_lift", "tasks": "0"}


def with_expert(arm: dict | None = None, **policy) -> config.Experiment:
    data = copy.deepcopy(SHIPPED)
    data["policies"]["expert"] = {"expert": True, **policy}
    data["arms"]["expert"] = {"policy": "expert", **LIFT, **(arm or {})}
    return config.parse(data)


def test_an_arm_of_the_expert_needs_no_server_no_artifact_and_keeps_its_parts():
    experiment = with_expert({"execution": {"window_lag": 9}})
    arm = experiment.arm("expert")
    assert arm["server"] == EXPERT and "expert" not in experiment.used_policies
    told = shard_spec(arm, 0, {}, code="c0de", locks="results/rollouts")
    assert (told.server.url, told.server.command, told.server.lock) == (EXPERT, None, None)
    assert not told.server.external and told.window_lag == 9
    assert replay.unrepeatable(arm) == "", "the same state gives the same action"
    assert all("expert" not in experiment.arm(name)["rollout"] for name in experiment.arms)


@pytest.mark.parametrize(
    ("arm", "policy", "words"),
    [
        ({"suite": "libero_goal"}, {}, "libero_goal has no expert of its own; suites with one: robosuite_lift"),
        ({"server": "ws://h:1"}, {}, "arms.expert.server: the policy 'expert' is the simulator's expert: leave it out"),
        ({"flash": {"tau_radius": 1}}, {}, "arms.expert.flash: the expert has its own settings; leave them out"),
        (
            {"clock": {"kind": "running", "source": {"constant_ms": 58}}},
            {},
            "arms.expert.clock: the expert answers for one",
        ),
        ({"execution": {"action_stats": "x"}}, {}, "arms.expert.execution: the expert has its own statistics"),
        ({}, {"artifact": "a"}, "expert and artifact exclude each other: an expert has no weights"),
        ({}, {"candidates": ["a"], "tokenizer": "b"}, "expert and candidates, tokenizer exclude each other"),
        ({}, {"expert": False}, "give candidates and tokenizer (a checkpoint of pi0), artifact, refit or train"),
    ],
)
def test_what_an_expert_cannot_be_is_one_line(arm, policy, words):
    with pytest.raises(UserError) as caught:
        with_expert(arm, **policy)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_expert_is_not_timed():
    data = copy.deepcopy(SHIPPED)
    data["policies"]["expert"] = {"expert": True}
    with pytest.raises(UserError, match=r"profile\.policy: 'expert' is the simulator's expert: no round to time"):
        config.parse(data | {"profile": {"policy": "expert"}})


def test_each_episode_has_an_expert_of_its_own_and_each_round_its_next_action(monkeypatch):
    made = []

    def fresh(suite, simulator):
        made.append((suite, simulator))
        actions = iter(np.arange(14.0).reshape(2, 7))
        return lambda: next(actions)

    monkeypatch.setattr(registry, "expert", fresh)
    session = ExpertSession("the simulator", "robosuite_lift")
    said = [session.infer({}, executed, reset, [1]) for executed, reset in [(0, True), (1, False), (0, True)]]
    assert made == [("robosuite_lift", "the simulator")] * 2
    assert [reply.actions[0, 0] for reply in said] == [0, 7, 0]
    assert {(reply.actions.shape, reply.accepted_prefix_len) for reply in said} == {((1, 7), 1)}


# --- the real simulator ---


@pytest.mark.simulator
@pytest.mark.slow
def test_on_time_it_lifts_and_nine_steps_late_it_never_closes(tmp_path):
    """The lift document's fault: the action for nine steps ago; the same expert, the same starts."""
    tables = {}
    for name, lag in (("on_time", 0), ("late", 9)):
        told = spec((0,), arm=name, suite="robosuite_lift", task_id=0, condition={"kind": "none"}, window_lag=lag)
        told = told.model_copy(update={"server": told.server.model_copy(update={"command": None, "url": EXPERT})})
        told = told.model_copy(update={"guard": spec(guard={"kind": "none"}).guard, "replan_steps": 5})
        with (tmp_path / f"{name}.log").open("w") as log:
            roll_out_shard(told, tmp_path / name, log=log).check()
        tables[name] = rows(tmp_path / name)
    assert [row["verified_success"] for row in tables["on_time"]["episodes"]] == [True]
    assert {row["executed"] for row in tables["on_time"]["rounds"]} == {1}
    (late,) = tables["late"]["episodes"]
    assert (late["verified_success"], late["own_success"], late["gripper_closures"]) == (False, False, 0)
    assert all(row["naive_success"] for name in tables for row in tables[name]["episodes"])
