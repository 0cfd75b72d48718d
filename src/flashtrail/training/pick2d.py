"""`python -m flashtrail.training.pick2d`: demonstrations in pick2d as a training set; no OpenGL, half a minute.

    python -m flashtrail.training.pick2d --out results/pick2d/demos
    python -m flashtrail.training.fluid --demos results/pick2d/demos --out results/pick2d/ours

Label = the expert's clean action, executed = that plus noise, some begin away from the start, as those of LIBERO do
(`training/demonstrations.py`). Demonstration k begins at init state FIRST + k; the ones before are for evaluation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.policies.parts.pictures import PIXELS, shrink
from flashtrail.simulators import registry
from flashtrail.simulators.protocol import Simulator
from flashtrail.training.dataset import ACTION_NAMES, DESCRIPTION, STATE_NAMES, VIEWS, Description
from flashtrail.training.demonstrations import SEED, ActionNoise, Disturbance, displace

SUITE, TASKS = "pick2d", (0, 1)
FIRST, EPISODES, EVERY = 100, 240, 2  # init state of the first; of all tasks; steps from picture to picture


def made(task_id: int) -> Simulator:
    """The simulator of a task as demonstrations are recorded in."""
    return registry.make(SUITE, task_id, seed=SEED, scene_seed="episode", hard_reset=False)


def begin(simulator: Simulator, task_id: int, number: int) -> ActionNoise:
    """Set up the scene where an episode's record begins; what disturbs its actions."""
    rng = np.random.default_rng([SEED, task_id, number])
    how = Disturbance.draw(number, rng)
    simulator.reset(EpisodeKey(SUITE, task_id, FIRST + number, 0))
    if how.displaced or how.missed:
        displace(lambda action: ({}, simulator.step(action.tolist(), render=False).done), rng)
    return ActionNoise(how.sigma, rng)


def record(simulator: Simulator, task_id: int, number: int, pixels: int = PIXELS) -> dict[str, NDArray[Any]] | None:
    """Play and record one episode of the simulator's task; None if the expert did not succeed. Keys: `dataset.load`."""
    noise, act = begin(simulator, task_id, number), registry.expert(SUITE, simulator)
    columns: dict[str, list[Any]] = {name: [] for name in ("state", "label", "executed", "at", *VIEWS)}
    for step in range(simulator.horizon):
        seen, clean = simulator.observe(), np.asarray(act())
        if step % EVERY == 0:
            shrunk = (shrink(seen.agent, pixels), shrink(seen.wrist, pixels))
            for name, value in zip(("at", *VIEWS), (step, *shrunk), strict=True):
                columns[name].append(value)
        columns["state"].append(seen.state.astype(np.float32))
        columns["label"].append(clean.astype(np.float32))
        columns["executed"].append(noise(clean).astype(np.float32))
        if simulator.step(columns["executed"][-1].tolist(), render=False).done:
            return {name: np.array(values) for name, values in columns.items()} | {"done_at": np.array(step + 1)}
    return None


def write(out: Path, episodes: int = EPISODES, pixels: int = PIXELS) -> int:
    """Record so many episodes, the tasks in turn, to the new directory `out`; return how many succeeded and are there.

    UserError where `out` is there already.
    """
    if out.exists():
        raise UserError(f"--out {out} is there already: give a new directory")
    count, prompts = 0, {}
    with provenance.write_atomic(out) as fresh:
        for task in TASKS:
            simulator = made(task)
            prompts[task] = simulator.prompt
            (fresh / f"task{task}").mkdir(parents=True)
            for number in range(len(range(task, episodes, len(TASKS)))):
                arrays = record(simulator, task, number, pixels)
                if arrays is not None:
                    np.savez_compressed(fresh / f"task{task}" / f"ep{number:04d}.npz", **arrays)  # type: ignore[arg-type]
                    count += 1
        about = Description(
            fps=20, cameras=list(VIEWS), state=STATE_NAMES, action=ACTION_NAMES, tasks=prompts, every=EVERY,
            source={"suite": SUITE, "seed": str(SEED)},
        )  # fmt: skip
        provenance.json_dump(about.model_dump(mode="json"), fresh / DESCRIPTION)
    return count


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and record."""
    parser = commands.Parser(prog="python -m flashtrail.training.pick2d", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory for the training set")
    parser.add_argument("--episodes", type=_counted, default=EPISODES, metavar="N", help=f"default: {EPISODES}")
    arguments = parser.parse_args(words)
    print(f"{arguments.out}: {write(arguments.out, arguments.episodes)} of {arguments.episodes} episodes")
    return 0


def _counted(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 900 * len(TASKS):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {900 * len(TASKS)}")
    return number


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
