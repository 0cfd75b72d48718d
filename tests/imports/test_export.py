"""What ``export`` writes ``import-run`` reads: the same episodes come back, but for what a format cannot say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from flashtrail import cli
from flashtrail.tables import schemas

KEY = ["suite", "task_id", "task", "init_state", "repeat", "seed"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Two arms of two tasks: init states 2 and 3, each twice; one failure, and in arm `b` one error."""
    header = "condition,task_suite_name,task_id,task_description,episode_idx,init_state,seed,completed,success,steps"
    lines = [f"{header},failure_reason"]
    for arm in "ab":
        for task in (0, 1):
            for episode in range(4):
                error, success = (arm, task, episode) == ("b", 1, 3), (task, episode) != (0, 2)
                ended = f"{not error},{success and not error},{'' if error else 80 + episode}"
                start = f"{task},do {task},{episode},{2 + episode // 2}"
                lines.append(f"{arm},libero_goal,{start},7,{ended},{'lost' if error else ''}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    assert cli.main(["import-run", str(tmp_path / "own.csv"), "--out", str(tmp_path / "mine")]) == 0
    return tmp_path / "mine"


def frame(root: Path, arm: str) -> pd.DataFrame:
    table = schemas.read_table(root / "tables" / arm / "episodes.parquet", schemas.EPISODES).to_pandas()
    return table.sort_values(KEY, ignore_index=True)


@pytest.mark.parametrize("form", ["csv", "vla-eval"])
def test_csv_and_vla_eval_come_back_whole(tmp_path: Path, mine: Path, form: str) -> None:
    assert cli.main(["export", str(mine), "--format", form, "--out", str(tmp_path / "out")]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [path.stem for path in files] == ["a", "b"]
    for path in files:
        words = [str(path), "--arm", path.stem, "--out", str(tmp_path / "back")]
        assert cli.main(["import-run", *words]) == 0
        columns = [*KEY, "success", "outcome", "error", "steps"]
        pd.testing.assert_frame_equal(frame(tmp_path / "back", path.stem)[columns], frame(mine, path.stem)[columns])


def test_eval_info_keeps_successes_by_task_and_leaves_errors_out(
    tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(mine), "--format", "eval_info", "--out", str(tmp_path / "out"), "--arm", "b"]
    assert cli.main(words) == 0 and "7 of 8 episodes of b" in capsys.readouterr().out
    path = tmp_path / "out/b/eval_info.json"
    told = json.loads(path.read_text())
    assert [task["metrics"]["successes"] for task in told["per_task"]] == [[True, True, False, True], [True] * 3]
    assert told["overall"]["n_episodes"] == 7 and told["overall"]["pc_success"] == pytest.approx(600 / 7)
    assert cli.main(["import-run", str(path), "--seed", "7", "--arm", "b", "--out", str(tmp_path / "back")]) == 0
    assert frame(tmp_path / "back", "b")["success"].sum() == 6


def test_vla_evals_own_rule_counts_an_error_as_a_failure(tmp_path: Path, mine: Path) -> None:
    assert cli.main(["export", str(mine), "--format", "vla-eval", "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out/b.json").read_text())
    assert (told["mean_success"], told["num_errors"], told["num_episodes_total"]) == (0.75, 1, 8)


@pytest.mark.parametrize("form", ["csv", "vla-eval"])
def test_starts_that_are_not_on_record_are_not_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    path = Path(__file__).with_name("foreign") / "lerobot_044_eval_info.json"
    words = ["import-run", str(path), "--seed", "7", "--arm", "a", "--out", str(tmp_path / "a")]
    assert cli.main(words) == 0
    words = ["export", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--format"]
    assert cli.main([*words, form]) == 2 and not (tmp_path / "out").exists()
    assert f"does not tell initial states, and {form} cannot say so" in capsys.readouterr().err
    assert cli.main([*words, "eval_info"]) == 0


def test_an_arm_of_errors_alone_has_no_eval_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "condition,task_suite_name,task_id,episode_idx,seed,completed,success"
    (tmp_path / "own.csv").write_text(f"{header}\na,libero_goal,0,0,7,False,False\n")
    assert cli.main(["import-run", str(tmp_path / "own.csv"), "--out", str(tmp_path / "mine")]) == 0
    words = ["export", str(tmp_path / "mine"), "--format", "eval_info", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2 and not (tmp_path / "out").exists()
    assert "an error ended each of its episodes" in capsys.readouterr().err


def test_what_is_not_there_is_one_line(tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, more, said in (
        (mine, ["--arm", "c"], "has no such arm"),
        (tmp_path, [], "no tables/ARM with episodes"),
    ):
        assert cli.main(["export", str(source), "--format", "csv", "--out", str(tmp_path / "no"), *more]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "no").exists()
