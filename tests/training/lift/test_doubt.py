"""Doubt: what is trained for it, what a served policy says by it, and that no chunk changes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from policies.lift_vla.test_policy import observation
from safetensors.torch import load_file, save_file
from training.lift import commands
from training.lift.test_trainer import RECIPE, start, trainer

from flashtrail.base.errors import UserError
from flashtrail.checkpoints.artifact import take_artifact
from flashtrail.policies.lift_vla import doubt as family
from flashtrail.policies.lift_vla.artifact import read
from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.lift_vla.model import normalised
from flashtrail.policies.lift_vla.policy import LiftPolicy
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.training.lift import data, doubt, train


@pytest.fixture(scope="module")
def doubting(tmp_path_factory, parent, demos) -> Path:
    """The artifact with a doubt.safetensors."""
    out = tmp_path_factory.mktemp("doubt")
    flags = ("--artifact", parent, "--data", demos, "--out", out, "--steps", 20, "--batch", 16, "--rate", "3e-3")
    assert commands.run("doubt", *flags) == 0
    return out / "artifact"


def served(directory: Path, **settings) -> LiftPolicy:
    return LiftPolicy.load(directory, Settings(**settings), "cpu", None)


def wire(frames: data.Frames, row: int) -> dict:
    """A recorded frame as a client sends it."""
    views = [np.kron(view, np.ones((2, 2, 1), np.uint8)) for view in frames.views[row]]
    return observation() | {
        "observation/image": views[0],
        "observation/wrist_image": views[1],
        "observation/state": frames.states[row].astype(np.float64),
    }


def test_doubt_leaves_the_chunk_as_it_is(tmp_path, parent, doubting) -> None:
    """From the artifact without the file, from the one with it, and with it asked for: bit for bit."""
    manifest = take_artifact(doubting, tmp_path / "taken")
    assert manifest["source"]["digest"] == read(parent)[2]["digest"]
    policies = [served(parent), served(doubting), served(tmp_path / "taken", doubt=True)]
    asked = [observation(0), observation(1, "cube"), observation(2, __image_mask__=[True, False])]
    for obs in asked:
        replies = [policy.infer(None, obs) for policy in policies]
        for reply in replies[1:]:
            np.testing.assert_array_equal(reply["actions"], replies[0]["actions"])
        said = [{"head_spread", "novelty"} & set(reply["policy_timing"]) for reply in replies]
        assert said == [set(), set(), {"head_spread", "novelty"}]
    together = policies[2].infer_many([(None, obs, None, True, None) for obs in asked])
    for index, reply in together:
        alone = policies[2].infer(None, asked[index])["policy_timing"]
        for name in ("head_spread", "novelty"):
            assert reply["policy_timing"][name] == pytest.approx(alone[name], rel=1e-3)


def test_spread_is_the_heads_deviation_in_units_as_sent_over_what_may_be_executed(doubting) -> None:
    policy = served(doubting, doubt=True, max_exec_steps=3)
    model = policy.model
    one = policy.take(None, observation(), True)
    seen = model.see(normalised(torch.from_numpy(one.pictures[None]), model.dims))
    recalled = model.recall(model.fuse(seen, one.text[None]), torch.from_numpy(one.hand[None]))
    chunks = [policy.stats.actions(head(*recalled)[0].numpy())[:3, :6] for head in policy._doubt.heads]
    expected = np.sqrt(np.mean(np.var(chunks, axis=0, ddof=1)))
    timing = policy.infer(None, observation())["policy_timing"]
    assert timing["head_spread"] == pytest.approx(expected, rel=1e-4) and expected > 0
    wider = served(doubting, doubt=True, max_exec_steps=50).infer(None, observation())["policy_timing"]
    assert wider["head_spread"] != pytest.approx(expected, rel=1e-4)
    apart = seen.flatten(1).double()[0].numpy() - policy._doubt.mean.double().numpy()
    distance = np.linalg.norm(policy._doubt.whitening.double().numpy() @ apart) / np.sqrt(len(apart))
    assert timing["novelty"] == pytest.approx(distance, rel=1e-3)


def test_novelty_is_about_1_in_training_and_more_elsewhere(doubting, demos) -> None:
    policy, frames = served(doubting, doubt=True), data.load(demos).train
    rows = np.arange(0, len(frames), 17)
    known = [policy.infer(None, wire(frames, row))["policy_timing"]["novelty"] for row in rows]
    assert np.sqrt(np.mean(np.square(known))) == pytest.approx(1, abs=0.1)
    black = wire(frames, 0) | {"observation/image": np.zeros((224, 224, 3), np.uint8)}
    assert policy.infer(None, black)["policy_timing"]["novelty"] > 2 * max(known)


def test_the_covariance_is_shrunk_more_the_fewer_frames() -> None:
    """Whitened features have unit covariance where frames abound; with fewer frames than dims they are far from it."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    many = rng.normal(size=(20_000, 6)) @ mixing + 3
    mean, root = doubt.whitened(many)
    np.testing.assert_allclose(np.cov((many - mean) @ root, rowvar=False), np.eye(6), atol=0.06)
    few = rng.normal(size=(4, 6)) @ mixing
    mean, root = doubt.whitened(few)
    assert np.mean(((few - mean) @ root) ** 2) == pytest.approx(1) and np.linalg.cond(root) < 1e3


def test_the_figures_tell_black_frames_from_known_ones(doubting, demos, capsys) -> None:
    flags = ("--artifact", doubting, "--data", demos, "--other", demos / "demos.hdf5", "--every", 12)
    assert commands.run("doubt-figures", *flags) == 0
    lines = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["held out"][:2] == ["4", "3"] and lines["held out, black"][3] == "1.00"
    assert {"demos, task 0", "demos, task 7", "of the training", "held out, noise, sigma 60"} < set(lines)
    assert int(lines["demos, task 0"][0]) + int(lines["demos, task 7"][0]) == int(lines["of the training"][0])


# --- what is refused ---


def test_doubt_without_its_file_is_one_line(tmp_path, parent, doubting) -> None:
    with pytest.raises(ArtifactError, match=r"has no doubt\.safetensors: leave the setting doubt out, or") as refused:
        served(parent, doubt=True)
    assert "\n" not in str(refused.value)
    shutil.copytree(doubting, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / family.FILE)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, tmp_path / "other" / family.FILE)
    with pytest.raises(ArtifactError, match="is not the file of its manifest"):
        served(tmp_path / "other", doubt=True)
    assert served(tmp_path / "other").infer(None, observation())  # not read where it is not asked for


def test_what_is_blind_cannot_doubt(tmp_path, demos) -> None:
    run = trainer(tmp_path / "blind", demos, dataclasses.replace(RECIPE, steps=1, check_every=1), blind=True)
    run.train()
    train.finish(run, start(run.data, blind=True))
    flags = ("--artifact", tmp_path / "blind" / "artifact", "--data", demos, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="is blind: to it no picture is new"):
        commands.run("doubt", *flags)
