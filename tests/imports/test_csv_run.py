"""CSV files of rounds and episodes, with the real files' columns and quirks: what arrives, what is refused by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from imports import official, stages

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.claims import summaries
from flashtrail.imports.columns import Columns
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.official import read_run
from flashtrail.imports.record import Imported
from flashtrail.imports.writing import write
from flashtrail.tables import schemas


def test_csv_files_arrive_whole_and_give_the_same_summary(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run")
    files = official.write_csv(tmp_path / "csv")
    write(read_run(tmp_path / "run", "pi0", "clean"), tmp_path / "a")
    assert (
        cli.main(
            [
                "import-run",
                "--csv",
                *map(str, files),
                "--out",
                str(tmp_path / "b"),
                "--seed",
                "7",
                "--policy",
                "pi0",
                "--arm",
                "clean",
            ]
        )
        == 0
    )
    one, two = (
        {n: root / "tables" / "clean" / f"{n}.parquet" for n in schemas.SCHEMAS}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    first, second = summaries.summarize_arm(**one), summaries.summarize_arm(**two)
    for part in ("success", "outcomes", "routes", "accepted_prefix", "latency_per_action", "mixture"):
        assert first[part] == second[part], part


def test_the_guard_columns_of_stage_7_arrive(tmp_path: Path) -> None:
    files = official.write_csv(tmp_path, condition="guard_every4")
    found = CsvRun(files, "pi0", 7).read()
    assert found.problems == []
    assert {row["arm"] for row in found.rows["episodes"]} == {"guard_every4"}
    rounds = found.rows["rounds"]
    hit = [r for r in rounds if r["condition_applied"]]
    assert hit and all(r["round"] % 4 == 0 and r["healthy"] is False for r in hit)
    assert sum(bool(r["replaced"]) for r in rounds) == sum(r["round"] % 4 == 0 and r["round"] > 0 for r in rounds)
    assert all(r["synchronized"] is True for r in rounds)


def test_bad_csv_rows_are_named_by_line(tmp_path: Path) -> None:
    infer, log = official.write_csv(tmp_path)
    lines = infer.read_text().splitlines()
    lines[4] = lines[4].replace("draft", "vlm").replace("full", "vlm")
    lines[5] += ",extra"
    infer.write_text("\n".join(lines) + "\n")
    rows = log.read_text().splitlines()
    log.write_text("\n".join([*rows[:2], *rows[3:]]) + "\n")
    found = CsvRun([log, infer], "pi0", 7).read()
    said = [str(problem) for problem in found.problems]
    assert "infer.csv:5: route_type is 'vlm', neither full nor draft" in said
    assert any(s.startswith("infer.csv:6: has 12 cells, the header 11") for s in said)
    assert any("rounds of an episode that no (good) row of the episodes has" in s for s in said)


SUITE = Columns.parse(constants=["suite=libero_goal"])


def stage(root: Path, name: str, said: Columns | None = None, **words: Any) -> Imported:
    """Read a stage's files, which must hold no problem."""
    files = [path for kind in ("infer", "episode") if (path := stages.path(root, f"{name}_{kind}")).exists()]
    found = CsvRun(files, "pi0", 7, named=said, **words).read()
    assert found.problems == []
    return found


def count(rows: stages.Rows, **values: Any) -> int:
    return sum(all(row[name] == value for name, value in values.items()) for row in rows)


def test_stage_4_has_the_suite_with_its_episodes_only(tmp_path: Path) -> None:
    drawn = stages.write(tmp_path)
    found = stage(tmp_path, "stage4", arm="clean")
    assert found.arms() == ["clean"] and {row["suite"] for row in found.rows["episodes"]} == {"libero_goal"}
    assert sum(row["success"] for row in found.rows["episodes"]) == count(drawn["stage4_episode"], success=True)
    assert len(found.rows["rounds"]) == len(drawn["stage4_infer"])
    assert {row["run_id"] for row in found.rows["episodes"]} == {"stage4_task0_seed7", "stage4_task1_seed7"}


@pytest.mark.parametrize("name", ["stage5", "stage7"])
def test_two_conditions_under_one_run_name_become_two_arms(tmp_path: Path, name: str) -> None:
    drawn = stages.write(tmp_path)
    found = stage(tmp_path, name, SUITE)
    assert found.arms() == list(stages.CONDITIONS[name])
    for arm in found.arms():
        own = {table: [row for row in found.rows[table] if row["arm"] == arm] for table in ("episodes", "rounds")}
        assert len(own["rounds"]) == count(drawn[f"{name}_infer"], condition=arm)
        won = count(drawn[f"{name}_episode"], condition=arm, success=True)
        assert sum(row["success"] for row in own["episodes"]) == won
        hits = count(drawn[f"{name}_infer"], condition=arm, stage5_perturb_applied=True)
        assert sum(bool(row["condition_applied"]) for row in own["rounds"]) == hits > 0
    steps = [row["steps"] for row in found.rows["episodes"]]
    assert steps == [None] * len(steps) if name == "stage7" else all(isinstance(step, int) for step in steps)


def test_stage_5_says_how_to_give_the_suite_that_it_lacks(tmp_path: Path) -> None:
    stages.write(tmp_path)
    with pytest.raises(UserError, match=r"no column 'task_suite_name'.*--constant suite=VALUE"):
        stage(tmp_path, "stage5")


def test_rounds_alone_are_a_profile_with_the_time_that_was_mapped_and_warm_up_by_rule(tmp_path: Path) -> None:
    drawn = stages.write(tmp_path)["stage6_infer"]
    said = Columns.parse(["policy_ms=policy_time_gpu_sync_ms"], warmup=["episode=0,round=0"])
    found = stage(tmp_path, "stage6", said, device="L40S")
    rows = found.rows["profile"]
    assert found.profile == "stage6_infer_summary" and not found.rows["episodes"] and len(rows) == len(drawn)
    assert [row["policy_ms"] for row in rows] == [row["policy_time_gpu_sync_ms"] for row in drawn]
    assert [row["roundtrip_ms"] for row in rows] == [row["client_roundtrip_ms"] for row in drawn]
    assert sum(row["warmup"] for row in rows) == found.warm_rounds() == len(official.TASKS)  # one of each run
    assert all(row["policy_ms"] < 4000 for row in rows if not row["warmup"])
    assert "left out as warm-up: 2 of" in found.described()
    write(found, tmp_path / "out")
    table = schemas.read_table(tmp_path / "out/profile/stage6_infer_summary/rounds.parquet", schemas.PROFILE)
    assert len(table) == len(drawn) and table["synchronized"].to_pylist() == [True] * len(drawn)


def test_episodes_alone_suffice_and_say_nothing_of_rounds(tmp_path: Path) -> None:
    stages.write(tmp_path)
    found = CsvRun([stages.path(tmp_path, "stage4_episode")], "pi0", 7, arm="clean").read()
    assert found.problems == [] and found.rows["episodes"] and not found.rows["rounds"]
    assert {row["rounds"] for row in found.rows["episodes"]} == {None}
    write(found, tmp_path / "out")
    files = {name: tmp_path / "out/tables/clean" / f"{name}.parquet" for name in schemas.SCHEMAS}
    summary = summaries.summarize_arm(**files)
    assert summary["success"]["n"] == len(found.rows["episodes"]) and summary["routes"]["n"] == 0
    assert summary["bookkeeping"]["episodes_at_odds"] == 0


def test_a_warm_up_episode_goes_with_its_rounds_and_is_counted(tmp_path: Path) -> None:
    drawn = stages.write(tmp_path)
    found = stage(tmp_path, "stage4", Columns.parse(warmup=["task_id=0,episode=0"]), arm="clean")
    of_it = count(drawn["stage4_infer"], task_id=0, episode_idx=0)
    assert found.counts()["rounds"]["warmup"] == of_it and found.counts()["episodes"]["warmup"] == 1
    assert found.counts()["rounds"]["left_out"] == 0
    with pytest.raises(UserError, match="an episode cannot lose single rounds"):
        stage(tmp_path, "stage4", Columns.parse(warmup=["round=0"]), arm="clean")


@pytest.mark.parametrize(("name", "rule"), [("stage6", "episode=0,round=99"), ("stage4", "task_id=0,episode=99")])
def test_a_warm_up_rule_that_no_row_meets_is_refused(tmp_path: Path, name: str, rule: str) -> None:
    stages.write(tmp_path)
    with pytest.raises(UserError, match=f"--warmup {rule}: no row matches"):
        stage(tmp_path, name, Columns.parse(warmup=["episode=0", rule]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"names": ["policy_ms=nowhere"]}, "no file has a column 'nowhere'"),
        ({"names": ["polcy_ms=x"]}, "'polcy_ms' is not one of our columns; did you mean 'policy_ms'"),
        ({"names": ["policy_ms"]}, "write OURS=THEIRS"),
        ({"constants": ["task_id=3"]}, "has a column 'task_id': --constant is for columns that it lacks"),
        ({"constants": ["success=false"]}, "episode_summary.csv has a column 'success': --constant is for columns"),
        ({"constants": ["healthy=perhaps"]}, "--constant healthy=perhaps: .* is 'perhaps', neither true nor false"),
        ({"constants": ["seed=1.5"]}, "--constant seed=1.5: seed is '1.5', not a count"),
        ({"constants": ["suite=a", "suite=b"]}, "duplicate suite"),
        ({"warmup": ["seed=7"]}, "has no column for seed"),
    ],
)
def test_what_is_said_of_columns_is_held_against_the_files(tmp_path: Path, said: dict, message: str) -> None:
    stages.write(tmp_path)
    with pytest.raises(UserError, match=message):
        stage(tmp_path, "stage4", Columns.parse(**said), arm="clean")


def test_a_mapped_column_is_named_as_its_file_has_it(tmp_path: Path) -> None:
    stages.write(tmp_path)
    file = stages.path(tmp_path, "stage6_infer")
    lines = file.read_text().splitlines()
    cells = lines[3].split(",")
    cells[lines[0].split(",").index("policy_time_gpu_sync_ms")] = "1_0"
    file.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))
    found = CsvRun([file], "pi0", named=Columns.parse(["policy_ms=policy_time_gpu_sync_ms"])).read()
    assert [str(p) for p in found.problems] == [f"{file.name}:4: policy_time_gpu_sync_ms is '1_0', not a number"]


def episodes_with(root: Path, **columns: list[Any]) -> Path:
    """Write stage 4's episodes of one task with further or other cells, column by column."""
    rows = [row for row in stages.write(root)["stage4_episode"] if row["task_id"] == 0]
    for name, cells in columns.items():
        for row, cell in zip(rows, cells, strict=False):
            row[name] = cell
    header = dict.fromkeys([*stages.HEADERS["stage4_episode"].split(","), *columns])
    stages.write_rows(root / "made.csv", list(header), rows)
    return root / "made.csv"


def test_an_initial_state_column_is_read_and_repeats_are_told_apart(tmp_path: Path) -> None:
    file = episodes_with(tmp_path, init_state=[4, 4, 9])
    rows = CsvRun([file], "pi0", 7).read().rows["episodes"]
    assert [(row["init_state"], row["repeat"]) for row in rows] == [(4, 0), (4, 1), (9, 0)]


def test_a_task_number_with_two_texts_is_refused_by_name(tmp_path: Path) -> None:
    file = episodes_with(tmp_path, task_description=["open the drawer", "open the drawer", "close the drawer"])
    with pytest.raises(UserError, match="task 0 of libero_goal has two texts"):
        CsvRun([file], "pi0", 7).read()


@pytest.mark.parametrize("column", ["task_suite_name", "seed"])
def test_an_arm_of_two_suites_or_seeds_is_refused_by_name(tmp_path: Path, column: str) -> None:
    file = episodes_with(tmp_path, **{column: ["1", "1", "2"]})
    with pytest.raises(UserError, match=r"arm 'stage4_task0_seed7' holds two \w+s \(1 and 2\)"):
        CsvRun([file], "pi0", 7).read()


def test_a_bad_episode_takes_its_rounds_with_it_in_one_line(tmp_path: Path) -> None:
    stages.write(tmp_path)
    file, rounds = episodes_with(tmp_path, success=["nan"]), stages.path(tmp_path, "stage4_infer")
    found = CsvRun([file, rounds], "pi0", 7).read()
    assert str(found.problems[0]) == "made.csv:2: success is 'nan', neither true nor false"
    other_task = [p for p in found.problems[1:] if "task 1" not in str(p)]
    assert other_task == []


def test_an_episode_that_was_not_completed_is_an_error(tmp_path: Path) -> None:
    file = episodes_with(tmp_path, completed=["False"], success=["False"], failure_reason=["server gone"])
    first = CsvRun([file], "pi0", 7).read().rows["episodes"][0]
    assert (first["outcome"], first["error"], first["success"]) == ("error", "server gone", False)


@pytest.mark.parametrize(
    ("accepted", "executed", "said"),
    [
        (13, 12, "accepted_prefix_len is 13: verification looks at 12 actions"),
        (12, 5, "chunk_exec_len is 5 of accepted_prefix_len 12, but the episode executed 12 of another chunk"),
        (5, 12, "chunk_exec_len 12 exceeds accepted_prefix_len 5"),
    ],
)
def test_a_draft_round_that_executed_another_length_than_was_accepted_is_a_bad_row(
    tmp_path: Path, accepted: int, executed: int, said: str
) -> None:
    rows = stages.write(tmp_path)["stage4_infer"]
    place = next(place for place, row in enumerate(rows) if row["route_type"] == "draft")
    rows[place] |= {"accepted_prefix_len": accepted, "chunk_exec_len": executed}
    stages.write_rows(stages.path(tmp_path, "stage4_infer"), stages.HEADERS["stage4_infer"].split(","), rows)
    files = [stages.path(tmp_path, f"stage4_{kind}") for kind in ("infer", "episode")]
    first = str(CsvRun(files, "pi0", 7).read().problems[0])
    assert first.startswith(f"stage4_infer_summary.csv:{place + 2}: {said}")


@pytest.mark.parametrize("place", [0, -1, 1])
def test_a_round_that_executed_less_is_named_wherever_it_stands_in_its_episode(tmp_path: Path, place: int) -> None:
    """The longest chunk of an episode may come after the round in question: the first one has nothing before it."""
    rows = stages.write(tmp_path)["stage4_infer"]
    episode = [at for at, row in enumerate(rows) if (row["task_id"], row["episode_idx"]) == (0, 0)]
    at = episode[place]
    rows[at] |= {"accepted_prefix_len": 12, "chunk_exec_len": 5}
    stages.write_rows(stages.path(tmp_path, "stage4_infer"), stages.HEADERS["stage4_infer"].split(","), rows)
    files = [stages.path(tmp_path, f"stage4_{kind}") for kind in ("infer", "episode")]
    found = CsvRun(files, "pi0", 7).read()
    said = "chunk_exec_len is 5 of accepted_prefix_len 12, but the episode executed 12 of another chunk"
    assert str(found.problems[0]) == f"stage4_infer_summary.csv:{at + 2}: {said}"
    assert len(found.problems) == 1  # that the episode is one round short follows from it
    assert len(found.rows["rounds"]) == len(rows) - 1


def test_shorter_chunks_throughout_are_a_setting_not_a_fault(tmp_path: Path) -> None:
    written = stages.write(tmp_path)
    rows, steps = written["stage4_infer"], Counter[tuple[int, int]]()
    for row in rows:
        row["chunk_exec_len"] = min(5, row["accepted_prefix_len"])
        steps[row["task_id"], row["episode_idx"]] += row["chunk_exec_len"]
    for episode in written["stage4_episode"]:
        episode["steps"] = steps[episode["task_id"], episode["episode_idx"]] + 10
    for name in ("stage4_infer", "stage4_episode"):
        stages.write_rows(stages.path(tmp_path, name), stages.HEADERS[name].split(","), written[name])
    assert len(stage(tmp_path, "stage4").rows["rounds"]) == len(rows)


def test_a_completed_episode_of_no_steps_is_a_bad_row(tmp_path: Path) -> None:
    rows = stages.write(tmp_path)["stage4_episode"]
    rows[0]["steps"] = 0
    rows[1] |= {"steps": 0, "completed": False, "success": False}  # an error before the first step: that can be
    stages.write_rows(stages.path(tmp_path, "stage4_episode"), stages.HEADERS["stage4_episode"].split(","), rows)
    files = [stages.path(tmp_path, f"stage4_{kind}") for kind in ("infer", "episode")]
    found = CsvRun(files, "pi0", 7).read()
    said = "stage4_episode_summary.csv:2: steps is 0 of a completed episode: leave the cell empty if it is not known"
    assert [str(problem) for problem in found.problems] == [said]


def test_an_episode_that_is_there_twice_is_to_be_deleted_and_another_of_its_name_is_another_arm(tmp_path: Path) -> None:
    rows = stages.write(tmp_path)["stage4_episode"][:1]
    header = stages.HEADERS["stage4_episode"].split(",")
    stages.write_rows(tmp_path / "e.csv", header, [*rows, *rows, {**rows[0], "steps": 7}])
    one, other = (str(problem) for problem in CsvRun([tmp_path / "e.csv"], "pi0", 7).read().problems)
    assert one.startswith("e.csv:3: the episode of e.csv:2 again") and one.endswith("; delete one")
    assert other.startswith("e.csv:4: another row of the episode of e.csv:2") and "another --arm" in other
