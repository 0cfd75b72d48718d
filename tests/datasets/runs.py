"""A finished run of one arm in small: real episodes of any suite's simulator, with the job files of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import provenance
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.simulators import registry
from flashtrail.tables import schemas

METADATA = dict.fromkeys(("config_digest", "artifact_digest", "code_digest", "device"), "none")
Answer = Callable[[np.ndarray, np.random.Generator], Sequence[float]]  # the state (8,) -> an action (7,)


@dataclass
class Reply:
    actions: Any
    accepted_prefix_len: int
    policy_timing: dict[str, Any] = field(default_factory=dict)
    server_timing: dict[str, Any] = field(default_factory=dict)
    roundtrip_ms: float = 1.0


class Session:
    """A policy session around a function, three actions a round."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._rng = answer, np.random.default_rng(0)

    def infer(self, obs: Any, executed_steps: Any, reset: bool, noise_seed: list[int]) -> Reply:
        return Reply(np.array([self._answer(obs["observation/state"], self._rng) for _ in range(3)], np.float64), 3)


def at_random(state: np.ndarray, rng: np.random.Generator) -> Sequence[float]:
    return [*rng.uniform(-1, 1, 6), -1.0]


def reaching(state: np.ndarray, rng: np.random.Generator) -> Sequence[float]:
    """Go to the mark of the suite reach's task 0, by steps that float32 cannot hold."""
    return [*np.clip((np.array([0.0, -0.2, 0.0]) - state[:3]) / 0.06, -1, 1), 0.0, 0.0, 0.0, 1.0]


def write(root: Path, suite: str, answer: Answer, horizon: int, init_states: Sequence[int] = (0, 3)) -> Path:
    """Play episodes of task 0 in this process, which must not have had a simulator of that kind, and record them."""
    simulator = registry.make(suite, 0, seed=7, scene_seed="episode", hard_reset=True, horizon=horizon)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas.SCHEMAS}
    for init_state in init_states:
        made = run_episode(
            simulator,
            Session(answer),
            EpisodeKey(suite, 0, init_state, 0),
            condition=conditions.build({"kind": "none"}),
            guard=guards.build({"kind": "none"}),
            seed=7,
            replan_steps=3,
        )
        key = {"run_id": "r", "arm": "clean", "policy": "p", "suite": suite, "task_id": 0, "seed": 7}
        key |= {"init_state": init_state, "repeat": 0}
        for name, rows in (("episodes", [made.episode]), ("rounds", made.rounds), ("steps", made.steps)):
            columns = schemas.SCHEMAS[name].names
            tables[name] += [{k: v for k, v in (key | row).items() if k in columns} for row in rows]
    simulator.close()
    store(root, tables)
    arm = {"arm": "clean", "suite": suite, "seed": 7, "scene_seed": "episode", "rollout": {"hard_reset": True}}
    arm |= {"execution": {"horizon": horizon}}
    _job(root, "evaluate_claims", {"arms": ["clean"]}, {})
    _job(root, "merge_shards/clean", {"expected": {"tasks": [0]}}, {})
    ledger = {"ledger": "results/rollouts/clean/task_0/ledger.json"}
    _job(root, "roll_out_shard/clean/task_0", {"arm": arm, "task": 0}, ledger)
    return root


def store(root: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in tables.items():
        path = root / f"results/rollouts/clean/task_0/{name}.parquet"
        schemas.write_table(path, rows, schemas.SCHEMAS[name], METADATA)


def load(root: Path) -> dict[str, list[dict[str, Any]]]:
    place = root / "results/rollouts/clean/task_0"
    return {
        name: schemas.read_table(place / f"{name}.parquet", schema).to_pylist()
        for name, schema in schemas.SCHEMAS.items()
    }


def _job(root: Path, name: str, params: dict[str, Any], output: dict[str, Any]) -> None:
    job = {"rule": name.split("/")[0], "input": {}, "output": output, "params": params}
    provenance.json_dump(job, root / f"results/logs/{name}.json")
