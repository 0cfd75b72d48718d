"""The 2D pick and place: what success is, what an episode's key decides, its expert, its demonstrations."""

from __future__ import annotations

import numpy as np
import pytest
from rollouts import scripted

from flashtrail.base import commands
from flashtrail.base.errors import SettingError, UserError
from flashtrail.experiment import limits
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators import registry
from flashtrail.simulators.pick2d import simulator as pick2d
from flashtrail.simulators.pick2d.simulator import Pick2dSimulator
from flashtrail.training import dataset
from flashtrail.training import pick2d as demonstrations

OPEN, CLOSED = -1.0, 1.0


def begun(task=0, start=3) -> Pick2dSimulator:
    made = Pick2dSimulator("pick2d", task)
    made.reset(EpisodeKey("pick2d", task, start, 0))
    return made


def move(simulator, place, grip, steps=40) -> bool:
    """Go straight to a place, the gripper as commanded; whether it was ever a success."""
    done = False
    for _ in range(steps):
        way = np.clip((np.asarray(place) - simulator.hand) / pick2d.STEP_M, -1, 1)
        done |= simulator.step([*way, 0.0, 0.0, 0.0, grip], render=False).done
    return done


# --- what success is ---


def test_a_block_that_is_grasped_carried_and_let_go_on_the_mark_is_a_success():
    simulator = begun()
    block, goal = simulator.block.copy(), simulator.goal
    assert not move(simulator, block, OPEN) and not move(simulator, block, CLOSED)
    assert simulator.finger == pick2d.BLOCK_M
    assert not move(simulator, [0, 0, 0.1], CLOSED) and simulator.block[2] > 0.05, "it goes with the hand"
    assert not move(simulator, goal, CLOSED), "held over the mark is not there yet"
    assert move(simulator, goal, OPEN, steps=1) and simulator.block[2] == 0


def test_let_go_elsewhere_the_block_falls_and_is_no_success():
    simulator = begun()
    move(simulator, simulator.block.copy(), OPEN)
    move(simulator, simulator.block.copy(), CLOSED)
    move(simulator, [0, 0, 0.2], CLOSED)
    assert not move(simulator, [0, 0, 0.2], OPEN) and simulator.block[2] == 0


@pytest.mark.parametrize("aside", [[0.05, 0, 0], [0, 0, 0.06]])
def test_fingers_beside_or_above_the_block_close_on_air(aside):
    simulator = begun()
    block = simulator.block.copy()
    move(simulator, block + aside, OPEN)
    move(simulator, block + aside, CLOSED)
    move(simulator, simulator.goal, CLOSED)
    assert simulator.finger == 0 and not move(simulator, simulator.goal, OPEN)
    np.testing.assert_array_equal(simulator.block, block)


def test_fingers_that_are_shut_do_not_grasp_what_they_come_to():
    simulator = begun()
    move(simulator, simulator.hand.copy(), CLOSED)
    move(simulator, simulator.block.copy(), CLOSED)
    move(simulator, simulator.goal, CLOSED)
    assert abs(simulator.block[1]) <= 0.12


def test_limits_are_refused_in_a_line():
    with pytest.raises(UserError, match="limits: this simulator does not report the gripper"):
        scripted.run([(12, scripted.FULL)], begun(), limits=limits.read({"max_step_m": 0.01}))


# --- what the key decides, and what is seen ---


def test_an_episode_is_decided_by_its_key_alone():
    simulator = begun(start=1)
    first = simulator.observe()
    simulator.reset(EpisodeKey("pick2d", 0, 2, 0))
    other = simulator.observe()
    move(simulator, simulator.block.copy(), CLOSED)
    simulator.reset(EpisodeKey("pick2d", 0, 1, 0))
    again = simulator.observe()
    for name in ("agent", "wrist", "state"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
    assert first.agent.shape == first.wrist.shape == (224, 224, 3) and first.state.shape == (8,)
    assert simulator.verdict(True) is None
    with pytest.raises(SettingError, match="init state 1000 is out of range 0-999 of pick2d task 0"):
        simulator.reset(EpisodeKey("pick2d", 0, 1000, 0))


def test_each_part_of_the_scene_is_where_it_is_drawn():
    simulator = begun(task=1)
    seen = simulator.observe()
    red, green = ((seen.agent == colour).all(-1) for colour in (pick2d._RED, pick2d._GREEN))
    for mask, place in ((red, simulator.block), (green, simulator.goal)):
        middle = np.argwhere(mask).mean(0) / 223 * 0.5 - 0.25
        np.testing.assert_allclose(middle, place[:2], atol=0.012)
    simulator.hand = simulator.block + np.array([0, 0, 0.1])
    near = (simulator.observe().wrist == pick2d._RED).all(-1)
    np.testing.assert_allclose(np.argwhere(near).mean(0), 111.5, atol=1)  # under the hand: in the middle


# --- the expert, and a set to train on ---


@pytest.mark.parametrize("task", [0, 1])
def test_the_expert_succeeds_from_every_start_that_is_tried(task):
    simulator = registry.make("pick2d", task, seed=7, scene_seed="episode", hard_reset=True)
    right = 0
    for start in range(50):
        simulator.reset(EpisodeKey("pick2d", task, start, 0))
        act = registry.expert("pick2d", simulator)
        right += any(simulator.step(act(), render=False).done for _ in range(simulator.horizon))
    assert right >= 48


def test_demonstrations_are_a_training_set_that_is_the_same_again(tmp_path):
    for name in ("one", "two"):
        assert demonstrations.write(tmp_path / name, 4, pixels=56) == 4
    one, two = (dataset.load(tmp_path / name, 12) for name in ("one", "two"))
    assert one.digest == two.digest and one.views.shape[1:] == (2, 56, 56, 3)
    assert set(one.task) == {0, 1} and np.abs(one.chunks[..., :3]).max() <= 1
    assert dataset.described(tmp_path / "one").tasks == pick2d.PROMPTS


def test_a_directory_that_is_there_is_not_written_to(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--episodes", "2"]
    assert commands.run(lambda: demonstrations.main(words), "training") == 2
    assert "is there already: give a new directory" in capsys.readouterr().err
