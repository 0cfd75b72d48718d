"""Result files of vla-eval (github.com/allenai/vla-evaluation-harness): an evaluation, a shard, a merge, an aggregate.

Fields as the writers have them: ``results/collector.py`` and ``results/merge.py`` of 0.0.3 (`success` of an episode,
`episode_id` is ``TASK_epN``), the same of 0.1.0 to 0.4.0 and ``results/export.py`` of 0.8.0 (`metrics.success`,
`episode_id` is N, then also `task_id`, `suite`, `episode_idx`). Episode N of a task starts at its initial state N
(``benchmarks/libero/benchmark.py``); with `throughput_mode` at N modulo their number, which only `episode_idx` says.
An episode with a `failure_reason` was ended by an error; the harness's own rates count it as a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.imports.cells import BadRow
from flashtrail.imports.episode_list import EpisodeList, check_count, check_rate, part

KIND = "vla-eval result"
UNSAID = "policy, device, rounds and latency; before 0.3 the task's number"
_NUMBERED = re.compile(r"(?s)(.*)_ep(\d{1,9})")


def is_one(value: Any) -> bool:
    """Return whether a JSON value is such a file."""
    return isinstance(value, dict) and "benchmark" in value and isinstance(value.get("tasks"), list)


def read(path: Path, value: Mapping[str, Any]) -> EpisodeList:
    """Return the episodes of a file whose content is `value`; UserError where a printed count is not its episodes'."""
    episodes: list[Mapping[str, Any] | BadRow] = []
    for task in value["tasks"]:
        try:
            found = [_episode(value, task, entry) for entry in part(task, "episodes", list)]
        except BadRow as error:
            found = [error]
        else:
            rate = task.get("success_rate", task.get("mean_success"))
            check_rate(f"{path}: task {task.get('task')!r}", rate, found)
            check_count(f"{path}: task {task.get('task')!r}", task.get("num_episodes"), found)
        episodes += found
    check_rate(str(path), value.get("overall_success_rate", value.get("mean_success")), episodes)
    check_count(str(path), value.get("num_episodes_total"), episodes)
    made_of = frozenset([value["eval_id"]] if isinstance(value.get("eval_id"), str) else [])
    note = "partial, as the file says" if value.get("partial") else "one shard" if value.get("shard") else ""
    return EpisodeList(path, KIND, episodes, UNSAID, made_of=made_of, note=note)


def _episode(value: Mapping[str, Any], task: Mapping[str, Any], entry: Any) -> Mapping[str, Any] | BadRow:
    try:
        if not isinstance(entry, dict):
            raise BadRow(f"a {type(entry).__name__}, not an object")
        config = value.get("config") if isinstance(value.get("config"), dict) else {}
        return episode(config or {}, str(value["benchmark"]), part(task, "task", str), entry)
    except BadRow as error:
        return error


def episode(config: Mapping[str, Any], benchmark: str, task: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one episode under the official names; BadRow where it does not say its number or its initial state."""
    named = entry.get("episode_id")
    early = _NUMBERED.fullmatch(named) if isinstance(named, str) else None
    index = entry.get("episode_idx")
    if config.get("throughput_mode") and index is None:
        raise BadRow(
            "throughput_mode gives initial states out again, and no episode_idx says which: import the recording"
        )
    own = config.get("params") if isinstance(config.get("params"), dict) else {}
    metrics = entry.get("metrics") if isinstance(entry.get("metrics"), dict) else {}
    reason = entry.get("failure_reason")
    known = {
        "task_suite_name": entry.get("suite") or (own or {}).get("suite") or benchmark,
        "task_id": entry.get("task_id"),
        "task_description": task,
        "episode_idx": int(early[2]) if early else named,
        "init_state": index,
        "seed": (own or {}).get("seed"),
        "success": False if reason else (metrics or {}).get("success", entry.get("success")),
        "completed": not reason,
        "steps": entry.get("steps") if not reason else None,
        "failure_reason": reason,
    }
    others = {f"metrics.{name}": found for name, found in (metrics or {}).items() if name != "success"}
    return known | others | ({"elapsed_sec": entry["elapsed_sec"]} if "elapsed_sec" in entry else {})
