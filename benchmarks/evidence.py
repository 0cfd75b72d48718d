"""Evidence at scale: merge, summaries and claims of a synthetic campaign, timed and weighed.

    make bench-evidence        # or: python benchmarks/evidence.py --episodes 1000000

Writes shards of ten arms (20 rounds an episode), then merges and summarises two arms at a time, as the workflow does on
two cores, and judges claims.yaml; for a tenth of the size and for the whole. Prints seconds by step, an upper bound of
the memory, and the exponent by which time grows with size. Writing the synthetic shards is not timed. Exits 1 beyond
the limits, which are for the full size on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flashtrail.base import commands

ARMS = ("clean", "full_only", "wrist_zero_every4", "wrist_zero_all", "guard_wrist_zero_every4", "guard_wrist_zero_all")
ARMS += ("dropout_trained_wrist_zero_every4", "other_1", "other_2", "other_3")
TASKS, STATES, ROUNDS = 10, 50, 20
FULL, JOBS = 1_000_000, 2
SECONDS, GIGABYTES, EXPONENT = 90.0, 4.0, 1.1
CLAIMS = Path(__file__).resolve().parents[1] / "claims.yaml"


def spec(arm: str, episodes: int) -> dict[str, Any]:
    """Return what an arm must have; repeats make up the number."""
    repeats = max(1, episodes // (len(ARMS) * TASKS * STATES))
    keys = {"tasks": list(range(TASKS)), "init_states": list(range(STATES)), "repeats": repeats}
    return {"arm": arm, "policy": "synthetic", "suite": "libero_goal", "seed": 7, **keys}


def write_shard(directory: Path, arm: str, task: int, repeats: int) -> None:
    """Write one shard: an arm's episodes of one task, in the order in which they would have run."""
    from flashtrail.tables import schemas

    generator = np.random.default_rng([ARMS.index(arm), task])
    n = STATES * repeats
    won = generator.random(n) < (0.02 if arm.endswith("zero_all") else 0.85)
    draft = generator.random((n, ROUNDS)) < (0.0 if arm == "full_only" else 0.7)
    draft[:, 0] = False
    executed = np.where(draft, generator.choice([3, 6, 12], (n, ROUNDS)), 12)
    key = {"arm": arm, "suite": "libero_goal", "task_id": task}
    key |= {"init_state": np.tile(np.arange(STATES), repeats), "repeat": np.repeat(np.arange(repeats), STATES)}
    rows: dict[str, Any] = {**key, "run_id": "bench", "policy": "synthetic", "task": f"task {task}", "seed": 7}
    rows |= {"success": won, "outcome": np.where(won, "success", "horizon"), "started_at": "2000-01-01T00:00:00Z"}
    rows |= {"steps": executed.sum(1), "rounds": ROUNDS, "full_rounds": (~draft).sum(1), "draft_rounds": draft.sum(1)}
    rows |= {"executed_actions": executed.sum(1), "wall_s": 10.0}
    schemas.write_table(directory / "episodes.parquet", _table(rows, n, schemas.EPISODES), schemas.EPISODES)
    m = n * ROUNDS
    speed = np.repeat(generator.normal(1, 0.05, n), ROUNDS) * generator.lognormal(0, 0.05, m)
    flat = draft.ravel()
    policy = np.where(flat, 8.0, 33.0) * speed
    rounds: dict[str, Any] = {name: np.repeat(v, ROUNDS) if isinstance(v, np.ndarray) else v for name, v in key.items()}
    rounds |= {"round": np.tile(np.arange(ROUNDS), n), "env_step": 0, "executed": executed.ravel()}
    rounds |= {"route": np.where(flat, "draft", "full"), "accepted_prefix": executed.ravel()}
    rounds |= {"radius": np.where(flat, generator.gamma(4, 0.07, m), np.nan)}
    rounds |= {"fallback_cause": pa.array(np.where(flat, None, "gripper"), pa.string())}
    rounds |= {"encoder_ms": 0.1 * policy, "policy_ms": policy, "serve_ms": policy + 1, "roundtrip_ms": policy + 3}
    rounds |= {"synchronized": True, "condition_applied": np.tile(np.arange(ROUNDS) % 4 == 0, n) & ("every4" in arm)}
    rounds |= {"noise_seed": pa.array(np.arange(m)).cast(pa.string())}
    schemas.write_table(directory / "rounds.parquet", _table(rounds, m, schemas.ROUNDS), schemas.ROUNDS)
    schemas.write_table(directory / "steps.parquet", [], schemas.STEPS)


def _table(columns: dict[str, Any], n: int, schema: pa.Schema) -> pa.Table:
    found = {}
    for field in schema:
        value = columns.get(field.name)
        if value is None:
            found[field.name] = pa.nulls(n, field.type)
        elif isinstance(value, np.ndarray | pa.Array | pa.ChunkedArray):
            found[field.name] = pa.array(value, from_pandas=True) if isinstance(value, np.ndarray) else value
        else:
            found[field.name] = pa.repeat(pa.scalar(value), n)
    return pa.table({name: column.cast(schema.field(name).type) for name, column in found.items()})


def one_arm(root: Path, arm: str, episodes: int) -> tuple[float, float]:
    """Merge and summarise one arm, as the workflow's jobs do; return the seconds of both."""
    from flashtrail.base import provenance
    from flashtrail.claims import summaries
    from flashtrail.tables import merge

    start = time.perf_counter()
    shards = [root / "rollouts" / arm / f"task_{task}" for task in range(TASKS)]
    merge.write_merged(merge.merge_shards(shards, spec(arm, episodes)), root / "tables" / arm)
    middle = time.perf_counter()
    files = [root / "tables" / arm / f"{name}.parquet" for name in ("episodes", "rounds")]
    provenance.json_dump(summaries.summarize_arm(*files), root / "summaries" / f"{arm}.json")
    return middle - start, time.perf_counter() - middle


def judge(root: Path) -> None:
    """Judge claims.yaml on the campaign; RuntimeError where the answer is known and was not found."""
    from flashtrail.claims import verdicts

    inputs = {
        "episodes": [str(root / "tables" / arm / "episodes.parquet") for arm in ARMS],
        "summaries": [str(root / "summaries" / f"{arm}.json") for arm in ARMS],
        "published": str(CLAIMS.parent / "resources" / "published" / "published.yaml"),
    }
    judged = {claim["id"]: claim["verdict"] for claim in verdicts.evaluate(CLAIMS, inputs)["claims"]}
    if (judged["F1"], judged["K1"]) != ("supported", "supported"):
        raise RuntimeError(f"the synthetic campaign was misjudged: {judged}")


def work(root: Path, episodes: int) -> dict[str, float]:
    """Run the three steps, two arms at a time; return wall seconds by step and an upper bound of memory in GB.

    Memory is the sum of the largest that each process ever held, which they hardly do at one moment.
    """
    start = time.perf_counter()
    with ProcessPoolExecutor(JOBS, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(one_arm, [root] * len(ARMS), ARMS, [episodes] * len(ARMS)))
        held = sum(pool.map(_held, [0.5] * JOBS))
    middle = time.perf_counter()
    judge(root)
    claims = time.perf_counter() - middle
    shares = np.array(parts).sum(axis=0)
    merge, summaries = (middle - start) * shares / shares.sum()
    return {
        **{"merge": float(merge), "summaries": float(summaries), "claims": claims},
        "total": middle - start + claims,
        "gigabytes": max(held, _held(0)),
    }


def _held(wait: float) -> float:
    """Return the largest memory that this process has held, in GB; waits, so that each process answers once."""
    time.sleep(wait)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure(episodes: int) -> dict[str, float]:
    """Write a campaign, then time the steps in a process of their own, so that its memory is theirs."""
    with tempfile.TemporaryDirectory(prefix="bench-evidence-") as name:
        root = Path(name)
        repeats = spec(ARMS[0], episodes)["repeats"]
        for arm in ARMS:
            for task in range(TASKS):
                write_shard(root / "rollouts" / arm / f"task_{task}", arm, task, repeats)
        command = [sys.executable, __file__, "--episodes", str(episodes), "--work", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    count = repeats * len(ARMS) * TASKS * STATES
    steps = ", ".join(f"{step} {found[step]:.1f} s" for step in ("merge", "summaries", "claims"))
    print(
        f"{count:,} episodes, {count * ROUNDS:,} rounds: {steps}; total {found['total']:.1f} s, "
        f"{found['gigabytes']:.2f} GB",
        flush=True,
    )
    return found | {"episodes": count}


def main() -> int:
    """Measure a tenth and the whole; 1 if the whole is beyond a limit."""
    parser = commands.Parser(description="Merge, summaries and claims at scale.")
    parser.add_argument("--episodes", type=int, default=FULL)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.work, given.episodes)))
        return 0
    small, large = measure(given.episodes // 10), measure(given.episodes)
    exponent = math.log(large["total"] / small["total"]) / math.log(large["episodes"] / small["episodes"])
    print(f"time grows with size to the power {exponent:.2f} (limit {EXPONENT})")
    late = large["total"] > SECONDS or large["gigabytes"] > GIGABYTES
    if given.episodes >= FULL and (late or exponent > EXPONENT):
        print(f"error: limits are {SECONDS:.0f} s, {GIGABYTES:.0f} GB and {EXPONENT}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "evidence"))
