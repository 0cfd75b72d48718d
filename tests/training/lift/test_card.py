"""The card's section on success: counts of an arm's own table, of this very artifact."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from flashtrail.base.errors import UserError
from flashtrail.tables import schemas
from flashtrail.training import shipped
from flashtrail.training.lift import card

SHIPPED = Path(__file__).parents[3] / "resources/lift_nano"


def episode(init_state: int, verified: bool) -> dict:
    return {
        **dict.fromkeys(schemas.EPISODES.names, None),
        **dict.fromkeys(("run_id", "policy", "task", "outcome", "started_at"), "x"),
        **dict.fromkeys(("repeat", "seed", "steps", "rounds", "full_rounds", "draft_rounds", "executed_actions"), 0),
        **{"arm": "lift_nano_wide", "suite": "robosuite_lift", "task_id": 1, "init_state": init_state, "wall_s": 1.0},
        **{"success": verified, "verified_success": verified, "naive_success": True},
    }


def test_success_is_counted_from_the_rows_with_its_interval(tmp_path) -> None:
    path = tmp_path / "episodes.parquet"
    rows = [episode(number, number < 7) for number in range(10)]
    schemas.write_table(path, rows, schemas.EPISODES, {"artifact_digest": "abc"})
    said = shipped.success([path.parent], "abc")
    # Wilson's interval of 7/10, as its paper's formula gives it by hand.
    assert "| lift_nano_wide | 1 | 7/10 [0.397, 0.892] | 10/10 |\n" in said
    with pytest.raises(UserError, match="is of another artifact \\(abc\\)"):
        shipped.success([path.parent], "abd")
    assert shipped.success([], "abc") == ""


def test_what_was_not_measured_is_not_counted_as_a_failure(tmp_path) -> None:
    """LIBERO has no naive metric, and tables of earlier versions have neither column."""
    path = tmp_path / "episodes.parquet"
    rows = [episode(number, True) | {"naive_success": None} for number in range(2)]
    schemas.write_table(path, rows, schemas.EPISODES, {"artifact_digest": "abc"})
    assert "| lift_nano_wide | 1 | 2/2 [0.342, 1.000] |\n" in shipped.success([tmp_path], "abc")
    rows = [episode(0, True), episode(1, True) | {"verified_success": None}]
    schemas.write_table(path, rows, schemas.EPISODES, {"artifact_digest": "abc"})
    with pytest.raises(UserError, match="1 of 2 episodes have no verdict: run the arm again"):
        shipped.success([tmp_path], "abc")


def test_a_damaged_policy_is_one_line(tmp_path) -> None:
    policy = shutil.copytree(SHIPPED, tmp_path / "lift_nano")
    (policy / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"model\.safetensors is not the file of its manifest"):
        card.run(argparse.Namespace(of=None, to=policy, tables=[tmp_path]))


def test_a_card_has_one_section_on_success_before_training() -> None:
    bare = "# a\n\n## Training\n4 steps\n\n## Offline\n"
    once = shipped.with_success(bare, "## Success\n1/2\n")
    assert once == "# a\n\n## Success\n1/2\n\n## Training\n4 steps\n\n## Offline\n"
    assert shipped.with_success(once, "## Success\n2/2\n") == once.replace("1/2", "2/2")
    assert shipped.with_success(once, "") == bare


def test_without_a_run_the_shipped_policy_stays_and_its_success_is_counted(tmp_path) -> None:
    policy = shutil.copytree(SHIPPED, tmp_path / "lift_nano")
    digest = json.loads((policy / "manifest.json").read_text())["digest"]
    schemas.write_table(
        tmp_path / "episodes.parquet",
        [episode(n, n < 2) for n in range(3)],
        schemas.EPISODES,
        {"artifact_digest": digest},
    )
    before = {path.name: path.read_bytes() for path in policy.iterdir() if path.name != "README.md"}
    assert card.run(argparse.Namespace(of=None, to=policy, tables=[tmp_path])) == 0
    assert "| 2/3 [" in (policy / "README.md").read_text()
    assert before == {path.name: path.read_bytes() for path in policy.iterdir() if path.name != "README.md"}
    with pytest.raises(UserError, match="give --run, or --tables"):
        card.run(argparse.Namespace(of=None, to=policy, tables=[]))
