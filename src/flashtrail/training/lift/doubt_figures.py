"""The step `doubt-figures`: whether a policy's doubt tells what it was trained on from what it was not.

Recorded frames are asked for as a client sends them. Known: the held-out demonstrations. Each other kind stands against
them: the same frames black or noisy, and the demonstrations of other files, task by task. The frames of training are
shown beside them: they stand apart from held-out ones where a signal has learned frames, not what is normal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.policies.lift_vla.policy import LiftPolicy
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts.pictures import WIRE_PIXELS
from flashtrail.rollouts import conditions
from flashtrail.simulators.observation import Observation
from flashtrail.statistics.discrimination import auroc
from flashtrail.training.lift import data as material
from flashtrail.training.lift.data import Frames

SIGNALS = ("novelty", "head_spread")
SHIFTS: dict[str, dict[str, Any]] = {
    "clean": {"kind": "none"},
    "black": {"kind": "zero", "view": "both"},
    "noise, sigma 25": {"kind": "noise", "view": "both", "sigma": 25},
    "noise, sigma 60": {"kind": "noise", "view": "both", "sigma": 60},
}
Row = dict[str, Any]  # episode, and each signal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="an artifact with a doubt.safetensors")
    add("--data", type=Path, required=True, help="the demonstrations that it was trained on, or their folder")
    add("--other", type=Path, nargs="*", default=[], metavar="FILE", help="demonstrations that it never saw")
    add("--every", type=int, choices=range(1, 101), default=4, metavar="N", help="every Nth frame (default: 4)")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each kind: medians, and each signal's AUROC against the known frames."""
    try:
        policy = LiftPolicy.load(arguments.artifact, Settings(doubt=True), "cpu", None)
    except LiftError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    data, horizon = material.load(arguments.data), policy.model.dims.action_horizon
    if data.pixels != policy.model.dims.pixels:
        raise UserError(f"the demonstrations' views are {data.pixels} px, this policy's {policy.model.dims.pixels}")
    files = [material.demonstrations(path, horizon) for path in arguments.other]
    said = data.instructions | {task: texts for _, instructions in files for task, texts in instructions.items()}

    def asked(frames: Frames, shift: str, task: int | None = None) -> list[Row]:
        rows = np.arange(len(frames))[:: arguments.every]
        rows = rows if task is None else rows[frames.task[rows] == task]
        return list(_asked(policy, frames, rows, said, SHIFTS[shift]))

    known = asked(data.valid, "clean")
    print(f"{'frames':28}{'n':>6}{'demos':>6}" + "".join(f"{f'{name}, AUROC [95 %]':>36}" for name in SIGNALS))
    print(_line("held out", known, None))
    print(_line("of the training", asked(data.train, "clean"), known))
    for shift in list(SHIFTS)[1:]:
        print(_line(f"held out, {shift}", asked(data.valid, shift), known), flush=True)
    for path, (frames, _) in zip(arguments.other, files, strict=True):
        for task in np.unique(frames.task).tolist():
            print(_line(f"{path.stem}, task {task}", asked(frames, "clean", task), known, apart=True), flush=True)
    return 0


def _asked(
    policy: LiftPolicy, frames: Frames, rows: Sequence[int] | np.ndarray, said: dict[int, list[str]], shift: Row
) -> Iterator[Row]:
    """What the policy says of its doubt at these frames, under a condition."""
    scale = WIRE_PIXELS // frames.views.shape[2]
    for row in rows:
        task, demo = int(frames.task[row]), int(frames.demo[row])
        agent, wrist = (np.kron(view, np.ones((scale, scale, 1), np.uint8)) for view in frames.views[row])
        prompt = said[task][demo % len(said[task])]
        seen = Observation(agent, wrist, frames.states[row].astype(np.float64), prompt)
        seen, _ = conditions.build(shift, [demo, int(frames.step[row])]).apply(seen, 0)
        timing = policy.infer(None, seen.request())["policy_timing"]
        yield {"episode": f"{task} {demo}", **{name: timing[name] for name in SIGNALS}}


def _line(name: str, rows: list[Row], known: list[Row] | None, apart: bool = False) -> str:
    """One line of the table; `apart`: another file's demonstrations, though they bear the same numbers."""
    own = [row | {"episode": f"other {row['episode']}"} for row in rows] if apart else rows
    line = f"{name:28}{len(rows):6}{len({row['episode'] for row in rows}):6}"
    for signal in SIGNALS:
        median = f"{np.median([row[signal] for row in rows]):.3f}"
        both = [*own, *(known or [])]
        positive = [True] * len(own) + [False] * len(known or [])
        told = auroc([r[signal] for r in both], positive, [r["episode"] for r in both], ["all"] * len(both))
        if told.value is not None:
            between = "" if told.interval is None else f" [{told.interval.low:.2f}, {told.interval.high:.2f}]"
            median += f", {told.value:.2f}{between or ' [too few]'}"
        line += f"{median:>36}"
    return line
