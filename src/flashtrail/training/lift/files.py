"""Demonstrations as HDF5 files that robomimic's loader opens: layout, writing, joining parts, who may train on what.

    data/                 @total (steps), @env_args (JSON: how robomimic rebuilds the environment)
      demo_N/             @num_samples, @model_file (MJCF), @language_instruction, @success, @episode_length,
                          @verified_success, and how it was made: @task, @init_state, @seed, @sigma, ...
        actions           (T, 7) the expert's clean actions: the labels
        executed_actions  (T, 7) what the robot did: the clean ones plus noise
        rewards, dones    (T,)
        intervention      (T,) True, in a file of corrections: the expert acted in a policy's place
        states            (T, S) flat MuJoCo state before each action
        obs/KEY           (T, ...) what was seen before each action; pictures uint8 (T, 112, 112, 3)
    mask/train, mask/valid  names of demonstrations, bytes; verified ones only

The source document's `images` at a demonstration's own level would not be seen by robomimic; its attributes stand as it
has them. There is no next_obs, so robomimic is told ``train.hdf5_load_next_obs: false``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.policies.parts.pictures import PIXELS

PICTURES = ("agentview_image", "robot0_eye_in_hand_image")  # in the model's order of views
LOW_DIM = {"state": 8, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": None, "object": 10}
ACTION_DIMS = 7
ROBOSUITE_TYPE = 1  # robomimic's number for it
LARGEST_BLOCK = 64 * 2**20  # bytes
VALID_EVERY, VALID_AT = 11, 5  # prime to the periods of missed starts and of instructions


@dataclass(frozen=True)
class Demonstration:
    """One recorded episode: a row for each step under `obs` (by key), `states`, `actions` and so on."""

    steps: Sequence[Mapping[str, Any]]
    instruction: str
    success: bool
    verified: bool
    model: str  # MJCF
    facts: Mapping[str, Any]  # how it was made


def env_args(env: Any) -> str:
    """Return what robomimic needs to rebuild a robosuite environment, as JSON; start poses come from the states."""
    import robosuite

    controller = robosuite.load_controller_config(default_controller=env.robots[0].controller.name)
    kwargs = {
        "robots": list(env.robot_names),
        "controller_configs": [controller],
        "control_freq": int(env.control_freq),
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "use_camera_obs": True,
        "camera_names": [name.removesuffix("_image") for name in PICTURES],
        "camera_heights": PIXELS,
        "camera_widths": PIXELS,
        "ignore_done": True,
    }
    named = {"env_name": "Lift", "env_version": robosuite.__version__, "type": ROBOSUITE_TYPE}
    return json.dumps(named | {"env_kwargs": kwargs})


def write(path: Path, demonstrations: Sequence[Demonstration], environment: str) -> None:
    """Write demonstrations as demo_0 and so on."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = environment
        data.attrs["total"] = sum(len(demo.steps) for demo in demonstrations)
        for number, demo in enumerate(demonstrations):
            _write_one(data.create_group(f"demo_{number}"), demo)


def _write_one(group: h5py.Group, demo: Demonstration) -> None:
    for name in ("actions", "executed_actions", "rewards", "states"):
        precise = np.float64 if name == "states" else np.float32
        group[name] = np.array([step[name] for step in demo.steps], precise)
    group["dones"] = np.array([step["dones"] for step in demo.steps], np.int64)
    if "intervention" in demo.steps[0]:
        group["intervention"] = np.array([step["intervention"] for step in demo.steps], bool)
    _write_columns(group.create_group("obs"), [step["obs"] for step in demo.steps])
    attributes = {
        "num_samples": len(demo.steps),
        "episode_length": len(demo.steps),
        "language_instruction": demo.instruction,
        "success": demo.success,
        "verified_success": demo.verified,
        "model_file": _without_places(demo.model),
    }
    for name, value in (attributes | dict(demo.facts)).items():
        group.attrs[name] = value


def _write_columns(group: h5py.Group, rows: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    for name in rows[0]:
        column = np.stack([row[name] for row in rows])
        picture = {"chunks": (1, *column.shape[1:]), "compression": "gzip", "compression_opts": 4}
        group.create_dataset(name, data=column, **(picture if name in PICTURES else {}))


def _without_places(model: str) -> str:
    """Name the meshes from robosuite's folder on, which robosuite completes on the machine that plays them back."""
    parts = model.split('file="')
    kept = [part if "/robosuite/" not in (name := part.split('"', 1)[0]) else
            "robosuite/" + name.rsplit("/robosuite/", 1)[1] + part[len(name):] for part in parts[1:]]  # fmt: skip
    return 'file="'.join([parts[0], *kept])


def write_scenes(path: Path, scenes: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Write pictures without actions as columns of one length; `cube_pos` (N, 3) m says where the cube is."""
    with h5py.File(path, "w") as file:
        _write_columns(file, scenes)


def join(parts: Sequence[Path], target: Path) -> tuple[int, int]:
    """Join parts into one file, demonstrations numbered through, and say who may train: verified ones, some held out.

    A verified demonstration is held out by its own number within its task, so that adding parts moves none. Returns
    how many are trained on, and how many held out.
    """
    if not parts:
        raise UserError(f"no demonstrations beside {target}: record some first")
    masks: dict[str, list[bytes]] = {"train": [], "valid": []}
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(target) as path, h5py.File(path, "w") as joined:
        data, total, count = joined.create_group("data"), 0, 0
        for part in sorted(parts):
            with h5py.File(part, "r") as file:
                data.attrs["env_args"] = file["data"].attrs["env_args"]
                for name in sorted(file["data"], key=lambda name: int(name.removeprefix("demo_"))):
                    file.copy(f"data/{name}", data, f"demo_{count}")
                    attributes = data[f"demo_{count}"].attrs
                    if attributes["verified_success"]:
                        held = attributes["init_state"] % VALID_EVERY == VALID_AT
                        masks["valid" if held else "train"].append(f"demo_{count}".encode())
                    total, count = total + int(attributes["num_samples"]), count + 1
        data.attrs["total"] = total
        for name, members in masks.items():
            joined[f"mask/{name}"] = np.array(members, "S16")
    return len(masks["train"]), len(masks["valid"])


def gather(parts: Sequence[Path], count: int | None, keep: int | None, target: Path) -> tuple[int, int]:
    """Put the first `count` corrections of files into one, all of them in mask/train; return how many, and their steps.

    `count` None: all. With `keep` only the last so many steps, as a queue would hold. UserError where there are fewer.
    """
    with write_atomic(target) as path, h5py.File(path, "w") as gathered:
        data = gathered.create_group("data")
        for part in parts:
            with h5py.File(part, "r") as file:
                data.attrs["env_args"] = file["data"].attrs["env_args"]
                names = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
                for name in names[: None if count is None else count - len(data)]:
                    file.copy(f"data/{name}", data, f"demo_{len(data)}")
        if count is not None and len(data) < count:
            raise UserError(f"there are {len(data)} corrections, not {count}: ask for fewer, or run more episodes")
        names, left = [f"demo_{number}" for number in range(len(data))], math.inf if keep is None else keep
        for name in reversed(names):
            kept = min(len(data[name]["actions"]), left)
            _keep_last(data, name, int(kept))
            left -= kept
        corrections = len(data)
        data.attrs["total"] = total = sum(len(one["actions"]) for one in data.values())
        gathered["mask/train"] = np.array([name.encode() for name in names if name in data], "S16")
    return corrections, total


def _keep_last(data: h5py.Group, name: str, count: int) -> None:
    """Cut a demonstration down to its last `count` steps; one without any is removed."""
    group = data[name]
    if count == len(group["actions"]):
        return
    if not count:
        del data[name]
        return
    columns: list[str] = []
    group.visititems(lambda at, one: columns.append(at) if isinstance(one, h5py.Dataset) else None)
    for at in columns:
        values = group[at][-count:]
        del group[at]
        group[at] = values
    group.attrs["num_samples"] = group.attrs["episode_length"] = count


def join_scenes(parts: Sequence[Path], target: Path) -> None:
    """Join parts of scenes into one file."""
    columns: dict[str, list[NDArray[Any]]] = {}
    for part in sorted(parts):
        with h5py.File(part, "r") as file:
            for name in file:
                columns.setdefault(name, []).append(file[name][:])
    if not columns:
        raise UserError(f"no scenes beside {target}: record some first")
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    with write_atomic(target) as path:
        write_scenes(path, [dict(zip(joined, row, strict=True)) for row in zip(*joined.values(), strict=True)])


def member(group: h5py.Group, name: str, kind: type) -> Any:
    """Return a member that lies in this very file, or what is wrong with it; no link is followed out of the file."""
    where: Any = group
    for part in name.split("/"):
        link = where.get(part, getlink=True) if isinstance(where, h5py.Group) else None
        if link is None:
            return f"{name} is missing"
        if not isinstance(link, h5py.HardLink):
            return f"{name} is a link: write what it points to into this file"
        where = where[part]
    if not isinstance(where, kind):
        return f"{name} is not a {'group' if kind is h5py.Group else 'dataset'}"
    if isinstance(where, h5py.Dataset):
        if where.is_virtual or where.external:
            return f"{name} keeps its values in another file: write them into this one"
        try:
            block = math.prod(where.chunks or (1,)) * where.dtype.itemsize
        except TypeError:
            return f"{name} has a type that numpy cannot hold: write numbers or bytes"
        if block > LARGEST_BLOCK:  # a block is unpacked whole, and a small file can hold a large one of zeros
            return f"{name} has chunks of {block >> 20} MiB, at most {LARGEST_BLOCK >> 20} are read: write smaller ones"
    return where
