"""The step log against a table written by hand."""

from __future__ import annotations

import json

from flashtrail.tables import schemas, step_log

KEY = {"arm": "drill_no_flip", "suite": "libero_goal", "task_id": 0, "repeat": 0}


def step(init_state: int, number: int, mean: float | None, sent: float | None) -> dict:
    return {
        **KEY,
        "init_state": init_state,
        "step": number,
        "action": [0.123456, -0.5, 0.00004, 0.0, 0.0, 1 / 3, -1.0],
        "reward": float(number == 1),
        "done": number == 1,
        **dict.fromkeys((*schemas.LIMITED_STEP, "who")),
        "gripper_closed": False,
        "eef_pos": [0.0, 0.0, 1.0],
        "img_mean": mean,
        "img_mean_sent": sent,
        "round": 0,
        "offset_in_chunk": number,
        "stale": None,
    }


def episode(init_state: int) -> dict:
    return {
        **dict.fromkeys(schemas.EPISODES.names, None),
        **KEY,
        **dict.fromkeys(("run_id", "policy", "task", "outcome", "started_at"), "x"),
        **dict.fromkeys(("seed", "steps", "rounds", "full_rounds", "draft_rounds", "executed_actions"), 0),
        "init_state": init_state,
        "success": False,
        "wall_s": 1.0,
    }


def test_five_fields_a_line_and_episodes_in_their_tables_order(tmp_path):
    schemas.write_table(tmp_path / "episodes.parquet", [episode(7), episode(2)], schemas.EPISODES)
    rows = [step(2, 1, None, None), step(2, 0, 100.0, 41.23456), step(7, 0, 90.0, None), step(7, 1, None, None)]
    schemas.write_table(tmp_path / "steps.parquet", rows, schemas.STEPS)
    log = tmp_path / "steps.jsonl"
    step_log.write(log, step_log.of_tables(tmp_path / "episodes.parquet", tmp_path / "steps.parquet", "no_flip"))
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    assert [list(line) for line in lines] == [["step", "img_mean", "action", "reward", "tag"]] * 4
    # Init state 7 is first in the table. It was recorded before there was a mean of the picture sent.
    assert [(line["step"], line["img_mean"]) for line in lines] == [(0, 90.0), (1, None), (0, 41.2346), (1, None)]
    assert lines[0]["action"] == [0.1235, -0.5, 0.0, 0.0, 0.0, 0.3333, -1.0]
    assert [line["reward"] for line in lines] == [0.0, 1.0, 0.0, 1.0] and {line["tag"] for line in lines} == {"no_flip"}
