"""The card's section on success: counts of an arm's own table, of this very artifact."""

from __future__ import annotations

import pytest

from flashtrail.base.errors import UserError
from flashtrail.tables import schemas
from flashtrail.training.lift import card


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
    said = card.success([path], "abc")
    # Wilson's interval of 7/10, as its paper's formula gives it by hand.
    assert "| lift_nano_wide | 1 | 7/10 [0.397, 0.892] | 10/10 |\n" in said
    with pytest.raises(UserError, match="is of another artifact \\(abc\\)"):
        card.success([path], "abd")
    assert card.success([], "abc") == ""
