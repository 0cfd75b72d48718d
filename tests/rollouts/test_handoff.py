"""Hand-overs: when a round alarms, whose turn it is, what an episode records of it; and a robot that is helped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rollouts import scripted
from rollouts.scripted import DRAFT, FULL, KEY, run
from rollouts.shards import rows, spec

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.experiment import clocks, config, doubt, handoff
from flashtrail.experiment import shard as specs
from flashtrail.rollouts.episode import Running
from flashtrail.rollouts.handoff import Handover
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.serving.handles import serve_command
from flashtrail.simulators import seeds
from flashtrail.simulators.verify import Verdict
from flashtrail.tables import schemas

HELP = [0.5] * 6 + [1.0]
DOUBTFUL = FULL | {"novelty": 2.0}
SURE = FULL | {"novelty": 0.5}


def expert():
    """What a fresh expert is: the same action at each step."""
    return lambda: HELP


def given(**more):
    return handoff.read({"signal": "novelty", "alarm": 1.0, "to": "expert", "steps": 6, "budget": 15, **more})


def helped(script, simulator=None, expert=expert, more=None, **settings):
    return run(script, simulator, handoff=given(**(more or {})), expert=expert, **settings)


def who(record):
    """The steps as (who, how many in a row)."""
    found: list[list] = []
    for row in record.steps:
        if not found or found[-1][0] != row["who"]:
            found.append([row["who"], 0])
        found[-1][1] += 1
    return [tuple(pair) for pair in found]


# --- rules ---


def turns(rows, **more):
    one = Handover(given(**more), 12, lambda success: None, expert)
    return [one.turn(row, [7, n], n).who for n, row in enumerate(rows)]


def test_the_signals_are_columns_of_a_round_or_controls():
    names = set(handoff.Signal.__args__) - {handoff.RANDOM, handoff.ORACLE}
    assert names <= set(schemas.ROUNDS.names) and names <= set(doubt.SIGNALS)


@pytest.mark.parametrize(
    ("signal", "values", "alarm", "hands_over"),
    [
        ("overlap", [None, 0.1, 0.3, 0.31], 0.3, [False, False, False, True]),
        ("accepted_prefix", [12, 4, 3, 0], 4, [False, False, True, True]),  # few accepted: more doubt
        ("radius", [None, 0.2, 0.4], 0.3, [False, False, True]),
    ],
)
def test_a_round_alarms_beyond_the_alarm_on_the_side_of_doubt(signal, values, alarm, hands_over):
    rows = [{signal: value} for value in values]
    assert [name == "expert" for name in turns(rows, signal=signal, alarm=alarm)] == hands_over


def test_patience_asks_for_alarmed_rounds_in_a_row():
    rows = [{"novelty": value} for value in (2, 2, 0, 2, 2, 2)]
    assert turns(rows, patience=3) == ["policy"] * 5 + ["expert"]


def test_a_random_hand_over_follows_from_the_round_s_own_entropy_alone():
    draws = [seeds.derive(7, KEY, "handoff", n) for n in range(2000)]
    one = Handover(given(signal="random", alarm=0.9), 12, lambda success: None, expert)
    again = Handover(given(signal="random", alarm=0.9), 12, lambda success: None, expert)
    found = [one.turn({}, draw, 0).who for draw in draws]
    assert found == [again.turn({}, draw, 0).who for draw in draws]
    assert 160 < found.count("expert") < 240  # a tenth of them


def test_the_oracle_waits_for_a_lift_as_the_simulator_saw_it():
    lifts = iter([0, 0, 1, 1, 1])
    one = Handover(given(signal="oracle", alarm=20), 12, lambda success: Verdict(success, None, 0, next(lifts)), expert)
    assert [one.turn({}, [0], step).who for step in (10, 20, 30, 50, 51)] == ["policy"] * 4 + ["expert"]


# --- in an episode ---


def test_an_alarmed_round_is_not_executed_the_expert_acts_and_the_policy_begins_anew():
    record, policy, simulator = helped([(12, SURE), (5, DOUBTFUL), (12, SURE)])
    assert who(record) == [("policy", 12), ("expert", 6), ("policy", 22)]
    assert [row["executed"] for row in record.rounds] == [12, 0, 12, 10]
    assert [row["env_step"] for row in record.rounds] == [0, 12, 18, 30]
    assert [executed for executed, *_ in policy.asked] == [0, 12, 0, 12]
    assert [reset for _, reset, *_ in policy.asked] == [True, False, True, False]
    assert [words[-1] for _, _, words, _ in policy.asked] == [0, 1, 2, 3]  # paired by the round, as ever
    taken = record.steps[12:18]
    assert all(row["action"] == HELP and row["offset_in_chunk"] is None and row["round"] == 1 for row in taken)
    assert [row["img_mean"] for row in taken] == [12.0] + [None] * 5  # of the query that alarmed
    assert simulator.rendered[17] and not any(simulator.rendered[12:17])  # seen again where the policy is asked again
    episode = record.episode
    assert (episode["interventions"], episode["expert_steps"], episode["steps"]) == (1, 6, 40)
    assert episode["executed_actions"] == sum(row["executed"] for row in record.rounds) == 34
    assert record.rounds[2]["overlap"] is None and record.rounds[3]["overlap"] is not None
    assert record.rounds[2]["fallback_cause"] == "first"


def test_without_hand_overs_nothing_is_recorded_of_them():
    plain, *_ = run([(12, DOUBTFUL)])
    assert {row["who"] for row in plain.steps} == {None}
    assert {plain.episode[name] for name in schemas.HANDED} == {None}
    sure, *_ = helped([(12, SURE)])
    assert who(sure) == [("policy", 40)]
    assert (sure.episode["interventions"], sure.episode["expert_steps"]) == (0, 0)
    assert [row["action"] for row in sure.steps] == [row["action"] for row in plain.steps]


def test_the_budget_bounds_an_episode_s_hand_overs():
    record, *_ = helped([(4, DOUBTFUL)])  # 15 steps in turns of 6
    assert who(record) == [("expert", 15), ("policy", 25)]
    assert (record.episode["interventions"], record.episode["expert_steps"]) == (3, 15)


def test_the_expert_acts_to_success_and_no_longer():
    record, *_ = helped([(12, SURE), (12, DOUBTFUL)], scripted.Simulator(success_at=15))
    assert who(record) == [("policy", 12), ("expert", 3)] and record.episode["outcome"] == "success"
    assert record.episode["expert_steps"] == 3
    late, *_ = helped([(12, SURE), (12, SURE), (12, SURE), (12, DOUBTFUL)])
    assert who(late) == [("policy", 36), ("expert", 4)]  # the horizon


def test_to_hold_is_no_motion_and_the_gripper_s_last_command():
    record, *_ = helped([(12, SURE), (12, DOUBTFUL), (12, SURE)], more={"to": "hold"})
    assert who(record) == [("policy", 12), ("hold", 6), ("policy", 22)]
    for row in record.steps[12:18]:
        assert np.abs(row["action"][:6]).max() <= 1e-6 and row["action"][6] == record.steps[11]["action"][6]
    assert (record.episode["interventions"], record.episode["expert_steps"]) == (1, 0)


def test_to_retry_opens_the_hand_then_rises():
    record, *_ = helped([(12, SURE), (12, DOUBTFUL), (12, SURE)], more={"to": "retry", "steps": 10})
    taken = [row["action"] for row in record.steps[12:22]]
    assert [action[6] for action in taken] == [-1] * 10
    assert [action[2] > 0 for action in taken] == [False] * 4 + [True] * 6
    assert np.abs(np.array(taken)[:, [0, 1, 3, 4, 5]]).max() <= 1e-6


def test_to_stop_ends_the_episode_as_no_success():
    record, policy, _ = helped([(12, SURE), (12, DOUBTFUL)], more={"to": "stop"}, expert=None)
    assert (len(record.steps), len(policy.asked), record.episode["outcome"]) == (12, 2, "horizon")
    assert (record.episode["interventions"], record.episode["success"]) == (1, False)


def test_a_careful_policy_asks_again_sooner_while_alarmed():
    script = [(12, SURE), (12, DOUBTFUL), (12, DOUBTFUL), (12, SURE)]
    record, policy, _ = helped(script, more={"to": "careful", "replan_steps": 3})
    assert [row["executed"] for row in record.rounds] == [12, 3, 3, 12, 10]
    assert who(record) == [("policy", 12), ("careful", 6), ("policy", 22)]
    assert [reset for _, reset, *_ in policy.asked] == [True] + [False] * 4
    assert record.episode["interventions"] == 1 and record.episode["executed_actions"] == 40


def test_after_so_many_hand_overs_the_next_level_is_asked():
    record, *_ = helped([(4, DOUBTFUL)], more={"to": "retry", "steps": 3, "budget": 50, "escalate": 2})
    assert who(record) == [("retry", 6), ("expert", 6)]  # then stop
    assert record.episode["interventions"] == 5 and record.episode["outcome"] == "horizon"


def test_an_official_server_s_drafts_after_a_hand_over_begin_anew():
    scheduled = DRAFT | {"novelty": 2.0, "scheduled_full_fallback": True}
    record, *_ = helped([(12, SURE), (12, scheduled), (12, SURE), (12, SURE)])
    assert [row["fallback_cause"] for row in record.rounds] == ["first", None, "first", "forced"]


def test_under_a_running_clock_the_chunk_in_hand_goes_on_until_the_answer_alarms():
    clock = clocks.Running(kind="running", hz=20, source=clocks.Fixed(constant_ms=100), while_waiting="chunk")

    class Hundred:
        def of(self, route, roundtrip_ms, seed):
            return 100.0

    record, policy, _ = helped([(12, SURE), (12, DOUBTFUL), (12, SURE)], running=Running(clock, Hundred()))
    assert who(record) == [("policy", 14), ("expert", 6), ("policy", 20)]  # 12 steps, then 2 while it was asked
    assert [row["offset_in_chunk"] for row in record.steps[12:14]] == [12, 13]
    assert [row["offset_in_chunk"] for row in record.steps[20:23]] == [None, None, 2]  # nothing old is in hand
    assert record.steps[20]["action"][6] == HELP[6]  # the hand that the expert closed stays closed
    assert [reset for _, reset, *_ in policy.asked][:3] == [True, False, True]
    taken = sum(row["executed"] + row["waited_steps"] for row in record.rounds)
    assert record.episode["executed_actions"] == taken == 34


def test_what_cannot_be_watched_or_asked_is_refused_in_one_line():
    with pytest.raises(UserError, match="handoff: the policy does not report novelty: choose another signal"):
        helped([(12, FULL)])
    with pytest.raises(UserError, match="handoff: this suite has no verdict"):
        helped([(12, FULL)], more={"signal": "oracle"})
    with pytest.raises(UserError, match="handoff: there is no expert here"):
        helped([(12, SURE)], expert=None)
    with pytest.raises(UserError, match="there is no expert here"):
        helped([(12, SURE)], expert=None, more={"to": "retry", "escalate": 1})


# --- in the config ---

ROOT = Path(__file__).parents[2]
SHIPPED = documents.mapping(ROOT / "config.yaml")
KNOWN = "8c22f4615cc1e899"  # of a spec as it was before there were limits or hand-overs


def with_handoff(more=None, **arm):
    own = {"signal": "overlap", "alarm": 0.3, "to": "hold", **(more or {})}
    added = {"handoffs": {"doubt": own}, "arms": {"helped": {"policy": "pi0_nano", "handoff": "doubt", **arm}}}
    return config.parse(config.merge(SHIPPED, added))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"signal": "mood"}, "signal"),
        ({"patience": 0}, "patience: must be at least 1"),
        ({"budget": 0}, "budget: must be at least 1"),
        ({"to": "pray"}, "to"),
        ({"steps": 0}, "steps: must be at least 1"),
        ({"to": "careful", "escalate": 2}, "escalate: a careful policy hands nothing over: leave it out"),
        ({"threshold": 1.0}, "threshold"),
    ],
)
def test_a_bad_hand_over_is_refused_in_one_line(more, said):
    with pytest.raises(UserError) as error:
        with_handoff(more)
    assert said in str(error.value) and "handoffs.doubt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("more", [{"to": "expert"}, {"to": "retry", "escalate": 1}])
def test_a_suite_without_an_expert_is_refused_in_one_line(more):
    said = "arms.helped.handoff: libero_goal has no expert of its own; suites with one: robosuite_lift"
    with pytest.raises(UserError, match=said):
        with_handoff(more)
    assert with_handoff(more, suite="robosuite_lift", tasks="0").has_expert("helped")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"arms.helped.handoff: unknown name 'dout'.*doubt"):
        with_handoff(handoff="dout")


def test_an_arm_without_hand_overs_is_what_it_was():
    """No key, no other digest: finished shards are found again."""
    plain, beside = config.parse(SHIPPED), with_handoff()
    assert all("handoff" not in plain.arm(name) for name in plain.all_arms)
    assert {name: beside.arm(name) for name in plain.all_arms} == {name: plain.arm(name) for name in plain.all_arms}
    arm = beside.arm("helped")
    without = {key: value for key, value in arm.items() if key != "handoff"}
    assert specs.config_digest(arm) != specs.config_digest(without)
    spec = {"arm": "a", "policy": "p", "suite": "libero_goal", "task_id": 1, "init_states": [0], "seed": 7}
    spec["server"] = {"command": ["serve", "{port}"]}
    assert specs.read({**spec, "handoff": None}).digest == specs.read(spec).digest == KNOWN
    assert specs.read({**spec, "handoff": arm["handoff"]}).digest != KNOWN
    assert json.loads(json.dumps(arm["handoff"])) == arm["handoff"]


# --- the real simulator ---


@pytest.mark.simulator
@pytest.mark.slow
def test_the_expert_takes_over_from_a_policy_that_does_nothing_and_lifts(tmp_path):
    nothing = serve_command(ROOT / "resources/scripted/nothing", port="{port}")
    tables = {}
    for name, more in {"alone": None, "helped": {"signal": "oracle", "alarm": 10, "steps": 80, "budget": 80}}.items():
        told = spec((0,), nothing, arm=name, suite="robosuite_lift", task_id=0, condition={"kind": "none"})
        told = told.model_copy(update={"guard": spec(guard={"kind": "none"}).guard, "replan_steps": 5})
        told = told.model_copy(update={"handoff": None if more is None else given(**more)})
        with (tmp_path / f"{name}.log").open("w") as log:
            roll_out_shard(told, tmp_path / name, log=log).check()
        tables[name] = rows(tmp_path / name)
    (alone,), (helped_row,) = (tables[name]["episodes"] for name in ("alone", "helped"))
    assert (alone["verified_success"], alone["interventions"]) == (False, None)
    assert (helped_row["verified_success"], helped_row["interventions"]) == (True, 1)
    steps = tables["helped"]["steps"]
    assert [row["who"] for row in steps] == ["policy"] * 15 + ["expert"] * helped_row["expert_steps"]
    assert {row["who"] for row in tables["alone"]["steps"]} == {None}
