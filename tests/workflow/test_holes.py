"""Missing and failed episodes stop the real merge, in the real workflow, by name; nothing half-written stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from workflow.checkouts import ROOT, Checkout

from flashtrail.evidence import tables

TABLES = "results/tables/clean"


def episode(task: int, init_state: int, **changes: Any) -> dict[str, Any]:
    """One row of the small experiment's arm `clean`, without rounds."""
    row = dict.fromkeys(tables.EPISODES.names)
    row |= {"run_id": "test", "policy": "pi0_nano", "arm": "clean", "suite": "libero_goal", "task_id": task}
    row |= {"task": "open it", "init_state": init_state, "repeat": 0, "seed": 7, "success": True, "steps": 0}
    row |= {"outcome": "success", "rounds": 0, "full_rounds": 0, "draft_rounds": 0, "executed_actions": 0}
    return row | {"wall_s": 1.0, "started_at": "2026-01-01T00:00:00Z"} | changes


def write_shards(checkout: Checkout, rows: list[dict[str, Any]]) -> None:
    """Put real tables in place of the stand-ins' shards, and the real merge in place of its stand-in."""
    for task in (0, 1):
        shard = checkout.path / f"results/rollouts/clean/task_{task}"
        tables.write_table(shard / "episodes.parquet", [r for r in rows if r["task_id"] == task], tables.EPISODES)
        tables.write_table(shard / "rounds.parquet", [], tables.ROUNDS)
        tables.write_table(shard / "steps.parquet", [], tables.STEPS)
    shutil.copy2(ROOT / "scripts/merge_shards.py", checkout.path / "scripts/merge_shards.py")


ALL = [episode(task, init_state) for task in (0, 1) for init_state in (0, 1)]


def merge(checkout: Checkout) -> tuple[int, str]:
    result = checkout.snakemake("--", f"{TABLES}/episodes.parquet", check=False)
    return result.returncode, result.stdout


def test_whole_shards_are_merged(finished):
    write_shards(finished, ALL)
    code, output = merge(finished)
    assert code == 0, output
    assert tables.read_table(finished.path / TABLES / "episodes.parquet", tables.EPISODES).num_rows == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ALL[:2] + ALL[3:], "1 episode is missing: task 1 init 0 repeat 0 of 4"),
        (ALL[:3], "1 episode is missing: task 1 init 1 repeat 0 of 4"),
        ([*ALL, ALL[0]], "there more than once: task 0 init 0 repeat 0"),
        (
            [*ALL[:3], episode(1, 1, outcome="error", success=False, error="server gone")],
            "ended by infrastructure, not by the policy: task 1 init 1 repeat 0 (server gone)",
        ),
    ],
    ids=["hole", "end", "double", "error"],
)
def test_what_is_missing_stops_the_merge_by_name(finished, rows, words):
    write_shards(finished, rows)
    code, output = merge(finished)
    log = Path(finished.path / "results/logs/merge_shards/clean.log").read_text()
    assert code != 0
    for text in (output, log):
        assert any(line.startswith("error: clean:") and words in line for line in text.splitlines()), text[-1500:]
    assert "Traceback" not in log
    assert not list((finished.path / TABLES).glob("*.parquet"))
