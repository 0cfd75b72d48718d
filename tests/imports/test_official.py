"""An official client's run directory: everything in it arrives, what it does not say is empty, a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports import official

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import summaries
from flashtrail.imports.official import read_run
from flashtrail.imports.writing import write
from flashtrail.tables import schemas


def _infer(root: Path, episode: int = 0) -> Path:
    return sorted(root.glob("episodes/*/infer.jsonl"))[episode]


def test_a_run_directory_arrives_whole(tmp_path: Path) -> None:
    drawn = official.write_run(tmp_path / "run")
    assert cli.main(["import-run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--policy", "pi0"]) == 0
    root = tmp_path / "out" / "tables" / official.RUN
    frames = {n: schemas.read_table(root / f"{n}.parquet", s).to_pandas() for n, s in schemas.SCHEMAS.items()}
    assert len(frames["episodes"]) == len(drawn)
    assert frames["episodes"]["success"].sum() == sum(e["success"] for e in drawn)
    assert set(frames["episodes"]["outcome"]) == {"success", "horizon"}
    queries = [q for e in drawn for q in e["queries"]]
    assert len(frames["rounds"]) == len(queries)
    assert frames["rounds"]["policy_ms"].sum() == pytest.approx(sum(q["policy_time_ms"] for q in queries))
    assert len(frames["steps"]) == sum(q["chunk_exec_len"] for q in queries)
    causes = frames["rounds"]["fallback_cause"].value_counts().to_dict()
    zero = sum(q["accepted_prefix_len"] == 0 for e in drawn for q in e["queries"][:-1])
    assert causes == {"first": len(drawn), "zero_accept": zero}


def test_what_the_record_does_not_say_is_empty(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run", trials=1)
    found = read_run(tmp_path / "run", "pi0")
    write(found, tmp_path / "out")
    root = tmp_path / "out" / "tables" / official.RUN
    rounds = schemas.read_table(root / "rounds.parquet", schemas.ROUNDS).to_pandas()
    for column in ("synchronized", "condition_applied", "noise_seed", "healthy", "health_std", "batch_size", "masked"):
        assert rounds[column].isna().all(), column
    assert rounds.loc[rounds["route"] == "draft", "prefill_ms"].isna().all()
    assert rounds.loc[rounds["route"] == "full", "draft_ms"].isna().all()
    assert schemas.read_metadata(root / "episodes.parquet")["imported"] == f"official client, run {official.RUN}"


def test_our_own_tables_still_may_not_have_such_holes(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run", trials=1)
    rows = read_run(tmp_path / "run", "pi0").rows["rounds"]
    with pytest.raises(ValueError, match="is empty"):
        schemas.write_table(tmp_path / "rounds.parquet", rows, schemas.ROUNDS)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("policy_time_ms", "fast", "policy_time_ms is 'fast', not a number"),
        ("policy_time_ms", None, "policy_time_ms is missing"),
        ("policy_time_ms", -1, "negative"),
        ("route_type", "vlm", "route_type is 'vlm'"),
        ("chunk_exec_len", 13, "exceeds accepted_prefix_len"),
        ("accepted_prefix_len", 99, "accepted_prefix_len is 99"),
        ("infer_id", 0, "doubled or out of order"),
        ("task_id", 1, "in the file of"),
    ],
)
def test_a_bad_round_is_named_by_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: object, said: str
) -> None:
    official.write_run(tmp_path / "run")
    path = _infer(tmp_path / "run")
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), field: value})
    path.write_text("\n".join(lines) + "\n")
    words = ["import-run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert f"episodes/{path.parent.name}/infer.jsonl:3: " in shown.err
    assert said in shown.err
    assert "1 left out" in shown.out
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--skip-bad-rows"]) == 0
    report = provenance.json_load(tmp_path / "out" / "tables" / official.RUN / "import.json")
    assert report["counts"]["rounds"]["left_out"] == 1
    assert any(said in problem for problem in report["problems"])


@pytest.mark.parametrize("place", [0, -1])
def test_a_round_that_executed_less_than_was_accepted_is_named_also_as_the_first(tmp_path: Path, place: int) -> None:
    official.write_run(tmp_path / "run")
    path = _infer(tmp_path / "run")
    lines = path.read_text().splitlines()
    lines[place] = json.dumps({**json.loads(lines[place]), "accepted_prefix_len": 12, "chunk_exec_len": 5})
    path.write_text("\n".join(lines) + "\n")
    line = place % len(lines) + 1
    said = "chunk_exec_len is 5 of accepted_prefix_len 12, but the episode executed 12 of another chunk"
    problems = [str(problem) for problem in read_run(tmp_path / "run", "pi0").problems]
    assert problems == [f"episodes/{path.parent.name}/infer.jsonl:{line}: {said}"]  # one fault, one line


def test_a_cut_line_a_lost_line_and_a_stray_file_are_named(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run")
    cut, lost, stray = (_infer(tmp_path / "run", k) for k in range(3))
    cut.write_text(cut.read_text()[:-30])
    lost.write_text("\n".join(lost.read_text().splitlines()[:-1]) + "\n")
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    log.write_text(json.dumps([e for e in entries if Path(e["infer_path"]).parent.name != stray.parent.name], indent=2))
    said = "\n".join(map(str, read_run(tmp_path / "run", "pi0").problems))
    assert f"{cut.parent.name}/infer.jsonl:{len(cut.read_text().splitlines())}: not JSON" in said
    assert "infer_calls is" in said
    assert f"{stray.parent.name}/infer.jsonl: no (good) entry" in said


def test_entries_of_the_log_are_named_by_their_line(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run")
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    entries[1]["success"] = "perhaps"
    entries[3] = entries[2]
    log.write_text(json.dumps(entries, indent=2))
    found = read_run(tmp_path / "run", "pi0")
    lines = [n for n, content in enumerate(log.read_text().splitlines(), 1) if content == "  {"]
    said = [str(problem) for problem in found.problems]
    assert f"episode_log.json:{lines[1]}: success is 'perhaps', neither true nor false" in said
    assert any(s.startswith(f"episode_log.json:{lines[3]}: the episode of line {lines[2]} again") for s in said)
    assert found.counts()["episodes"] == {"read": len(entries), "kept": len(entries) - 2, "warmup": 0, "left_out": 2}


def test_an_exception_is_an_error_and_not_a_failure_of_the_policy(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run")
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    failed = next(k for k, entry in enumerate(entries) if not entry["success"])
    entries[failed] |= {"env_steps_taken": 40, "failure_reason": "ConnectionClosed"}
    log.write_text(json.dumps(entries))
    episode = read_run(tmp_path / "run", "pi0").rows["episodes"][failed]
    assert (episode["outcome"], episode["error"]) == ("error", "ended after 40 of 300 steps: ConnectionClosed")


def test_an_initial_state_of_the_log_is_read(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run", trials=2)
    log = tmp_path / "run" / "episode_log.json"
    entries = [{**entry, "init_state": 9 - entry["episode_idx"]} for entry in json.loads(log.read_text())]
    log.write_text(json.dumps(entries))
    found = read_run(tmp_path / "run", "pi0")
    assert found.problems == [] and [row["init_state"] for row in found.rows["episodes"]] == [9, 8, 9, 8]


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_a_record_names_no_file_outside_its_own_directory(tmp_path: Path, how: str) -> None:
    official.write_run(tmp_path / "run", trials=1)
    inside = _infer(tmp_path / "run")
    outside = tmp_path / "elsewhere" / "infer.jsonl"
    outside.parent.mkdir()
    inside.rename(outside)
    said = {"absolute": str(outside), "upwards": "../elsewhere/infer.jsonl", "link": str(inside)}[how]
    if how == "link":
        inside.symlink_to(outside)
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    entries[0]["infer_path"] = said
    log.write_text(json.dumps(entries))
    found = read_run(tmp_path / "run", "pi0")
    assert any("which is not in the run directory" in str(p) for p in found.problems) and outside not in found.files


@pytest.mark.parametrize(
    "line", ['{"infer_id": 9' + "9" * 5000 + "}", "[" * 100_000, '{"route_type": "\\ud800"}', '{"infer_id": true}', "7"]
)
def test_json_that_python_chokes_on_is_a_line_with_a_name(tmp_path: Path, line: str) -> None:
    official.write_run(tmp_path / "run", trials=1)
    path = _infer(tmp_path / "run")
    path.write_text(path.read_text() + line + "\n")
    n = len(path.read_text().splitlines())
    found = read_run(tmp_path / "run", "pi0")
    assert any(str(problem).startswith(f"episodes/{path.parent.name}/infer.jsonl:{n}: ") for problem in found.problems)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("seed", 2**63, "more than the 9223372036854775807"),
        ("seed", 7.5, "not a count"),
        ("env_steps_taken", 10**20, "more than the 2147483647"),
        ("task_description", "\ud800", "lone surrogate"),
    ],
)
def test_an_entry_that_no_table_holds_is_named(tmp_path: Path, column: str, value: object, said: str) -> None:
    official.write_run(tmp_path / "run", trials=1)
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    entries[0][column] = value
    log.write_text(json.dumps(entries))
    problems = [str(problem) for problem in read_run(tmp_path / "run", "pi0").problems]
    assert len(problems) == 1 and problems[0].startswith("episode_log.json:1: ") and said in problems[0]


def test_the_last_chunk_of_a_success_executed_what_the_log_counts(tmp_path: Path) -> None:
    """Counters and rounds then agree, as K1 asks of every arm."""
    drawn = official.write_run(tmp_path / "run")
    log = tmp_path / "run" / "episode_log.json"
    entries = json.loads(log.read_text())
    won = next(k for k, e in enumerate(drawn) if e["success"] and e["queries"][-1]["chunk_exec_len"] > 3)
    entries[won]["executed_action_count"] -= 3
    log.write_text(json.dumps(entries))
    found = read_run(tmp_path / "run", "pi0", "clean")
    assert found.problems == []
    write(found, tmp_path / "out")
    files = {name: tmp_path / "out/tables/clean" / f"{name}.parquet" for name in schemas.SCHEMAS}
    assert summaries.summarize_arm(**files)["bookkeeping"]["episodes_at_odds"] == 0


def test_a_manifest_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run", trials=1)
    (tmp_path / "run" / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"manifest.json is not UTF-8 text"):
        read_run(tmp_path / "run", "pi0")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_field_is_imported_or_named(tmp_path: Path, data) -> None:
    root = tmp_path / "run"
    if not root.exists():
        official.write_run(root, trials=1)
    files = [root / "manifest.json", root / "episode_log.json", _infer(root), _infer(root).with_name("trace.jsonl")]
    file = data.draw(st.sampled_from(files))
    before = file.read_text()
    lines = before.splitlines() if file.suffix == ".jsonl" else [before]
    value = json.loads(lines[0])
    entry = value[0] if isinstance(value, list) else value
    entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(_json)
    file.write_text("\n".join([json.dumps(value), *lines[1:]]))
    try:
        write(read_run(root, "pi0"), tmp_path / "out", replace=True)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        file.write_text(before)


def test_a_csv_file_is_told_by_its_content(tmp_path: Path) -> None:
    files = [str(path) for path in official.write_csv(tmp_path)]
    for flag, out in (((), "a"), (("--csv",), "b")):
        assert cli.main(["import-run", *flag, *files, "--seed", "7", "--arm", "x", "--out", str(tmp_path / out)]) == 0
    for table in schemas.SCHEMAS:
        one, other = (tmp_path / out / f"tables/x/{table}.parquet" for out in "ab")
        assert one.read_bytes() == other.read_bytes()
