"""Demonstrations of Lift: the scripted expert, disturbed on purpose, recorded as the served policy will see the scene.

Label = the expert's clean action, executed = that plus noise; some begin where a grasp has just closed on air. Start k
of a task is its init state k under another seed than any evaluation's, so no start is shared. Everything random about
a demonstration follows from (SEED, task, k): processes share the parts in any order, and a killed run continues with
the next missing part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.experiment.embodiments import EMBODIMENTS
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.policies.parts.pictures import shrink
from flashtrail.simulators.expert import CLOSED, DOWN, OPEN, servo
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.registry import make
from flashtrail.simulators.robosuite_lift import expert
from flashtrail.simulators.robosuite_lift.tasks import SUITE, TASKS
from flashtrail.simulators.verify import LIFT
from flashtrail.training.demonstrations import ActionNoise, Disturbance, displace
from flashtrail.training.lift import check_dataset, files
from flashtrail.training.lift.instructions import instruction

SEED = 20260214  # of the starts and of the disturbances; evaluations draw with 7
DEMONSTRATIONS = {0: 30, 1: 60, 7: 30}  # by task
SCENES = 300  # pictures of a cube somewhere, without an action
A_PART, SCENES_A_PART = 5, 50  # in one file
MISSED_EVERY = 4  # every 4th lift begins where a grasp has just missed
MISS_M = (0.025, 0.06)  # so far beside the cube: less is a grasp all the same
MAX_STEPS = 120
SCENE_STARTS = 500  # scenes begin at init states from here on, demonstrations below


@dataclass(frozen=True)
class Part:
    """One file of `work`: `count` demonstrations of a task from its `first` on, or so many scenes (`task_id` None)."""

    task_id: int | None
    first: int
    count: int

    @property
    def name(self) -> str:
        """Name of the part's file."""
        kind = "scenes" if self.task_id is None else f"task{self.task_id}"
        return f"{kind}_{self.first:04d}.hdf5"

    @property
    def plays(self) -> tuple[int, bool]:
        """The task to play, and whether each start builds its model anew: the cubes of scenes are all of one size."""
        return (1, False) if self.task_id is None else (self.task_id, True)


def parts(counts: dict[int, int], scenes: int) -> list[Part]:
    """Return every part; tasks alternate in proportion to their counts, so that an early stop leaves them balanced."""
    ranked = [
        ((first + A_PART) / count, task_id, Part(task_id, first, min(A_PART, count - first)))
        for task_id, count in counts.items()
        for first in range(0, count, A_PART)
    ]
    pictures = [Part(None, first, min(SCENES_A_PART, scenes - first)) for first in range(0, scenes, SCENES_A_PART)]
    return [part for *_, part in sorted(ranked, key=lambda part: part[:2])] + pictures


class Stage:
    """One task's simulator, with the truth that the expert reads and the pictures that the policy will get."""

    def __init__(self, task_id: int, hard_reset: bool, seed: int = SEED) -> None:
        self.task_id, self.plays = task_id, (task_id, hard_reset)
        self.simulator: Any = make(SUITE, task_id, seed=seed, scene_seed="episode", hard_reset=hard_reset)

    def begin(self, init_state: int, repeat: int = 0) -> dict[str, Any]:
        """Reset to a start; the raw observation."""
        self.simulator.reset(EpisodeKey(SUITE, self.task_id, init_state, repeat))
        return self.obs

    @property
    def env(self) -> Any:
        """robosuite's environment."""
        return self.simulator.truth[0]

    @property
    def obs(self) -> dict[str, Any]:
        """The raw observation after the last step."""
        obs: dict[str, Any] = self.simulator.truth[1]
        return obs

    def step(self, action: NDArray[np.float64], *, render: bool = False) -> tuple[dict[str, Any], bool]:
        """One control step with a (7,) action -> (raw observation, whether the goal has held long enough)."""
        done = self.simulator.step(action.tolist(), render=render).done
        return self.obs, bool(done)

    def look(self, given: Observation | None = None) -> dict[str, NDArray[Any]]:
        """Return a row of each observation column; only after a step that rendered.

        `given`: what a policy is given in the place of what the simulator shows.
        """
        seen, raw = self.simulator.observe() if given is None else given, self.obs
        return {
            "agentview_image": shrink(seen.agent),
            "robot0_eye_in_hand_image": shrink(seen.wrist),
            "state": seen.state.astype(np.float32),
            "robot0_eef_pos": np.asarray(raw["robot0_eef_pos"], np.float32),
            "robot0_eef_quat": np.asarray(raw["robot0_eef_quat"], np.float32),
            "robot0_gripper_qpos": np.asarray(raw["robot0_gripper_qpos"], np.float32),
            "object": np.asarray(raw["object-state"], np.float32),
        }


def record(stage: Stage, number: int) -> files.Demonstration:
    """Play and record a task's demonstration; its `verified` says whether the task's behaviour was seen.

    Recording begins after the expert's first action where the start was disturbed: no picture was made before.
    """
    task = TASKS[stage.task_id]
    rng = np.random.default_rng([SEED, stage.task_id, number])
    how = Disturbance.draw(number, rng, MISSED_EVERY)
    if task.family != LIFT:
        how = replace(how, missed=False)
    stage.begin(number)
    master, noise = expert.for_task(stage.task_id), ActionNoise(how.sigma, rng)
    if how.missed:
        _miss(stage, rng)
    elif how.displaced:
        displace(stage.step, rng)
    if how.missed or how.displaced:
        stage.step(master.act(expert.observe(stage.env, stage.obs)), render=True)
    steps: list[dict[str, Any]] = []
    for _ in range(MAX_STEPS):
        clean = master.act(expert.observe(stage.env, stage.obs))
        executed = noise(clean)
        row = {"obs": stage.look(), "states": stage.env.sim.get_state().flatten(), "actions": clean}
        _, done = stage.step(executed, render=True)
        steps.append({**row, "executed_actions": executed, "rewards": stage.env.reward(), "dones": done})
        if done:
            break
    verdict = stage.simulator.verdict(steps[-1]["dones"])
    return files.Demonstration(
        steps=steps,
        instruction=instruction(task.family, number),
        success=bool(steps[-1]["dones"]),
        verified=verdict is not None and verdict.verified,
        model=stage.env.model.get_xml(),
        facts={
            "task": stage.task_id, "init_state": number, "seed": SEED, "sigma": how.sigma,
            "displaced": how.displaced, "missed": how.missed,
        },
    )  # fmt: skip


def _miss(stage: Stage, rng: np.random.Generator) -> None:
    """Let an expert that sees the cube beside its place grasp there, until its fingers have closed."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(*MISS_M)
    beside = far * np.array([np.cos(angle), np.sin(angle), 0.0])
    master = expert.for_task(stage.task_id)
    for _ in range(MAX_STEPS):
        seen = expert.observe(stage.env, stage.obs)
        stage.step(master.act(replace(seen, objects={expert.CUBE: seen.objects[expert.CUBE] + beside})))
        if master.phase == "lift":
            return


def scene(stage: Stage, number: int) -> dict[str, NDArray[Any]]:
    """A picture of both views with the cube and the hand anywhere over the table, and where the cube is (m)."""
    rng = np.random.default_rng([SEED, SCENE_STARTS, number])
    stage.begin(SCENE_STARTS + number)
    target = np.array([*rng.uniform(-0.14, 0.14, 2), expert.TABLE_Z + rng.uniform(0.02, 0.25)])
    grip = CLOSED if rng.random() < 0.3 else OPEN
    count = int(rng.integers(8, 25))
    for left in reversed(range(count)):
        now = expert.observe(stage.env, stage.obs)
        stage.step(servo(now.hand, now.attitude, target, DOWN, grip), render=left == 0)
    row = stage.look()
    kept = {name: row[name] for name in ("agentview_image", "robot0_eye_in_hand_image", "state")}
    return kept | {"cube_pos": row["object"][:3]}


def generate(work: Path, wanted: Sequence[Part]) -> None:
    """Record the missing ones of these parts, each to its own file under `work`/parts."""
    stage: Stage | None = None
    for part in wanted:
        target = work / "parts" / part.name
        if target.is_file():
            continue
        begin = time.monotonic()
        if stage is None or stage.plays != part.plays:
            if stage is not None:
                stage.simulator.close()
            stage = Stage(*part.plays)
        numbers = range(part.first, part.first + part.count)
        with write_atomic(target) as path:
            if part.task_id is None:
                files.write_scenes(path, [scene(stage, number) for number in numbers])
                said = f"{part.count} scenes"
            else:
                done = [record(stage, number) for number in numbers]
                files.write(path, done, files.env_args(stage.env))
                said = (
                    f"{sum(demo.verified for demo in done)}/{len(done)} verified, steps {[len(d.steps) for d in done]}"
                )
        print(f"{part.name}: {said}, {time.monotonic() - begin:.0f} s", flush=True)
    if stage is not None:
        stage.simulator.close()


def of_robot(work: Path, robot: str, count: int) -> int:
    """Record a robot's demonstrations until `count` may be trained on and one is held out; join them into `work`.

    Number for number they are those of any other count: asked for more, it goes on where it ended.
    """
    task, first = EMBODIMENTS[robot].task, 0
    last = count + count // files.VALID_EVERY + 1
    while True:
        generate(work, [Part(task, at, A_PART) for at in range(first, last, A_PART)])
        first = -(-last // A_PART) * A_PART
        recorded = [work / "parts" / Part(task, at, A_PART).name for at in range(0, first, A_PART)]
        trained, held = files.join(recorded, work / "demos.hdf5")
        if trained >= count and held:
            return check_dataset.report(work / "demos.hdf5")
        last = first + A_PART
        if last > SCENE_STARTS:
            raise UserError(f"{trained} of {first} demonstrations of {robot} are verified, not {count}: ask for fewer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--work", type=Path, default=Path("results/lift"), help="parts/, demos.hdf5, scenes.hdf5")
    parser.add_argument(
        "--processes", type=int, choices=range(1, 65), default=2, metavar="N", help="simulators at a time"
    )
    parser.add_argument("--worker", type=int, help="be one of the processes")
    parser.add_argument("--robot", choices=EMBODIMENTS, metavar="NAME", help="its demonstrations alone, one process")
    parser.add_argument(
        "--count", type=int, choices=range(1, 401), default=20, metavar="N", help="with --robot: how many"
    )


def run(arguments: argparse.Namespace) -> int:
    """Record every missing part, then join them into `work`/demos.hdf5 and `work`/scenes.hdf5."""
    work, processes = arguments.work, arguments.processes
    if arguments.robot is not None:
        return of_robot(work, arguments.robot, arguments.count)
    wanted = parts(DEMONSTRATIONS, SCENES)
    if arguments.worker is not None:
        generate(work, wanted[arguments.worker :: processes])
        return 0
    command = [sys.executable, "-m", "flashtrail.training.lift", "demonstrations", "--work", str(work)]
    command += ["--processes", str(processes)]
    running = [subprocess.Popen([*command, "--worker", str(worker)]) for worker in range(processes)]
    if any([process.wait() for process in running]):
        raise UserError("a recording process failed (see its message above): run again, finished parts are kept")
    files.join(list((work / "parts").glob("task*.hdf5")), work / "demos.hdf5")
    files.join_scenes(list((work / "parts").glob("scenes*.hdf5")), work / "scenes.hdf5")
    return check_dataset.report(work / "demos.hdf5")
