"""Small CSV files with the headers and the quirks of the reproduction's stages 4 to 7; the rows are our own.

Stage 4: the suite stands with the episodes only, a run a task. Stages 5 and 7: episodes without run and suite, two
conditions under one run name; stage 7 leaves `steps` empty. Stage 6: no episodes, a synchronised time beside the plain
one. Knows nothing of the reader; what was drawn is returned, so that a test can count it again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imports import official

_ROUND = "task_id,episode_idx,infer_id,route_type,accepted_prefix_len,chunk_exec_len"
_TIMES = "policy_time_ms,serve_time_ms,client_roundtrip_ms,sample_actions_ms"
_SYNC = "policy_time_gpu_sync_ms,policy_time_wall_ms"
HEADERS = {
    "stage4_infer": f"run_name,{_ROUND},{_TIMES}",
    "stage4_episode": "episode_global,task_suite_name,task_id,episode_idx,completed,success,steps,infer_calls,"
    "failure_reason,failure_mode,video_path,run_name,source",
    "stage5_infer": f"condition,run_name,{_ROUND},{_SYNC},{_TIMES},stage5_perturb_enabled,stage5_perturb_condition,"
    "stage5_perturb_target_key,stage5_perturb_applied,stage5_perturb_query_index,stage5_perturb_mode,"
    "stage5_perturb_period,source",
    "stage5_episode": "condition,task_id,episode_idx,completed,success,steps,infer_calls,failure_reason,failure_mode,"
    "video_path,source",
    "stage6_infer": f"run_name,{_ROUND},{_SYNC},gpu_sync_before_after_used,sample_actions_ms,policy_time_ms,"
    "serve_time_ms,client_roundtrip_ms,timing_patch_stage,source",
    "stage7_infer": f"condition,run_name,{_ROUND},{_SYNC},{_TIMES},stage5_perturb_enabled,stage5_perturb_condition,"
    "stage5_perturb_applied,stage7_guard_enabled,stage7_guard_mode,stage7_wrist_health_mean,stage7_wrist_health_std,"
    "stage7_wrist_health_range,stage7_wrist_healthy,stage7_cache_available,stage7_cache_age_queries,stage7_cache_hit,"
    "stage7_cache_miss,stage7_image_replaced,stage7_cache_updated,stage7_guard_query_index,stage7_guard_note,source",
    "stage7_episode": "condition,task_id,episode_idx,completed,success,steps,infer_calls,failure_reason,failure_mode,"
    "video_path,source",
}
CONDITIONS = {"stage5": ("wrist_zero_all", "wrist_zero_every4"), "stage7": ("guard_every4", "guard_all")}
Rows = list[dict[str, Any]]


def path(root: Path, name: str) -> Path:
    """Return where one of the files of HEADERS lies."""
    return root / f"{name}_summary.csv"


def write(root: Path, trials: int = 3) -> dict[str, Rows]:
    """Write all seven files and return their rows by name; a row has the file's own columns only."""
    root.mkdir(parents=True, exist_ok=True)
    drawn = official.episodes(trials)
    rows = {name: list(_rows(name, drawn)) for name in HEADERS}
    for name, content in rows.items():
        write_rows(path(root, name), HEADERS[name].split(","), content)
    return rows


def write_rows(target: Path, header: Sequence[str], rows: Rows) -> None:
    """Write one CSV file; a column that a row lacks is empty."""
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(header), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _rows(name: str, drawn: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    stage, kind = name.split("_")
    for condition in CONDITIONS.get(stage, ("",)):
        for number, episode in enumerate(drawn):
            task = episode["task_id"]
            ids = {"task_id": task, "episode_idx": episode["episode_idx"], "condition": condition}
            ids["run_name"] = f"{stage}_camera" if condition else f"{stage}_task{task}_seed7"
            if kind == "episode":
                end = {"completed": True, "success": episode["success"], "infer_calls": len(episode["queries"])}
                steps = "" if stage == "stage7" else episode["steps"]
                mode = "no failure" if episode["success"] else "policy behavior/no success"
                yield (
                    ids
                    | end
                    | {"steps": steps, "failure_mode": mode, "episode_global": number}
                    | {
                        "task_suite_name": "libero_goal",
                        "video_path": "episodes/x.mp4",
                        "source": "log",
                    }
                )
            else:
                yield from (_round(stage, ids, query, condition) for query in episode["queries"])


def _round(stage: str, ids: dict[str, Any], query: dict[str, Any], condition: str) -> dict[str, Any]:
    index, sync = query["infer_id"], query["sample_actions_ms"]
    first = 4000.0 if stage == "stage6" and index == 0 and ids["episode_idx"] == 0 else 0.0  # a cold start
    hit = condition.endswith("all") or (bool(condition) and index % 4 == 0)
    replaced = hit and index > 0 and not condition.endswith("all")
    times = {name: query[name] + first for name in ("policy_time_ms", "serve_time_ms", "client_roundtrip_ms")}
    times |= dict.fromkeys(("policy_time_gpu_sync_ms", "policy_time_wall_ms", "sample_actions_ms"), sync + first)
    return {**query, **ids, **times} | {
        "gpu_sync_before_after_used": 1,
        "stage5_perturb_applied": hit,
        "stage7_wrist_health_std": 0.0 if hit else 40.0,
        "stage7_wrist_health_range": 0.0 if hit else 200.0,
        "stage7_wrist_healthy": not hit,
        "stage7_cache_age_queries": 1 if replaced else -1,
        "stage7_cache_hit": replaced,
        "stage7_image_replaced": replaced,
        "timing_patch_stage": stage,
        "source": "log",
    }
