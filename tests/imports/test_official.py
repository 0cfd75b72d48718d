"""An official client's run directory: everything in it arrives, what it does not say is empty, a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imports import official

from flashtrail import cli, provenance
from flashtrail.evidence import tables
from flashtrail.imports.official import read_run
from flashtrail.imports.writing import write


def _infer(root: Path, episode: int = 0) -> Path:
    return sorted(root.glob("episodes/*/infer.jsonl"))[episode]


def test_a_run_directory_arrives_whole(tmp_path: Path) -> None:
    drawn = official.write_run(tmp_path / "run")
    assert cli.main(["import-run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--policy", "pi0"]) == 0
    root = tmp_path / "out" / "tables" / official.RUN
    frames = {n: tables.read_table(root / f"{n}.parquet", s).to_pandas() for n, s in tables.SCHEMAS.items()}
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
    rounds = tables.read_table(root / "rounds.parquet", tables.ROUNDS).to_pandas()
    for column in ("synchronized", "condition_applied", "noise_seed", "healthy", "health_std", "batch_size", "masked"):
        assert rounds[column].isna().all(), column
    assert rounds.loc[rounds["route"] == "draft", "prefill_ms"].isna().all()
    assert rounds.loc[rounds["route"] == "full", "draft_ms"].isna().all()
    assert tables.read_metadata(root / "episodes.parquet")["imported"] == f"official client, run {official.RUN}"


def test_our_own_tables_still_may_not_have_such_holes(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run", trials=1)
    rows = read_run(tmp_path / "run", "pi0").rows["rounds"]
    with pytest.raises(ValueError, match="is empty"):
        tables.write_table(tmp_path / "rounds.parquet", rows, tables.ROUNDS)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("policy_time_ms", "fast", "policy_time_ms is 'fast', not a number"),
        ("policy_time_ms", None, "policy_time_ms is missing"),
        ("policy_time_ms", -1, "negative"),
        ("route_type", "vlm", "route_type is 'vlm'"),
        ("chunk_exec_len", 13, "exceeds accepted_prefix_len"),
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
