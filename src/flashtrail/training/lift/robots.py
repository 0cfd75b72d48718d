"""The step `robots`: a policy of several robots, from so many demonstrations of each; or such a policy and a new robot.

Vision, fusion and decoder are shared; token, adapter of the state and head are each robot's own (`model.Robot`). In a
batch every robot is equally likely: with N times the steps a run of N robots sees as many frames of each as a run of
that robot alone. No scenes: they would be of one robot. The last step's averaged weights are taken, as in refits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump, json_load
from flashtrail.experiment.embodiments import EMBODIMENTS, named
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.dims import Embodiment, nano
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.policies.lift_vla.model import LiftVLA
from flashtrail.policies.parts import words
from flashtrail.simulators.robosuite_lift.tasks import TASKS
from flashtrail.training import loop
from flashtrail.training.lift import data as material
from flashtrail.training.lift import refit, train
from flashtrail.training.lift.data import Frames, Material
from flashtrail.training.lift.instructions import TRAINED
from flashtrail.training.lift.recipe import Recipe
from flashtrail.training.lift.trainer import Trainer

_A_HELD_OUT = 10  # demonstrations that are trained on, for each that is held out
_FILE_OF = 1_000_000  # a demonstration's number, after its file's


@dataclass(frozen=True)
class RobotsRecipe(Recipe):
    """`parent`: the digest of the artifact that training begins from, if any; `like`: as whom a new robot begins."""

    steps: int = 1000
    scenes: int = 0
    check_every: int = 1_000_000_000
    parent: str = ""
    like: str = ""


@dataclass(frozen=True)
class Wanted:
    """The first `count` demonstrations of a robot in a file's mask/train."""

    robot: str
    count: int
    source: Path

    @classmethod
    def read(cls, text: str) -> Wanted:
        """From ``iiwa=20:FILE``."""
        if not (found := re.fullmatch(r"(\w+)=([1-9][0-9]{0,5}):(.+)", text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COUNT:FILE")
        try:
            return cls(named(found[1]), int(found[2]), Path(found[3]))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--robot", type=Wanted.read, action="append", required=True, metavar="NAME=COUNT:FILE",
        help="a robot, and the first so many demonstrations of its file; for each robot once")  # fmt: skip
    add("--of", type=Path, metavar="DIR", help="an artifact of several robots whose weights training begins from")
    add("--like", default="", metavar="NAME", help="a robot of --of: new ones begin with its token, adapter and head")
    loop.add_arguments(parser, RobotsRecipe)


def run(arguments: argparse.Namespace) -> int:
    """Train, and export to OUT/artifact; print the figures on held-out demonstrations of all robots."""
    wanted, like = arguments.robot, arguments.like
    if len({one.robot for one in wanted}) < len(wanted):
        raise UserError("--robot: one robot is given twice")
    if like and not arguments.of:
        raise UserError(f"--like {like}: it is of the artifact --of: give both, or neither")
    data = gather(wanted)
    recipe = replace(loop.recipe_of(RobotsRecipe, arguments), like=like)
    names = [one.robot for one in wanted]
    try:
        if arguments.of is None:
            start, digest = begin(data, names, recipe.seed), None
        else:
            start, digest = go_on(data, names, recipe.seed, arguments.of, like)
        trainer = trainer_of(arguments.out, data, start, replace(recipe, parent=digest or ""), arguments.of)
    except LiftError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    counted = [f"{name} {(data.train.task == EMBODIMENTS[name].task).sum()}" for name in names]
    print(f"frames: {', '.join(counted)}; {len(data.valid)} held out", flush=True)
    if trainer.complete(arguments.seconds):
        train.finish(trainer, start, digest)
    return 0


def gather(wanted: Sequence[Wanted]) -> Material:
    """Return the demonstrations of all robots as one; UserError where a file is another robot's, or has too few.

    Every robot is told its goal in all ways that there are, however few demonstrations it has.
    """
    train_on: list[Frames] = []
    held: list[Frames] = []
    for number, one in enumerate(wanted):
        own, task = material.load(one.source), EMBODIMENTS[one.robot].task
        if set(own.instructions) != {task}:
            found = ", ".join(map(str, sorted(own.instructions)))
            raise UserError(f"{one.source}: demonstrations of task {found}; {one.robot} is demonstrated in task {task}")
        if (there := len(np.unique(own.train.demo))) < one.count:
            raise UserError(f"{one.source}: {there} demonstrations in mask/train, not {one.count}: record more")
        train_on.append(_first(own.train, one.count, number))
        held.append(_first(own.valid, max(1, one.count // _A_HELD_OUT), number))
    said = {task: list(TRAINED[TASKS[task].family]) for task in (EMBODIMENTS[one.robot].task for one in wanted)}
    frames = material.joined(train_on)
    scenes = material.Scenes(frames.views[:0], frames.cube[:0])
    return Material(frames, material.joined(held), scenes, said)


def _first(frames: Frames, count: int, number: int) -> Frames:
    """The first so many demonstrations, by names that no other file's have."""
    kept = frames.only(np.flatnonzero(np.isin(frames.demo, np.unique(frames.demo)[:count])))
    return replace(kept, demo=kept.demo + number * _FILE_OF)


def begin(data: Material, robots: Sequence[str], seed: int) -> train.Start:
    """Return a network of random weights for these robots."""
    said = [text for texts in data.instructions.values() for text in texts]
    known = words.vocabulary(said)
    dims = nano(len(known) + 1).model_copy(update={"embodiments": tuple(map(_embodiment, robots))})
    return train.start_of(dims, said, seed, known)


def go_on(data: Material, robots: Sequence[str], seed: int, parent: Path, like: str) -> tuple[train.Start, str]:
    """Return the network of an artifact with the robots that it lacks, which begin as `like`, and its digest."""
    start, _, digest = refit.start_from(parent, data)
    dims = start.policy.dims
    if not dims.embodiments:
        raise UserError(f"{parent} is of one robot: give --of an artifact of several")
    new = [_embodiment(name) for name in robots if name not in dims.robots]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        policy = LiftVLA(dims.model_copy(update={"embodiments": (*dims.embodiments, *new)}))
    policy.load_state_dict(start.policy.state_dict(), strict=False)  # new robots have no tensors there
    if like:
        if like not in dims.robots:
            raise UserError(f"--like {like}: {parent} has no such robot; it has {', '.join(dims.robots)}")
        model = dims.robots.index(like)
        for place, robot in enumerate(new, len(dims.embodiments)):
            if robot.action_dim != dims.embodiments[model].action_dim:
                raise UserError(f"--like {like}: its head is of another size than {robot.name}'s: name another robot")
            policy.robots[place].load_state_dict(policy.robots[model].state_dict())
    return replace(start, policy=policy), digest


def _embodiment(name: str) -> Embodiment:
    return Embodiment(name=name, task=EMBODIMENTS[name].task, action_dim=EMBODIMENTS[name].action_dim)


def trainer_of(directory: Path, data: Material, start: train.Start, recipe: Recipe, parent: Path | None) -> Trainer:
    """The (resumable) trainer of a run; a robot's statistics are its parent's, or made once of its demonstrations."""
    dims = start.policy.dims
    for robot, name in zip(dims.embodiments, artifact.statistics_files(dims), strict=True):
        if (path := directory / name).is_file():
            continue
        if parent is not None and (parent / name).is_file():
            json_dump(json_load(parent / name), path)
        else:
            json_dump(material.norm_stats(data.train.only(np.flatnonzero(data.train.task == robot.task))), path)
    return Trainer(directory, data, artifact.read_statistics(directory, dims), start.policy, start.ids, recipe)
