"""What each guard may know and do: none but the oracle can reach the undamaged frame; masks reach the server."""

from __future__ import annotations

import dataclasses
import io
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts.scripted import DRAFT, FULL, KEY, Policy, Simulator
from rollouts.shards import WORKER, spec
from rollouts.test_conditions import WORDS, specs

from flashtrail.base.errors import UserError
from flashtrail.experiment.guards import _Any as AnyGuard
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.rollouts.shard import check_understood, roll_out_shard
from flashtrail.simulators.observation import Observation

LIVELY = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
BLACK = np.zeros_like(LIVELY)
GUARD_KINDS = st.sampled_from([k for g in get_args(AnyGuard) if (k := g.model_fields["kind"].default) != "oracle"])


class Secretive(Simulator):
    """A simulator whose frames at the queries are given, one per query."""

    def __init__(self, frames):
        super().__init__()
        self.frames, self.asked = frames, 0

    def observe(self):
        agent, wrist = self.frames[self.asked]
        self.asked += 1
        return Observation(agent, wrist, np.zeros(8), "do it")


class Overwrite:
    """A condition that shows the given damaged frames, whatever was there."""

    def __init__(self, frames):
        self.frames = frames

    def apply(self, observation, query, allowed=True):
        agent, wrist = self.frames[query]
        return dataclasses.replace(observation, agent=agent, wrist=wrist), True


def asked_of(undamaged, damaged, guard):
    """Everything that leaves the episode loop towards the policy, and the guard's columns."""
    policy = Policy([(5, FULL), (4, DRAFT), (6, DRAFT), (9, DRAFT)])
    horizon = Simulator.horizon
    record = run_episode(
        Secretive(undamaged), policy, KEY, condition=Overwrite(damaged), guard=guards.build(guard), seed=7
    )
    assert len(record.steps) == horizon
    requests = [
        {key: value.tobytes() if isinstance(value, np.ndarray) else value for key, value in obs.items()}
        for *_, obs in policy.asked
    ]
    columns = [f.name for f in dataclasses.fields(guards.GuardRecord)]
    return requests, [{column: row[column] for column in columns} for row in record.rounds]


def frames(seed, count=12):
    """Frames of every kind that a camera may give: lively, black, flat, nearly flat."""
    generator = np.random.default_rng(seed)
    made = [
        lambda: generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        lambda: BLACK,
        lambda: np.full_like(BLACK, generator.integers(256)),
        lambda: generator.integers(100, 104, (32, 32, 3), dtype=np.uint8),
    ]
    return [(made[0](), made[generator.choice(4, p=[0.4, 0.4, 0.1, 0.1])]()) for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(kind=GUARD_KINDS, max_age=st.integers(0, 3), seeds=st.lists(st.integers(0, 2**32), min_size=3, max_size=3))
def test_no_guard_but_the_oracle_depends_on_the_undamaged_frames(kind, max_age, seeds):
    """The same damaged frames over other undamaged ones: whatever is sent and recorded is the same to the byte."""
    guard = {"kind": kind} | ({} if kind == "none" else {"max_age": max_age})
    damaged, one, other = (frames(seed) for seed in seeds)
    assert asked_of(one, damaged, guard) == asked_of(other, damaged, guard)


def test_the_oracle_does_depend_on_them():
    """The property above can fail: for the oracle it does."""
    damaged, one, other = frames(1), frames(2), frames(3)
    assert asked_of(one, damaged, {"kind": "oracle"}) != asked_of(other, damaged, {"kind": "oracle"})


@settings(max_examples=40, deadline=None)
@given(spec=specs, kind=GUARD_KINDS, seed=st.integers(0, 2**32))
def test_what_a_guard_gives_is_made_of_damaged_frames(spec, kind, seed):
    """Under any condition: each view that leaves a guard is one that the condition let through, now or before."""
    condition, guard = conditions.build(spec, WORDS), guards.build({"kind": kind})
    let_through: dict[str, set[bytes]] = {"agent": set(), "wrist": set()}
    for query, (agent, wrist) in enumerate(frames(seed, 8)):
        damaged, _ = condition.apply(Observation(agent, wrist, np.zeros(8), "do it"), query)
        for view, images in let_through.items():
            images.add(getattr(damaged, view).tobytes())
        given_to_policy, _ = guard.apply(damaged, query)
        assert all(getattr(given_to_policy, view).tobytes() in images for view, images in let_through.items())


def test_the_oracle_is_no_guard_and_restores_everything():
    oracle = guards.build({"kind": "oracle"})
    assert isinstance(oracle, guards.Oracle) and not hasattr(oracle, "apply")
    whole = Observation(LIVELY, LIVELY, np.zeros(8), "do it")
    damaged = dataclasses.replace(whole, wrist=BLACK)
    given_to_policy, found = oracle.restore(damaged, whole)
    assert given_to_policy is whole
    assert (found.health_std, found.healthy, found.replaced, found.masked) == (0.0, False, True, False)
    assert oracle.restore(whole, whole)[1].replaced is False


# As in test_faults_and_remedies: H healthy, x black; h own frame, c the cached one, m declared missing.
@pytest.mark.parametrize(
    ("letters", "seen"),
    [("HHH", "hhh"), ("xxH", "mmh"), ("Hxxx", "hccc"), ("xHxHx", "mhchc"), ("Hxxxxxxxxxx", "hccccccccmm")],
)
def test_wrist_mask_by_hand(letters, seen):
    guard = guards.build({"kind": "wrist_mask"})
    for query, letter in enumerate(letters):
        wrist = LIVELY if letter == "H" else BLACK
        out, found = guard.apply(Observation(LIVELY, wrist, np.zeros(8), "do it"), query)
        assert (out.wrist is BLACK) is (seen[query] == "m")
        assert out.wrist_missing is found.masked is (seen[query] == "m")
        assert found.replaced is (seen[query] == "c")
        assert out.request().get("__image_mask__") == ([True, False] if seen[query] == "m" else None)


def test_without_a_mask_the_request_is_the_official_one():
    keys = {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert set(Observation(LIVELY, LIVELY, np.zeros(8), "").request()) == keys


@pytest.mark.parametrize("said", [{}, {"request_keys": ["noise_seed"]}])
def test_a_server_that_does_not_say_it_masks_is_refused_for_that_guard_only(said):
    with pytest.raises(UserError, match="does not say that it understands __image_mask__"):
        check_understood(spec(guard={"kind": "wrist_mask"}), said, "ws://there:8000")
    check_understood(spec(guard={"kind": "wrist_mask"}), {"request_keys": ["__image_mask__"]}, "ws://there:8000")
    for kind in ("none", "wrist_health", "oracle"):
        check_understood(spec(guard={"kind": kind}), said, "ws://there:8000")


def test_an_arm_that_masks_ends_at_the_start_against_an_official_server(tmp_path):
    """The scripted server says nothing of masks, as the official one: one line, no simulator started, no episode."""
    told = spec(guard={"kind": "wrist_mask"})
    with pytest.raises(UserError, match="guard wrist_mask: the policy server at ws://"):
        roll_out_shard(told, tmp_path, log=io.StringIO(), worker_command=[*WORKER, "must-not-start"])
    assert not list(tmp_path.rglob("*.parquet"))
