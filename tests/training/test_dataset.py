"""Windows, masks, delta targets and their statistics."""

import numpy as np
import pytest

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump
from flashtrail.policies.pi0.transforms import AbsoluteActions, read_norm_stats
from flashtrail.training import dataset


def test_a_window_is_the_next_labels_and_is_masked_past_the_end(demo_dir, demos):
    with np.load(demo_dir / "task0" / "ep0005.npz") as episode:
        label, at = episode["label"], episode["at"]
    rows = np.flatnonzero((demos.task == 0) & (demos.episode == 5))
    assert len(rows) == len(at)
    row, start = rows[2], at[2]
    left = len(label) - start
    np.testing.assert_array_equal(demos.chunks[row, :left], label[start:])
    assert demos.valid[row, :left].all()
    assert not demos.valid[row, left:].any()


def test_delta_leaves_the_gripper_and_the_server_undoes_it(demos):
    chunks, states = demos.chunks[:5], demos.states[:5]
    relative = dataset.delta(chunks, states)
    np.testing.assert_array_equal(relative[..., 6], chunks[..., 6])
    back = AbsoluteActions()({"actions": relative[3].astype(np.float64), "raw_state": states[3]})["actions"]
    np.testing.assert_allclose(back, chunks[3], atol=1e-6)


def test_statistics_are_of_the_targets_within_the_mask(demos, tmp_path):
    plain = dataset.norm_stats(demos, delta_actions=False)
    np.testing.assert_allclose(plain["actions"]["std"], demos.chunks[demos.valid].astype(np.float64).std(0), atol=1e-5)
    stats = dataset.norm_stats(demos, delta_actions=True)
    rows = [c[v] - np.append(s[:6], 0) for c, v, s in zip(demos.chunks, demos.valid, demos.states, strict=True)]
    flat = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(stats["actions"]["mean"], flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["actions"]["std"], flat.std(0), atol=1e-5)
    json_dump({"norm_stats": stats}, tmp_path / "norm_stats.json")
    state, actions = read_norm_stats(tmp_path / "norm_stats.json", 8, 7, 32)
    x = demos.chunks[0].astype(np.float64)
    np.testing.assert_allclose(dataset.Normaliser(stats).forward("actions", x), actions.normalize(x), atol=1e-4)
    np.testing.assert_allclose(
        dataset.Normaliser(stats).forward("state", demos.states[0]), state.normalize(demos.states[0]), atol=1e-4
    )


def test_validation_episodes_are_whole_and_stay_when_data_grow(demo_dir, demos):
    train, held = dataset.split(demos)
    assert len(held)
    assert not set(demos.episode[train]) & set(demos.episode[held])
    fewer = dataset.load(demo_dir, limit=18)
    _, held_then = dataset.split(fewer)
    assert set(fewer.episode[held_then]) <= set(demos.episode[held])


def test_tasks_are_drawn_equally(demos):
    frames = np.concatenate([np.flatnonzero(demos.task == 0), np.flatnonzero(demos.task == 1)[:3]])
    drawn = dataset.balanced(demos, frames, 2000, np.random.default_rng(0))
    assert 0.45 < (demos.task[drawn] == 1).mean() < 0.55


def test_no_demonstrations_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"flashtrail\.training demonstrations"):
        dataset.load(tmp_path)
