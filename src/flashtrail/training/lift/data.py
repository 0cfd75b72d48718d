"""Demonstrations and scenes in HDF5 -> training samples: pictures, state, instruction, the next actions.

A sample is one recorded step: what was seen before it, and the expert's clean actions from that very step on; action i
of the chunk belongs i steps after the picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.training.lift.files import PICTURES, member

DEMONSTRATIONS, SCENES = "demos.hdf5", "scenes.hdf5"


@dataclass(frozen=True)
class Frames:
    """F frames of all demonstrations of one part. `cube`: cube minus hand, m, for the auxiliary head only."""

    views: NDArray[np.uint8]  # (F, 2, P, P, 3)
    states: NDArray[np.float32]  # (F, 8)
    chunks: NDArray[np.float32]  # (F, horizon, 7)
    valid: NDArray[np.bool_]  # (F, horizon): False past the end of the record
    cube: NDArray[np.float32]  # (F, 3)
    task: NDArray[np.int64]  # (F,)
    demo: NDArray[np.int64]  # (F,): its number in the file
    step: NDArray[np.int64]  # (F,)

    def __len__(self) -> int:
        return len(self.states)

    def only(self, rows: NDArray[Any]) -> Frames:
        """These rows."""
        return Frames(**{name: getattr(self, name)[rows] for name in Frames.__dataclass_fields__})

    def pools(self, first: int = 0, end: int | None = None) -> list[NDArray[np.int64]]:
        """Rows from `first` to before `end`, task by task."""
        tasks = self.task[first:end]
        return [first + np.flatnonzero(tasks == task) for task in np.unique(tasks)]

    def resampled(self, seed: int) -> list[NDArray[np.int64]]:
        """Rows of as many whole demonstrations of each task, drawn with replacement (a bootstrap sample)."""
        rng, out = np.random.default_rng(seed), []
        for pool in self.pools():
            demos = np.unique(self.demo[pool])
            out.append(np.concatenate([pool[self.demo[pool] == demo] for demo in rng.choice(demos, len(demos))]))
        return out


def draw(pools: Sequence[NDArray[np.int64]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rows with every pool equally likely."""
    return np.array([rng.choice(pools[k]) for k in rng.integers(0, len(pools), count)], np.int64)


@dataclass(frozen=True)
class Scenes:
    """Pictures without actions: (N, 2, P, P, 3) and where the cube is, seen from the hand, m (N, 3)."""

    views: NDArray[np.uint8]
    cube: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.cube)


@dataclass(frozen=True)
class Material:
    """All that a training run learns from: demonstrations in mask/train, those in mask/valid, scenes, instructions."""

    train: Frames
    valid: Frames
    scenes: Scenes
    instructions: dict[int, list[str]]  # by task, of the demonstrations in mask/train

    @property
    def digest(self) -> str:
        """SHA-256 over what is learned from, pictures apart: their states tell whether they are the same."""
        total = hashlib.sha256(json.dumps(sorted(self.instructions.items())).encode())
        for frames in (self.train, self.valid):
            for part in (frames.states, frames.chunks, frames.cube, frames.task, frames.demo):
                total.update(np.ascontiguousarray(part).tobytes())
        total.update(self.scenes.cube.tobytes())
        return total.hexdigest()

    @property
    def pixels(self) -> int:
        """The side of a stored view."""
        return int(self.train.views.shape[2])


def load(source: Path, horizon: int = 10) -> Material:
    """Read `source`, a demonstrations' file or a folder with demos.hdf5 and perhaps scenes.hdf5; UserError if unfit."""
    path = source / DEMONSTRATIONS if source.is_dir() else source
    scenes = path.with_name(SCENES)
    parts, instructions = _read(path, horizon, ("train", "valid"))
    if strange := sorted(set(parts["valid"].task.tolist()) - set(instructions)):
        raise UserError(f"{path}: task {strange[0]} is in mask/valid but not in mask/train: record more of it")
    return Material(parts["train"], parts["valid"], _scenes(scenes, parts["train"].views.shape), instructions)


def with_corrections(data: Material, path: Path, horizon: int) -> Material:
    """Append the demonstrations in a file's mask/train to those of `data` that are trained on; UserError if unfit.

    What a corrector did in one go is one demonstration: its chunks do not reach into what the policy did next.
    """
    more, instructions = demonstrations(path, horizon)
    own = data.train
    if own.views.shape[1:] != more.views.shape[1:]:
        raise UserError(f"{path}: its views are {more.views.shape[1:]}, the demonstrations' {own.views.shape[1:]}")
    said = {task: list(texts) for task, texts in data.instructions.items()}
    for task, texts in instructions.items():
        said[task] = list(dict.fromkeys([*said.get(task, []), *texts]))
    return replace(data, train=joined([own, more]), instructions=said)


def joined(parts: Sequence[Frames]) -> Frames:
    """Return the frames of several parts, one after another."""
    return Frames(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Frames.__dataclass_fields__}
    )


def demonstrations(path: Path, horizon: int) -> tuple[Frames, dict[int, list[str]]]:
    """Read the demonstrations in a file's mask/train (it needs no mask/valid), and their instructions by task."""
    parts, instructions = _read(path, horizon, ("train",))
    return parts["train"], instructions


def _read(path: Path, horizon: int, wanted: Sequence[str]) -> tuple[dict[str, Frames], dict[int, list[str]]]:
    """Frames by mask, and the instructions of mask/train by task."""
    try:
        with h5py.File(path, "r") as file:
            names = {part: [name.decode() for name in _array(file, f"mask/{part}")] for part in wanted}
            if not all(names.values()):
                raise UserError(f"{path}: {' or '.join(f'mask/{part}' for part in wanted)} is empty: record more")
            parts = {part: _frames(file, own, horizon) for part, own in names.items()}
            instructions: dict[int, list[str]] = {}
            for name in names["train"]:
                said = instructions.setdefault(int(file["data"][name].attrs["task"]), [])
                if (text := str(file["data"][name].attrs["language_instruction"])) not in said:
                    said.append(text)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no demonstrations to train on ({error}); see `flashtrail check-dataset`") from None
    return parts, instructions


def _array(group: h5py.Group, name: str) -> NDArray[Any]:
    """A dataset's values; ValueError where they lie in another file, or are not all numbers."""
    found = member(group, name, h5py.Dataset)
    if isinstance(found, str):
        raise ValueError(found)
    values: NDArray[Any] = found[:]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{found.name} has values that are not finite")
    return values


def _frames(file: h5py.File, names: list[str], horizon: int) -> Frames:
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Frames.__dataclass_fields__}
    for name in names:
        demo = member(file, f"data/{name}", h5py.Group)
        if isinstance(demo, str):
            raise ValueError(demo)
        actions = _array(demo, "actions").astype(np.float32)
        count, steps = len(actions), np.arange(len(actions))
        ahead = steps[:, None] + np.arange(horizon)
        states = _array(demo, "obs/state").astype(np.float32)
        columns["views"].append(np.stack([_array(demo, f"obs/{key}") for key in PICTURES], axis=1))
        columns["states"].append(states)
        columns["chunks"].append(actions[np.minimum(ahead, count - 1)])
        columns["valid"].append(ahead < count)
        columns["cube"].append((_array(demo, "obs/object")[:, :3] - states[:, :3]).astype(np.float32))
        columns["task"].append(np.full(count, int(demo.attrs["task"])))
        columns["demo"].append(np.full(count, int(name.removeprefix("demo_"))))
        columns["step"].append(steps)
    return Frames(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _scenes(path: Path, shape: tuple[int, ...]) -> Scenes:
    if not path.is_file():
        return Scenes(np.zeros((0, *shape[1:]), np.uint8), np.zeros((0, 3), np.float32))
    try:
        with h5py.File(path, "r") as file:
            views = np.stack([_array(file, key) for key in PICTURES], axis=1)
            cube = (_array(file, "cube_pos") - _array(file, "state")[:, :3]).astype(np.float32)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of scenes ({error}): record it again, or move it away") from None
    if views.shape[1:] != shape[1:]:
        raise UserError(
            f"{path}: its views are {views.shape[1:]}, those of the demonstrations {shape[1:]}: record again"
        )
    return Scenes(views, cube)


def norm_stats(frames: Frames) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Mean and standard deviation of states and actions, in the form of openpi's norm_stats.json.

    An action's dim that hardly moves gets a deviation of 0.05 (of its +-1): else its noise would fill the loss.
    """

    def stats(rows: NDArray[Any], least: float) -> dict[str, list[float]]:
        rows = rows.astype(np.float64)
        return {"mean": rows.mean(0).tolist(), "std": np.maximum(rows.std(0), least).tolist()}

    return {"norm_stats": {"state": stats(frames.states, 1e-3), "actions": stats(frames.chunks[:, 0], 0.05)}}
