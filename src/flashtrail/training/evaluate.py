"""Success on held-out init states: the workflow's own simulator and episode loop around a policy in this process.

Full route, two scenes per init state, hard resets, the simulator's own success. The workflow's arms measure the same
with a served policy.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from flashtrail.base.provenance import json_dump

SUITE, SEED = "libero_goal", 7
TASKS, INIT_STATES, SCENES = (0, 1, 2), range(10), (0, 1)
BAR_TOTAL, BAR_TASK = 51, 16  # of 60, of 20


@dataclass(frozen=True)
class Block:
    """The episodes that one process plays with one simulator."""

    artifact: str
    draft: str | None
    task_id: int
    scene: int
    init_states: tuple[int, ...]
    hard_reset: bool
    view_every: int  # the wrist view is black at every n-th query; 0: never


def play(block: Block) -> list[dict[str, Any]]:
    """Play a block; one row an episode."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from flashtrail.simulators.robosuite.opengl import choose_backend

    choose_backend()
    import torch

    from flashtrail.experiment.episodes import EpisodeKey
    from flashtrail.policies.pi0.policy import FlashPolicy
    from flashtrail.policies.pi0.settings import FlashSettings
    from flashtrail.rollouts import conditions, guards
    from flashtrail.rollouts.episode import run_episode
    from flashtrail.serving.client import Reply
    from flashtrail.simulators.libero.simulator import LiberoSimulator

    torch.set_num_threads(1)
    settings = FlashSettings(force_full_each_round=block.draft is None)
    policy = FlashPolicy.load(block.artifact, block.draft, settings=settings, synchronize=False)

    class Here:
        """The policy in this process, behind the client's interface."""

        def __init__(self) -> None:
            self.session = policy.new_session()

        def infer(
            self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]
        ) -> Reply:
            out = policy.infer(self.session, obs, executed_steps=executed_steps, reset=reset, noise_seed=noise_seed)
            return Reply(out["actions"], out["accepted_prefix_len"], out["policy_timing"], {}, 0.0)

    simulator = LiberoSimulator(SUITE, block.task_id, seed=SEED, hard_reset=block.hard_reset)
    zero = {"kind": "zero", "view": "wrist", "every": block.view_every}
    rows = []
    for init_state in block.init_states:
        record = run_episode(
            simulator,
            Here(),
            EpisodeKey(SUITE, block.task_id, init_state, block.scene),
            condition=conditions.build(zero if block.view_every else {"kind": "none"}),
            guard=guards.build({"kind": "none"}),
            seed=SEED,
        )
        drafts = [r for r in record.rounds if r["route"] == "draft"]
        row = {
            "task": block.task_id,
            "init_state": init_state,
            "scene": block.scene,
            "success": bool(record.episode["success"]),
            "steps": len(record.steps),
            "rounds": len(record.rounds),
            "draft_rounds": len(drafts),
            "accepted": sum(r["accepted_prefix"] for r in drafts),
        }
        rows.append(row)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    simulator.close()
    return rows


def evaluate(
    artifact: Path,
    draft: Path | None = None,
    *,
    tasks: Sequence[int] = TASKS,
    init_states: Sequence[int] = INIT_STATES,
    scenes: Sequence[int] = SCENES,
    processes: int = 2,
    hard_reset: bool = True,
    view_every: int = 0,
) -> list[dict[str, Any]]:
    """Play all episodes, a process per block; rows sorted by task, scene and init state."""
    blocks = [
        Block(str(artifact), None if draft is None else str(draft), t, s, tuple(init_states), hard_reset, view_every)
        for s in scenes
        for t in reversed(tasks)
    ]
    rows: list[dict[str, Any]] = []
    # A process per block: a second simulator in a process renders other pictures than the first one did.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(play, block) for block in blocks]):
            rows += done.result()
    return sorted(rows, key=lambda r: (r["task"], r["scene"], r["init_state"]))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """k of n with the Wilson interval, per task and in all; draft rounds."""

    def part(chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        k, n = sum(bool(r["success"]) for r in chosen), len(chosen)
        interval = stats.binomtest(k, n).proportion_ci(method="wilson")
        return {"k": k, "n": n, "wilson95": [round(interval.low, 3), round(interval.high, 3)]}

    tasks = sorted({int(r["task"]) for r in rows})
    drafts = sum(int(r["draft_rounds"]) for r in rows)
    return {
        "all": part(rows),
        "tasks": {str(t): part([r for r in rows if r["task"] == t]) for t in tasks},
        "draft_rounds": drafts,
        "rounds": sum(int(r["rounds"]) for r in rows),
        "accepted_mean": round(sum(int(r["accepted"]) for r in rows) / drafts, 2) if drafts else None,
    }


def report(rows: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Write rows and summary as JSON and print the figures."""
    figures = summary(rows)
    json_dump({"summary": figures, "episodes": list(rows)}, path)
    for name, part in [*figures["tasks"].items(), ("all", figures["all"])]:
        low, high = part["wilson95"]
        print(f"task {name}: {part['k']}/{part['n']}  Wilson 95 % [{low:.3f}, {high:.3f}]")
    if figures["draft_rounds"]:
        print(f"draft rounds {figures['draft_rounds']}/{figures['rounds']}, accepted mean {figures['accepted_mean']}")
    return figures
