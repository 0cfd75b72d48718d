"""``flashtrail check-dataset FILE``: one line for each fault of a file of demonstrations, or what it holds.

The rules are those of robomimic 0.3.0's loader and scripts, and of our own training (`files` has the layout). The file
is data: what it links to elsewhere is never opened, and no array is read before its shape is known to be sane.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.policies.parts.pictures import PIXELS
from flashtrail.training.lift import files

LONGEST = 10_000  # steps of a demonstration
_SHOWN = 40  # faults printed; the last line counts all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("file", type=Path, metavar="FILE", help="demonstrations, HDF5")


def run(arguments: argparse.Namespace) -> int:
    """Check a file; 0 if it has no fault."""
    return report(arguments.file)


def report(path: Path) -> int:
    """Print the faults of a file, 1; or its counts, 0."""
    found, counted = check(path)
    for fault in found[:_SHOWN]:
        print(f"{path}: {UserError(fault)}", file=sys.stderr)
    if found:
        print(f"{path}: {len(found)} fault{'s' * (len(found) != 1)}", file=sys.stderr)
        return 1
    print(f"{path}: {counted}; robomimic: train.hdf5_load_next_obs: false")
    return 0


def check(path: Path) -> tuple[list[str], str]:
    """Return the faults of a file and what it holds in words; UserError where it is no HDF5 file at all."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            found = list(_faults(file))
            return found, "" if found else _counts(file)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises at damaged bytes
        raise UserError(f"{path} is not an HDF5 file, or is damaged: {error}") from error


def _faults(file: h5py.File) -> Iterator[str]:
    data = _item(file, "data", h5py.Group)
    if isinstance(data, str):
        yield data
        return
    yield from _environment(data)
    for name in data:
        if not re.fullmatch("demo_[0-9]{1,9}", name):
            yield f"data/{name}: the name is not demo_N (robomimic reads the number behind 'demo_')"
    names = [name for name in data if re.fullmatch("demo_[0-9]{1,9}", name)]
    if not names:
        yield "data holds no demonstration (demo_0, demo_1, ...)"
    for name in sorted(names, key=lambda name: int(name[5:])):
        demo = _item(data, name, h5py.Group)
        yield from ([demo] if isinstance(demo, str) else (f"data/{name}: {fault}" for fault in _demonstration(demo)))
    lengths = [
        data[name].attrs.get("num_samples") for name in names if isinstance(_item(data, name, h5py.Group), h5py.Group)
    ]
    total = _whole(data.attrs.get("total"))
    if total is None:
        yield "data@total is missing: the number of steps of all demonstrations"
    elif all(_whole(length) is not None for length in lengths) and total != sum(map(int, lengths)):
        yield f"data@total is {total}, but the demonstrations have {sum(map(int, lengths))} steps"
    yield from _masks(file, data, names)


def _environment(data: h5py.Group) -> Iterator[str]:
    text = data.attrs.get("env_args")
    if not isinstance(text, str):
        yield "data@env_args is missing or not text: JSON with env_name, type and env_kwargs"
        return
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        yield "data@env_args is not JSON"
        return
    if not isinstance(known, dict):
        yield "data@env_args is not a JSON mapping"
        return
    for key, kind in (("env_name", str), ("type", int), ("env_kwargs", dict)):
        if not isinstance(known.get(key), kind):
            yield f"data@env_args has no {key} ({kind.__name__})"


def _demonstration(demo: h5py.Group) -> Iterator[str]:
    actions = _item(demo, "actions", h5py.Dataset)
    if isinstance(actions, str):
        yield actions
        return
    if actions.dtype.kind != "f" or actions.ndim != 2 or actions.shape[1] != files.ACTION_DIMS:
        yield f"actions are {_shape(actions)}, not floats (T, {files.ACTION_DIMS})"
        return
    steps = actions.shape[0]
    if not 0 < steps <= LONGEST:
        yield f"actions have {steps} steps; a demonstration has 1 to {LONGEST}"
        return
    if not (np.abs(actions[:]) <= 1.0).all():
        yield "actions are not all numbers within -1 to 1"
    yield from _attributes(demo, steps)
    for name in ("executed_actions", "rewards", "dones", "states"):
        if name in demo:
            yield from _column(demo, name, steps, None, "fiu")
    if "states" in demo and not isinstance(demo.attrs.get("model_file"), str):
        yield "@model_file is missing or not text: without the model, states cannot be played back"
    obs = _item(demo, "obs", h5py.Group)
    if isinstance(obs, str):
        yield obs
        return
    for name in files.PICTURES:
        yield from _column(obs, name, steps, (PIXELS, PIXELS, 3), "u", "obs/")
    for name, dims in files.LOW_DIM.items():
        yield from _column(obs, name, steps, None if dims is None else (dims,), "f", "obs/")
    if "images" in demo:
        yield "images lie beside obs, where robomimic does not look: move them to obs/agentview_image"
    if "next_obs" in demo:
        later = _item(demo, "next_obs", h5py.Group)
        lacking = (
            [later] if isinstance(later, str) else [f"next_obs/{name} is missing" for name in obs if name not in later]
        )
        yield from lacking


def _attributes(demo: h5py.Group, steps: int) -> Iterator[str]:
    for name in ("num_samples", "episode_length"):
        value = demo.attrs.get(name)
        if _whole(value) is None:
            yield f"@{name} is missing or not a whole number"
        elif int(value) != steps:
            yield f"@{name} is {value}, but actions have {steps} steps"
    spoken = demo.attrs.get("language_instruction")
    if isinstance(spoken, bytes):
        yield "@language_instruction is bytes: write it as text (variable-length UTF-8)"
    elif not isinstance(spoken, str) or not spoken.strip():
        yield "@language_instruction is missing or empty"
    for name in ("success", "verified_success"):
        if not isinstance(demo.attrs.get(name), (bool, np.bool_)):
            yield f"@{name} is missing or not true or false"


def _column(
    group: h5py.Group, name: str, steps: int, shape: tuple[int, ...] | None, kinds: str, prefix: str = ""
) -> Iterator[str]:
    """Faults of a dataset with a row for each step; `kinds`: numpy's letters of the dtypes that it may have."""
    column = _item(group, name, h5py.Dataset)
    if isinstance(column, str):
        yield prefix + column
    elif column.dtype.kind == "O":
        yield f"{prefix}{name} has rows of variable length, which no loader stacks: write one array"
    elif column.ndim == 0 or column.shape[0] != steps:
        yield f"{prefix}{name} is {_shape(column)}, but actions have {steps} steps"
    elif (
        (shape is not None and column.shape[1:] != shape)
        or column.dtype.kind not in kinds
        or (kinds == "u" and column.dtype != np.uint8)
    ):
        wanted = ", ".join(["T", *map(str, shape or ("...",))])
        yield f"{prefix}{name} is {_shape(column)}, not {'uint8' if kinds == 'u' else 'numbers'} ({wanted})"


def _masks(file: h5py.File, data: h5py.Group, names: list[str]) -> Iterator[str]:
    members: dict[str, list[str]] = {}
    for name in ("train", "valid"):
        mask = _item(file, f"mask/{name}", h5py.Dataset)
        if isinstance(mask, str):
            yield mask
        elif mask.ndim != 1 or mask.dtype.kind != "S" or mask.shape[0] > len(data):
            advice = "variable-length text comes back as text or bytes by version: write bytes, dtype 'S'"
            yield f"mask/{name} is {_shape(mask)}, not a list of names as bytes ({advice})"
        else:
            members[name] = [entry.decode("utf-8", "replace") for entry in mask[:]]
    for name, entries in members.items():
        if len(set(entries)) < len(entries):
            yield f"mask/{name} names a demonstration twice"
        for entry in sorted(set(entries) - set(names)):
            yield f"mask/{name} names {entry}, which is not there"
    for entry in members.get("train", []):
        if entry in names and not _flag(data, entry):
            yield f"mask/train names {entry}, which is not verified"
    if shared := sorted(set(members.get("train", [])) & set(members.get("valid", []))):
        yield f"mask/train and mask/valid share {', '.join(shared[:5])}"


def _flag(data: h5py.Group, name: str) -> bool:
    demo = _item(data, name, h5py.Group)
    return not isinstance(demo, str) and bool(demo.attrs.get("verified_success", False))


def _item(group: h5py.Group, name: str, kind: type) -> Any:
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
    if isinstance(where, h5py.Dataset) and (where.is_virtual or where.external):
        return f"{name} keeps its values in another file: write them into this one"
    return where


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def _shape(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype} {dataset.shape}".replace(",)", ")")


def _counts(file: h5py.File) -> str:
    data = file["data"]
    demos = [data[name] for name in data]
    verified = sum(bool(demo.attrs["verified_success"]) for demo in demos)
    told = Counter(demo.attrs["language_instruction"] for demo in demos)
    return (
        f"{len(demos)} demonstrations, {verified} verified, {len(file['mask/train'])} in mask/train, "
        f"{len(file['mask/valid'])} in mask/valid; {data.attrs['total']} steps; {len(told)} instructions"
    )
