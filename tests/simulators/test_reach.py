"""The smallest simulator, with the smallest family of policies, through the same shard, server and wire as others."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from rollouts.scripted import Reply
from rollouts.shards import rows, spec

from flashtrail.checkpoints.artifact import artifact_digest
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import SUITES
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.simulators import registry
from flashtrail.simulators.reach.simulator import ReachSimulator

MANIFEST = {"format": "flashtrail-artifact", "version": 1, "kind": "base", "family": "nothing", "files": {}}


class Seeker:
    """Goes where the mark is, which the prompt tells it."""

    def __init__(self, side: float) -> None:
        self.side = side

    def infer(self, obs, executed_steps, reset, noise_seed):
        actions = np.zeros((50, 7))
        way = np.array([0.0, self.side, 0.0]) - obs["observation/state"][:3]
        actions[:, :3] = np.clip(way / 0.02, -1, 1)
        return Reply(actions, 2, {"route_type": "full", "is_full_pipeline_round": 1.0, "synchronized": True})


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("side", [-0.2, 0.2])
def test_success_is_to_be_at_the_mark(task, side):
    simulator = registry.make("reach", task, seed=7, scene_seed="episode", hard_reset=True)
    record = run_episode(
        simulator,
        Seeker(side),
        EpisodeKey("reach", task, 3, 0),
        condition=conditions.build({"kind": "none"}, []),
        guard=guards.build({"kind": "none"}),
        seed=7,
        replan_steps=2,
    )
    right = (side > 0) == (task == 1)
    assert record.episode["success"] is right and record.episode["verified_success"] is None
    assert (record.episode["steps"] < 20) is right


def test_an_episode_starts_where_its_key_says():
    simulator = ReachSimulator("reach", 0)

    def seen(init_state):
        simulator.reset(EpisodeKey("reach", 0, init_state, 0))
        return simulator.observe()

    first, other = seen(1), seen(2)
    simulator.step([0.0] * 6 + [1.0], render=False)  # the gripper closes: not for the next episode
    again = seen(1)
    np.testing.assert_array_equal(first.state, again.state)
    np.testing.assert_array_equal(first.agent, again.agent)
    assert not np.array_equal(first.state, other.state) and first.agent.shape == (224, 224, 3)


def test_a_shard_of_the_policy_that_holds_still(tmp_path):
    dims = {"action_horizon": 20, "action_dim": 7}
    (tmp_path / "artifact").mkdir()
    own = {"dims": dims, "digest": artifact_digest({}, dims)}
    (tmp_path / "artifact/manifest.json").write_text(json.dumps(MANIFEST | own))
    server = [sys.executable, "-m", "flashtrail", "serve", "--exit-with-parent", "--artifact"]
    server += [str(tmp_path / "artifact"), "--port", "{port}", "--max-exec-steps", "12"]
    told = spec((0, 1, 2), server, suite="reach", task_id=1, condition={"kind": "none"}, guard={"kind": "none"})
    roll_out_shard(told, tmp_path / "out", log=(tmp_path / "log").open("w")).check()
    tables = rows(tmp_path / "out")
    assert [row["outcome"] for row in tables["episodes"]] == ["horizon"] * 3
    assert {row["steps"] for row in tables["episodes"]} == {60} and len(tables["rounds"]) == 15
    assert {row["task"] for row in tables["episodes"]} == {"reach the mark on the right"}
    assert {row["executed"] for row in tables["rounds"]} == {12}


def test_every_suite_names_a_simulator_that_is_there():
    assert {suite.simulator for suite in SUITES.values()} == set(registry.SIMULATORS)
    assert registry.source_of("reach") == "simulators/reach/simulator.py"
