"""Training on an imported set of another robot: six joints, 30 a second, one camera or two, no landmarks."""

from __future__ import annotations

import json

import pytest
from datasets import sets

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.benchmark import served
from flashtrail.benchmark.__main__ import main as benchmark
from flashtrail.tables import measurements
from flashtrail.training import dataset
from flashtrail.training.fluid import __main__ as command

SMALL = json.dumps({"width": 8, "head_width": 16, "layers": 1, "patch": 16, "dilations": [1, 2], "action_horizon": 4})


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("imported")
    assert cli.main(["import-dataset", str(sets.v21(root / "set")), "--out", str(root / "two"), "--every", "2"]) == 0
    words = ["--cameras", sets.CAMERAS[0], "--every", "2"]
    assert cli.main(["import-dataset", str(root / "set"), "--out", str(root / "one"), *words]) == 0
    return root


def trained(monkeypatch, demos, out, *words):
    flags = ["--demos", str(demos), "--out", str(out), "--steps", "2", "--batch", "4", "--dims", SMALL, *words]
    monkeypatch.setattr("sys.argv", ["fluid", *flags])
    assert command.main() == 0


@pytest.mark.parametrize("cameras", ["one", "two"])
def test_a_policy_of_that_robot_is_trained_judged_and_timed(cameras, imported, tmp_path, monkeypatch, capsys) -> None:
    trained(monkeypatch, imported / cameras, tmp_path / "run")
    motion = measurements.read(tmp_path / "run/offline.json").figure("motion")
    assert motion.value > 0 and motion.n == 1 and motion.low is None
    dims = json.loads((tmp_path / "run/artifact/manifest.json").read_text())["dims"]
    assert (dims["views"], dims["state_dim"], dims["action_dim"]) == ({"one": 1, "two": 2}[cameras], 6, 6)
    assert json.loads((tmp_path / "run/artifact/vocabulary.json").read_text()) == ["cube", "pick", "push", "the"]
    words = ["--artifact", str(tmp_path / "run/artifact"), "--demos", str(imported / cameras), "--warmup", "1"]
    assert benchmark(["served", *words, "--rounds", "3", "--json", str(tmp_path / "served.json")]) == 0
    taken = json.loads((tmp_path / "served.json").read_text())["policy_ms"]
    assert taken["n"] == 6 and taken["p50"]["value"] > 0 and taken["p99"] is None  # two tasks; too few for a p99


def test_the_rounds_are_asked_with_each_task_and_its_pictures(imported) -> None:
    asked = served.observations(imported / "two", most=3)
    assert {one.observation.prompt for one in asked} == set(sets.TASKS)
    assert all(one.observation.agent.shape == (224, 224, 3) and one.observation.state.shape == (6,) for one in asked)
    assert any(one.observation.wrist.any() for one in asked)


def test_a_set_of_one_episode_is_too_few(imported) -> None:
    demos = dataset.load(imported / "two", 4, limit=1)
    with pytest.raises(UserError, match="too few episodes: one of a task is held out, and another one is learned from"):
        dataset.split(demos)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"0": "pick the cube"}}, "nobody says what task 1 is"),
        ({"fps": 0}, "training_set.json"),
        ({"cameras": ["a", "b", "c"]}, "training_set.json"),
        ({"zzz": 1}, "training_set.json"),
    ],
)
def test_a_description_that_cannot_be_is_one_line(change, message, imported, tmp_path, monkeypatch) -> None:
    path = imported / "two" / dataset.DESCRIPTION
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | change))
    try:
        with pytest.raises(UserError) as refused:
            trained(monkeypatch, imported / "two", tmp_path / "run")
    finally:
        path.write_text(whole)
    assert message in str(refused.value) and "\n" not in str(refused.value)
