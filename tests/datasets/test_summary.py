"""A set in numbers, on episodes of which every figure is known."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.datasets import summary


def part(length: int, moving: int, task: str = "push") -> summary.Part:
    """Joint 0 goes up a tenth a step for `moving` steps and then rests; joint 1 never moves."""
    states = np.zeros((length, 2))
    states[:, 0] = 0.1 * np.minimum(np.arange(length), moving)
    return summary.Part(task, states, states + 1, name=f"{task} {length}")


def test_the_figures_are_those_of_the_episodes() -> None:
    found = summary.summarise([part(11, 5), part(21, 20, "pick")], 10, ["a", "b"], ["c", "d"])
    assert (found["episodes"], found["steps"]) == (2, 32)
    assert [(one["steps"], one["task"]) for one in found["each"]] == [(11, "push"), (21, "pick")]
    assert found["tasks"] == ["push", "pick"]
    first, second = found["action"]
    assert (first["name"], first["min"], first["max"]) == ("c", 1.0, 3.0)
    assert (second["mean"], second["std"]) == (1.0, 0.0)
    rows = np.concatenate([part(11, 5).actions, part(21, 20).actions])[:, 0]
    assert first["std"] == pytest.approx(rows.std()) and first["q99"] == pytest.approx(np.quantile(rows, 0.99))
    assert sum(first["histogram"]) == 32 and len(first["histogram"]) == summary.BINS
    # Steps 5 to 9 of the first episode, and its last one, which is as the one before.
    assert found["static"] == pytest.approx(6 / 32)
    assert [one["static"] for one in found["each"]] == pytest.approx([6 / 11, 0])
    assert found["odd"] == [("shortest", 0), ("longest", 1), ("most static", 0)]


def of_actions(*columns: list[float], names: str = "abcdef") -> dict:
    """The summary of one episode with these action dims, after one of two steps that are alike in all."""
    rows = np.array(columns, float).T
    parts = [summary.Part("push", rows[:, :1], rows), summary.Part("push", rows[:2, :1], rows[:1].repeat(2, 0))]
    return summary.summarise(parts, 10, ["s"], list(names[: len(columns)]))


def test_what_is_odd_about_a_dim_is_said() -> None:
    ramp = [*np.linspace(0.0, 1.0, 98)]
    clipped = [*np.clip(np.linspace(0.0, 1.3, 98), 0, 1)]
    rare = [0.0] * 97 + [1.0]
    slow = [0.0, *np.repeat([0.2, 0.4], 48), 1.0]
    found = of_actions(ramp, clipped, [3.0] * 98, rare, slow)["action"]
    assert [dim["note"] for dim in found] == ["", "", "constant", "two values", "hardly moves"]
    assert [dim["saturates"] for dim in found] == [[], ["max"], [], [], []]
    assert found[1]["at_max"] == pytest.approx(sum(value >= 0.999 for value in clipped) / 100)
    assert found[4]["moves"] == pytest.approx(3 / 98)  # the step from one episode to the next is none


def test_a_gripper_switches_where_it_passes_from_one_third_to_the_other() -> None:
    assert summary.switches(np.array([0, 1, 0.5, 1, 0.4, 0, 0, 1.0]), 0, 1) == 3
    assert summary.switches(np.array([0.5, 0.6]), 0, 1) == 0
    open_and_shut = [0.0, 0.0, 1.0, 1.0, 0.0, 0.5]
    found = summary.summarise(
        [summary.Part("push", np.zeros((6, 1)), np.array([open_and_shut, [0.0, 1.0] * 3]).T)],
        *(10, ["s"], ["Left Gripper", "b"]),
    )
    assert found["grippers"] == ["Left Gripper"] and found["each"][0]["switches"] == 2
    assert of_actions([0.0, 1.0, 0.0], [0.0, 0.3, 1.0])["grippers"] == ["a"]  # by its two values, where no name says so


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
    assert lines[3] == "held out by training: none, there are too few episodes"
    assert [line.split()[0] for line in lines[4:]] == ["state", "a", "b", "action", "c", "d"]
    assert lines[-1].split()[1:5] == ["1", "1", "1", "0"] and lines[-1].endswith("constant")
