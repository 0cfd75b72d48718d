"""A LeRobot set or a training set read once: what loaders would refuse of it, its summary, first and last pictures.

One computation for `flashtrail check-dataset`, the report's chapter and the studio.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flashtrail.base.errors import UserError
from flashtrail.datasets import summary, take
from flashtrail.datasets.read import TOLERANCE_S, Episode, LeRobotSet
from flashtrail.datasets.summary import Part
from flashtrail.datasets.write import FPS
from flashtrail.policies.parts.pictures import PIXELS
from flashtrail.training import dataset

LEROBOT, OURS = "LeRobot 0.4.4", "our training"
SHOWN = 6  # episodes of a task whose pictures are on the sheet
MOST_SHOWN = 60  # of all tasks together
_COLUMNS = 6  # of the sheet, episodes
_QUALITY = 80


@dataclass
class Survey:
    """What was found. `refused`: a line for each refusal; `summary`: None where nothing could be read."""

    refused: list[str] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    parts: list[Part] = field(default_factory=list)

    def held(self) -> dict[str, Any]:
        """Return the summary; UserError with the first refusal where there is none."""
        if self.summary is None:
            raise UserError(self.refused[0])
        return self.summary


def is_set(path: Path) -> bool:
    """Return whether a directory looks like a set: LeRobot's, or one to train on; no where it may not look."""
    try:
        return (path / "meta/info.json").is_file() or next(path.glob("task*/ep*.npz"), None) is not None
    except OSError:
        return False


def survey(source: Path, features: Mapping[str, Any] | None = None, told: Callable[[int], Any] = int) -> Survey:
    """Read a whole set. `features`: cameras, state and action, as `take.opened` takes them, of a LeRobot set.

    `told` is told how many episodes have been read, after each.
    """
    if not (source / "meta").is_dir():
        return _of_training_set(source, told)
    try:
        opened = take.opened(source, **(features or {}))
    except UserError as error:
        return Survey([f"{LEROBOT} and {OURS}: {error}"])
    return _of_lerobot(opened, told)


def _of_lerobot(source: LeRobotSet, told: Callable[[int], Any]) -> Survey:
    found, seen = Survey(), Counter[str]()
    if source.version != "v3.0":
        found.refused.append(
            f"{LEROBOT}: codebase_version {source.version}, it reads v3.0: its convert_dataset_v21_to_v30 converts"
        )
    numbers: list[tuple[str, int]] = []
    for index in range(len(source)):
        try:
            episode = source.episode(index)
            found.parts.append(_part(source, episode))
        except UserError as error:
            found.refused.append(f"{LEROBOT} and {OURS}: {error}")
            continue
        numbers.append((episode.task, seen[episode.task]))
        seen[episode.task] += 1
        found.refused += [f"{OURS}: {objection}" for objection in take.objections(source, episode)]
        if episode.late_s > TOLERANCE_S:
            line = f"{LEROBOT}: episode {index}: a timestamp is {episode.late_s:.2g} s from frame_index / fps"
            found.refused.append(line)
        told(index + 1)
    found.refused = list(dict.fromkeys(found.refused))
    tasks = list(seen)
    ids = [tasks.index(task) * dataset.MOST_EPISODES + number for task, number in numbers]
    return _summarised(found, ids, source.fps, source.names(source.state), source.names(source.action))


def _part(source: LeRobotSet, episode: Episode) -> Part:
    """Decode each picture, and keep the first and the last one in small: a set may have thousands of episodes."""
    first, last = {}, {}
    for camera in source.cameras:
        pictures = source.pictures(episode, camera)
        first[camera] = last[camera] = next(pictures)
        for picture in pictures:
            last[camera] = picture
    first, last = ({name: take.small(picture) for name, picture in end.items()} for end in (first, last))
    return Part(episode.task, episode.states, episode.actions, first, last, f"episode {episode.index}", episode.index)


def _of_training_set(source: Path, told: Callable[[int], Any]) -> Survey:
    found, ids = Survey(), []
    try:
        if not dataset.files(source):
            raise UserError(f"{source} is no set: it has neither meta/info.json (LeRobot) nor task0/ep0000.npz")
        about = dataset.described(source)
        tasks = about.tasks if about else {}
        for task, number, arrays in dataset.episodes(source):
            views = [view for view in dataset.VIEWS if view in arrays]
            first, last = ({view: arrays[view][end].copy() for view in views} for end in (0, -1))
            words = tasks.get(task, f"task {task}")
            name = f"task{task}/ep{number:04d}"
            check(arrays, source / f"{name}.npz")
            found.parts.append(Part(words, arrays["state"], arrays["label"], first, last, name, number))
            ids.append(task * dataset.MOST_EPISODES + number)
            told(len(ids))
    except UserError as error:
        return Survey([f"{OURS}: {error}"])
    names = dims_of(about, found.parts[0].states.shape[1], found.parts[0].actions.shape[1])
    return _summarised(found, ids, about.fps if about else FPS, *names)


def dims_of(about: dataset.Description | None, state: int, action: int) -> tuple[list[str], list[str]]:
    """Return the names of a training set's dims, of which there are so many; their numbers where they have none."""
    named = (about.state, about.action) if about else (dataset.STATE_NAMES, dataset.ACTION_NAMES)
    fits = (len(named[0]), len(named[1])) == (state, action)
    return named if fits else ([*map(str, range(state))], [*map(str, range(action))])


def check(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Raise UserError for an episode whose pictures are of another kind than a training set's."""
    for name in (view for view in dataset.VIEWS if view in arrays):
        if arrays[name].dtype != np.uint8 or arrays[name].shape[1:] != (PIXELS, PIXELS, 3):
            raise UserError(f"{path}: {name} is not made of pictures of {PIXELS} x {PIXELS} px, uint8")


def _summarised(found: Survey, ids: Sequence[int], fps: float, state: Sequence[str], action: Sequence[str]) -> Survey:
    if found.parts:
        held = dataset.held_out(np.array(ids))
        found.parts = [replace(part, held_out=bool(out)) for part, out in zip(found.parts, held, strict=True)]
        found.summary = summary.summarise(found.parts, fps, state, action)
    return found


def pictured(about: Mapping[str, Any]) -> list[int]:
    """Return which episodes are on the sheet: the odd ones, then some of each task, spread over it.

    Where there is no room for SHOWN of each task, tasks share it evenly.
    """
    odd, of_task = [place for _, place in about["odd"]], {task: list[int]() for task in about["tasks"]}
    for place, episode in enumerate(about["each"]):
        of_task[episode["task"]].append(place)
    most = min(SHOWN, -(-(MOST_SHOWN - len(odd)) // len(of_task)))
    spread = ([own[round(at)] for at in np.linspace(0, len(own) - 1, min(most, len(own)))] for own in of_task.values())
    in_turn = (place for places in itertools.zip_longest(*spread) for place in places if place is not None)
    return list(dict.fromkeys([*odd, *in_turn]))[:MOST_SHOWN]


def sheet(found: Survey) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Return first and last pictures of some episodes in one image, and where each episode's are.

    An episode's place, `box`, is left, upper, right and lower; its first picture stands left of its last one, a row a
    camera.
    """
    places = pictured(found.held())
    wide, high = 2 * PIXELS, PIXELS * max(len(found.parts[place].first) for place in places)
    rows = -(-len(places) // _COLUMNS)
    image = Image.new("RGB", (wide * min(_COLUMNS, len(places)), high * rows))
    boxes = []
    for at, place in enumerate(places):
        row, column = divmod(at, _COLUMNS)
        left, top = column * wide, row * high
        boxes.append({"episode": place, "box": [left, top, left + wide, top + high]})
        for line, picture, side in _ends(found.parts[place]):
            image.paste(Image.fromarray(picture), (left + side * PIXELS, top + line * PIXELS))
    return image, boxes


def _ends(part: Part) -> Iterator[tuple[int, NDArray[np.uint8], int]]:
    for side, end in enumerate((part.first, part.last)):
        yield from ((line, picture, side) for line, picture in enumerate(end.values()))


def record(found: Survey, path: str, picture: Path | IO[bytes]) -> dict[str, Any]:
    """Write the sheet to `picture`, a JPEG; return the record of a set that the report reads; UserError without one."""
    image, boxes = sheet(found)
    image.save(picture, "JPEG", quality=_QUALITY, optimize=True)
    cameras = list(found.parts[0].first)
    return {"path": path, "cameras": cameras, **found.held(), "pictured": boxes, "refused": found.refused}
