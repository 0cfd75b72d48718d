"""Against LeRobot's own class: the golden set it wrote is imported, and where its environment is, it opens ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from datasets import sets

from flashtrail import cli
from flashtrail.datasets.read import LeRobotSet
from flashtrail.training import dataset

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
LENGTHS, TASKS = (10, 8, 12), ("pick the red cube", "pick the red cube", "put it in the box")  # of official.py
VARIABLE = "FLASHTRAIL_LEROBOT_PYTHON"  # the interpreter of an environment with lerobot 0.4.4 (docs/datasets.md)
official = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set: no lerobot 0.4.4 here")


def test_the_golden_set_is_read_to_the_last_frame() -> None:
    """Episodes share a file of AV1, so that the second and third begin within it."""
    source = LeRobotSet(GOLDEN)
    assert (len(source), source.version, source.fps) == (3, "v3.0", 30)
    assert source.names("action")[0] == "shoulder_pan.pos"
    for index, length in enumerate(LENGTHS):
        episode = source.episode(index)
        joints = (10 * index + np.arange(length)[:, None] + 0.1 * np.arange(6)).astype(np.float32)
        np.testing.assert_array_equal(episode.states, joints)
        np.testing.assert_array_equal(episode.actions, joints + np.float32(0.5))
        assert episode.task == TASKS[index]
        for number, camera in enumerate(source.cameras):
            seen = np.array([picture.mean() for picture in source.pictures(episode, camera)])
            assert np.abs(seen - (20 + 60 * index + 4 * np.arange(length) + 2 * number)).max() < 1.9  # 4 a frame


def test_the_golden_set_becomes_a_training_set(tmp_path, capsys) -> None:
    assert cli.main(["check-dataset", str(GOLDEN)]) == 0
    assert capsys.readouterr().out.startswith("3 episodes, 30 steps at 30 a second")
    assert cli.main(["import-dataset", str(GOLDEN), "--out", str(tmp_path / "out")]) == 0
    demos = dataset.load(tmp_path / "out", 5)
    assert demos.views.shape == (6, 2, 112, 112, 3) and demos.states.shape == (6, 6)
    assert demos.episode.tolist() == [0, 0, 1, 1, 10_000, 10_000] and demos.step.tolist() == [0, 6] * 3


@official
def test_the_official_class_opens_our_set(v3, tmp_path) -> None:
    command = [os.environ[VARIABLE], "-P", str(HERE / "official.py"), "read", str(v3), str(tmp_path / "seen.json")]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, capture_output=True, text=True, env=clean | {"HF_HOME": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["episodes"], seen["frames"], seen["fps"], seen["robot"]) == (3, sum(sets.LENGTHS), 30, "so101")
    first = 0
    for index, length in enumerate(sets.LENGTHS):
        states, actions = sets.numbers(index)
        rows = slice(first, first := first + length)
        assert seen["episode"][rows] == [index] * length and seen["tasks"][rows] == [sets.TASKS[index]] * length
        np.testing.assert_array_equal(np.float32(seen["state"][rows]), states)
        ahead = np.arange(length)[:, None] + np.arange(3)
        np.testing.assert_array_equal(np.float32(seen["action"][rows]), actions[np.minimum(ahead, length - 1)])
        np.testing.assert_array_equal(seen["pad"][rows], ahead >= length)
        front, wrist = (np.array(seen["greys"][camera][rows]) * 255 for camera in sets.CAMERAS)
        before = np.maximum(np.arange(length)[:, None] + [-1, 0], 0)
        assert np.abs(front - sets.pictures(index, 0).mean((1, 2, 3))[before]).max() < 1.9
        assert np.abs(wrist - sets.pictures(index, 1).mean((1, 2, 3))).max() < 1.9
    assert seen["shapes"] == {sets.CAMERAS[0]: [2, 3, 48, 64], sets.CAMERAS[1]: [3, 48, 64]}
    whole = np.concatenate([sets.numbers(index)[1] for index in range(3)])
    np.testing.assert_allclose(seen["stats"]["action"]["mean"], whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen["stats"]["action"]["q99"], np.quantile(whole, 0.99, axis=0), rtol=1e-5)
    grey = np.concatenate([sets.pictures(index, 0) for index in range(3)]).mean() / 255
    np.testing.assert_allclose(np.ravel(seen["stats"][sets.CAMERAS[0]]["mean"]), [grey] * 3, rtol=1e-4)


@official
def test_the_official_class_still_writes_what_the_golden_set_holds(tmp_path) -> None:
    command = [os.environ[VARIABLE], "-P", str(HERE / "official.py"), "write", str(tmp_path / "set")]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, capture_output=True, text=True, env=clean | {"HF_HOME": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (GOLDEN, tmp_path / "set"))
    assert ours == theirs
