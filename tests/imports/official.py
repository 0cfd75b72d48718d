"""A run directory and CSV files as the official client and the reproduction write them, from known episodes.

Follows the official client (docs/reference/FLASH.md, D), field by field; knows nothing of the reader. Episodes are
drawn with a fixed seed, and what was drawn is returned, so that a test can count it again.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

RUN = "libero_goal_7"
TASKS = {0: "open the middle drawer of the cabinet", 1: "put the bowl on the stove"}
STAGES = ("encoder_ms", "vlm_prefill_ms", "draft_ms", "action_verify_ms", "full_fallback_ms")


def episodes(trials: int = 5, seed: int = 7) -> list[dict[str, Any]]:
    """Return episodes: task_id, episode_idx, success, steps, and `queries` (route, accepted, executed, times)."""
    generator = np.random.default_rng(seed)
    drawn = []
    for task in TASKS:
        for episode in range(trials):
            success = bool(generator.random() < 0.7)
            goal = int(generator.integers(60, 200)) if success else 310
            queries: list[dict[str, Any]] = []
            step, full = 10, True
            while step < goal:
                accepted = 12 if full else int(generator.choice([0, 5, 12, 12]))
                executed = min(12, accepted)
                queries.append(_query(generator, len(queries), full, accepted, executed, step))
                step, full = step + executed, not full and accepted == 0
            drawn.append(
                {
                    "task_id": task,
                    "episode_idx": episode,
                    "success": success,
                    "queries": queries,
                    "steps": step if success else 310,
                }
            )
    return drawn


def _query(generator: Any, index: int, full: bool, accepted: int, executed: int, step: int) -> dict[str, Any]:
    times = {name: float(generator.lognormal(1, 0.1)) for name in STAGES}
    unused = ("draft_ms", "action_verify_ms") if full else ("vlm_prefill_ms", "full_fallback_ms")
    times |= dict.fromkeys(unused, 0.0)
    policy = sum(times.values())
    return {
        "infer_id": index,
        "env_step": step,
        "route_type": "full" if full else "draft",
        "accepted_prefix_len": accepted,
        "chunk_exec_len": executed,
        **times,
        "sample_actions_ms": policy,
        "policy_time_ms": policy + 2.6,
        "serve_time_ms": policy + 3.0,
        "client_roundtrip_ms": policy + 5.0,
        "radius_dist_mean": float("nan") if full else 0.2,
        "did_prefill": int(full),
        "is_full_pipeline_round": int(full),
        "scheduled_full_fallback": int(not full and accepted == 0),
        "scheduled_full_fallback_gripper": 0,
    }


def write_run(root: Path, trials: int = 5) -> list[dict[str, Any]]:
    """Write the run directory and return the episodes in it."""
    root.mkdir(parents=True)
    manifest = {
        "run_id": RUN,
        "created_at": "2026-01-01T00:00:00",
        "task_suite_name": "libero_goal",
        "task_spec": "0,1",
        "selected_task_ids": [0, 1],
        "num_trials_per_task": trials,
        "replan_steps": 12,
        "resize_size": 224,
        "video_fps": 10,
        "seed": 7,
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=2))
    drawn = episodes(trials)
    log = [_log_entry(root, episode) for episode in drawn]
    (root / "episode_log.json").write_text(json.dumps(log, indent=2))
    return drawn


def _log_entry(root: Path, episode: dict[str, Any]) -> dict[str, Any]:
    task, index, queries = episode["task_id"], episode["episode_idx"], episode["queries"]
    end = "success" if episode["success"] else "failure"
    directory = root / "episodes" / f"task{task:02d}_ep{index:03d}_{TASKS[task].replace(' ', '_')}_{end}"
    directory.mkdir(parents=True)
    ids = {"run_id": RUN, "task_id": task, "episode_idx": index}
    (directory / "infer.jsonl").write_text("".join(json.dumps({**ids, **query}) + "\n" for query in queries))
    trace = [
        {
            **ids,
            "infer_id": q["infer_id"],
            "action_offset_in_chunk": offset,
            "executed_action": [0.1] * 6 + [-1.0],
            "route_type": q["route_type"],
            "reward": 0.0,
            "done_after_step": False,
        }
        for q in queries
        for offset in range(q["chunk_exec_len"])
    ] + [{**ids, "infer_id": q["infer_id"], "executed_action": None} for q in queries if not q["chunk_exec_len"]]
    (directory / "trace.jsonl").write_text("".join(json.dumps(record) + "\n" for record in trace))
    drafts = [q for q in queries if q["route_type"] == "draft"]
    return {
        "run_id": RUN,
        "task_suite_name": "libero_goal",
        "task_id": task,
        "task_description": TASKS[task],
        "episode_idx": index,
        "success": episode["success"],
        "failure_reason": None if episode["success"] else "timeout",
        "max_steps": 300,
        "num_steps_wait": 10,
        "env_steps_taken": episode["steps"],
        "infer_calls": len(queries),
        "draft_rounds": len(drafts),
        "full_rounds": len(queries) - len(drafts),
        "executed_action_count": sum(q["chunk_exec_len"] for q in queries),
        "seed": 7,
        # As a run on another machine leaves them: absolute paths that do not exist here.
        "infer_path": f"/elsewhere/{RUN}/episodes/{directory.name}/infer.jsonl",
        "trace_path": f"/elsewhere/{RUN}/episodes/{directory.name}/trace.jsonl",
        "video_path": None,
    }


def write_csv(root: Path, condition: str | None = None, trials: int = 5) -> tuple[Path, Path]:
    """Write a stage-4 (or, with a condition, stage-7) infer CSV and an episode CSV; return their paths."""
    root.mkdir(parents=True, exist_ok=True)
    infer, log = [], []
    for number, episode in enumerate(episodes(trials)):
        ids = {"run_name": RUN, "task_id": episode["task_id"], "episode_idx": episode["episode_idx"]}
        for query in episode["queries"]:
            columns = (
                "infer_id",
                "route_type",
                "accepted_prefix_len",
                "chunk_exec_len",
                "policy_time_ms",
                "serve_time_ms",
                "client_roundtrip_ms",
                "sample_actions_ms",
            )
            row = {**ids, **{name: query[name] for name in columns}}
            if condition:
                hit = query["infer_id"] % 4 == 0
                row |= {
                    "condition": condition,
                    "gpu_sync_before_after_used": True,
                    "stage5_perturb_applied": int(hit),
                    "stage7_wrist_health_std": 0.0 if hit else 40.0,
                    "stage7_wrist_health_range": 0.0 if hit else 200,
                    "stage7_wrist_healthy": not hit,
                    "stage7_cache_hit": int(hit and query["infer_id"] > 0),
                    "stage7_cache_age_queries": "",
                    "stage7_image_replaced": int(hit and query["infer_id"] > 0),
                }
            infer.append(row)
        log.append(
            {
                "episode_global": number,
                "task_suite_name": "libero_goal",
                **ids,
                "completed": True,
                "success": episode["success"],
                "steps": episode["steps"],
                "infer_calls": len(episode["queries"]),
                "failure_reason": "",
                "failure_mode": "",
                "video_path": "",
                "source": "log",
            }
        )
    paths = (root / "infer.csv", root / "episodes.csv")
    for path, rows in zip(paths, (infer, log), strict=True):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return paths
