"""Policies of several robots on synthetic demonstrations: what is shared, what is a robot's own, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.lift import commands
from training.lift import conftest as made
from training.lift.test_trainer import SMALL

from flashtrail.base.errors import UserError
from flashtrail.experiment.embodiments import EMBODIMENTS
from flashtrail.policies.lift_vla import artifact, dims
from flashtrail.policies.lift_vla.policy import LiftPolicy
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.simulators.robosuite_lift.tasks import TASKS
from flashtrail.training.lift import robots, train

SHORT = dataclasses.replace(robots.RobotsRecipe(), steps=3, batch=6, warmup=1, log_every=1, save_every_s=0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The network that training begins with, smaller."""
    nano = dims.nano
    monkeypatch.setattr(
        robots, "nano", lambda rows: dims.LiftDims.model_validate(nano(rows).model_dump() | SMALL | {"crop": None})
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """Seven demonstrations of each of three robots, two held out; fingers as their grippers', the first two's apart."""
    folder, out = tmp_path_factory.mktemp("robots"), {}
    for name, fingers in (("panda", (0.03, -0.03)), ("panda_3dof", (0.03, -0.03)), ("ur5e", (0.2, 0.2))):
        out[name] = folder / f"{name}.hdf5"
        with h5py.File(out[name], "w") as file:
            for number in range(9):
                group = file.create_group(f"data/demo_{number}")
                made.demonstration(group, number, 112, made.LIFT[number % 2], 0)
                group.attrs["task"] = EMBODIMENTS[name].task
                opened = np.linspace(0.5, 1.5, made.LENGTH, dtype=np.float32)[:, None]
                group["obs/state"][:, 6:] = opened * np.array(fingers, np.float32)
                group["actions"][:, 3:6] = 0.5
            names = np.array([f"demo_{number}".encode() for number in range(9)], "S16")
            file["mask/train"], file["mask/valid"] = names[2:], names[:2]
    return out


def wanted(sets, **counts: int) -> list[robots.Wanted]:
    return [robots.Wanted(name, count, sets[name]) for name, count in counts.items()]


def run_of(directory: Path, sets, *, parent: Path | None = None, like: str = "", **counts: int):
    data = robots.gather(wanted(sets, **counts))
    if parent is None:
        start = robots.begin(data, list(counts), 0)
    else:
        start, _ = robots.go_on(data, list(counts), 0, parent, like)
    return robots.trainer_of(directory, data, start, SHORT, parent), start


@pytest.fixture(scope="module")
def joint(tmp_path_factory, sets) -> Path:
    """An artifact of two robots. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch)
        run, start = run_of(tmp_path_factory.mktemp("joint"), sets, panda=4, panda_3dof=3)
        run.train()
        train.finish(run, start)
    return run.directory / "artifact"


def test_names_are_the_simulators_tasks():
    for name, robot in EMBODIMENTS.items():
        task = TASKS[robot.task]
        assert task.robot.lower() == name.removesuffix("_3dof") and task.half_width == TASKS[0].half_width
        assert (robot.action_dim == 4) == (task.controller == "OSC_POSITION") == name.endswith("_3dof")


def test_so_many_demonstrations_of_each_and_all_ways_to_say_it(sets):
    data = robots.gather(wanted(sets, panda=4, ur5e=2))
    tasks = {EMBODIMENTS[name].task: count for name, count in {"panda": 4, "ur5e": 2}.items()}
    for task, count in tasks.items():
        own = data.train.demo[data.train.task == task]
        assert len(np.unique(own)) == count and len(own) == count * made.LENGTH
        assert len(np.unique(data.valid.demo[data.valid.task == task])) == 1
        assert len(data.instructions[task]) == 8
    assert len(np.unique(data.train.demo)) == 6, "no two robots' demonstrations have one number"


def test_a_batch_has_as_many_frames_of_each_robot_however_many_it_has(tmp_path, sets):
    run, _ = run_of(tmp_path, sets, panda=7, ur5e=1)
    drawn = np.concatenate([run.data.train.task[run._rows(np.random.default_rng(step))] for step in range(300)])
    assert 0.45 < (drawn == EMBODIMENTS["ur5e"].task).mean() < 0.55


def test_only_a_robots_own_parts_learn_from_it_beside_what_is_shared(tmp_path, sets):
    run, _ = run_of(tmp_path, sets, panda=2, panda_3dof=2)
    before = {name: tensor.clone() for name, tensor in run.learner.state_dict().items()}
    rows = np.flatnonzero(run.data.train.task == EMBODIMENTS["panda_3dof"].task)
    run._rows = lambda rng: rng.choice(rows, 6)
    run.train()
    changed = {name for name, tensor in run.learner.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith("policy.robots.0.")]
    own = {name for name in before if name.startswith("policy.robots.1.")}
    assert own <= changed and "policy.queries" in changed and len(own) == 5


def test_each_robots_losses_are_those_of_a_batch_of_its_own(tmp_path, sets):
    """Rows of robots in turn; of the one without rotation the three dims of rotation count nothing."""
    run, _ = run_of(tmp_path, sets, panda=2, panda_3dof=2)
    run._ids = {task: texts[:1] for task, texts in run._ids.items()}
    frames, first = run.data.train, np.flatnonzero(run.data.train.task == 0)
    second = np.flatnonzero(frames.task == EMBODIMENTS["panda_3dof"].task)
    mixed = np.stack([first[:3], second[:3]], 1).ravel()

    def losses(rows):
        with torch.no_grad():
            return run.losses(run.learner, run.batch(frames, rows, np.random.default_rng(0), augmented=False))

    both, apart = losses(mixed), [losses(rows) for rows in (first[:3], second[:3])]
    for place, own in enumerate(apart):
        torch.testing.assert_close(both["answer"][place::2], own["answer"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both["motion"], (apart[0]["motion"] + apart[1]["motion"]) / 2, rtol=1e-4, atol=1e-5)
    assert not apart[1]["answer"][..., 3:6].any() and apart[0]["answer"][..., 3:6].all()
    turned = dataclasses.replace(frames, chunks=frames.chunks * np.array([1, 1, 1, 9, 9, 9, 1], np.float32))
    with torch.no_grad():
        other = run.losses(run.learner, run.batch(turned, second[:3], np.random.default_rng(0), augmented=False))
    assert torch.equal(other["motion"], apart[1]["motion"])


def test_the_artifact_has_each_robots_statistics_and_the_new_robot_begins_as_its_like(tmp_path, sets, joint):
    model, stats, manifest = artifact.read(joint)
    assert model.dims.robots == ["panda", "panda_3dof"] and "norm_stats.json" not in manifest["files"]
    assert stats.state_mean.shape == (2, 8)
    run, start = run_of(tmp_path, sets, parent=joint, like="panda", panda=2, ur5e=1)
    new, old = start.policy.state_dict(), load_file(joint / "model.safetensors")
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    parts = [name for name in old if name.startswith("robots.0.")]
    assert all(torch.equal(new[name.replace("robots.0.", "robots.2.")], old[name]) for name in parts) and parts
    np.testing.assert_array_equal(run.stats.state_mean[:2], stats.state_mean)
    own = run.data.train.only(run.data.train.task == EMBODIMENTS["ur5e"].task)
    np.testing.assert_allclose(run.stats.state_mean[2], own.states.mean(0), rtol=1e-5)
    run.train()
    train.finish(run, start, manifest["digest"])
    again = artifact.read(tmp_path / "artifact")
    assert again[0].dims.robots == ["panda", "panda_3dof", "ur5e"]
    assert again[2]["source"]["digest"] == manifest["digest"]
    after = again[0].state_dict()
    for name in old:  # the robot that it was not trained on keeps what is its own
        assert torch.equal(after[name], old[name]) == (name.startswith("robots.1.") or name == "text.rows"), name


def test_grippers_whose_joints_turn_alike_are_seen(tmp_path, sets):
    """UR5e's two finger joints rise together: their difference, which is Panda's opening, would always be 0."""
    run, _ = run_of(tmp_path, sets, panda=2, ur5e=2)
    for name in ("panda", "ur5e"):
        rows = np.flatnonzero(run.data.train.task == EMBODIMENTS[name].task)
        hand = run.batch(run.data.train, rows, np.random.default_rng(0), augmented=False).hand
        assert hand[:, 9].std() > 0.9


def test_the_command_trains_and_goes_on_and_what_it_made_is_served(tmp_path, sets, capsys):
    flags = ["--robot", f"panda=2:{sets['panda']}", "--robot", f"ur5e=1:{sets['ur5e']}", "--batch", 4]
    assert commands.run("robots", *flags, "--steps", 2, "--out", tmp_path / "a") == 0
    assert "panda 32, ur5e 16; 32 held out" in capsys.readouterr().out
    whole = json.loads((tmp_path / "a/artifact/manifest.json").read_text())
    more = ["--of", tmp_path / "a/artifact", "--like", "panda", "--robot", f"panda_3dof=1:{sets['panda_3dof']}"]
    with pytest.raises(UserError, match="--like panda: its head is of another size than panda_3dof's"):
        commands.run("robots", *more, "--steps", 2, "--out", tmp_path / "b")
    del more[2:4]
    assert commands.run("robots", *more, "--steps", 2, "--out", tmp_path / "b") == 0
    assert json.loads((tmp_path / "b/artifact/manifest.json").read_text())["source"]["digest"] == whole["digest"]
    policy = LiftPolicy.load(tmp_path / "b/artifact", Settings(embodiment="panda_3dof"), "cpu", None)
    grey = dict.fromkeys(("observation/image", "observation/wrist_image"), np.full((224, 224, 3), 90, np.uint8))
    reply = policy.infer(None, grey | {"observation/state": np.zeros(8), "prompt": "lift the red cube"})
    assert reply["actions"].shape == (10, 7) and not reply["actions"][:, 3:6].any()


# --- what is refused ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--robot", "pandas=2:x"], r"unknown robot 'pandas'; did you mean 'panda'\?"),
        (["--robot", "panda=0:x"], "'panda=0:x' is not NAME=COUNT:FILE"),
        (["--robot", "panda=2:zzz.hdf5"], r"zzz\.hdf5: no demonstrations to train on"),
        (["--robot", "panda=8:{panda}"], "7 demonstrations in mask/train, not 8: record more"),
        (["--robot", "panda=2:{ur5e}"], "demonstrations of task 4; panda is demonstrated in task 0"),
        (["--robot", "panda=2:{panda}", "--robot", "panda=1:{panda}"], "--robot: one robot is given twice"),
        (["--robot", "panda=2:{panda}", "--like", "panda"], "--like panda: it is of the artifact --of"),
        (["--robot", "panda=2:{panda}", "--of", "zzz"], r"zzz/manifest\.json cannot be read"),
        (["--robot", "panda=2:{panda}", "--of", "{parent}"], "is of one robot: give --of an artifact of several"),
        (
            ["--robot", "ur5e=2:{ur5e}", "--of", "{joint}", "--like", "iiwa"],
            "has no such robot; it has panda, panda_3dof",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, sets, joint, parent, flags, message):
    given = [flag.format(**sets, joint=joint, parent=parent) for flag in flags]
    with pytest.raises(UserError, match=message) as refused:
        commands.run("robots", *given, "--steps", 1, "--out", tmp_path / "out")
    assert "\n" not in str(refused.value) and not (tmp_path / "out" / "artifact").exists()


@pytest.mark.parametrize("step", ["refit", "doubt"])
def test_what_is_of_one_robot_only_says_so(tmp_path, joint, demos, step):
    with pytest.raises(UserError, match="is of several robots: train it further by the step robots, with --of"):
        commands.run(step, "--artifact", joint, "--data", demos, "--out", tmp_path / "out")
