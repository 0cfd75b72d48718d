"""What each drill changes, and that it changes nothing else: what the policy is given, what is executed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollouts.scripted import FULL, KEY, Simulator, run

from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment.arms import DRILLS
from flashtrail.rollouts import conditions
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import Observation, axis_angle, resize_with_pad, state_vector

EXPERIMENT = config.load(Path(__file__).parents[2] / "config.yaml")
SEEN = Observation(
    np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8),
    np.random.default_rng(2).integers(0, 256, (224, 224, 3), dtype=np.uint8),
    np.array([0.1, -0.2, 1.0, 3.0, 0.2, -0.1, 0.02, -0.02]),
    "put the bowl on the stove",
)


def drilled(name: str, queries: int = 4) -> list[Observation]:
    """What the policy is given at each query of an episode in which nothing moves."""
    spec = EXPERIMENT.arm(f"drill_{name}")["condition"]
    condition = conditions.build(spec, seeds.derive(7, KEY, "perturbation"))
    return [condition.apply(SEEN, query)[0] for query in range(queries)]


def changed(given: Observation) -> set[str]:
    """Which parts of the observation are not as they were seen."""
    parts = {
        name for name in ("agent", "wrist", "state") if not np.array_equal(getattr(given, name), getattr(SEEN, name))
    }
    return parts | ({"prompt"} if given.prompt != SEEN.prompt else set())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("reference", [set()] * 4),
        ("clean", [set()] * 4),
        ("no_flip", [{"agent", "wrist"}] * 4),
        ("bad_prompt", [{"prompt"}] * 4),
        ("state_antipode", [{"state"}, set()] * 2),
        ("swapped_cameras", [{"agent", "wrist"}] * 4),
        ("bad_unnorm", [set()] * 4),
        ("long_chunk", [set()] * 4),
        ("short_horizon", [set()] * 4),
        ("late_window", [set()] * 4),
        ("frozen_policy", [set()] * 4),
    ],
)
def test_a_drill_changes_its_own_part_of_the_observation_and_no_other(name, parts):
    assert [changed(given) for given in drilled(name)] == parts


def test_no_flip_turns_both_views_back():
    (first, *_) = drilled("no_flip")
    assert np.array_equal(first.agent, SEEN.agent[::-1, ::-1]) and np.array_equal(first.wrist, SEEN.wrist[::-1, ::-1])


def test_bad_prompt_is_openvlas_template_around_the_instruction():
    assert {given.prompt for given in drilled("bad_prompt")} == {
        "In: What action should the robot take to put the bowl on the stove?\nOut:"
    }


def test_stale_frame_shows_the_query_before_in_both_views():
    record, policy, _ = run([(12, FULL)], condition=EXPERIMENT.arm("drill_stale_frame")["condition"])
    shown = [int(obs["observation/image"][0, 0, 0]) for *_, obs in policy.asked]
    assert shown == [0, 0, 12, 24]
    assert [row["condition_applied"] for row in record.rounds] == [False, True, True, True]
    means = [(row["img_mean"], row["img_mean_sent"]) for row in record.steps if row["img_mean"] is not None]
    assert means == [(0, 0), (12, 0), (24, 12), (36, 24)]


def test_img_mean_sent_is_of_what_the_guard_let_through():
    def means(**more):
        record, *_ = run([(12, FULL)], condition={"kind": "swap"}, **more)
        return [(row["img_mean"], row["img_mean_sent"]) for row in record.steps if row["img_mean"] is not None]

    assert means() == [(0, 9), (12, 9), (24, 9), (36, 9)]
    assert means(guard={"kind": "oracle"}) == [(0, 0), (12, 12), (24, 24), (36, 36)]


quaternions = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: 1e-2 < np.linalg.norm(q) < 10)


@given(quaternions)
def test_antipode_is_the_axis_angle_of_the_other_sign(numbers):
    q = np.array(numbers) / np.linalg.norm(numbers)
    if 1 - abs(q[3]) < 1e-9:  # no rotation, or a whole turn: the official formula's own rounding
        return
    np.testing.assert_allclose(conditions.antipode(axis_angle(q)), axis_angle(-q), atol=1e-6)
    assert np.linalg.norm(axis_angle(q)) + np.linalg.norm(axis_angle(-q)) == pytest.approx(2 * math.pi)


def test_no_rotation_has_no_other_axis():
    assert np.array_equal(conditions.antipode(np.zeros(3)), np.zeros(3))


def test_a_canonical_client_jumps_only_beyond_half_a_turn():
    condition = conditions.build({"kind": "antipode", "canonical": True})
    for angle, hit in ((3.0, False), (math.pi, False), (3.2, True)):
        seen = Observation(SEEN.agent, SEEN.wrist, np.array([0, 0, 1, angle, 0, 0, 0, 0.0]), "")
        given_, applied = condition.apply(seen, 0)
        assert applied is hit
        assert np.linalg.norm(given_.state[3:6]) <= math.pi
        assert given_.state[3] == pytest.approx(angle - 2 * math.pi if hit else angle)


def test_long_chunk_executes_all_fifty_and_a_clean_arm_twelve():
    for name, executed in (("clean", [12, 12, 12, 4]), ("long_chunk", [40])):
        arm = EXPERIMENT.arm(f"drill_{name}")
        steps = arm.get("execution", {}).get("replan_steps", arm["rollout"]["replan_steps"])
        record, *_ = run([(arm["flash"]["max_exec_steps"], FULL)], replan_steps=steps)  # 40 steps at most here
        assert [row["executed"] for row in record.rounds] == executed


def test_short_horizon_ends_the_episode_at_its_limit():
    simulator = Simulator(success_at=39)
    simulator.horizon = 20
    record, *_ = run([(12, FULL)], simulator)
    assert (record.episode["outcome"], record.episode["steps"]) == ("horizon", 20)
    assert [row["executed"] for row in record.rounds] == [12, 8]


def executed(record) -> list[tuple[int, int]]:
    """Return round and place in its chunk of what each step executed, held to the action that it was."""
    for row in record.steps:
        assert row["action"] == [pytest.approx(row["round"] + row["offset_in_chunk"] / 100)] * 7
    return [(row["round"], row["offset_in_chunk"]) for row in record.steps]


@pytest.mark.parametrize("replan_steps", [1, 5, 12])
def test_late_window_executes_what_was_for_nine_steps_ago_whatever_the_chunk(replan_steps):
    lag = EXPERIMENT.arm("drill_late_window")["execution"]["window_lag"]
    clean, asked, _ = run([(12, FULL)], replan_steps=replan_steps)
    late, late_asked, _ = run([(12, FULL)], replan_steps=replan_steps, window_lag=lag)
    assert lag == 9 and len(late.steps) == len(clean.steps) == 40
    assert executed(late) == [executed(clean)[0]] * lag + executed(clean)[:-lag]
    queried = [[entry[:3] for entry in policy.asked] for policy in (asked, late_asked)]
    assert queried[0] == queried[1], "the policy is asked when and as often as it was"


@pytest.mark.parametrize("replan_steps", [1, 5, 12])
def test_a_frozen_policy_executes_the_mean_of_its_first_answer_and_is_asked_as_before(replan_steps):
    answer = EXPERIMENT.arm("drill_frozen_policy")["execution"]["answer"]
    _, asked, _ = run([(12, FULL)], replan_steps=replan_steps)
    frozen, frozen_asked, _ = run([(12, FULL)], replan_steps=replan_steps, answer=answer)
    first = np.mean([offset / 100 for offset in range(replan_steps)])
    assert [row["action"] for row in frozen.steps] == [[pytest.approx(first)] * 7] * 40
    queried = [[entry[:3] for entry in policy.asked] for policy in (asked, frozen_asked)]
    assert queried[0] == queried[1]


def test_no_lag_is_the_loop_as_it_was():
    assert run([(12, FULL)], window_lag=0)[0].steps == run([(12, FULL)])[0].steps


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "prompt"}, "condition: template: is missing"),
        ({"kind": "prompt", "template": "Do {instructions}"}, "template must hold {instruction}"),
        ({"kind": "prompt", "template": 3}, "template: must be text, not 3"),
        ({"kind": "antipode", "canonical": 1}, "canonical: must be true or false, not 1"),
        ({"kind": "upside_down", "view": "bth"}, "view: unknown value 'bth'; did you mean 'both'?"),
    ],
)
def test_a_mistake_is_named(spec, words):
    with pytest.raises(UserError) as caught:
        conditions.build(spec)
    assert words in str(caught.value)


def test_every_drill_differs_from_the_clean_arm_in_its_own_settings_only():
    clean = EXPERIMENT.arm("drill_clean")
    differing = {
        name: {key for key in {*arm, *clean} if arm.get(key) != clean.get(key)} - {"arm"}
        for name in DRILLS
        if (arm := EXPERIMENT.arm(f"drill_{name}"))
    }
    own = {"bad_unnorm": {"execution"}, "long_chunk": {"execution", "flash"}, "short_horizon": {"execution"}}
    own["late_window"] = own["frozen_policy"] = {"execution"}
    assert differing == {name: own.get(name, {"condition"}) for name in DRILLS}


# --- the real simulator ---


@pytest.mark.simulator
@pytest.mark.slow
def test_the_drills_meet_the_simulators_own_conventions():
    """Pictures as they are rendered, a quaternion as robosuite gives it, an episode that ends early."""
    from flashtrail.experiment.episodes import EpisodeKey
    from flashtrail.simulators.libero.simulator import CAMERAS, LiberoSimulator

    simulator = LiberoSimulator("libero_goal", 2, horizon=60)
    assert simulator.horizon == 60
    simulator.reset(EpisodeKey("libero_goal", 2, 1, 0))
    flipped = conditions.build({"kind": "upside_down"})
    other = conditions.build({"kind": "antipode"})
    below, jumps = 0, []
    for step in range(24):
        simulator.step([0.0, 0.3, -0.3, 0.3 if step < 8 else -0.6, 0.0, 0.0, -1.0], render=step % 8 == 7)
        raw = simulator.truth[1]
        q = raw["robot0_eef_quat"]
        if step % 8 == 7:
            seen = simulator.observe()
            given_, hit = flipped.apply(seen, 0)
            for view, camera in zip(("agent", "wrist"), CAMERAS, strict=True):
                rendered = resize_with_pad(raw[f"{camera}_image"])
                assert hit and np.array_equal(getattr(given_, view), rendered), "not what a client sends that forgets"
                assert not np.array_equal(getattr(seen, view), rendered)
            sent = other.apply(seen, 0)[0].state
            np.testing.assert_allclose(sent, state_vector({**raw, "robot0_eef_quat": -q}), atol=1e-9)
            jumps.append(np.linalg.norm(sent[3:6] - seen.state[3:6]))
        below += bool(q[3] < 0)
    assert jumps == pytest.approx([2 * math.pi] * 3)
    assert 0 < below < 24, "the hand points down: w crosses zero, so a client that wants w >= 0 jumps on its own"
    simulator.close()
