"""Step logs as predicates see them, from wherever they lie: our tables, imported ones, JSON lines, an official run.

What a predicate must not see (arm, task, initial state, tag) stays beside the episode, for the counts. Episodes
that infrastructure ended are left out: they say nothing about the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.drills import step_lines
from flashtrail.drills.predicates import Episode
from flashtrail.imports.official import read_run
from flashtrail.tables import schemas

KEY = list(schemas.EPISODE_KEY)
SENT = "img_mean_sent"  # of the picture that was sent; `img_mean` is of the one before any condition
_LOGS = "*.jsonl"


@dataclass(frozen=True)
class Logged:
    """An episode and its name; `task` and `start` say which are of one kind when episodes are drawn again."""

    arm: str
    task: str
    start: str
    episode: Episode
    key: dict[str, Any] | None = None  # of EPISODE_KEY, where it has one

    @property
    def name(self) -> str:
        """Return the episode's name within its arm."""
        return f"{self.task}/{self.start}"


@dataclass(frozen=True)
class Run:
    """Episodes of one run; `left_out` ended by infrastructure. `policies`: by arm, where the log says it."""

    episodes: list[Logged]
    left_out: int = 0
    policies: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def arms(self) -> dict[str, list[Logged]]:
        """Return the episodes by arm, in the order in which they were read."""
        by_arm: dict[str, list[Logged]] = {}
        for logged in self.episodes:
            by_arm.setdefault(logged.arm, []).append(logged)
        return by_arm


def read(path: str | Path) -> Run:
    """Read the run at `path`; UserError naming the accepted forms where there is none.

    A steps.parquet (with its episodes.parquet), tables/ARM/, results/tables/ARM/, the official client's run
    directory, a JSON-lines file or a directory of them.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"{root} does not exist")
    if root.is_file():
        if root.suffix == ".jsonl":
            return _of_logs([root], root.parent)
        if root.suffix != ".parquet":
            raise UserError(
                f"{root} is not a step log: give a steps.parquet or {_LOGS} file (unpacked), or the run's directory"
            )
        root = root.parent
    directories = _table_directories(root)
    if directories:
        return joined(of_tables(directory) for directory in directories)
    if (root / "manifest.json").is_file() and (root / "episode_log.json").is_file():
        return of_official(root)
    logs = sorted(path for path in root.rglob(_LOGS) if path.name == "steps.jsonl") or sorted(root.glob(_LOGS))
    if logs:
        return _of_logs(logs, root)
    raise UserError(
        f"{root} is not a run: give a directory with steps.parquet, tables/ARM/steps.parquet or {_LOGS} in it, or a "
        "run directory of the official client (manifest.json)"
    )


def _table_directories(root: Path) -> list[Path]:
    if (root / "steps.parquet").is_file():
        return [root]
    for below in ("tables", "results/tables", "."):
        directories = sorted(path.parent for path in (root / below).glob("*/steps.parquet"))
        if directories:
            return directories
    return []


def joined(runs: Iterable[Run]) -> Run:
    """Put runs together."""
    parts = list(runs)
    return Run(
        [logged for part in parts for logged in part.episodes],
        sum(part.left_out for part in parts),
        {arm: policy for part in parts for arm, policy in part.policies.items()},
        tuple(path for part in parts for path in part.files),
    )


def origin(run: Run) -> dict[str, Any]:
    """Return where bounds come from: arms, policy, tasks, files with their digests, and what the tables say of both."""
    metadata: dict[str, set[str]] = {}
    for path in run.files:
        for key, value in schemas.read_metadata(path).items() if path.suffix == ".parquet" else ():
            metadata.setdefault(key, set()).add(value)
    return {
        "arms": list(run.arms),
        "policies": sorted(set(run.policies.values())),
        "tasks": sorted({logged.task for logged in run.episodes}),
        "starts": sorted({logged.start for logged in run.episodes}),
        "left_out": run.left_out,
        "sources": {f"{path.parent.name}/{path.name}": provenance.sha256_file(path) for path in run.files},
        "metadata": {key: " and ".join(sorted(values)) for key, values in sorted(metadata.items())},
    }


# --- tables ---


def of_tables(directory: str | Path) -> Run:
    """Read one arm's steps; with its episodes.parquet beside them, those that ended by infrastructure are left out."""
    steps, episodes = Path(directory) / "steps.parquet", Path(directory) / "episodes.parquet"
    frame = _steps(steps)
    left_out, files = 0, [steps]
    policies: dict[str, str] = {}
    if episodes.is_file():
        ends = schemas.read_table(episodes, schemas.EPISODES, [*KEY, "policy", "outcome"]).to_pandas()
        failed = ends[ends["outcome"] == "error"]
        left_out, policies = len(failed), dict(zip(ends["arm"], ends["policy"], strict=True))
        names = pd.MultiIndex.from_frame(failed[KEY])
        frame = frame[~pd.MultiIndex.from_frame(frame[KEY]).isin(names)]
        files.append(episodes)
    return Run(list(_episodes(frame)), left_out, policies, tuple(files))


def _steps(path: Path) -> pd.DataFrame:
    """Return key, step, action, picture and reward; tables of before there was `img_mean_sent` are read, too."""
    schema = schemas.STEPS if _has(path, SENT) else pa.schema([f for f in schemas.STEPS if f.name != SENT])
    pictures = [name for name in (SENT, "img_mean") if name in schema.names]
    table = schemas.read_table(path, schema, [*KEY, "step", "action", "reward", *pictures])
    frame = table.drop_columns(["action"]).to_pandas()
    _attach(frame, table["action"].combine_chunks().flatten().to_numpy(zero_copy_only=False))
    frame["picture"] = frame[pictures[0]]
    for name in pictures[1:]:
        frame["picture"] = frame["picture"].fillna(frame[name])
    return frame


def _attach(frame: pd.DataFrame, actions: Any) -> None:
    """Put the actions (n, 7) beside the steps as one array, to which `row` points: pandas has no such column."""
    frame["row"] = np.arange(len(frame))
    frame.attrs["actions"] = np.asarray(actions, float).reshape(-1, 7)


def _has(path: Path, column: str) -> bool:
    try:
        return column in pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError):
        return True  # no readable table: read_table says so


def _episodes(frame: pd.DataFrame) -> Iterator[Logged]:
    actions = frame.attrs["actions"]
    for names, part in frame.sort_values([*KEY, "step"], kind="stable").groupby(KEY, sort=True):
        key = dict(zip(KEY, names, strict=True))
        episode = _episode(
            schemas.episode_id(key),
            actions[part["row"].to_numpy()],
            part["picture"].to_numpy(float),
            part["reward"].to_numpy(float),
        )
        start = f"init {key['init_state']}/repeat {key['repeat']}"
        yield Logged(key["arm"], f"{key['suite']}/task {key['task_id']}", start, episode, key)


def _episode(name: str, actions: Any, pictures: Any, rewards: Any) -> Episode:
    try:
        return Episode(np.asarray(actions, float), np.asarray(pictures, float), np.asarray(rewards, float))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


# --- the official client's run directory ---


def of_official(root: str | Path) -> Run:
    """Read a run directory of the official client; its log has no pictures."""
    imported = read_run(root, "unknown")
    if imported.problems:
        raise UserError(
            f"{imported.problems[0]} (flashtrail import-run names all of its {len(imported.problems)} problems)"
        )
    errors = {tuple(row[name] for name in KEY) for row in imported.rows["episodes"] if row["outcome"] == "error"}
    steps = [row for row in imported.rows["steps"] if tuple(row[name] for name in KEY) not in errors]
    frame = pd.DataFrame(steps, columns=[*KEY, "step", "reward"]).assign(picture=np.nan)
    _attach(frame, [row["action"] for row in steps])
    return Run(list(_episodes(frame)), len(errors), {}, tuple(imported.files))


# --- JSON lines: step, img_mean, action, reward, tag ---


def _of_logs(paths: Sequence[Path], root: Path) -> Run:
    episodes = [logged for path in paths for logged in of_log(path, root)]
    return Run(episodes, 0, {}, tuple(paths))


def of_log(path: str | Path, root: str | Path | None = None) -> list[Logged]:
    """Read one file of JSON lines (`step_lines`): `step`, `img_mean`, `action`, `reward`.

    UserError naming file and line for what cannot be read.
    """
    log = Path(path)
    name = str(log.relative_to(root)) if root is not None and log.is_relative_to(root) else log.name
    arm = name.split("/")[0] if "/" in name else Path(name).stem
    episodes = []
    for number, rows in enumerate(step_lines.read(log), 1):
        columns = [r.action for r in rows], [r.picture for r in rows], [r.reward for r in rows]
        episodes.append(Logged(arm, name, f"episode {number}", _episode(f"{log}:{rows[0].line}", *columns)))
    return episodes
