"""The loop against scripted simulators and policies, step by step."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from rollouts import scripted
from rollouts.scripted import DRAFT, FULL, KEY, Simulator, run

from flashtrail.rollouts.episode import MAX_EMPTY_ROUNDS, EpisodeError
from flashtrail.simulators.observation import axis_angle, resize_with_pad, upright
from flashtrail.simulators.protocol import Metrics
from flashtrail.simulators.verify import Verdict
from flashtrail.tables import schemas


def test_the_loop_by_hand():
    script = [(12, FULL), (5, DRAFT), (0, DRAFT), (12, FULL), (50, DRAFT)]
    record, policy, simulator = run(script)
    # 12 + 5 + 0 + 12 executed, and 11 of the last prefix before the horizon of 40
    assert [row["executed"] for row in record.rounds] == [12, 5, 0, 12, 11]
    assert [row["env_step"] for row in record.rounds] == [0, 12, 17, 17, 29]
    assert [row["accepted_prefix"] for row in record.rounds] == [12, 5, 0, 12, 50]
    assert [executed for executed, *_ in policy.asked] == [0, 12, 5, 0, 12]
    assert [reset for _, reset, *_ in policy.asked] == [True, False, False, False, False]
    assert [words for _, _, words, _ in policy.asked] == [[7, 2, 2, 5, 1, 2, r] for r in range(5)]
    assert record.rounds[3]["noise_seed"] == "7-2-2-5-1-2-3"
    assert len(record.steps) == simulator.horizon
    assert [row["step"] for row in record.steps] == list(range(40))
    assert simulator.taken[0] == ("reset", KEY)
    for row, action in zip(record.steps, simulator.taken[1:], strict=True):
        assert action == tuple([row["round"] + row["offset_in_chunk"] / 100] * 7) == tuple(row["action"])
    episode = record.episode
    assert (episode["success"], episode["outcome"], episode["error"]) == (False, "horizon", None)
    assert (episode["steps"], episode["rounds"], episode["full_rounds"], episode["draft_rounds"]) == (40, 5, 2, 3)
    assert (episode["executed_actions"], episode["verified_success"]) == (40, None)
    assert episode["accepted_prefix_mean"] == pytest.approx((5 + 0 + 50) / 3)
    assert episode["task"] == "open it"


def test_a_chunk_is_compared_with_what_the_one_before_said_of_the_same_steps():
    record, _, _ = run([(12, FULL), (5, DRAFT), (0, DRAFT), (12, FULL), (50, DRAFT)])
    # each action's numbers are its round + offset / 100; asked for at the steps 0, 12, 17, 17, 29
    assert record.rounds[0]["overlap"] is None
    assert [row["overlap"] for row in record.rounds[1:]] == pytest.approx([0.88, 0.95, 1.0, 0.88])
    whole, _, _ = run([(50, FULL)], replan_steps=50)
    assert [row["overlap"] for row in whole.rounds] == [None]  # one chunk only


def test_a_frame_is_rendered_where_one_is_asked_for_and_nowhere_else():
    script = [(12, FULL), (5, DRAFT), (0, DRAFT), (12, FULL), (50, DRAFT)]
    record, policy, simulator = run(script)
    rendered = [step for step, wanted in enumerate(simulator.rendered, start=1) if wanted]
    assert rendered == [12, 17, 29, 40]
    seen = [int(obs["observation/image"].max()) for *_, obs in policy.asked]
    assert seen == [0, 12, 17, 17, 29]  # the frame after a zero-accept round is the same one
    means = {row["step"]: row["img_mean"] for row in record.steps if row["img_mean"] is not None}
    assert means == {0: 0.0, 12: 12.0, 17: 17.0, 29: 29.0}


def test_success_ends_the_episode_within_a_chunk():
    record, policy, _ = run([(12, FULL)], Simulator(success_at=15))
    assert [row["executed"] for row in record.rounds] == [12, 3]
    assert (record.episode["success"], record.episode["outcome"], record.episode["steps"]) == (True, "success", 15)
    assert [row["done"] for row in record.steps] == [False] * 14 + [True]
    assert len(policy.asked) == 2


def test_replan_steps_cut_the_prefix():
    record, policy, _ = run([(12, FULL)], replan_steps=5)
    assert [row["executed"] for row in record.rounds] == [5] * 8
    assert [executed for executed, *_ in policy.asked] == [0] + [5] * 7


def test_zero_accept_queries_count_for_the_condition_and_the_guard():
    script = [(12, FULL), (0, DRAFT), (12, FULL), (12, DRAFT), (12, DRAFT), (12, FULL)]
    zero, health = {"kind": "zero", "every": 2}, {"kind": "wrist_health", "std_min": 0, "range_min": 0}
    record, policy, _ = run(script, condition=zero, guard=health)
    assert [row["condition_applied"] for row in record.rounds] == [True, False, True, False, True]
    assert [row["round"] for row in record.rounds] == [0, 1, 2, 3, 4]
    assert [bool(obs["observation/wrist_image"].any()) for *_, obs in policy.asked] == [False, True] * 2 + [False]
    assert all(row["healthy"] is True and row["replaced"] is False for row in record.rounds)


def test_the_guard_sees_what_the_condition_left():
    record, policy, _ = run([(12, FULL)], condition={"kind": "zero"}, guard={"kind": "wrist_health"})
    assert [row["healthy"] for row in record.rounds] == [False] * 4
    assert {row["health_std"] for row in record.rounds} == {0.0}
    assert not any(obs["observation/wrist_image"].any() for *_, obs in policy.asked)


def flags(route, scheduled=False, gripper=False):
    timing = FULL if route == "full" else DRAFT
    return 6, {
        **timing,
        "scheduled_full_fallback": float(scheduled),
        "scheduled_full_fallback_gripper": float(gripper),
    }


@pytest.mark.parametrize(
    ("script", "causes"),
    [
        ([flags("full"), flags("draft", True), flags("full"), flags("draft")], ["first", None, "zero_accept", None]),
        ([flags("full"), flags("draft", True, True), flags("full"), flags("full")], ["first", None] + ["gripper"] * 2),
        ([flags("full"), flags("full"), flags("full")], ["first", "forced", "forced"]),
        ([flags("full"), flags("draft"), flags("full")], ["first", None, "periodic"]),
        ([flags("full"), (6, {**FULL, "fallback_cause": "periodic"})], ["first", "periodic"]),
        ([(6, {**FULL, "fallback_cause": "first"}), (6, {**DRAFT, "fallback_cause": "gripper"})], ["first", None]),
    ],
)
def test_why_a_round_was_full(script, causes):
    record, *_ = run(script)
    assert [row["fallback_cause"] for row in record.rounds[: len(causes)]] == causes


def test_stage_times_stand_in_the_columns_of_their_route():
    times = {
        "encoder_ms": 1.0,
        "vlm_prefill_ms": 2.0,
        "full_fallback_ms": 3.0,
        "draft_ms": 0.0,
        "action_verify_ms": 0.0,
        "synchronized": True,
        "batch_size": 4,
        "steps_used": 9,
    }
    record, *_ = run([(12, {**FULL, **times}), (12, {**DRAFT, **times, "draft_ms": 0.5, "action_verify_ms": 0.25})])
    full, draft = record.rounds[:2]
    names = ("encoder_ms", "prefill_ms", "denoise_ms", "draft_ms", "verify_ms")
    assert [full[name] for name in names] == [1.0, 2.0, 3.0, None, None]
    assert [draft[name] for name in names] == [1.0, None, None, 0.5, 0.25]
    assert (full["radius"], draft["radius"]) == (None, 0.2)
    assert (full["policy_ms"], full["serve_ms"], full["roundtrip_ms"], full["synchronized"]) == (4.0, 5.0, 6.0, True)
    assert (full["batch_size"], full["steps_used"]) == (4, 9)


def test_what_a_server_does_not_send_is_empty(monkeypatch):
    monkeypatch.setattr(scripted, "Reply", functools.partial(scripted.Reply, server_timing={}))
    record, *_ = run([(12, FULL), (12, DRAFT)])
    for row in record.rounds[:2]:
        assert [row[n] for n in ("policy_ms", "serve_ms", "synchronized", "batch_size", "steps_used")] == [None] * 5
        assert row["roundtrip_ms"] == 6.0
        assert schemas.to_table(
            [{**dict.fromkeys(schemas.EPISODE_KEY, 0), "arm": "a", "suite": "s", **row}], schemas.ROUNDS
        )


def test_a_policy_that_never_accepts_is_stopped_and_not_called_a_failure():
    with pytest.raises(EpisodeError, match="full_fallback"):
        run([(12, FULL), (0, DRAFT)])


def test_many_empty_rounds_are_no_reason_to_stop_if_one_is_not():
    script = ([(0, DRAFT)] * (MAX_EMPTY_ROUNDS - 1) + [(12, FULL)]) * 4
    record, *_ = run(script)
    assert record.episode["steps"] == 40


def test_pictures_are_turned_and_fitted_as_the_official_client_does():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(upright(image), np.rot90(image, 2))
    wide = resize_with_pad(np.full((100, 400, 3), 200, np.uint8))
    assert wide.shape == (224, 224, 3)
    rows = np.flatnonzero(wide.any(axis=(1, 2)))
    assert (rows[0], rows[-1]) == (84, 139)  # 56 rows, centred
    same = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert resize_with_pad(same) is same


@pytest.mark.parametrize(
    ("quaternion", "expected"),
    [
        ([0, 0, 0, 1], [0, 0, 0]),
        ([1, 0, 0, 0], [np.pi, 0, 0]),
        ([0, np.sin(0.3), 0, np.cos(0.3)], [0, 0.6, 0]),
        ([0, 0, -np.sin(0.3), -np.cos(0.3)], [0, 0, -(2 * np.pi - 0.6)]),  # not brought to the short way round
        ([0, 0, 0, 1.0000001], [0, 0, 0]),
    ],
)
def test_axis_angle(quaternion, expected):
    assert axis_angle(np.array(quaternion, float)) == pytest.approx(expected, abs=1e-9)


def test_what_was_seen_becomes_columns():
    simulator = Simulator(success_at=20)
    simulator.seen = Verdict(False, "never grasped", 2, 1)
    simulator.other = Metrics(naive_success=True, own_success=False)
    record, *_ = run([(12, FULL)], simulator)
    row = record.episode
    assert (row["success"], row["verified_success"], row["verified_reason"]) == (True, False, "never grasped")
    # The scripted policy's first round says 0.00, 0.01, ...: closed from its second action on.
    assert (row["grasps"], row["lifts"], row["gripper_closures"], row["first_close_step"]) == (2, 1, 1, 1)
    assert [row[name] for name in schemas.METRICS] == [True, False, None]


def test_where_nobody_looks_the_columns_are_empty():
    record, *_ = run([(12, FULL)], Simulator())
    assert [record.episode[name] for name in ("verified_success", "verified_reason", "grasps", "lifts")] == [None] * 4
    assert record.episode["gripper_closures"] == 1
    assert [record.episode[name] for name in schemas.METRICS] == [None] * 3
