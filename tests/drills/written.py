"""Step logs on disk: made episodes as our tables, as the exercise's JSON lines, and as a whole campaign of drills.

For tests and for looking at the page before a campaign was run. Nothing of it is evidence.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drills import made

from flashtrail.base import provenance
from flashtrail.drills import bounds, diagnosis, logs
from flashtrail.drills.predicates import Episode
from flashtrail.tables import schemas

SUITE = "libero_goal"


METADATA = {"config_digest": "c", "device": "none", "simulated": "true"}


def write_tables(
    directory: Path, arm: str, episodes: list[Episode], *, outcomes: dict[int, str] | None = None, policy: str = "p"
) -> Path:
    """Write an arm's steps and episodes as the recorder does; task by turns."""
    steps: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, episode in enumerate(episodes):
        key = {"arm": arm, "suite": SUITE, "task_id": number % 3, "init_state": number // 3, "repeat": 0}
        outcome = (outcomes or {}).get(number, "success" if episode.reward.any() else "horizon")
        rows.append({**key, **_episode(outcome, len(episode.actions), policy)})
        steps += [{**key, **step} for step in _steps(episode)]
    schemas.write_table(directory / "steps.parquet", steps, schemas.STEPS, METADATA)
    schemas.write_table(directory / "episodes.parquet", rows, schemas.EPISODES, METADATA)
    return directory


def _steps(episode: Episode) -> list[dict[str, Any]]:
    empty = {f.name: None for f in schemas.STEPS if f.nullable}
    return [
        {
            **empty,
            "step": i,
            "action": action.tolist(),
            "reward": reward,
            "done": bool(reward),
            **dict.fromkeys((*schemas.LIMITED_STEP, "who")),
            "gripper_closed": bool(action[6] > 0),
            "eef_pos": [0.0, 0.0, 0.0],
            "img_mean": None if np.isnan(mean) else float(mean),
            "round": 0,
        }
        for i, (action, mean, reward) in enumerate(zip(episode.actions, episode.img_mean, episode.reward, strict=True))
    ]


def _episode(outcome: str, steps: int, policy: str) -> dict[str, Any]:
    empty = {f.name: None for f in schemas.EPISODES if f.nullable}
    counts = dict.fromkeys(("rounds", "full_rounds", "draft_rounds", "executed_actions"), steps)
    words = {"run_id": "r", "policy": policy, "task": "t", "seed": 7, "wall_s": 1.0, "started_at": "2026"}
    return {**empty, **counts, **words, "success": outcome == "success", "outcome": outcome, "steps": steps}


def write_log(path: Path, episodes: list[Episode], tags: list[str], heading: bool = False) -> Path:
    """Write the exercise's JSON lines, five fields a step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for episode, tag in zip(episodes, tags, strict=True):
        if heading:
            lines.append({"episode": tag})
        for i, (action, mean, reward) in enumerate(zip(episode.actions, episode.img_mean, episode.reward, strict=True)):
            row = {"step": i, "img_mean": None if np.isnan(mean) else mean, "reward": reward, "tag": tag}
            lines.append(row | {"action": [round(float(x), 4) for x in action]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_campaign(root: Path, episodes: int = 15) -> dict[str, Any]:
    """Write a reference, a clean run and a run of each failure, bounds and diagnosis; return the page's inputs."""
    tables_of: dict[str, Path] = {}

    def arm(name: str, first: int, toggle: Mapping[str, Any]) -> Path:
        played = [made.episode(first + i, **({"steps": 70 + 5 * (i % 15)} | dict(toggle))) for i in range(episodes)]
        tables_of[name] = write_tables(root / "tables" / name, name, played)
        return tables_of[name]

    reference = logs.of_tables(arm("drill_reference", 900, {}))
    bounds.save(
        bounds.derive([logged.episode for logged in reference.episodes], logs.origin(reference)), root / "bounds.json"
    )
    del tables_of["drill_reference"]
    for number, (name, toggle) in enumerate({"clean": {}, **made.DRILLS}.items()):
        arm(f"drill_{name}", 100 * number, toggle)
    found = diagnosis.of_runs(bounds.load(root / "bounds.json"), [logs.of_tables(d) for d in tables_of.values()])
    provenance.json_dump(found, root / "diagnosis.json")
    files = {name: [str(d / f"{name}.parquet") for d in tables_of.values()] for name in ("episodes", "steps")}
    stored = {kind: str(root / f"{kind}.json") for kind in ("bounds", "diagnosis")}
    return {**files, **stored, "arms": list(tables_of)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    where = parser.parse_args().root
    provenance.json_dump(write_campaign(where), where / "inputs.json")
