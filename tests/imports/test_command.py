"""The flags of ``import-run``: what cannot be meant is refused in one line before anything is read or written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from imports import stages

from flashtrail import cli


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """A file of episodes that can be imported."""
    stages.write(tmp_path / "csv")
    return stages.path(tmp_path / "csv", "stage4_episode")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run ``import-run --csv``; return its exit code and what it said on standard error."""
    code = cli.main(["import-run", "--csv", "--seed", "7", *words])
    return code, capsys.readouterr().err


def test_an_unknown_source_is_refused_with_the_known_ones(
    tmp_path: Path, episodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for whose, said in (("reproduktion", "did you mean 'reproduction'"), ("zzz", "known: paper, reproduction")):
        code, error = told(capsys, str(episodes), "--out", str(tmp_path / "out"), "--whose", whose)
        assert code == 2 and f"--whose {whose}" in error and said in error and not (tmp_path / "out").exists()
    assert told(capsys, str(episodes), "--out", str(tmp_path / "out"), "--whose", "reproduction") == (0, "")


@pytest.mark.parametrize("flag", ["--arm", "--policy", "--device", "--whose"])
@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(
    tmp_path: Path, episodes: Path, capsys: pytest.CaptureFixture[str], flag: str, name: str
) -> None:
    code, error = told(capsys, str(episodes), "--out", str(tmp_path / "out"), flag, name)
    assert code == 2 and f"argument {flag}: " in error and "is empty" in error and not (tmp_path / "out").exists()


def test_the_printed_next_command_can_be_typed(
    tmp_path: Path, episodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o html"
    assert cli.main(["import-run", "--csv", "--seed", "7", str(episodes), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"flashtrail report-run {shlex.quote(str(out))} makes the report" in said


def test_an_out_that_is_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").write_text("x")
    code, error = told(capsys, str(tmp_path / "nowhere.csv"), "--out", str(tmp_path / "afile"))
    assert code == 2 and "--out" in error and "afile is a file" in error and "nowhere" not in error
    assert cli.main(["report-run", str(tmp_path / "nowhere"), "--out", str(tmp_path / "afile")]) == 2
    error = capsys.readouterr().err
    assert "afile is a file" in error and "nowhere" not in error


def test_bad_rows_of_one_cause_are_one_line(tmp_path: Path, episodes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, *lines = episodes.read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    made = [{**rows[0], "episode_idx": n, "success": "nan"} for n in range(500)]
    made.append({**rows[0], "episode_idx": 500, "steps": "-3"})
    stages.write_rows(episodes, header.split(","), made)
    code, error = told(capsys, str(episodes), "--out", str(tmp_path / "out"))
    first, second, last = error.splitlines()
    assert code == 1 and first.endswith(":2: success is 'nan', neither true nor false (and 499 more like it)")
    assert second.endswith(":502: steps is '-3', not a count") and last.startswith(
        "error: 501 problems, nothing written"
    )
