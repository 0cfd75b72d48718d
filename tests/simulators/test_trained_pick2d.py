"""A trained policy acts: resources/pick2d_nano through server, wire, simulator and tables, beside a control."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rollouts.shards import rows, spec

from flashtrail.rollouts.shard import roll_out_shard

RESOURCES = Path(__file__).parents[2] / "resources"


def played(artifact: Path, out: Path, **more) -> list[dict]:
    command = [sys.executable, "-m", "flashtrail", "serve", "--exit-with-parent", "--artifact", str(artifact)]
    command += ["--port", "{port}", "--threads", "1"]
    told = spec(range(100, 108), command, suite="pick2d", task_id=0, **({"guard": {"kind": "none"}} | more))
    roll_out_shard(told, out, log=(out.parent / "log").open("a")).check()
    return rows(out)["episodes"]


@pytest.mark.slow
def test_the_shipped_policy_carries_the_block_and_one_that_sees_nothing_does_not(tmp_path):
    """27 of 30 (its card): at such a rate 4 or fewer of 8 come in 5 of 1,000 runs. The control: the same, blinded."""
    sees = played(RESOURCES / "pick2d_nano", tmp_path / "sees", condition={"kind": "none"})
    blind = played(RESOURCES / "pick2d_nano", tmp_path / "blind", condition={"kind": "zero", "view": "both"})
    assert sum(row["success"] for row in sees) >= 5, [row["success"] for row in sees]
    assert sum(row["success"] for row in blind) <= 2, [row["success"] for row in blind]
    assert all(row["outcome"] in ("success", "horizon") for row in (*sees, *blind))
