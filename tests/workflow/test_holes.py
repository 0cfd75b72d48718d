"""Missing and failed episodes stop the real merge, in the real workflow, by name; nothing half-written stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from workflow.checkouts import ROOT, SMALL, Checkout

from flashtrail.tables import schemas

TABLES = "results/tables/clean"


def episode(task: int, init_state: int, **changes: Any) -> dict[str, Any]:
    """One row of the small experiment's arm `clean`, without rounds."""
    row = dict.fromkeys(schemas.EPISODES.names)
    row |= {"run_id": "test", "policy": "pi0_nano", "arm": "clean", "suite": "libero_goal", "task_id": task}
    row |= {"task": "open it", "init_state": init_state, "repeat": 0, "seed": 7, "success": True, "steps": 0}
    row |= {"outcome": "success", "rounds": 0, "full_rounds": 0, "draft_rounds": 0, "executed_actions": 0}
    return row | {"wall_s": 1.0, "started_at": "2026-01-01T00:00:00Z"} | changes


PLANNED = f"""
import json
from flashtrail import config, provenance
arm = config.load("config.yaml", "{SMALL}").arm("clean")
code = provenance.code_digest("scripts/roll_out_shard.py", "src/flashtrail/__main__.py")
print(json.dumps({{"config_digest": provenance.digest_json(arm), "code_digest": code, "artifact_digest": "b+d"}}))
"""


def write_shards(checkout: Checkout, rows: list[dict[str, Any]], **other: str) -> None:
    """Put real tables of the plan in place of the stand-ins' shards, and the real merge in place of its stand-in.

    `other`: metadata in which the second shard is not the plan's.
    """
    for kind in ("base", "draft"):
        manifest = checkout.path / f"results/artifacts/pi0_nano/{kind}/manifest.json"
        before = manifest.stat()
        manifest.write_text(json.dumps({"digest": kind[0]}))
        os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))  # not newer than what was made with it
    planned = json.loads(checkout.run("python", "-c", PLANNED, environment={"PYTHONPATH": "src"}).stdout)
    for task in (0, 1):
        shard = checkout.path / f"results/rollouts/clean/task_{task}"
        told = planned | (other if task == 1 else {})
        of_task = [row for row in rows if row["task_id"] == task]
        schemas.write_table(shard / "episodes.parquet", of_task, schemas.EPISODES, told)
        schemas.write_table(shard / "rounds.parquet", [], schemas.ROUNDS, told)
        schemas.write_table(shard / "steps.parquet", [], schemas.STEPS, told)
    shutil.copy2(ROOT / "scripts/merge_shards.py", checkout.path / "scripts/merge_shards.py")


ALL = [episode(task, init_state) for task in (0, 1) for init_state in (0, 1)]


def merge(checkout: Checkout) -> tuple[int, str]:
    result = checkout.snakemake("--", f"{TABLES}/episodes.parquet", check=False)
    return result.returncode, result.stdout


def test_whole_shards_are_merged(finished):
    write_shards(finished, ALL)
    code, output = merge(finished)
    assert code == 0, output
    assert schemas.read_table(finished.path / TABLES / "episodes.parquet", schemas.EPISODES).num_rows == 4


@pytest.mark.parametrize("digest", ["config_digest", "code_digest", "artifact_digest"])
def test_a_shard_of_another_plan_stops_the_merge_by_name(finished, digest):
    """Whoever computed it: here somebody put it where the workflow looks."""
    write_shards(finished, ALL, **{digest: "theirs"})
    code, output = merge(finished)
    assert code != 0
    refusal = f"clean/task_1/episodes.parquet is of another plan ({digest} theirs, planned "
    assert any(line.startswith("error: clean:") and refusal in line for line in output.splitlines()), output[-1500:]
    assert not list((finished.path / TABLES).glob("*.parquet"))


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
