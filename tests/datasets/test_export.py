"""A run's episodes and demonstrations as LeRobot sets: what was recorded, or a line that says what was not repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import runs

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.datasets import replayed
from flashtrail.datasets.export import PROVENANCE
from flashtrail.datasets.read import LeRobotSet
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators import registry
from flashtrail.training import dataset, pick2d


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write(tmp_path_factory.mktemp("run") / "here", "reach", runs.reaching, 20)


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set") / "out"
    assert cli.main(["export-dataset", str(finished), "--arm", "clean", "--out", str(out)]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert cli.main(["export-dataset", *map(str, words)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_runs_episodes_are_its_states_actions_and_pictures(finished, exported) -> None:
    source, recorded = LeRobotSet(exported), runs.load(finished)
    assert (len(source), source.fps, source.version) == (2, 20, "v3.0")
    assert (source.size(source.state), source.size(source.action)) == (8, 7)
    for index, key in enumerate((0, 3)):
        episode = source.episode(index)
        steps = [step for step in recorded["steps"] if step["init_state"] == key]
        assert episode.task == "reach the mark on the left"
        np.testing.assert_array_equal(episode.actions, np.array([step["action"] for step in steps], np.float32))
        path = np.array([step["eef_pos"] for step in steps], np.float32)
        np.testing.assert_allclose(episode.states[1:, :3], path[:-1], atol=1e-6)
        simulator = registry.make("reach", 0, seed=7, scene_seed="episode", hard_reset=True)
        simulator.reset(EpisodeKey("reach", 0, key, 0))
        for agent, wrist, step in zip(*(source.pictures(episode, c) for c in replayed.CAMERAS), steps, strict=True):
            seen = simulator.observe()
            assert np.abs(agent.astype(int) - seen.agent).mean() < 2
            assert np.abs(wrist.astype(int) - seen.wrist).mean() < 2
            simulator.step(step["action"], render=True)


def test_the_export_says_how_far_each_replay_was_from_its_record(exported) -> None:
    said = json.loads((exported / PROVENANCE).read_text())
    assert [one["name"] for one in said["episodes"]] == ["clean/0/0/0", "clean/0/3/0"]
    assert all(one["success"] and not one["differs"] and one["largest_m"] < 1e-6 for one in said["episodes"])
    assert said["arm"] == "clean" and said["tolerance"] == {"metres": 2e-3, "grey_levels": 0.5}
    assert sorted(path.name for path in exported.iterdir()) == ["data", "meta", PROVENANCE, "videos"]


def test_an_episode_that_is_not_repeated_is_left_out_and_named(finished, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    tables = runs.load(root)
    for step in tables["steps"]:
        if step["init_state"] == 0 and step["step"] > 4:
            step["eef_pos"] = [step["eef_pos"][0] + 0.004, *step["eef_pos"][1:]]
    runs.store(root, tables)
    assert cli.main(["export-dataset", str(root), "--arm", "clean", "--out", str(tmp_path / "out")]) == 0
    assert "1 of 2 episodes" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "out" / PROVENANCE).read_text())["episodes"]
    assert "the hand is up to 4 mm off" in first["differs"] and first["episode_index"] is None
    assert second["episode_index"] == 0 and len(LeRobotSet(tmp_path / "out")) == 1


def test_another_end_or_other_pictures_are_another_episode(finished, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    tables = runs.load(root)
    for step in tables["steps"]:
        if step["init_state"] == 0:
            step["done"] = False
        elif step["img_mean"] is not None:
            step["img_mean"] += 3
    runs.store(root, tables)
    line = refused(capsys, root, "--arm", "clean", "--out", tmp_path / "out")
    assert "no episode of" in line and "clean/0/0/0: success at step" in line and "on record none" in line
    assert not (tmp_path / "out").exists() and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_successful_episodes_where_that_is_asked_for(finished, tmp_path) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    tables = runs.load(root)
    tables["episodes"][0] |= {"success": False, "outcome": "horizon"}
    runs.store(root, tables)
    words = ["export-dataset", str(root), "--arm", "clean", "--successful", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert [one["name"] for one in json.loads((tmp_path / "out" / PROVENANCE).read_text())["episodes"]] == [
        "clean/0/3/0"
    ]


def without_last_step(root: Path) -> None:
    tables = runs.load(root)
    del tables["steps"][-1]
    runs.store(root, tables)


def without_job(root: Path) -> None:
    (root / "results/logs/roll_out_shard/clean/task_0.json").unlink()


def another_suite(root: Path) -> None:
    path = root / "results/logs/roll_out_shard/clean/task_0.json"
    path.write_text(path.read_text().replace('"reach"', '"../x"'))


def a_seed_of_text(root: Path) -> None:
    path = root / "results/logs/roll_out_shard/clean/task_0.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": "x"'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_last_step, "episode 0/3/0 has not each of its"),
        (without_job, "this run is not finished"),
        (lambda root: (root / "results/logs/evaluate_claims.json").unlink(), "this run is not finished"),
        (lambda root: (root / "results/rollouts/clean/task_0/steps.parquet").unlink(), "steps.parquet"),
        (lambda root: (root / "results/rollouts/clean/task_0/steps.parquet").write_bytes(b"no"), "steps.parquet"),
        (another_suite, "unknown suite '../x'"),
        (a_seed_of_text, "seed"),
    ],
)
def test_a_run_that_is_damaged_or_unfinished_is_one_line(spoil, message, finished, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    spoil(root)
    assert message in refused(capsys, root, "--arm", "clean", "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arm", "dirty"], "has an arm 'dirty'"),
        ([], "has no demonstrations (task*/ep*.npz); of a finished run, give --arm"),
        (["--successful"], "--successful is for a run's arm"),
        (["--arm", "clean", "--limit", "0"], "--limit 0: give at least 1"),
    ],
)
def test_a_wish_that_cannot_be_is_one_line(words, message, finished, tmp_path, capsys) -> None:
    assert message in refused(capsys, finished, "--out", tmp_path / "out", *words)


def test_nothing_is_replaced(finished, tmp_path, capsys) -> None:
    assert "is there already" in refused(capsys, finished, "--arm", "clean", "--out", tmp_path)


# --- demonstrations ---


def a_demonstration(path: Path) -> dict[str, np.ndarray]:
    rows = np.zeros((8, 7), np.float32)
    arrays = {"state": np.zeros((8, 8), np.float32), "label": rows, "executed": rows + 1, "at": np.array([0, 4])}
    arrays |= {"agent": np.full((2, 112, 112, 3), 90, np.uint8), "done_at": np.array(5)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def test_a_demonstration_is_replayed_as_it_was_executed_and_learned_as_it_was_meant(tmp_path) -> None:
    arrays = a_demonstration(tmp_path / "task2/ep0012.npz")
    ((task, (one,)),) = replayed.of_demonstrations(tmp_path, None).items()
    assert (task, one.name, one.begin, one.end, one.since) == (2, "task2/ep0012", (12,), 5, 0)
    np.testing.assert_array_equal(one.actions, arrays["executed"])
    np.testing.assert_array_equal(one.labels, arrays["label"])
    assert dict(one.grey) == {0: 90.0, 4: 90.0}


@pytest.mark.parametrize("cut", [0, 300])
def test_a_damaged_demonstration_is_one_line(cut, tmp_path) -> None:
    a_demonstration(path := tmp_path / "task0/ep0000.npz")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"ep0000\.npz"):
        replayed.of_demonstrations(tmp_path, None)


def test_an_imported_set_cannot_be_replayed(tmp_path) -> None:
    arrays = a_demonstration(path := tmp_path / "task0/ep0000.npz")
    np.savez(path, **{name: value for name, value in arrays.items() if name != "executed"})
    with pytest.raises(UserError, match="ep0000 was not recorded in the simulator"):
        replayed.of_demonstrations(tmp_path, None)


def test_demonstrations_of_pick2d_come_back_as_the_same_training_set(tmp_path) -> None:
    """Disturbed starts included: written, replayed as a LeRobot set, imported."""
    source, between, back = tmp_path / "demos", tmp_path / "lerobot", tmp_path / "back"
    assert pick2d.write(source, 6) == 6
    assert cli.main(["export-dataset", str(source), "--out", str(between)]) == 0
    said = json.loads((between / PROVENANCE).read_text())["episodes"]
    assert len(said) == 6 and not any(one["differs"] or one["largest_m"] or one["largest_grey"] > 1e-6 for one in said)
    assert cli.main(["import-dataset", str(between), "--out", str(back), "--every", str(pick2d.EVERY)]) == 0
    ours, theirs = dataset.load(source, 12), dataset.load(back, 12)
    for name in ("states", "chunks", "valid", "task", "step", "episode"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert np.abs(ours.views.astype(int) - theirs.views).mean() < 2, "films lose a little"


@pytest.mark.simulator
@pytest.mark.slow
def test_episodes_of_the_real_simulator_are_repeated_from_their_float32_actions(tmp_path) -> None:
    root = runs.write(tmp_path / "run", "libero_goal", runs.at_random, 9, init_states=(3,))
    out = tmp_path / "out"
    assert cli.main(["export-dataset", str(root), "--arm", "clean", "--out", str(out)]) == 0
    (one,) = json.loads((out / PROVENANCE).read_text())["episodes"]
    assert one["largest_m"] < 1e-5 and one["largest_grey"] < 0.1
    source = LeRobotSet(out)
    episode = source.episode(0)
    assert episode.actions.shape == (9, 7) and episode.task == "open the middle drawer of the cabinet"
    for camera in source.cameras:
        seen = np.stack(list(source.pictures(episode, camera)))
        assert seen.shape == (9, 256, 256, 3) and seen.std() > 20
