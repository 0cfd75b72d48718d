"""Other programs' result files, as their own writers made them (foreign/README.md): what arrives, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.imports import sources, vla_eval_recording
from flashtrail.imports.columns import Columns
from flashtrail.imports.record import Imported
from flashtrail.tables import keys, schemas

FOREIGN = Path(__file__).with_name("foreign")
GOAL = {0: "open the middle drawer of the cabinet", 1: "put the bowl on the stove", 7: "turn on the stove"}


def recording(root: Path, change: str = "") -> Path:
    """Build the recording again from its dump; `change` is SQL that is run on it."""
    root.mkdir(exist_ok=True)
    path = root / "recording-3f1c.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript((FOREIGN / "vla_eval_080_recording.sql").read_text() + change)
    connection.close()
    return path


def read(*paths: Path, seed: int | None = None, arm: str | None = None, **columns: list[str]) -> Imported:
    return sources.read(
        paths, "p", seed, arm, Columns.parse(columns.get("names", []), columns.get("constants", [])), ""
    )


def outcomes(found: Imported) -> dict[tuple[int, int], str]:
    assert [str(problem) for problem in found.problems] == []
    return {(row["task_id"], row["init_state"]): row["outcome"] for row in found.rows["episodes"]}


VLA_EVAL = {(task, state): "success" for task in GOAL for state in range(3)}
VLA_EVAL |= {(1, 1): "horizon", (7, 0): "horizon", (0, 2): "error"}  # what the fixtures' makers were told


@pytest.mark.parametrize("name", ["aggregate", "merged", "recording"])
def test_each_form_of_vla_eval_gives_the_same_episodes(tmp_path: Path, name: str) -> None:
    file = {"aggregate": "vla_eval_080_aggregate.json", "merged": "vla_eval_003_merged.json"}.get(name)
    found = read(FOREIGN / file if file else recording(tmp_path))
    assert outcomes(found) == VLA_EVAL
    rows = found.rows["episodes"]
    assert {(row["suite"], row["seed"]) for row in rows} == {("libero_goal", 7)}
    assert {row["task_id"]: row["task"] for row in rows} == GOAL  # 0.0.3 says no number: LIBERO's own
    by_key = {(row["task_id"], row["init_state"]): row for row in rows}
    assert by_key[1, 0]["steps"] == 90 and by_key[7, 0]["steps"] == 300 and by_key[0, 2]["steps"] is None
    assert by_key[0, 2]["error"] == ("timeout" if name == "merged" else "model_act")
    assert {row["rounds"] for row in rows} == {None} and "not on record: policy, device" in found.described()
    assert ("episode run again, the last run counts" in found.described()) == (name == "recording")


def test_a_results_directory_counts_an_episode_once_although_an_aggregate_lies_beside_its_recording(
    tmp_path: Path,
) -> None:
    path = recording(tmp_path / "results")
    shutil.copy(FOREIGN / "vla_eval_080_aggregate.json", path.with_name("LIBEROBenchmark_libero_goal_aggregate.json"))
    path.with_name("server.log").write_text("INFO listening\n")
    path.with_name("config.json").write_text('{"a": 1}')
    found = read(path.parent)
    assert outcomes(found) == VLA_EVAL and found.arms() == ["results"] and found.files == [path]


def test_of_lerobot_no_initial_state_is_known_and_nothing_pairs(tmp_path: Path) -> None:
    for arm in ("a", "b"):
        words = ["import-run", str(FOREIGN / "lerobot_044_eval_info.json"), "--seed", "1000", "--arm", arm]
        assert cli.main([*words, "--out", str(tmp_path), "--policy", arm]) == 0
    files = {arm: tmp_path / "tables" / arm / "episodes.parquet" for arm in ("a", "b")}
    frames = {arm: schemas.read_table(path, schemas.EPISODES).to_pandas() for arm, path in files.items()}
    given = json.loads((FOREIGN / "lerobot_044_eval_info.json").read_text())["per_task"]
    assert [list(own["success"]) for _, own in frames["a"].groupby("task_id")] == [
        t["metrics"]["successes"] for t in given
    ]
    assert list(frames["a"]["task"].unique()) == ["task 0", "task 3"] and frames["a"]["steps"].isna().all()
    from flashtrail.claims.campaign import Campaign

    assert len(keys.pairs(frames["a"], frames["b"])) == 10  # by the numbers alone they would
    assert len(Campaign({"episodes": [str(path) for path in files.values()]}).pairs("a", "b")) == 0


def test_lerobots_earlier_form_has_seeds_and_needs_suite_and_task() -> None:
    path = FOREIGN / "lerobot_033_eval_info.json"
    with pytest.raises(UserError, match=r"no column 'task_suite_name'.*--constant suite=VALUE"):
        read(path)
    found = read(path, constants=["suite=pusht", "task_id=0"])
    given = json.loads(path.read_text())["per_episode"]
    assert [row["success"] for row in found.rows["episodes"]] == [entry["success"] for entry in given]
    assert {row["seed"] for row in found.rows["episodes"]} == {1000} and not found.unpaired


@pytest.mark.parametrize("name", ["openvla", "openvla_oft"])
def test_a_log_of_openvla_gives_each_episode_and_its_exception(name: str) -> None:
    path = FOREIGN / f"{name}.txt"
    with pytest.raises(UserError, match="do not name the run's seed: give --seed"):
        read(path)
    found = read(path, seed=7)
    expected = {(0, 0): "success", (0, 1): "success", (0, 2): "horizon"}
    expected |= {(1, 0): "success", (1, 1): "error", (1, 2): "success"}
    assert outcomes(found) == expected and not found.unpaired and found.arms() == [name]
    error = next(row["error"] for row in found.rows["episodes"] if row["outcome"] == "error")
    assert error.endswith("GL context lost")


def test_a_log_whose_states_come_from_a_file_pairs_with_none_and_counts_what_it_skips(tmp_path: Path) -> None:
    text = (FOREIGN / "openvla_oft.txt").read_text()
    text = text.replace("Using default initial states", "Using initial states from states.json")
    skipped = "\nTask: put the bowl on the stove\nSkipping task 0 episode 0 due to failed expert demo!\n"
    (tmp_path / "log.txt").write_text(text.replace("\nTask: put", skipped + "\nTask: put", 1))
    found = read(tmp_path / "log.txt", seed=7)
    assert found.unpaired and [key for key in outcomes(found) if key[0] == 0] == [(0, 1), (0, 2), (0, 3)]


def test_json_lines_are_read_under_the_columns_of_csv_or_mapped_ones(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    known = {"task_suite_name": "libero_goal", "task_description": GOAL[7], "seed": 3, "completed": True}
    rows = [known | {"episode_idx": state, "won": state != 1, "extra": [1]} for state in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n[]\n{broken\n")
    found = read(path, names=["success=won"])
    assert {row["init_state"]: row["success"] for row in found.rows["episodes"]} == {0: True, 1: False, 2: True}
    assert {row["task_id"] for row in found.rows["episodes"]} == {7} and found.unread == {path.name: ["extra"]}
    said = [str(problem) for problem in found.problems]
    assert said[0] == "episodes.jsonl:5: a list, not an object" and said[1].startswith("episodes.jsonl:6: not JSON")


def test_several_sources_are_one_run_or_by_their_names_one_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = FOREIGN / "vla_eval_003_merged.json"
    other = json.loads(merged.read_text())
    other["config"]["params"]["suite"] = "libero_other"
    (tmp_path / "other.json").write_text(json.dumps(other, indent=1))
    both = [str(merged), str(tmp_path / "other.json")]
    assert cli.main(["import-run", *both, "--arm", "x", "--out", str(tmp_path / "one")]) == 0
    assert sorted(path.name for path in (tmp_path / "one/tables").iterdir()) == ["x-libero_goal", "x-libero_other"]
    assert cli.main(["import-run", *both, "--policy", "p", "--policy", "q", "--out", str(tmp_path / "two")]) == 0
    assert sorted(path.name for path in (tmp_path / "two/tables").iterdir()) == ["p", "q"]
    capsys.readouterr()
    assert cli.main(["import-run", *both, "--arm", "x", "--arm", "y", "--arm", "z", "--out", str(tmp_path / "no")]) == 2
    assert "--arm is there 3 times and there are 2 sources" in capsys.readouterr().err
    assert cli.main(["import-run", str(merged), str(merged), "--arm", "x", "--out", str(tmp_path / "no")]) == 1
    assert "vla_eval_003_merged.json, episode 1: the episode of vla_eval_003_merged.json, episode 1 again" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "no/tables").exists()


def _edit(change: Callable[[Any], None], name: str = "vla_eval_080_aggregate.json") -> Callable[[Path], Path]:
    def made(root: Path) -> Path:
        value = json.loads((FOREIGN / name).read_text())
        change(value)
        (root / "edited.json").write_text(json.dumps(value, indent=1))
        return root / "edited.json"

    return made


def _text(content: str | bytes, name: str = "file.json") -> Callable[[Path], Path]:
    def made(root: Path) -> Path:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return root / name

    return made


def _sql(change: str) -> Callable[[Path], Path]:
    return lambda root: recording(root, change)


def _first(value: Any) -> Any:
    return value["tasks"][0]["episodes"][0]


LOG = (FOREIGN / "openvla.txt").read_text()
CUT = json.dumps(json.loads((FOREIGN / "vla_eval_003_merged.json").read_text()), indent=1)[:900]
CAUGHT = LOG[LOG.rindex("Starting episode 2...") : LOG.rindex("Starting episode 3...")]
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown": (_text('{\n"a": 1\n}'), "what import-run reads: a run directory of the official client, vla-eval's"),
    "picture": (_text(b"\x89PNG\r\n\x1a\n\xff\xfe\x00"), "not UTF-8"),
    "cut": (_text(CUT), "not valid JSON .*was the run cut off"),
    "deep": (_text('{\n"a": ' + "[" * 100_000), "JSON that cannot be read .it is nested too deeply"),
    "edited": (_edit(lambda v: _first(v)["metrics"].update(success=False)), "success rate of 0.6667, but 1 of its 3"),
    "edited info": (
        _edit(lambda v: v["per_task"][0]["metrics"]["successes"].append(True), "lerobot_044_eval_info.json"),
        "success rate of 0.7, but 8 of its 11",
    ),
    "text": (_edit(lambda v: _first(v).update(steps="many")), "edited.json, episode 1: steps is 'many', not a number"),
    "number": (_edit(lambda v: _first(v).update(episode_id=-1)), "episode_idx is -1, not a count"),
    "infinite": (_edit(lambda v: _first(v).update(steps=1e400)), "steps is inf, not finite"),
    "nested": (_edit(lambda v: _first(v).update(suite={"a": 1})), "task_suite_name is .*, not a text"),
    "no success": (_edit(lambda v: _first(v)["metrics"].pop("success")), "success is missing"),
    "no episode": (_edit(lambda v: v["tasks"][0]["episodes"].append(7)), "a int, not an object"),
    "no episodes": (_edit(lambda v: v["tasks"][0].update(episodes=None)), "episodes is missing, not a list"),
    "no task": (_edit(lambda v: v["tasks"].append("x")), "episodes is missing, not a list"),
    "throughput": (
        _edit(lambda v: (v["config"].update(throughput_mode=True), _first(v).pop("episode_idx"))),
        "throughput_mode gives initial states out again",
    ),
    "no metrics": (
        _edit(lambda v: v["per_task"][0].update(metrics=[]), "lerobot_044_eval_info.json"),
        "metrics is a list, not an object",
    ),
    "log cut off": (
        _text(LOG[: LOG.index("Success: False")], "l.txt"),
        r"l.txt:\d+: this episode has no Success: line",
    ),
    "log edited": (
        _text(LOG.replace("Success: True", "Success: False", 1), "l.txt"),
        "# successes is 1, but 0 episodes",
    ),
    "task count": (_edit(lambda v: v["tasks"][0].update(num_episodes=4)), "says 4 episodes, but holds 3"),
    "file count": (_edit(lambda v: v.update(num_episodes_total=8)), "says 8 episodes, but holds 9"),
    "file rate": (_edit(lambda v: v.update(mean_success=0.9)), "success rate of 0.9, but 6 of its 9"),
    "early rate": (
        _edit(lambda v: v.update(overall_success_rate=0.9), "vla_eval_003_merged.json"),
        "success rate of 0.9, but 6 of its 9",
    ),
    "huge rate": (_edit(lambda v: v["tasks"][0].update(mean_success=10**400)), "success rate of inf, but 2 of its 3"),
    "info count": (
        _edit(lambda v: v["overall"].update(n_episodes=11), "lerobot_044_eval_info.json"),
        "says 11 episodes, but holds 10",
    ),
    "info group": (
        _edit(lambda v: v["per_group"]["libero_goal"].update(pc_success=80), "lerobot_044_eval_info.json"),
        "'libero_goal' has a success rate of 0.8, but 7 of its 10",
    ),
    "huge percent": (
        _edit(lambda v: v["overall"].update(pc_success=10**400), "lerobot_044_eval_info.json"),
        "success rate of inf, but 7 of its 10",
    ),
    "log without a failure": (
        _text(LOG[: LOG.rindex("Current task")].replace(CAUGHT, ""), "l.txt"),
        "the run counts 6 episodes so far, but 5 are here",
    ),
    "log of another rate": (
        _text(LOG.replace("task success rate: 0.66", "task success rate: 0.96"), "l.txt"),
        "current task has a success rate of 0.9667, but 2 of its 3",
    ),
    "log of another total": (_text(LOG + "Total episodes: 7\n", "l.txt"), "the run counts 7 episodes so far, but 6"),
    "empty result": (_text('{"benchmark": "b", "tasks": []}'), r"holds no episode \(vla-eval result\)"),
    "empty log": (_text("Task suite: libero_goal\n", "l.txt"), r"holds no episode \(OpenVLA log\)"),
    "empty recording": (_sql("DELETE FROM episode_results;"), r"holds no episode \(vla-eval recording\)"),
    "no database": (_text(vla_eval_recording.MAGIC + b"\0" * 200, "r.sqlite"), "cannot be read as a recording"),
    "other database": (_sql("DROP TABLE episode_results;"), "no table episode_results"),
    "bad json": (_sql("UPDATE episode_results SET metrics='{';"), "success is missing"),
    "blob": (_sql("UPDATE episode_results SET task_name=x'ff';"), "task_name is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, said = BAD[case]
    (tmp_path / "in").mkdir()
    code = cli.main(["import-run", str(make(tmp_path / "in")), "--seed", "7", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code in (1, 2) and "a fault of flashtrail" not in error and not (tmp_path / "out/tables").exists()
    assert re.search(said, error), error


# --- the recording is a stranger's database ---


def test_the_index_of_a_task_may_be_any_json(tmp_path: Path) -> None:
    change = "UPDATE episode_results SET context = json_set(context, '$.task_idx', json('[1]'));"
    assert outcomes(read(recording(tmp_path, change))) == VLA_EVAL


def test_a_recording_is_opened_for_reading_only_and_leaves_no_file(tmp_path: Path) -> None:
    path = recording(tmp_path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        read(path)
    finally:
        tmp_path.chmod(0o755)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before and list(tmp_path.iterdir()) == [path]
    path.with_name(path.name + "-journal").write_bytes(b"x")
    with pytest.raises(UserError, match="-journal beside it: wait for the run's end"):
        read(path)


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS eval_id, 'a' AS metadata FROM n"


@pytest.mark.parametrize(
    "change",
    [
        f"DROP TABLE eval_metadata; CREATE VIEW eval_metadata AS {ENDLESS};",
        "DROP TABLE eval_metadata; CREATE VIRTUAL TABLE eval_metadata USING fts5(eval_id, metadata);",
        "DROP TABLE eval_metadata; CREATE TABLE eval_metadata (eval_id TEXT, "
        "metadata TEXT AS (replace(hex(zeroblob(1000000)), '0', 'aaaa'))); INSERT INTO eval_metadata VALUES ('a');",
    ],
    ids=["view", "virtual", "generated"],
)
def test_a_database_that_would_run_something_is_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match=r"is no recording of vla-eval|cannot be read as a recording"):
        read(recording(tmp_path, change))


def test_too_many_rows_and_too_long_cells_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vla_eval_recording, "_MOST", 9)
    with pytest.raises(UserError, match="more than 9 rows"):
        read(recording(tmp_path / "a"))
    long = f"UPDATE eval_metadata SET metadata = '{'a' * (2**20 + 1)}';"
    with pytest.raises(UserError, match="too big"):
        read(recording(tmp_path / "b", long))
    monkeypatch.setattr(vla_eval_recording, "_STEPS", 1)
    with pytest.raises(UserError, match="interrupted"):
        read(recording(tmp_path / "c"))


def test_a_name_in_a_result_names_no_file_elsewhere(tmp_path: Path) -> None:
    value = json.loads((FOREIGN / "vla_eval_003_merged.json").read_text())
    value["config"]["params"]["suite"] = "../../x"
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1))
    words = [str(tmp_path / "a.json"), "--arm", "../y", "--out", str(tmp_path / "out" / "o")]
    assert cli.main(["import-run", *words]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["o"] and not (tmp_path / "y").exists()


def test_a_link_out_of_a_results_directory_is_left(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/linked.json").symlink_to(FOREIGN / "vla_eval_003_merged.json")
    with pytest.raises(UserError, match="holds nothing that import-run reads"):
        read(tmp_path / "run")
    shutil.copy(FOREIGN / "lerobot_044_eval_info.json", tmp_path / "run/eval_info.json")
    assert [path.name for path in read(tmp_path / "run", seed=7).files] == ["eval_info.json"]


def test_result_files_count_among_any_number_of_others_and_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MOST", 2)
    for number in range(9):
        (tmp_path / f"{number}.mp4").touch()
    shutil.copy(FOREIGN / "vla_eval_003_merged.json", tmp_path / "r.json")
    assert outcomes(read(tmp_path)) == VLA_EVAL
    for number in range(2):
        (tmp_path / f"{number}.log").touch()
    with pytest.raises(UserError, match=r"holds 3 files .*, more than 2: name those"):
        read(tmp_path)


def test_a_link_to_a_recording_under_way_is_refused_as_the_recording_is(tmp_path: Path) -> None:
    path = recording(tmp_path / "run")
    path.with_name(path.name + "-wal").write_bytes(b"x")
    (tmp_path / "link.sqlite").symlink_to(path)
    with pytest.raises(UserError, match="-wal beside it: wait for the run's end"):
        read(tmp_path / "link.sqlite")


def test_an_error_without_a_reason_is_an_error(tmp_path: Path) -> None:
    change = "UPDATE episode_results SET failure_reason=NULL;"
    assert outcomes(read(recording(tmp_path, change))) == VLA_EVAL


@pytest.mark.simulator
def test_the_list_of_liberos_tasks_is_the_packages() -> None:
    from libero.libero import benchmark

    listed = yaml.safe_load((provenance.PACKAGE_ROOT.parents[1] / "resources/libero/tasks.yaml").read_text())
    for suite, texts in listed.items():
        tasks = benchmark.get_benchmark_dict()[suite]()
        assert texts == [tasks.get_task(number).language for number in range(tasks.n_tasks)]
