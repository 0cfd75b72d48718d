"""Synthetic demonstrations in the layout of the real ones, in which a picture says where the cube is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from training.lift import recordings

from flashtrail.training.lift import data, files, train

LIFT, PUSH = ("Lift the red cube", "Pick up the cube"), ("Push the red cube forward",)
LENGTH, CLOSE = 16, 8


def picture(x: float, y: float, pixels: int) -> np.ndarray:
    """A red square at x, y in +-1 on grey."""
    out = np.full((pixels, pixels, 3), 90, np.uint8)
    row, column = (round((0.3 + 0.2 * v) * pixels) for v in (x, y))
    side = pixels // 10
    out[row - side : row + side, column - side : column + side] = (220, 30, 30)
    return out


def demonstration(group: h5py.Group, number: int, pixels: int, instruction: str, task: int) -> None:
    """To the square, then close; a push goes the other way and never closes."""
    rng = np.random.default_rng(number)
    x, y = rng.uniform(-1, 1, 2)
    actions = np.zeros((LENGTH, 7), np.float32)
    way = 1.0 if task == 0 else -1.0
    actions[:, 0], actions[:, 1], actions[:, 2] = way * x, way * y, np.linspace(-1, 1, LENGTH)
    actions[:, 6] = np.where((np.arange(LENGTH) >= CLOSE) & (task == 0), 1.0, -1.0)
    state = np.zeros((LENGTH, 8), np.float32)
    state[:, 2], state[:, 3] = np.linspace(1.0, 0.8, LENGTH), np.pi
    state[:, 6:] = [0.04, -0.04]
    cube = np.tile([0.1 * x, 0.1 * y, 0.8], (LENGTH, 1)).astype(np.float32)
    group["actions"] = actions
    group["obs/state"], group["obs/object"] = state, cube
    for key in data.PICTURES:
        group[f"obs/{key}"] = np.stack([picture(x, y, pixels)] * LENGTH)
    group.attrs["language_instruction"], group.attrs["task"] = instruction, task


def write(path, pixels: int, count: int, held_out: int) -> None:
    with h5py.File(path, "w") as file:
        for number in range(count):
            task = 7 if number % 3 == 2 else 0
            said = PUSH[0] if task else LIFT[number % 2]
            demonstration(file.create_group(f"data/demo_{number}"), number, pixels, said, task)
        names = [f"demo_{number}".encode() for number in range(count)]
        file["mask/train"], file["mask/valid"] = np.array(names[held_out:], "S16"), np.array(names[:held_out], "S16")


def write_both(folder, pixels: int) -> None:
    """demos.hdf5 and scenes.hdf5."""
    write(folder / data.DEMONSTRATIONS, pixels, 24, held_out=3)
    rng = np.random.default_rng(5)
    where = rng.uniform(-1, 1, (12, 2))
    with h5py.File(folder / data.SCENES, "w") as file:
        for key in data.PICTURES:
            file[key] = np.stack([picture(x, y, pixels) for x, y in where])
        file["state"] = np.zeros((12, 8), np.float32)
        file["cube_pos"] = np.concatenate((0.1 * where, np.full((12, 1), 0.8)), 1).astype(np.float32)


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    """A folder with demos.hdf5 and scenes.hdf5, views of 112 px."""
    folder = tmp_path_factory.mktemp("lift")
    write_both(folder, 112)
    return folder


@pytest.fixture(scope="session")
def parent(tmp_path_factory, demos):
    """An artifact of a few steps' training on `demos`. Not to be changed."""
    from training.lift.test_trainer import RECIPE, start, trainer

    folder = tmp_path_factory.mktemp("parent")
    run = trainer(folder, demos, dataclasses.replace(RECIPE, steps=30, rate=2e-3))
    run.train()
    train.finish(run, start(run.data))
    return folder / "artifact"


@pytest.fixture(scope="session")
def coarse(tmp_path_factory):
    """The same with views of 56 px: a quarter of the work where a network is to learn."""
    folder = tmp_path_factory.mktemp("coarse")
    write_both(folder, 56)
    return folder


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """Demonstrations with views of 224 px."""
    path = tmp_path_factory.mktemp("large") / data.DEMONSTRATIONS
    write(path, 224, 4, held_out=1)
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Two parts, 14 demonstrations, and both joined; number 3 is not verified. Not to be changed."""
    folder = tmp_path_factory.mktemp("recorded")
    for first in (0, 7):
        made = [
            recordings.demonstration(number, verified=number != 3, steps=4 + number % 3)
            for number in range(first, first + 7)
        ]
        files.write(folder / f"task0_{first:04d}.hdf5", made, recordings.ENV_ARGS)
    files.join(sorted(folder.glob("task0_*.hdf5")), folder / "demos.hdf5")
    return folder


@pytest.fixture
def parts(recorded, tmp_path):
    """The two parts, a test's own."""
    return [Path(shutil.copy(path, tmp_path)) for path in sorted(recorded.glob("task0_*.hdf5"))]


@pytest.fixture
def dataset(recorded, tmp_path):
    """Both joined, a test's own."""
    return Path(shutil.copy(recorded / "demos.hdf5", tmp_path))
