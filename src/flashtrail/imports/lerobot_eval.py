"""``eval_info.json`` of lerobot (``scripts/lerobot_eval.py`` of 0.4.4; ``scripts/eval.py`` of 0.3.3 has no tasks).

0.4.4 writes `per_task`, each with its `task_group`, `task_id` and a list of `successes`; 0.3.3 `per_episode`, each with
the seed that its environment was reset with, the run's own plus the episode's number. Which initial state of LIBERO an
episode of 0.4.4 had is not known: ``envs/libero.py`` takes the next one at each reset, and an environment that succeeds
is reset once more, so that it depends on the batch size and on earlier successes. Those episodes pair with none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.imports.cells import BadRow
from flashtrail.imports.episode_list import EpisodeList, check_count, check_rate, part

KIND = "lerobot eval_info.json"
UNSAID = (
    "policy, device, initial states, task texts, steps, errors, rounds and latency; without per_task the suite, too"
)


def is_one(value: Any) -> bool:
    """Return whether a JSON value is such a file."""
    return isinstance(value, dict) and any(isinstance(value.get(name), list) for name in ("per_task", "per_episode"))


def read(path: Path, value: Mapping[str, Any]) -> EpisodeList:
    """Return the episodes of a file whose content is `value`; UserError where its own rate is not its episodes'."""
    tasks = "per_task" in value
    episodes = _of_tasks(value) if tasks else _of_one(value)
    _check(str(path), value.get("overall" if tasks else "aggregated"), episodes)
    good = [row for row in episodes if isinstance(row, Mapping)]
    groups = value.get("per_group") if tasks and len(good) == len(episodes) else None
    for group, said in groups.items() if isinstance(groups, dict) else ():
        _check(f"{path}: {group!r}", said, [row for row in good if row["task_suite_name"] == group])
    starts = not tasks and all(row.get("seed") is not None for row in good)
    return EpisodeList(path, KIND, episodes, UNSAID, starts=starts)


def _check(where: str, said: Any, episodes: list[Mapping[str, Any] | BadRow]) -> None:
    if isinstance(said, dict):
        check_rate(where, said.get("pc_success"), episodes, one=100)
        check_count(where, said.get("n_episodes"), episodes)


def _of_tasks(value: Mapping[str, Any]) -> list[Mapping[str, Any] | BadRow]:
    episodes: list[Mapping[str, Any] | BadRow] = []
    for entry in value["per_task"]:
        try:
            metrics = part(entry, "metrics", dict)
            known = {"task_suite_name": part(entry, "task_group", str), "task_id": entry.get("task_id")}
            videos = metrics.get("video_paths")
            shown = dict(enumerate(videos if isinstance(videos, list) else []))  # of the first episodes only
            for number, success in enumerate(part(metrics, "successes", list)):
                own = {"episode_idx": number, "success": success, "completed": True, "video_path": shown.get(number)}
                episodes.append(known | own)
        except BadRow as error:
            episodes.append(error)
    return episodes


def _of_one(value: Mapping[str, Any]) -> list[Mapping[str, Any] | BadRow]:
    episodes: list[Mapping[str, Any] | BadRow] = []
    for entry in value["per_episode"]:
        if not isinstance(entry, dict):
            episodes.append(BadRow(f"a {type(entry).__name__}, not an object"))
            continue
        number, seed = entry.get("episode_ix"), entry.get("seed")
        run_seed = seed - number if isinstance(seed, int) and isinstance(number, int) else None
        known = {"episode_idx": number, "success": entry.get("success"), "completed": True, "seed": run_seed}
        episodes.append(known | {name: entry.get(name) for name in ("sum_reward", "max_reward")})
    return episodes
