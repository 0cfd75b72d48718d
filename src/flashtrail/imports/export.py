"""``flashtrail export``: a run's episodes in another program's format, or as CSV that ``import-run`` reads back.

vla-eval: fields as ``results/collector.py`` and ``results/export.py`` of 0.8.0 write them. lerobot: as
``scripts/lerobot_eval.py`` of 0.4.4; it has no place for initial states, and rewards are not in our tables: empty.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from flashtrail import __version__
from flashtrail.base import provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.base.names import file_name
from flashtrail.imports import writing
from flashtrail.imports.columns import OFFICIAL
from flashtrail.tables import schemas

_CSV = (
    *("run_id", "arm", "suite", "task_id", "task", "episode", "init_state", "repeat", "seed", "completed", "success"),
    *("steps", "rounds", "error", "video"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("source", type=Path, metavar="DIR", help="a run's results/, or what import-run wrote")
    add("--format", choices=sorted(_WRITERS), required=True, help="whose format")
    add("--out", type=Path, required=True, metavar="DIR", help="where one file an arm goes")
    add("--arm", action="append", metavar="ARM", help="an arm, may be repeated (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Write one file an arm and say what it holds."""
    tables = sorted((arguments.source / "tables").glob("*/episodes.parquet"))
    read = {path: frame for path in tables if len(frame := _episodes(path))}
    frames = {str(frame["arm"].iloc[0]): frame for frame in read.values()}
    untold = {str(frame["arm"].iloc[0]) for path, frame in read.items() if schemas.read_metadata(path).get("starts")}
    if not frames:
        raise UserError(f"{arguments.source} has no tables/ARM with episodes: give a run's results/ or an import")
    for arm in arguments.arm or ():
        if arm not in frames:
            raise UserError(f"--arm {arm}: {arguments.source} has no such arm{nearest(arm, frames)}")
    for arm in arguments.arm or frames:
        _check(arm, frames[arm], arm in untold, arguments.format)
    writing.check_out(arguments.out)
    writing.make_directory(arguments.out)
    for arm in arguments.arm or frames:
        name, write = _WRITERS[arguments.format]
        path = arguments.out / name.format(arm=file_name(arm))
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{path}: {write(frames[arm], path)} of {len(frames[arm])} episodes of {arm}")
    return 0


def _check(arm: str, frame: pd.DataFrame, untold: bool, form: str) -> None:
    """Refuse, before anything is written, an arm of which the format would say what is not so."""
    if untold and form != "eval_info":
        raise UserError(
            f"{arm}: its record does not tell initial states, and {form} cannot say so: give --format eval_info"
        )
    if form == "eval_info" and not _done(frame).any():
        raise UserError(f"{arm}: an error ended each of its episodes, and eval_info holds none of those")


def _episodes(path: Path) -> pd.DataFrame:
    """Return an arm's episodes in the order of their keys, with `episode`, their place within the task."""
    frame = schemas.read_table(path, schemas.EPISODES).to_pandas().astype(object)
    frame = frame.where(frame.notna(), None).sort_values(list(schemas.EPISODE_KEY), kind="stable")
    return frame.assign(episode=frame.groupby("task_id").cumcount(), completed=frame["outcome"] != "error")


def _csv(frame: pd.DataFrame, path: Path) -> int:
    with (
        provenance.write_atomic(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([OFFICIAL[name] for name in _CSV])
        writer.writerows(frame[list(_CSV)].itertuples(index=False))
    return len(frame)


def _vla_eval(frame: pd.DataFrame, path: Path) -> int:
    suite, seed = (frame[name].iloc[0] for name in ("suite", "seed"))
    tasks = [
        {"task": text, "episodes": [_vla_eval_episode(row) for row in own.to_dict("records")], **_counts(own)}
        for text, own in frame.groupby("task", sort=True)
    ]
    result: dict[str, Any] = {"benchmark": f"flashtrail_{suite}", "mode": "sync", "tasks": tasks, "seed": seed}
    result |= {"harness_version": f"flashtrail {__version__}", "config": {"params": {"suite": suite, "seed": seed}}}
    result |= {"created_at": max(started or "" for started in frame["started_at"]), "metric_keys": {"success": "mean"}}
    provenance.json_dump(result | _counts(frame, "num_episodes_total"), path)
    return len(frame)


def _vla_eval_episode(row: dict[str, Any]) -> dict[str, Any]:
    known = {"episode_id": row["episode"], "metrics": {"success": row["success"]}, "steps": row["steps"]}
    known |= {"elapsed_sec": row["wall_s"], "suite": row["suite"], "task_id": row["task_id"]}
    known |= {"episode_idx": row["init_state"]}
    return known | ({} if row["completed"] else {"failure_reason": row["error"] or "error"})


def _counts(frame: pd.DataFrame, episodes: str = "num_episodes") -> dict[str, Any]:
    """Return the sums beside episodes; errors count as failures, which is the harness's own rule."""
    steps = [step or 0 for step in frame["steps"]]
    sums = {episodes: len(frame), "avg_steps": sum(steps) / len(steps), "num_errors": int((~_done(frame)).sum())}
    return sums | {"mean_success": round(float(frame["success"].astype(bool).mean()), 4)}


def _done(frame: pd.DataFrame) -> pd.Series:
    return frame["completed"].astype(bool)


def _eval_info(frame: pd.DataFrame, path: Path) -> int:
    """Write one arm; an episode that an error ended has no place in this format and is left out."""
    done = frame[_done(frame)]
    tasks = [
        {"task_group": suite, "task_id": task, "metrics": _metrics(own)}
        for (suite, task), own in done.groupby(["suite", "task_id"], sort=True)
    ]
    groups = {suite: _aggregate(own["success"]) for suite, own in done.groupby("suite", sort=True)}
    provenance.json_dump({"per_task": tasks, "per_group": groups, "overall": _aggregate(done["success"])}, path)
    return len(done)


def _metrics(frame: pd.DataFrame) -> dict[str, Any]:
    return {"sum_rewards": [], "max_rewards": [], "successes": frame["success"].tolist(), "video_paths": []}


def _aggregate(successes: Iterable[Any]) -> dict[str, Any]:
    found = [bool(success) for success in successes]
    rewards = {"avg_sum_reward": None, "avg_max_reward": None}
    return rewards | {"pc_success": 100 * sum(found) / len(found), "n_episodes": len(found), "video_paths": []}


_WRITERS: dict[str, tuple[str, Callable[[pd.DataFrame, Path], int]]] = {
    "csv": ("{arm}.csv", _csv),
    "eval_info": ("{arm}/eval_info.json", _eval_info),
    "vla-eval": ("{arm}.json", _vla_eval),
}
