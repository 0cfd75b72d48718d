"""An imported episode's steps, its actions and its rounds say the same: a contradiction is named once, by episode.

The rows are those of stages.py and official.py, with one thing changed; knows nothing of how the rule is computed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imports import official, stages

from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.official import read_run
from flashtrail.imports.record import Imported


def imported(root: Path, rows: dict[str, stages.Rows]) -> Imported:
    """Write stage 4 with these rows and read it as one arm."""
    files = []
    for name in ("stage4_infer", "stage4_episode"):
        files.append(stages.path(root, name))
        stages.write_rows(files[-1], stages.HEADERS[name].split(","), rows[name])
    return CsvRun(files, "pi0", 7, "clean").read()


def chunks(rows: dict[str, stages.Rows], episode: dict[str, Any]) -> list[int]:
    ids = ("task_id", "episode_idx")
    return [r["chunk_exec_len"] for r in rows["stage4_infer"] if all(r[i] == episode[i] for i in ids)]


@pytest.mark.parametrize("error", [40, -40])
def test_steps_that_the_rounds_do_not_make_are_a_problem_that_names_the_episode(tmp_path: Path, error: int) -> None:
    rows = stages.write(tmp_path)
    episode, n = rows["stage4_episode"][2], len(rows["stage4_episode"])
    done = sum(chunks(rows, episode))
    episode["steps"] = done + error
    found = imported(tmp_path, rows)
    name = f"clean/libero_goal/task {episode['task_id']}/init {episode['episode_idx']}/repeat 0"
    said = f"{name} has {done + error} steps, but its rounds executed {done} actions"
    assert [str(p) for p in found.problems] == [f"stage4_episode_summary.csv:4: {said}"]
    assert len(found.rows["episodes"]) == n - 1 and found.counts()["episodes"]["left_out"] == 1
    assert not [r for r in found.rows["rounds"] if (r["task_id"], r["init_state"]) == (0, 2)]


def test_a_single_episode_is_held_to_the_official_client(tmp_path: Path) -> None:
    rows = stages.write(tmp_path, trials=1)
    rows = {name: [row for row in found if row["task_id"] == 0] for name, found in rows.items()}
    rows["stage4_episode"][0]["steps"] = sum(chunks(rows, rows["stage4_episode"][0])) + 40
    (problem,) = map(str, imported(tmp_path, rows).problems)
    assert "steps, but its rounds executed" in problem


@pytest.mark.parametrize("waiting", [0, 5, 10, 20, 50])
@pytest.mark.parametrize("counted", [True, False])
def test_any_waiting_that_a_run_keeps_to_and_any_end_within_a_chunk_is_no_fault(
    tmp_path: Path, waiting: int, counted: bool
) -> None:
    """The last chunk is cut short anywhere; `counted`: whether the step of a success is among the steps."""
    rows = stages.write(tmp_path, trials=8)
    for place, episode in enumerate(rows["stage4_episode"]):
        done = chunks(rows, episode)
        last = next(n for n in reversed(done) if n)
        episode["steps"] = waiting + sum(done) - place % last - (episode["success"] and not counted)
    found = imported(tmp_path, rows)
    assert found.problems == [] and len(found.rows["episodes"]) == 16


def test_unknown_steps_and_episodes_that_an_error_ended_are_not_held_to_them(tmp_path: Path) -> None:
    rows = stages.write(tmp_path)
    rows["stage4_episode"][0]["steps"] = ""
    rows["stage4_episode"][1] |= {"steps": 300, "completed": False, "success": False}
    assert imported(tmp_path, rows).problems == []


def test_the_official_log_is_held_to_its_steps_too(tmp_path: Path) -> None:
    drawn = official.write_run(tmp_path / "run")
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    won = next(k for k, e in enumerate(drawn) if e["success"])
    entries[won]["env_steps_taken"] += 40
    log.write_text(json.dumps(entries, indent=2))
    found = read_run(tmp_path / "run", "pi0", "clean")
    (problem,) = map(str, found.problems)
    assert problem.startswith("episode_log.json:") and "steps, but its rounds executed" in problem
    assert len(found.rows["episodes"]) == len(drawn) - 1
    kept = sum(q["chunk_exec_len"] for k, e in enumerate(drawn) if k != won for q in e["queries"])
    assert len(found.rows["steps"]) == kept


@pytest.mark.parametrize("cell", ["nan", "", "draft?"])
def test_a_bad_round_is_one_problem_not_two(tmp_path: Path, cell: str) -> None:
    rows = stages.write(tmp_path)
    rows["stage4_infer"][1]["route_type"] = cell
    (problem,) = map(str, imported(tmp_path, rows).problems)
    assert problem.startswith("stage4_infer_summary.csv:3: route_type is ")


def test_a_bad_round_and_a_count_that_is_wrong_besides_are_two(tmp_path: Path) -> None:
    rows = stages.write(tmp_path)
    rows["stage4_infer"][1]["route_type"] = "nan"
    rows["stage4_episode"][0]["infer_calls"] += 1
    assert len(imported(tmp_path, rows).problems) == 2


def test_a_profile_names_rounds_that_executed_less_than_was_accepted(tmp_path: Path) -> None:
    """Rounds without episodes are read for their times; a row that contradicts itself is no better for that."""
    rows = stages.write(tmp_path)["stage6_infer"]
    rows[0] |= {"accepted_prefix_len": 12, "chunk_exec_len": 5}
    file = stages.path(tmp_path, "stage6_infer")
    stages.write_rows(file, stages.HEADERS["stage6_infer"].split(","), rows)
    found = CsvRun([file], "pi0").read()
    said = "chunk_exec_len is 5 of accepted_prefix_len 12, but the episode executed 12 of another chunk"
    assert [str(p) for p in found.problems] == [f"{file.name}:2: {said}"]
    assert [row["sample"] for row in found.rows["profile"]] == list(range(len(rows) - 1))
    assert found.counts()["profile"]["left_out"] == 1
