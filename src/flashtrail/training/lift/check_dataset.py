"""``flashtrail check-dataset FILE``: one line for each fault of a file of demonstrations, or what it holds.

The rules are those of robomimic 0.3.0's loader and scripts, and of our own training (`files` has the layout). The file
is data: what it links to elsewhere is never opened, and no array is read before its shape is known to be sane.
"""

from __future__ import annotations

import argparse
import json
import math
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
MAX_PROMPT = 4096  # characters; the wire's own limit (serving/protocol.py)
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
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; give a file of demonstrations")
    try:
        with h5py.File(path, "r") as file:
            found = list(_faults(file))
            return found, "" if found else _counts(file)
    except BlockingIOError as error:
        raise UserError(f"{path} is being written by another process: wait for it, then check again") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # what h5py raises at damaged bytes
        raise UserError(f"{path} is not an HDF5 file, or is damaged: {error}") from error


def _faults(file: h5py.File) -> Iterator[str]:
    data = files.member(file, "data", h5py.Group)
    if isinstance(data, str):
        yield data
        return
    yield from _environment(data)
    names = [name for name in data if isinstance(name, str) and re.fullmatch("demo_[0-9]{1,9}", name)]
    for name in set(data) - set(names):  # h5py returns bytes for what is no UTF-8
        yield f"data/{name}: the name is not demo_N (robomimic reads the number behind 'demo_')"
    if not names:
        yield "data holds no demonstration (demo_0, demo_1, ...)"
    for name in sorted(names, key=lambda name: int(name[5:])):
        demo = files.member(data, name, h5py.Group)
        yield from ([demo] if isinstance(demo, str) else (f"data/{name}: {fault}" for fault in _demonstration(demo)))
    demos = [demo for name in names if not isinstance(demo := files.member(data, name, h5py.Group), str)]
    lengths = [_attribute(demo, "num_samples") for demo in demos]
    total = _whole(_attribute(data, "total"))
    if total is None:
        yield "data@total is missing: the number of steps of all demonstrations"
    elif all(_whole(length) is not None for length in lengths) and total != sum(map(int, lengths)):
        yield f"data@total is {total}, but the demonstrations have {sum(map(int, lengths))} steps"
    yield from _masks(file, data, names)


def _environment(data: h5py.Group) -> Iterator[str]:
    text = _attribute(data, "env_args")
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
    actions = files.member(demo, "actions", h5py.Dataset)
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
    if "states" in demo and not isinstance(_attribute(demo, "model_file"), str):
        yield "@model_file is missing or not text: without the model, states cannot be played back"
    obs = files.member(demo, "obs", h5py.Group)
    if isinstance(obs, str):
        yield obs
        return
    if strange := [name for name in obs if not isinstance(name, str)]:
        yield f"obs/{strange[0]}: the name is not UTF-8 text"
        return
    for name in files.PICTURES:
        yield from _column(obs, name, steps, (PIXELS, PIXELS, 3), "u", "obs/")
    for name, dims in files.LOW_DIM.items():
        yield from _column(obs, name, steps, None if dims is None else (dims,), "f", "obs/")
    for name in sorted(set(obs) - {*files.PICTURES, *files.LOW_DIM}):
        yield from _column(obs, name, steps, None, "fiub", "obs/")
    if "images" in demo:
        yield "images lie beside obs, where robomimic does not look: move them to obs/agentview_image"
    if "next_obs" in demo:
        later = files.member(demo, "next_obs", h5py.Group)
        if isinstance(later, str):
            yield later
            return
        for name in obs:
            yield from _column(later, name, steps, None, "fiub", "next_obs/")


def _attributes(demo: h5py.Group, steps: int) -> Iterator[str]:
    for name in ("num_samples", "episode_length"):
        value = _attribute(demo, name)
        if _whole(value) is None:
            yield f"@{name} is missing or not a whole number"
        elif int(value) != steps:
            yield f"@{name} is {value}, but actions have {steps} steps"
    spoken = _attribute(demo, "language_instruction")
    if isinstance(spoken, bytes):
        yield "@language_instruction is bytes: write it as text (variable-length UTF-8)"
    elif not isinstance(spoken, str) or not spoken.strip():
        yield "@language_instruction is missing or empty"
    elif len(spoken) > MAX_PROMPT:
        yield f"@language_instruction has {len(spoken)} characters; a request may have {MAX_PROMPT}"
    if _whole(_attribute(demo, "task")) is None:
        yield "@task is missing or not a whole number: training draws tasks equally often"
    for name in ("success", "verified_success"):
        if not isinstance(_attribute(demo, name), (bool, np.bool_)):
            yield f"@{name} is missing or not true or false"


def _column(
    group: h5py.Group, name: str, steps: int, shape: tuple[int, ...] | None, kinds: str, prefix: str = ""
) -> Iterator[str]:
    """Faults of a dataset with a row for each step; `kinds`: numpy's letters of the dtypes that it may have."""
    column = files.member(group, name, h5py.Dataset)
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
    elif column.dtype.kind == "f" and not _finite(column):
        yield f"{prefix}{name} has values that are not finite, or rows of more than {files.LARGEST_BLOCK >> 20} MiB"


def _finite(column: h5py.Dataset) -> bool:
    """Whether all values are numbers; read some rows at a time, as an array's size on the disk bounds nothing."""
    row = math.prod(column.shape[1:]) * column.dtype.itemsize
    some = files.LARGEST_BLOCK // max(row, 1)
    return some > 0 and all(np.isfinite(column[at : at + some]).all() for at in range(0, len(column), some))


def _masks(file: h5py.File, data: h5py.Group, names: list[str]) -> Iterator[str]:
    members: dict[str, list[str]] = {}
    masks = files.member(file, "mask", h5py.Group)
    others = [] if isinstance(masks, str) else [name for name in masks if isinstance(name, str)]
    for name in ("train", "valid", *sorted(set(others) - {"train", "valid"})):
        mask = files.member(file, f"mask/{name}", h5py.Dataset)
        if isinstance(mask, str):
            yield mask
        elif mask.ndim != 1 or mask.dtype.kind != "S" or mask.shape[0] > len(data):
            advice = "variable-length text comes back as text or bytes by version: write bytes, dtype 'S'"
            yield f"mask/{name} is {_shape(mask)}, not a list of names as bytes ({advice})"
        else:
            members[name] = [entry.decode("utf-8", "replace") for entry in mask[:]]
    for name, entries in members.items():
        if not entries and name in ("train", "valid"):
            yield f"mask/{name} is empty"
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
    demo = files.member(data, name, h5py.Group)
    return not isinstance(demo, str) and _true(_attribute(demo, "verified_success"))


def _attribute(group: h5py.Group, name: str) -> Any:
    """Return an attribute's value; None where there is none, or none that numpy can hold."""
    try:
        return group.attrs.get(name)
    except TypeError:
        return None


def _true(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) and bool(value)


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
