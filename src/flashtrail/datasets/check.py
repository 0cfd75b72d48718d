"""``flashtrail check-dataset``: what each loader would refuse of a set of demonstrations, or what it holds.

An HDF5 file is held to robomimic's rules (training/lift), a LeRobot set to LeRobot 0.4.4's and to our training's, a
training set to our training's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.datasets import summary, take
from flashtrail.datasets.read import TOLERANCE_S, Episode, LeRobotSet
from flashtrail.datasets.write import FPS
from flashtrail.training import dataset
from flashtrail.training.lift import check_dataset

LEROBOT, OURS = "LeRobot 0.4.4", "our training"
_SHOWN = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "source", type=Path, metavar="PATH", help="an HDF5 file, a LeRobot set or a training set (a directory)"
    )
    take.add_features(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each refusal and return 1; or what the set holds, and 0."""
    source: Path = arguments.source
    if not source.is_dir():
        return check_dataset.report(source)
    if (source / "meta").is_dir():
        refused, held = of_lerobot(arguments)
    else:
        refused, held = of_training_set(source)
    for line in refused[:_SHOWN]:
        print(f"{source}: {line}", file=sys.stderr)
    if len(refused) > _SHOWN:
        print(f"{source}: {len(refused)} refusals", file=sys.stderr)
    for line in summary.text(held) if held else ():
        print(line)
    return int(bool(refused))


def of_lerobot(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any] | None]:
    """Return what loaders would refuse of a LeRobot set, and its summary where it can be read."""
    try:
        source = take.opened(arguments)
    except UserError as error:
        return [f"{LEROBOT} and {OURS}: {error}"], None
    refused, parts = [], list[summary.Part]()
    if source.version != "v3.0":
        refused.append(
            f"{LEROBOT}: codebase_version {source.version}, it reads v3.0: its convert_dataset_v21_to_v30 converts"
        )
    for index in range(len(source)):
        try:
            episode = source.episode(index)
            parts.append(_part(source, episode))
        except UserError as error:
            refused.append(f"{LEROBOT} and {OURS}: {error}")
            continue
        refused += [f"{OURS}: {objection}" for objection in take.objections(source, episode)]
        if episode.late_s > TOLERANCE_S:
            refused.append(f"{LEROBOT}: episode {index}: a timestamp is {episode.late_s:.2g} s from frame_index / fps")
    held = None
    if parts:
        held = summary.summarise(parts, source.fps, source.names(source.state), source.names(source.action))
    return list(dict.fromkeys(refused)), held


def _part(source: LeRobotSet, episode: Episode) -> summary.Part:
    """Decode each picture, and keep the first and the last one in small: a set may have thousands of episodes."""
    first, last = {}, {}
    for camera in source.cameras:
        pictures = source.pictures(episode, camera)
        first[camera] = last[camera] = next(pictures)
        for picture in pictures:
            last[camera] = picture
    ends = ({name: take.small(picture) for name, picture in end.items()} for end in (first, last))
    return summary.Part(episode.task, episode.states, episode.actions, *ends)


def of_training_set(source: Path) -> tuple[list[str], dict[str, Any] | None]:
    """Return what our training would refuse of a training set, and its summary."""
    try:
        about = dataset.described(source)
        tasks = about.tasks if about else {}
        parts = []
        for task, _, arrays in dataset.episodes(source):
            views = [view for view in dataset.VIEWS if view in arrays]
            ends = ({view: arrays[view][end] for view in views} for end in (0, -1))
            parts.append(summary.Part(tasks.get(task, f"task {task}"), arrays["state"], arrays["label"], *ends))
    except UserError as error:
        return [f"{OURS}: {error}"], None
    names = [[*map(str, range(shape))] for shape in (parts[0].states.shape[1], parts[0].actions.shape[1])]
    if about is not None and (len(names[0]), len(names[1])) != (len(about.state), len(about.action)):
        return [f"{OURS}: {dataset.DESCRIPTION} has other dims than the episodes: import it again"], None
    fps, names = (about.fps, [about.state, about.action]) if about else (FPS, names)
    return [], summary.summarise(parts, fps, *names)
