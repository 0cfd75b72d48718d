"""Training on synthetic demonstrations: it learns to see and to listen, and goes on after kill -9."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from policies.lift_vla import clip_files
from policies.lift_vla.test_resnet import checkpoint

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.dims import LiftDims, Vision, document, nano
from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.lift_vla.policy import LiftPolicy
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts import words
from flashtrail.training import curves
from flashtrail.training.lift import card, data, offline, train
from flashtrail.training.lift.recipe import Recipe

RECIPE = Recipe(steps=6, batch=8, scenes=2, warmup=2, log_every=1, check_every=3, keep_every=2, save_every_s=0.0)
SMALL = {
    "width": 32,
    "layers": 1,
    "feedforward": 32,
    "vision": Vision(width=8, stages=2, pool="keypoints", keypoints=8),
}


def start(material: data.Material, seed: int = 0, **changes) -> train.Start:
    said = [text for texts in material.instructions.values() for text in texts]
    known = words.vocabulary(said)
    dims = LiftDims.model_validate(nano(len(known) + 1).model_dump() | {**SMALL, "crop": None} | changes)
    return train.start_of(dims, said, seed, known)


def trainer(directory: Path, folder: Path, recipe: Recipe = RECIPE, **changes):
    material = data.load(folder)
    return train.trainer_of(directory, material, start(material, **changes), recipe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demos):
    """A run of RECIPE from its start to its end. No test changes it or its directory."""
    run = trainer(tmp_path_factory.mktemp("whole"), demos)
    run.train()
    return run


@pytest.fixture
def directory(whole, tmp_path) -> Path:
    """A copy of its directory, a test's own."""
    return Path(shutil.copytree(whole.directory, tmp_path / "run"))


def test_a_sample_begins_with_the_action_of_its_own_step(demos) -> None:
    """The source document's windows answered for frames up to nine steps ago: query i here is i steps ahead."""
    frames = data.load(demos).train
    for row in (0, 7, len(frames) - 1):
        step, demo = frames.step[row], frames.demo[row]
        own = np.flatnonzero(frames.demo == demo)
        ahead = own[step : step + 10]
        np.testing.assert_array_equal(frames.chunks[row, : len(ahead)], frames.chunks[ahead, 0])
        assert frames.valid[row].sum() == len(ahead)


@pytest.mark.slow
def test_it_learns_to_see_to_listen_and_to_close(tmp_path, coarse) -> None:
    recipe = dataclasses.replace(RECIPE, steps=220, batch=16, scenes=8, rate=4e-3, log_every=20, check_every=220)
    vision = Vision(width=8, stages=1, pool="keypoints", keypoints=8)
    run = trainer(tmp_path / "run", coarse, recipe, pixels=56, vision=vision)
    before = run.check()
    run.train()
    after = run.check()
    assert after["cube_mm"] < 0.3 * before["cube_mm"] and after["held_out_motion"] < 0.3 * before["held_out_motion"]
    frames = run.data.valid
    rows = np.flatnonzero((frames.task == 0) & (frames.step == 15))
    closes, opens = (told(run, frames, rows, task) for task in (0, 7))
    assert (closes > 0).all() and (opens < 0).all()  # the same pictures, the other instruction


def told(run, frames: data.Frames, rows: np.ndarray, task: int) -> np.ndarray:
    """The first action's gripper for these frames under a task's instruction."""
    asked = dataclasses.replace(frames, task=np.full(len(frames), task))
    batch = run.batch(asked, rows, np.random.default_rng(0), augmented=False)
    with torch.no_grad():
        return run.losses(run.average, batch)["answer"][:, 0, -1].numpy()


def test_everything_that_acts_gets_a_gradient_and_the_text_none(tmp_path, demos) -> None:
    run = trainer(tmp_path / "run", demos)
    batch = run.batch(run.data.train, np.arange(8), np.random.default_rng(0), augmented=True)
    losses = run.losses(run.learner, batch)
    (losses["motion"] + losses["gripper"] + losses["cube"]).backward()
    idle = {name for name, p in run.learner.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert idle == set()
    assert "policy.text.rows" in run.learner.state_dict() and not list(run.learner.policy.text.parameters())


GOES_ON = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training.lift.test_trainer import RECIPE, trainer
trainer(Path({out!r}), Path({data!r})).train()
"""


def test_a_run_that_was_killed_goes_on_to_the_same_weights(whole, tmp_path, demos) -> None:
    code = GOES_ON.format(tests=str(Path(__file__).parents[2]), out=str(tmp_path / "broken"), data=str(demos))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(b"step 4 "):
                child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    resumed = trainer(tmp_path / "broken", demos)
    assert 0 < resumed.state.step <= 4
    resumed.train()
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(resumed.average.state_dict()[name], tensor), name
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.state.rows] for run in (whole, resumed)]
    np.testing.assert_equal(strip[0], strip[1])


def test_the_curves_are_csv_json_and_tensorboard_events(whole) -> None:
    pytest.importorskip("tensorboardX")
    place = whole.directory
    with (place / curves.CSV).open() as stream:
        rows = list(csv.DictReader(stream))
    history = json.loads((place / curves.HISTORY).read_text())
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6] == [row["step"] for row in history["rows"]]
    assert rows[0]["held_out_loss"] == "" and float(rows[2]["cube_mm"]) > 0 and history["rows"][0]["cube_mm"] is None
    assert history["recipe"]["steps"] == 6
    scalars = {(event["tag"], event["step"]): event["value"] for event in events(place / curves.EVENTS)}
    for row in history["rows"]:
        assert scalars["motion", row["step"]] == pytest.approx(row["motion"], rel=1e-5)
    assert ("cube_mm", 3) in scalars and ("cube_mm", 1) not in scalars
    assert sorted(path.name for path in (place / "checkpoints").iterdir()) == [
        *("step_000002.safetensors", "step_000004.safetensors", "step_000006.safetensors")
    ]


def events(directory: Path) -> list[dict[str, float]]:
    """The scalars of TensorBoard's event files: records of length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    out = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            out += [{"tag": v.tag, "step": event.step, "value": v.simple_value} for v in event.summary.value]
            content = content[16 + length :]
    return out


def test_the_blind_control_sees_nothing_in_training_or_when_served(tmp_path, demos) -> None:
    run = trainer(tmp_path / "run", demos, blind=True)
    frames = run.data.train
    batches = [run.batch(frames, np.array([row]), np.random.default_rng(0), augmented=False) for row in (0, 20)]
    assert all(torch.equal(*pair) for pair in zip(*(batch.pictures for batch in batches), strict=True))
    run.train()
    train.finish(run, start(run.data, blind=True))
    policy = LiftPolicy.load(tmp_path / "run" / "artifact", Settings(), "cpu", None)
    obs = {"observation/state": np.zeros(8), "prompt": "lift the cube"}
    views = [np.full((224, 224, 3), value, np.uint8) for value in (0, 200)]
    replies = [
        policy.infer(None, obs | dict.fromkeys(("observation/image", "observation/wrist_image"), v)) for v in views
    ]
    np.testing.assert_array_equal(replies[0]["actions"], replies[1]["actions"])
    assert policy.metadata["facts"]["blind"] is True


def test_the_artifact_answers_as_the_averaged_weights_do(directory, tmp_path, demos) -> None:
    run = trainer(directory, demos)
    begun = start(run.data)
    train.finish(run, begun)
    model, stats, manifest = artifact.read(directory / "artifact")
    assert manifest["family"] == "lift_vla" and not any("cube" in name for name in model.state_dict())
    frames, said = run.data.valid, "Lift the red cube"
    policy = LiftPolicy.load(directory / "artifact", Settings(), "cpu", None)
    wire = [np.kron(view, np.ones((2, 2, 1), np.uint8)) for view in frames.views[0]]
    obs = {"observation/image": wire[0], "observation/wrist_image": wire[1], "observation/state": frames.states[0]}
    one = dataclasses.replace(run.data, instructions={0: [said], 7: [said]})
    batch = train.trainer_of(tmp_path / "other", one, begun, RECIPE).batch(
        frames, np.array([0]), np.random.default_rng(0), augmented=False
    )
    with torch.no_grad():
        answer = run.losses(run.average, batch)["answer"][0].numpy()
    np.testing.assert_allclose(policy.infer(None, obs | {"prompt": said})["actions"], stats.actions(answer), atol=1e-4)
    figures = json.loads((directory / "offline.json").read_text())
    assert figures["digest"] == manifest["digest"] and set(figures["figures"]) == set(offline.COLUMNS)


def test_a_changed_recipe_or_network_does_not_continue_a_run(directory, demos) -> None:
    with pytest.raises(UserError, match="was trained with another rate"):
        trainer(directory, demos, dataclasses.replace(RECIPE, rate=1.0))
    with pytest.raises(UserError, match="was trained with another dims"):
        trainer(directory, demos, layers=2)
    longer = trainer(directory, demos, dataclasses.replace(RECIPE, steps=7))
    longer.train()
    assert longer.state.step == 7


def test_other_demonstrations_do_not_continue_a_run(tmp_path, demos) -> None:
    """Statistics and averages would be of two sets, without a word."""
    trainer(tmp_path, demos).train()
    material = data.load(demos)
    moved = dataclasses.replace(material.train, states=material.train.states + 0.01)
    other = dataclasses.replace(material, train=moved)
    with pytest.raises(UserError, match="was trained with another set of demonstrations: move it away"):
        train.trainer_of(tmp_path, other, start(other), RECIPE)


class Foreign:
    """What an unrestricted unpickler would build."""

    def __reduce__(self):
        return os.mkdir, ("built-by-a-pickle",)


@pytest.mark.parametrize("content", ["cut", "empty", "foreign", "list", "half", "other optimizer"])
def test_a_damaged_run_is_one_line_and_runs_no_code(tmp_path, demos, content, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, demos)
    run.save()
    path = tmp_path / "run.pt"
    saved = torch.load(path, weights_only=True)
    whole = path.read_bytes()
    if content == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "foreign":
        torch.save(saved | {"recipe": Foreign()}, path)
    elif content == "list":
        torch.save([saved], path)
    elif content == "half":
        torch.save(saved | {"learner": dict(list(saved["learner"].items())[1:])}, path)
    else:
        torch.save(saved | {"optimizer": {"state": {}, "param_groups": []}}, path)
    with pytest.raises(UserError, match=r"run\.pt is damaged, or no run of this program .*: move it away") as refused:
        trainer(tmp_path, demos)
    assert "\n" not in str(refused.value) and not (tmp_path / "built-by-a-pickle").exists()


def test_a_finished_run_without_its_best_weights_is_one_line(tmp_path, demos) -> None:
    run = trainer(tmp_path, demos)
    run.train()
    (tmp_path / "best.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"best\.safetensors is gone or damaged"):
        train.finish(run, start(run.data))


NOTHING = {"steps": "0 1e3", "batch": "0 -1", "rate": "nan inf 0", "seed": "-1", "threads": "0", "seconds": "-1 nan"}


@pytest.mark.parametrize("flag", [f"{name}={value}" for name, values in NOTHING.items() for value in values.split()])
def test_a_number_that_trains_nothing_is_refused(flag) -> None:
    with pytest.raises(UserError, match=r"is not a (whole number from [01] on|number above 0)"):
        asked("--data", "x", "--out", "y", f"--{flag}")


def test_damaged_statistics_of_a_run_are_one_line(tmp_path, demos) -> None:
    (tmp_path / "norm_stats.json").write_text("{")
    with pytest.raises(UserError, match=r"norm_stats\.json must hold"):
        train.run(asked("--data", str(demos), "--out", str(tmp_path)))


def test_nothing_is_learned_from_another_file_or_from_what_is_no_number(tmp_path, demos) -> None:
    path = tmp_path / "demos.hdf5"
    for spoil, said in (
        (lambda obs: obs["state"].__setitem__((0, 0), np.nan), "obs/state has values that are not finite"),
        (lambda obs: (obs.move("state", "kept"), obs.create_group("state")), "obs/state is not a dataset"),
        (
            lambda obs: (obs.move("state", "kept"), obs.__setitem__("state", h5py.ExternalLink(str(demos), "/x"))),
            "obs/state is a link",
        ),
    ):
        shutil.copyfile(demos / "demos.hdf5", path)
        with h5py.File(path, "r+") as file:
            spoil(file["data/demo_4/obs"])
        with pytest.raises(UserError, match=f"no demonstrations to train on .*{said}"):
            data.load(path)


def test_the_documents_literal_size_takes_two_steps(tmp_path, large) -> None:
    """29 M trainable parameters at 224 px, from torchvision's and CLIP's names; the text tower two layers deep."""
    from safetensors.torch import save_file

    text = clip_files.dims()
    clip_files.write(tmp_path / "clip", text)
    save_file(checkpoint(), tmp_path / "resnet18.safetensors")
    dims = document().model_copy(update={"text": text, "vision": Vision(norm="frozen_batch")})
    material = data.load(large)
    said = [word for texts in material.instructions.values() for word in texts]
    begun = train.start_of(dims, said, 0, None, tmp_path / "resnet18.safetensors", tmp_path / "clip")
    trained = sum(p.numel() for p in begun.policy.parameters() if p.requires_grad)
    assert 28.5e6 < trained < 30e6
    recipe = dataclasses.replace(RECIPE, steps=2, batch=2, scenes=0, save_every_s=1e9, keep_every=100)
    run = train.trainer_of(tmp_path / "run", material, begun, recipe)
    before = {name: value.clone() for name, value in run.learner.named_parameters()}
    run.train()
    changed = {name for name, value in run.learner.named_parameters() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith("policy.text.")}
    assert changed == set(before) - frozen and run.state.step == 2


def test_the_card_says_what_the_run_measured(tmp_path, demos, capsys) -> None:
    run = trainer(tmp_path / "run", demos)
    run.train()
    train.finish(run, start(run.data))
    assert card.run(argparse.Namespace(of=tmp_path / "run", to=tmp_path / "lift_tiny", tables=[])) == 0
    text = (tmp_path / "lift_tiny" / "README.md").read_text()
    figures = json.loads((tmp_path / "run" / "offline.json").read_text())["figures"]
    assert f"median error {figures['cube_mm']:.3g} mm" in text and "6 steps of 8 frames and 2 scenes" in text
    assert "blind control**" not in text and LiftPolicy.load(tmp_path / "lift_tiny", Settings(), "cpu", None)
    (tmp_path / "run" / "offline.json").write_text(json.dumps({"digest": "0"}))
    with pytest.raises(UserError, match="is of another artifact"):
        card.run(argparse.Namespace(of=tmp_path / "run", to=tmp_path / "other", tables=[]))


# --- what is refused ---


def asked(*flags: str) -> argparse.Namespace:
    parser = commands.Parser()
    train.add_arguments(parser)
    return parser.parse_args(flags)


def test_mistakes_are_one_line(tmp_path, demos, large) -> None:
    (tmp_path / "no.hdf5").write_text("no")
    out = ("--out", str(tmp_path / "out"))
    for flags, message in (
        (("--data", str(tmp_path / "zzz")), "no demonstrations to train on"),
        (("--data", str(tmp_path / "no.hdf5")), "no demonstrations to train on"),
        (("--data", str(large)), "views are 224 px, this policy's 112"),
        (("--data", str(demos), "--size", "document"), "needs --clip"),
        (("--data", str(demos), "--clip", "zzz"), "belong to --size document"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            train.run(asked(*flags, *out))
        assert "\n" not in str(refused.value)


def test_the_command_trains_a_little_and_says_how_to_go_on(tmp_path, demos) -> None:
    line = [sys.executable, "-m", "flashtrail.training.lift", "train", "--data", str(demos), "--out", str(tmp_path)]
    line += ["--steps", "1000", "--batch", "4", "--seconds", "1"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True)
    assert "336 frames, 48 held out, 12 scenes; vision" in done.stdout and "the same command goes on" in done.stdout
    assert (tmp_path / "run.pt").is_file() and not (tmp_path / "artifact").exists()


def test_a_damaged_checkpoint_of_imagenet_is_one_line(tmp_path, demos) -> None:
    (tmp_path / "resnet18.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"resnet18\.safetensors: not a safetensors file"):
        train.start_of(document(), [], 0, None, tmp_path / "resnet18.safetensors", tmp_path)
    with pytest.raises(ArtifactError, match="no CLIP tokenizer"):
        train.start_of(document().model_copy(update={"text": clip_files.dims()}), [], 0, None, None, tmp_path)
