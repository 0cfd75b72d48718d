"""``flashtrail import-dataset``: a LeRobot set as a training set, the files that `training.dataset.load` reads."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.datasets.read import Episode, LeRobotSet
from flashtrail.datasets.summary import span, still
from flashtrail.policies.parts.pictures import shrink
from flashtrail.simulators.observation import resize_with_pad
from flashtrail.training import dataset
from flashtrail.training.dataset import DESCRIPTION, MOST_EPISODES, VIEWS, Description

_PICTURES_A_SECOND = 5  # by default: LIBERO's every fourth step
_STANDS_S = 0.5  # nothing moves for so long: a window that begins there is static


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("source", type=Path, metavar="DIR", help="a LeRobot set, v2.0, v2.1 or v3.0")
    add("--out", type=Path, required=True, metavar="DIR", help="a new directory for the training set")
    add_features(parser)
    add("--every", type=int, metavar="N", help="keep the pictures of every N-th step (default: five a second)")
    add(
        "--delta", type=int, default=0, metavar="N", help="learn the first N action dims minus the state at the picture"
    )
    add("--drop-static", action="store_true", help="do not learn from windows in whose first half second nothing moves")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which features of a set are meant."""
    add = parser.add_argument
    add("--cameras", type=_list, default=[], metavar="A,B", help="one or two cameras, the one at the wrist last")
    add("--state", metavar="NAME", help="the state's feature, where it is not observation.state or state")
    add("--action", metavar="NAME", help="the action's feature, where it is not action or actions")


def _list(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def features_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the features that the command line means, as `opened` takes them."""
    return {name: getattr(arguments, name) for name in ("cameras", "state", "action")}


def opened(path: Path, cameras: Sequence[str] = (), state: str | None = None, action: str | None = None) -> LeRobotSet:
    """Return a set, with the cameras in the order of a policy's views where none are named."""
    if not (path / "meta").exists() and dataset.files(path):
        raise UserError(f"{path} is a training set already: train on it, or name a LeRobot set (meta/info.json)")
    source = LeRobotSet(path, cameras, state, action)
    if not cameras:
        source.cameras = tuple(sorted(source.cameras, key=lambda name: "wrist" in name))
    return source


def objections(source: LeRobotSet, episode: Episode) -> Iterator[str]:
    """Yield what our training would refuse in an episode that is well-formed."""
    if len(source.cameras) > len(VIEWS):
        names = ", ".join(source.cameras)
        yield f"it has {len(source.cameras)} cameras, a policy sees {len(VIEWS)}: give --cameras A,B of {names}"
    if not re.search(r"\w", episode.task):
        yield f"episode {episode.index}: its task {episode.task!r} has no words, of which a policy could know one"


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of any size as a policy sees it: padded to a square on the wire, (112, 112, 3) in the end."""
    return shrink(resize_with_pad(picture))


def run(arguments: argparse.Namespace) -> int:
    """Write the whole training set; UserError at the first thing that cannot be learned from."""
    out = arguments.out
    if out.exists():
        raise UserError(f"--out {out} is there already: give a new directory")
    source = opened(arguments.source, **features_of(arguments))
    every = max(1, round(source.fps / _PICTURES_A_SECOND)) if arguments.every is None else arguments.every
    if every < 1:
        raise UserError(f"--every {every}: give at least 1")
    if not 0 <= arguments.delta <= min(source.size(source.state), source.size(source.action)):
        raise UserError(f"--delta {arguments.delta}: state and action share no such dims")
    episodes = [source.episode(index) for index in range(len(source))]
    for episode in episodes:
        for objection in objections(source, episode):
            raise source.wrong(objection)
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    if len(episodes) > MOST_EPISODES:
        raise source.wrong(f"it has {len(episodes)} episodes, at most {MOST_EPISODES} are numbered: import a part")
    moving = _moving(episodes, source.fps) if arguments.drop_static else lambda states: np.ones(len(states), bool)
    counts = dict.fromkeys(range(len(tasks)), 0)
    frames = kept = 0
    with provenance.write_atomic(out) as fresh:
        for episode in episodes:
            task = tasks.index(episode.task)
            arrays = _arrays(source, episode, every, moving)
            (fresh / f"task{task}").mkdir(parents=True, exist_ok=True)
            whole = io.BytesIO()  # an archive on a full disk would try once more when it is collected
            np.savez(whole, **arrays)
            (fresh / f"task{task}" / f"ep{counts[task]:04d}.npz").write_bytes(whole.getbuffer())
            counts[task] += 1
            frames, kept = frames + len(arrays["at"]), kept + int(arrays["kept"].sum())
        about = Description(
            fps=source.fps, cameras=list(source.cameras), state=source.names(source.state),
            action=source.names(source.action), tasks=dict(enumerate(tasks)), delta=arguments.delta, every=every,
            source={"version": source.version, "info": provenance.sha256_file(source.root / "meta/info.json")},
        )  # fmt: skip
        provenance.json_dump(about.model_dump(mode="json"), fresh / DESCRIPTION)
    print(f"{out}: {len(episodes)} episodes, {frames} windows, {frames - kept} of them static and not learned from")
    return 0


def _moving(episodes: list[Episode], fps: float) -> Callable[[NDArray[Any]], NDArray[np.bool_]]:
    spans = span(np.concatenate([episode.states for episode in episodes]))
    return lambda states: ~still(states, spans, max(1, round(_STANDS_S * fps)))


def _arrays(
    source: LeRobotSet, episode: Episode, every: int, moving: Callable[[NDArray[Any]], NDArray[np.bool_]]
) -> dict[str, NDArray[Any]]:
    """Return an episode's file. All steps and pictures stay, as windows lie in time; `kept`: what is learned from."""
    at = np.arange(0, len(episode.actions), every)
    views = {
        view: np.stack([
            small(picture)
            for step, picture in enumerate(source.pictures(episode, camera))
            if step % every == 0
        ])
        for view, camera in zip(VIEWS, source.cameras, strict=False)
    }  # fmt: skip
    numbers = {"state": episode.states, "label": episode.actions, "at": at, "kept": moving(episode.states)[at]}
    return numbers | views
