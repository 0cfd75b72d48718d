"""Refits from an artifact of a tiny network, on synthetic demonstrations and corrections."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.lift import commands
from training.lift import conftest as made

from flashtrail.base.errors import UserError
from flashtrail.policies.lift_vla.artifact import read
from flashtrail.training.lift import data, refit

TRUNK = ("views.", "text.", "text_in.", "fusion.", "fused.")


@pytest.fixture(scope="module")
def corrections(tmp_path_factory) -> Path:
    """Five short records that do the opposite of the demonstrations; none is held out."""
    path = tmp_path_factory.mktemp("corrections") / "corrections.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(5):
            group = file.create_group(f"data/demo_{number}")
            made.demonstration(group, 100 + number, 112, made.LIFT[number % 2], 0)
            group["actions"][:, :3] *= -1
        file["mask/train"] = np.array([f"demo_{number}".encode() for number in range(5)], "S16")
    return path


@pytest.mark.parametrize("parts", ["head", "all"])
def test_a_refit_learns_the_corrections_and_names_its_parent(
    tmp_path, parent, demos, corrections, parts, capsys
) -> None:
    count, rate = {"head": (60, "3e-3"), "all": (12, "3e-3")}[parts]
    flags = ("--artifact", parent, "--data", demos, "--corrections", corrections, "--out", tmp_path, "--batch", 16)
    assert commands.run("refit", *flags, "--parts", parts, "--steps", count, "--rate", rate) == 0
    was, now = (load_file(folder / "model.safetensors") for folder in (parent, tmp_path / "artifact"))
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    trunk = {name for name in was if name.startswith(TRUNK)}
    assert changed == (set(was) - trunk if parts == "head" else set(was) - {"text.rows"})
    about = json.loads((tmp_path / "offline.json").read_text())
    assert about["figures"]["corrections_loss"] < 0.95 * about["before"]["corrections_loss"]
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert manifest["source"]["digest"] == about["parent"] == read(parent)[2]["digest"] != manifest["digest"]
    assert (tmp_path / "artifact/norm_stats.json").read_text() == (parent / "norm_stats.json").read_text()
    assert "corrections_loss" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "artifact")  # a finished run exports the same again
    assert commands.run("refit", *flags, "--parts", parts, "--steps", count, "--rate", rate) == 0
    assert json.loads((tmp_path / "artifact" / "manifest.json").read_text())["digest"] == manifest["digest"]


def test_half_of_a_batch_are_corrections(tmp_path, parent, demos, corrections) -> None:
    material = data.load(demos)
    both = data.with_corrections(material, corrections, 10)
    recipe = refit.RefitRecipe(parts="all", corrections=len(both.train) - len(material.train), batch=9)
    run = refit.Refit(tmp_path, both, refit.parent_of(parent, both), recipe)
    for step in range(20):
        rows = run._rows(np.random.default_rng(step))
        assert (rows < len(material.train)).sum() == 5 and len(rows) == 9


def test_a_bootstrap_sample_has_whole_demonstrations_of_each_task(demos) -> None:
    frames = data.load(demos).train
    samples = [frames.resampled(seed) for seed in (1, 1, 2)]
    assert all(np.array_equal(*pair) for pair in zip(samples[0], samples[1], strict=True))
    assert not np.array_equal(samples[0][0], samples[2][0])
    for pool, task in zip(samples[0], (0, 7), strict=True):
        assert set(frames.task[pool]) == {task} and len(pool) == (frames.task == task).sum()
        counts = np.unique(frames.demo[pool], return_counts=True)[1]
        assert (counts % made.LENGTH == 0).all() and counts.max() > made.LENGTH  # some twice, so some not at all


# --- what is refused ---


@pytest.mark.parametrize(
    ("step", "flags", "message"),
    [
        ("refit", ["--lr", "1"], "unrecognized arguments: --lr"),
        ("refit", ["--parts", "trunk"], "invalid choice: 'trunk'"),
        ("refit", ["--steps", "0"], "is not a whole number from 1 on"),
        ("refit", ["--corrections", "zzz.hdf5"], r"zzz\.hdf5: no demonstrations to train on"),
        ("refit", ["--artifact", "zzz"], r"zzz/manifest\.json cannot be read"),
        ("doubt", ["--artifact", "zzz"], r"zzz/manifest\.json cannot be read"),
        ("doubt", ["--parts", "all"], "unrecognized arguments: --parts"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, parent, demos, step, flags, message) -> None:
    given = ["--artifact", parent, "--data", demos, "--out", tmp_path / "out", *flags]
    with pytest.raises(UserError, match=message) as refused:
        commands.run(step, *given)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_corrections_of_other_pictures_and_another_parents_run_are_one_line(tmp_path, parent, demos, large) -> None:
    flags = ["refit", "--artifact", parent, "--data", demos, "--out", tmp_path / "run", "--steps", 2, "--batch", 4]
    with pytest.raises(UserError, match=r"its views are \(2, 224, 224, 3\), the demonstrations' \(2, 112, 112, 3\)"):
        commands.run(*flags, "--corrections", large)
    assert commands.run(*flags) == 0
    with pytest.raises(UserError, match="was trained with another parent: move it away"):
        commands.run(*flags, "--artifact", tmp_path / "run" / "artifact")
