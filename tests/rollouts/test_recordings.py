"""What a shard's policy saw, kept for the profile."""

from __future__ import annotations

import numpy as np
import pytest
from rollouts.shards import roll_out, rows, spec

from flashtrail.rollouts import recordings


def test_a_shard_keeps_each_observation_as_the_policy_was_given_it(tmp_path):
    told = spec(init_states=[0, 2], condition={"kind": "zero", "view": "agent", "every": 4}, guard={"kind": "none"})
    roll_out(told, tmp_path / "out", observations=tmp_path / "seen")
    assert sorted(file.name for file in (tmp_path / "seen").iterdir()) == [
        "init_000_repeat_0.npz",
        "init_002_repeat_0.npz",
    ]
    tables = rows(tmp_path / "out")
    for state in (0, 2):
        seen = recordings.load(tmp_path / f"seen/init_00{state}_repeat_0.npz")
        asked = [row for row in tables["rounds"] if row["init_state"] == state]
        assert [one.episode for one in seen] == [(2, state)] * len(asked)
        assert [not one.observation.agent.any() for one in seen] == [row["condition_applied"] for row in asked]
        sent = {row["step"]: row["img_mean_sent"] for row in tables["steps"] if row["init_state"] == state}
        means = {row["env_step"]: np.mean(one.observation.agent) for row, one in zip(asked, seen, strict=True)}
        assert {step: sent[step] for step in means if step in sent} == pytest.approx(means)
        assert len({one.observation.state.tobytes() for one in seen}) > 3
