"""How fast rollouts are: the naive loop against ours, one simulator and two, and the share of what physics allows.

Alternates the four ways in one run, on the same episodes, against one server with pi0_nano:
- ``naive``: LIBERO's own reset with the model rebuilt, both cameras rendered at every step; one simulator;
- ``one`` and ``two``: a shard as the workflow runs it, with one simulator and with two;
- ``bound``: reset, physics and the renders that queries need, of the same actions, in one process with no policy
  (``play``: the same without the resets).
A rate counts from an episode's reset to the last episode's end, so the start of processes is left out and what lies
between episodes is not. Paces are compared within a repetition; the table gives the median and the range over them.
Prints a table and writes results/benchmarks/rollouts.json. ``make bench-rollouts``; wants a quiet machine. With
``--steps TASK`` only CPU time, which stands a busy one: a reset, a control step and each picture, robosuite's way and
ours, with ``--suite`` also of Lift.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from dag import spread

from flashtrail.base import commands, provenance
from flashtrail.experiment import shard as specs
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import suite_of
from flashtrail.rollouts import processes, worker
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port
from flashtrail.simulators.libero.simulator import CAMERAS, RENDER_PIXELS, LiberoSimulator
from flashtrail.simulators.observation import POLICY_PIXELS
from flashtrail.simulators.robosuite.substeps import LeanSteps
from flashtrail.simulators.robosuite.unseen import left_out
from flashtrail.simulators.robosuite_lift.simulator import LiftSimulator
from flashtrail.tables import schemas

ROOT = Path(__file__).resolve().parents[1]
SUITE, SEED = "libero_goal", 7
WAYS = ("naive", "one", "two", "bound")
# name: (numerator, denominator, what is compared, target)
RATIOS = {
    "one simulator against the naive loop": ("one", "naive", 5.0),
    "two simulators against one": ("two", "one", 1.7),
    "share of the bound, one simulator": ("one", "bound", 0.85),
    "share of twice the bound, two simulators": ("two", "bound", None),
    "share of the bound without resets, one": ("one", "play", None),
}


class Naive(LiberoSimulator):
    """The official client's way: everything rebuilt at a reset, both cameras at every step."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, shortcuts=False, **named)

    def _reset_once(self) -> None:
        self._env.reset()


def be_a_naive_worker(descriptor: int) -> None:
    """The shard's own worker around the naive simulator."""
    worker.make_simulator = lambda spec: Naive(spec.suite, spec.task_id, seed=spec.seed)
    worker.leave_with_parent(os.getppid())
    os.dup2(2, 1)
    worker.serve(Connection(descriptor))


def block(way: str, url: str, task: int, init_states: Sequence[int], out: Path) -> dict[str, Any]:
    """Play the episodes in one way and return its times."""
    command = [sys.executable, __file__, "--worker"] if way == "naive" else list(processes.COMMAND)
    spec = {
        "arm": way,
        "policy": "pi0_nano",
        "suite": SUITE,
        "task_id": task,
        "init_states": list(init_states),
        "seed": SEED,
        "server": {"url": url},
        "simulators": 2 if way == "two" else 1,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.log").open("w", encoding="utf-8") as log:
        roll_out_shard(specs.read(spec), out, log=log, worker_command=command).check()
    rows = schemas.read_table(out / "episodes.parquet", schemas.EPISODES).to_pylist()
    starts = [datetime.datetime.fromisoformat(row["started_at"]).timestamp() for row in rows]
    ends = [start + row["wall_s"] for start, row in zip(starts, rows, strict=True)]
    rounds = schemas.read_table(out / "rounds.parquet", schemas.ROUNDS)
    return {
        "span_s": max(ends) - min(starts),
        "steps": sum(row["steps"] for row in rows),
        "episodes": len(rows),
        "successes": sum(row["success"] for row in rows),
        "policy_s": sum(rounds["roundtrip_ms"].to_pylist()) / 1000,
    }


def bound(played: Path) -> dict[str, Any]:
    """Replay a shard's actions with the renders that its queries needed, and nothing else; times in s."""
    episodes = schemas.read_table(played / "episodes.parquet", schemas.EPISODES).to_pylist()
    steps = schemas.read_table(played / "steps.parquet", schemas.STEPS).to_pylist()
    rounds = schemas.read_table(played / "rounds.parquet", schemas.ROUNDS).to_pylist()
    simulator = LiberoSimulator(SUITE, episodes[0]["task_id"], seed=SEED)
    reset_s = play_s = 0.0
    for episode in episodes:
        key = EpisodeKey(SUITE, episode["task_id"], episode["init_state"], episode["repeat"])
        asked = {row["env_step"] for row in rounds if row["init_state"] == key.init_state}
        actions = [row["action"] for row in steps if row["init_state"] == key.init_state]
        began = time.perf_counter()
        simulator.reset(key)
        ready = time.perf_counter()
        for number, action in enumerate(actions, 1):
            simulator.step(action, render=number in asked)
        play_s += time.perf_counter() - ready
        reset_s += ready - began
    return {
        "span_s": reset_s + play_s,
        "reset_s": reset_s,
        "steps": sum(row["steps"] for row in episodes),
        "episodes": len(episodes),
    }


def alone(suite: str, task: int, blocks: int = 12, resets: int = 4) -> str:
    """CPU of a reset, of a control step without pictures and of each picture, robosuite's way and ours; as text, ms.

    Steps and pictures are taken in turn; a reset is with the wait steps and the first pictures.
    """
    lift = suite_of(suite).simulator == "robosuite_lift"
    kind, pixels = (LiftSimulator, POLICY_PIXELS) if lift else (LiberoSimulator, RENDER_PIXELS)
    rng, cost = np.random.default_rng(SEED), defaultdict[str, list[float]](list)
    for shortcuts in (False, True):
        simulator = kind(suite, task, seed=SEED, shortcuts=shortcuts)
        for init_state in range(resets):
            began = time.process_time()
            simulator.reset(EpisodeKey(suite, task, init_state, 0))
            cost[f"reset, {'ours' if shortcuts else 'robosuite'}"].append(1000 * (time.process_time() - began))
        if not shortcuts:
            simulator.close()
    env = simulator.truth[0]
    lean = LeanSteps(env)
    for block in range(2 * blocks):
        step = lean.step if block % 2 else env.step
        began = time.process_time()
        for action in rng.uniform(-1, 1, (10, env.action_dim)):
            step(action.tolist())
        cost[f"step, {'ours' if block % 2 else 'robosuite'}"].append(100 * (time.process_time() - began))
        for camera in CAMERAS:
            began = time.process_time()
            with left_out(env.sim, camera) if block % 2 else contextlib.nullcontext():
                env.sim.render(width=pixels, height=pixels, camera_name=camera)
            cost[f"{camera}, {'ours' if block % 2 else 'whole'}"].append(1000 * (time.process_time() - began))
    return "\n".join(
        f"{name:<28} {statistics.median(v):7.1f} ({min(v):.1f} to {max(v):.1f}, n={len(v)})"
        for name, v in sorted(cost.items())
    )


def measure(url: str, work: Path, task: int, init_states: Sequence[int], repetitions: int) -> list[dict[str, Any]]:
    """Run all ways, in turn and then in reverse turn; one record per block. Asserts that all play the same."""
    records: list[dict[str, Any]] = []
    for repetition in range(repetitions):
        ways = ("one", "naive", "two", "bound") if repetition % 2 == 0 else ("two", "one", "bound", "naive")
        for way in ways:
            out, load = work / f"{way}_{repetition}", os.getloadavg()[0]
            if way == "bound":
                command = [sys.executable, __file__, "--bound", str(work / f"one_{repetition}")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                times = json.loads(done.stdout.splitlines()[-1])
            else:
                times = block(way, url, task, init_states, out)
            record = {"way": way, "task": task, "repetition": repetition, "load_before": round(load, 2), **times}
            records.append(record)
            pace = f"{60 * times['episodes'] / times['span_s']:.2f} episodes/min"
            print(f"task {task}, repetition {repetition}, {way}: {times['span_s']:.1f} s, {pace}", flush=True)
        same = {way: _actions(work / f"{way}_{repetition}") for way in ("naive", "one", "two")}
        if not same["naive"] == same["one"] == same["two"]:
            raise SystemExit(f"task {task}: the ways do not play the same episodes; run make fidelity")
    return records


def _actions(directory: Path) -> list[Any]:
    rows = schemas.read_table(directory / "steps.parquet", schemas.STEPS).to_pylist()
    return [(row["init_state"], row["step"], tuple(row["action"]), tuple(row["eef_pos"])) for row in rows]


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the paces of each way and the ratios within repetitions: median, lowest, highest, n."""
    pace = {(r["way"], r["task"], r["repetition"]): r["episodes"] / r["span_s"] for r in records}
    resets = {(r["task"], r["repetition"]): r for r in records if r["way"] == "bound"}
    pace |= {("play", *rest): r["episodes"] / (r["span_s"] - r["reset_s"]) for rest, r in resets.items()}
    steps = {way: [r["steps"] / r["span_s"] for r in records if r["way"] == way] for way in WAYS}
    paces = {
        way: {
            "episodes_per_min": spread([60 * p for (w, *_), p in pace.items() if w == way]),
            "env_steps_per_s": spread(steps[way]),
        }
        for way in WAYS
    }
    ratios = {}
    for name, (above, below, target) in RATIOS.items():
        scale = 0.5 if "twice" in name else 1.0
        values = [scale * p / pace[below, *rest] for (way, *rest), p in pace.items() if way == above]
        met = None if target is None else statistics.median(values) >= target
        ratios[name] = {**spread(values), "target": target, "met": met}
    return {"paces": paces, "ratios": ratios}


def table(found: dict[str, Any]) -> str:
    """Return paces and ratios as text."""
    lines = ["way      episodes/min (range)      env-steps/s (range)     n"]
    for way, pace in found["paces"].items():
        cells = [pace[key] for key in ("episodes_per_min", "env_steps_per_s")]
        texts = [f"{c['median']:7.2f} ({c['lowest']:.2f} to {c['highest']:.2f})" for c in cells]
        lines.append(f"{way:<7}  {texts[0]:<25} {texts[1]:<24} {cells[0]['n']}")
    lines.append("")
    for name, r in found["ratios"].items():
        target = "" if r["target"] is None else f"  target {r['target']:g}: {'met' if r['met'] else 'MISSED'}"
        lines.append(f"{name:<42} {r['median']:.2f} ({r['lowest']:.2f} to {r['highest']:.2f}, n={r['n']}){target}")
    return "\n".join(lines)


def main() -> int:
    """Convert pi0_nano aside, serve it, measure, print and write."""
    parser = commands.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results/benchmarks/rollouts.json")
    parser.add_argument("--steps", type=int, metavar="TASK", help="only CPU per reset, step and picture, old and new")
    parser.add_argument("--suite", default=SUITE, help="of --steps")
    parser.add_argument("--worker", type=int, metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument("--bound", type=Path, metavar="SHARD", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        be_a_naive_worker(given.worker)
        return 0
    if given.steps is not None:
        print(alone(given.suite, given.steps))
        return 0
    if given.bound is not None:
        print(json.dumps(bound(given.bound)))
        return 0
    from flashtrail.checkpoints import artifact

    with tempfile.TemporaryDirectory(prefix="bench-rollouts-") as directory:
        work, source = Path(directory), ROOT / "resources/pi0_nano"
        artifact.convert_base(source, work / "base")
        artifact.convert_draft(source / "draft.pt", work / "draft", base=work / "base")
        port, records = free_port(), []
        command = serve_command(work / "base", port=port, draft=work / "draft", threads=1)
        with PolicyServerProcess(command, work / "server.log", port, 300) as server:
            for task in given.tasks:
                place = work / f"task_{task}"
                records += measure(server.url, place, task, range(given.episodes), given.repetitions)
    found = summary(records)
    print(table(found))
    machine = {"cpus": os.cpu_count(), "load_before": [r["load_before"] for r in records]}
    provenance.json_dump({"machine": machine, **found, "blocks": records}, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "rollouts"))
