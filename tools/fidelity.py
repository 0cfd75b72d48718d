"""Proof that the shortcuts change nothing: the official client's loop against ours, step by step, as a table.

The client's loop is written out here on LIBERO's own environment (hard reset, model rebuilt, both cameras rendered at
every step) and shares with ours only the conversion of a picture. Every run is a process of its own. Compared are the
hash of the flat physics state with accelerations, warm start, controls, sensors and the poses of all fixtures after
every step, and the hashes of both pictures and of the state vector at every query. ``python tools/fidelity.py`` (make
fidelity) checks 3 tasks x 2 init states x 120 steps; knows no server and no table of the workflow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import forks
import numpy as np

from flashtrail.base import commands, provenance
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.simulators import seeds
from flashtrail.simulators.libero.simulator import WAIT_STEPS
from flashtrail.simulators.observation import Observation, resize_with_pad, state_vector, upright

SUITE, SEED, REPLAN_STEPS = "libero_goal", 7, 12
TASKS, INIT_STATES, STEPS = (1, 3, 7), (0, 1), 120  # stove; drawer and bowl; knob
SCENES = ("episode", "official")
_ACCEPTED = (12, 5, 0, 1, 12, 12)  # an empty round costs no step
_DUMMY_ACTION = [0.0] * 6 + [-1.0]


@dataclass(frozen=True)
class Run:
    """What one process plays: `loop` ``client`` or ``ours``, init states in this order."""

    loop: str
    scene_seed: str
    task_id: int
    init_states: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Row:
    """One check: our `init_state` `after` which other (or none), against the client's; how much was equal."""

    task_id: int
    scene_seed: str
    init_state: int
    after: int | None
    states: int
    pictures: int
    equal: bool
    difference: str


@dataclass
class _Reply:
    actions: np.ndarray
    accepted_prefix_len: int
    policy_timing: dict[str, Any]
    server_timing: dict[str, Any]
    roundtrip_ms: float = 0.0


class _Script:
    """A policy of random chunks by (init state, query), which keeps hashes of what it was shown."""

    def __init__(self, init_state: int) -> None:
        self._init_state = init_state
        self.seen: list[str] = []

    def infer(self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]) -> _Reply:
        query = len(self.seen)
        for name in ("observation/image", "observation/wrist_image", "observation/state"):
            if not np.asarray(obs[name]).any():
                raise ValueError(f"{name} is empty at query {query}")
        self.seen.append(" ".join(_hash(obs[k]) for k in sorted(obs) if k.startswith("observation/")))
        rng = np.random.default_rng([self._init_state, query])
        timing = {"route_type": "full" if query % 2 == 0 else "draft"}
        return _Reply(rng.uniform(-1, 1, (50, 7)), _ACCEPTED[query % len(_ACCEPTED)], timing, {})


def _hash(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _world(sim: Any) -> str:
    """Hash of all that moves, of what moves it next (controls, the solver's warm start) and of what a reset places."""
    model, data = sim.model._model, sim.data._data
    parts = [data.qacc, data.qacc_warmstart, data.ctrl, data.sensordata, data.xpos, model.body_pos, model.body_quat]
    return _hash(np.concatenate([sim.get_state().flatten(), *(part.ravel() for part in parts)]))


# --- the official client's loop ---


def play_as_client(run: Run) -> dict[int, dict[str, list[str]]]:
    """Return the traces of the official client, seeding once (official) or before each reset (episode)."""
    from flashtrail.simulators.robosuite import opengl

    opengl.choose_backend()
    from libero.libero.benchmark import get_benchmark
    from libero.libero.envs import OffScreenRenderEnv

    benchmark = get_benchmark(SUITE)()
    init_states = benchmark.get_task_init_states(run.task_id)
    env = OffScreenRenderEnv(
        bddl_file_name=benchmark.get_task_bddl_file_path(run.task_id),
        camera_heights=256,
        camera_widths=256,
        camera_names=["agentview", "robot0_eye_in_hand"],
    )
    np.random.seed(SEED)
    env.seed(SEED)
    traces = {}
    for init_state in run.init_states:
        if run.scene_seed == "episode":
            words = seeds.derive(SEED, EpisodeKey(SUITE, run.task_id, init_state, 0), "sim")
            np.random.seed(seeds.legacy_seed(words))
            env.seed(seeds.legacy_seed(words))
        traces[init_state] = _client_episode(env, init_states[init_state], init_state, run.steps)
    return traces


def _client_episode(env: Any, start: np.ndarray, init_state: int, steps: int) -> dict[str, list[str]]:
    script, plan, states = _Script(init_state), deque[np.ndarray](), []
    env.reset()
    raw = env.set_init_state(start)
    for _ in range(WAIT_STEPS):
        raw, _, _, _ = env.step(_DUMMY_ACTION)
    states.append(_world(env.env.sim))
    while len(states) <= steps:
        if not plan:
            agent, wrist = (resize_with_pad(upright(raw[f"{c}_image"])) for c in ("agentview", "robot0_eye_in_hand"))
            reply = script.infer(Observation(agent, wrist, state_vector(raw), "").request(), None, False, [])
            plan.extend(reply.actions[: min(REPLAN_STEPS, reply.accepted_prefix_len)])
            continue
        raw, _, done, _ = env.step(plan.popleft().tolist())
        states.append(_world(env.env.sim))
        if done:
            break
    return {"states": states, "pictures": script.seen}


# --- ours ---


def play_as_we_do(run: Run) -> dict[int, dict[str, list[str]]]:
    """Return the traces of `run_episode` on `LiberoSimulator` with every shortcut."""
    from flashtrail.simulators.libero.simulator import LiberoSimulator
    from flashtrail.simulators.protocol import Step

    class Traced(LiberoSimulator):
        states: list[str]

        def reset(self, key: EpisodeKey) -> None:
            self.states = []  # the wait steps' states, which are dropped
            super().reset(key)
            self.states = [_world(self._env.env.sim)]

        def step(self, action: Sequence[float], *, render: bool) -> Step:
            step = super().step(action, render=render)
            self.states.append(_world(self._env.env.sim))
            return step

    simulator = Traced(SUITE, run.task_id, seed=SEED, scene_seed=run.scene_seed)
    simulator.horizon = run.steps
    traces = {}
    for init_state in run.init_states:
        script = _Script(init_state)
        run_episode(
            simulator,
            script,
            EpisodeKey(SUITE, run.task_id, init_state, 0),
            condition=conditions.build({"kind": "none"}),
            guard=guards.build({"kind": "none"}),
            seed=SEED,
            replan_steps=REPLAN_STEPS,
        )
        traces[init_state] = {"states": simulator.states, "pictures": script.seen}
    return traces


# --- the comparison ---


def check(
    tasks: Sequence[int] = TASKS,
    init_states: Sequence[int] = INIT_STATES,
    steps: int = STEPS,
    scenes: Sequence[str] = SCENES,
    processes: int = 2,
) -> list[Row]:
    """Play every run in a process of its own and return one row per check.

    `init_states` are two; ``official`` makes the client play all from 0 to the last of them. Raises RuntimeError with
    the end of its log where a process fails.
    """
    first, second = init_states
    client, ours = list[Run](), list[Run]()
    for scene in scenes:
        alone = [(first,), (second,)] if scene == "episode" else [tuple(range(max(init_states) + 1))]
        for task in tasks:
            client += [Run("client", scene, task, order, steps) for order in alone]
            ours += [Run("ours", scene, task, order, steps) for order in ((first, second), (second, first))]
    traces = _in_processes([*client, *ours], processes)
    expected = {(run.scene_seed, run.task_id, one): trace for run in client for one, trace in traces[run].items()}
    return [
        _row(run, one, after, traces[run][one], expected[run.scene_seed, run.task_id, one])
        for run in ours
        for after, one in zip((None, *run.init_states), run.init_states, strict=False)
    ]


def _row(run: Run, init_state: int, after: int | None, found: Any, expected: Any) -> Row:
    difference = ""
    for what in ("states", "pictures"):
        pairs = enumerate(zip(found[what], expected[what], strict=False))
        where = next((number for number, (left, right) in pairs if left != right), None)
        if where is not None or len(found[what]) != len(expected[what]):
            lengths = f"{len(found[what])} against {len(expected[what])}"
            difference = difference or (f"{what} from number {where}" if where is not None else f"{what}: {lengths}")
    counts = len(found["states"]), len(found["pictures"])
    return Row(run.task_id, run.scene_seed, init_state, after, *counts, not difference, difference)


def _in_processes(runs: Sequence[Run], at_once: int) -> dict[Run, dict[int, Any]]:
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as directory:
        told = json.dumps([asdict(run) for run in runs])
        done = subprocess.run(
            [sys.executable, __file__, "--processes", str(at_once), "--play", told, directory],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        traces = [provenance.json_load(Path(directory) / f"{number}.json") for number in range(len(runs))]
    return {run: {int(key): trace for key, trace in found.items()} for run, found in zip(runs, traces, strict=True)}


def _play(run: Run, answer: Path) -> None:
    provenance.json_dump(play_as_client(run) if run.loop == "client" else play_as_we_do(run), answer)


def table(rows: Iterable[Row]) -> str:
    """Return the checks as text, one line each."""
    lines = ["task  scene_seed  init state  preceded by  states  queries  result"]
    for r in rows:
        after = "-" if r.after is None else str(r.after)
        result = "identical" if r.equal else f"DIFFERENT ({r.difference})"
        words = f"{r.task_id:>4}  {r.scene_seed:<10}  {r.init_state:>10}  {after:>11}"
        lines.append(f"{words}  {r.states:>6}  {r.pictures:>7}  {result}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print the table, write results/benchmarks/fidelity.json; exit code 1 where anything differs."""
    parser = commands.Parser(prog="python tools/fidelity.py", description=main.__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--init-states", type=int, nargs=2, default=INIT_STATES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/fidelity.json"))
    parser.add_argument("--play", nargs=2, metavar=("RUNS", "DIRECTORY"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.play:
        runs = [Run(**told | {"init_states": tuple(told["init_states"])}) for told in json.loads(given.play[0])]
        answers = (Path(given.play[1]) / f"{number}.json" for number in range(len(runs)))
        forks.run([partial(_play, run, answer) for run, answer in zip(runs, answers, strict=True)], given.processes)
        return 0
    rows = check(given.tasks, given.init_states, given.steps, processes=given.processes)
    print(table(rows))
    equal = sum(row.equal for row in rows)
    print(f"{equal}/{len(rows)} checks identical")
    provenance.json_dump({"steps": given.steps, "checks": [asdict(row) for row in rows]}, given.out)
    return 0 if equal == len(rows) else 1


if __name__ == "__main__":
    sys.exit(commands.run(main, "fidelity"))
