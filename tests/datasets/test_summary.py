"""A set in numbers, on episodes of which every figure is known."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.datasets import summary


def part(length: int, moving: int, task: str = "push") -> summary.Part:
    """Joint 0 goes up a tenth a step for `moving` steps and then rests; joint 1 never moves."""
    states = np.zeros((length, 2))
    states[:, 0] = 0.1 * np.minimum(np.arange(length), moving)
    picture = np.full((4, 4, 3), length, np.uint8)
    return summary.Part(task, states, states + 1, {"front": picture}, {"front": picture + 1})


def test_the_figures_are_those_of_the_episodes() -> None:
    found = summary.summarise([part(11, 5), part(21, 20, "pick")], 10, ["a", "b"], ["c", "d"])
    assert (found["episodes"], found["steps"], found["lengths"]) == (2, 32, [11, 21])
    assert found["tasks"] == {"push": 1, "pick": 1}
    first, second = found["action"]
    assert (first["name"], first["min"], first["max"]) == ("c", 1.0, 3.0)
    assert (second["mean"], second["std"]) == (1.0, 0.0)
    rows = np.concatenate([part(11, 5).actions, part(21, 20).actions])[:, 0]
    assert first["std"] == pytest.approx(rows.std()) and first["q99"] == pytest.approx(np.quantile(rows, 0.99))
    assert sum(first["histogram"]) == 32 and len(first["histogram"]) == summary.BINS
    # Steps 5 to 9 of the first episode, and its last one, which is as the one before.
    assert found["static"] == pytest.approx(6 / 32)
    assert found["first"][1]["front"][0, 0, 0] == 21 and found["last"][1]["front"][0, 0, 0] == 22


def test_a_step_stands_still_where_nothing_moves_for_so_long() -> None:
    states = np.zeros((10, 1))
    states[6:] = 1.0  # one move, in step 5
    np.testing.assert_array_equal(np.flatnonzero(~summary.still(states, np.ones(1))), [5])
    np.testing.assert_array_equal(np.flatnonzero(~summary.still(states, np.ones(1), 3)), [3, 4, 5])
    assert summary.still(states[:1], np.ones(1)).tolist() == [True]


def test_noise_below_a_joints_range_is_no_motion() -> None:
    states = np.array([[0.0], [0.001], [0.003], [1.0]])
    np.testing.assert_array_equal(summary.still(states, np.ones(1)), [True, True, False, False])


def test_it_prints_what_it_found() -> None:
    lines = summary.text(summary.summarise([part(11, 5)], 10, ["a", "b"], ["c", "d"]))
    assert lines[0] == "1 episodes, 11 steps at 10 a second (1 s); 11 to 11 each, median 11"
    assert lines[1] == "54.5% of the steps without motion"
    assert lines[2] == "task 'push': 1 episodes"
    assert [line.split()[0] for line in lines[3:]] == ["state", "a", "b", "action", "c", "d"]
    assert lines[-1].split()[1:5] == ["1", "1", "1", "0"]
