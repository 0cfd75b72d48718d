"""A shard with the real simulator, killed in its second episode and resumed: no row lost, none doubled, all equal.

The undisturbed shard has the resumed one's simulator, which a keeper lends it: that this is as good as one of its own
is test_keeper.py's, and building one takes as long as all its episodes here.
"""

from __future__ import annotations

import io
import os

import pytest
from rollouts.shards import HERE, parts, rows, servers_of, spec, start, wait_until

from flashtrail.rollouts import keeper, processes
from flashtrail.rollouts.shard import roll_out_shard


@pytest.mark.simulator
@pytest.mark.slow
def test_a_real_shard_killed_and_resumed_equals_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]))
    told, killed, whole = spec(init_states=[1, 4], horizon=20), tmp_path / "killed", tmp_path / "whole"
    process = start(killed, told, processes.COMMAND)
    wait_until(lambda: len(parts(killed)) == 1, seconds=500)
    process.kill()
    process.wait()
    assert parts(killed) == ["init_001_repeat_0"] and not (killed / "ledger.json").exists()
    wait_until(lambda: not servers_of(killed))
    lender, log = keeper.start(1), io.StringIO()
    try:
        roll_out_shard(told, killed, log=log, worker_command=processes.COMMAND)
        assert "1 of 2 episodes are kept from before" in log.getvalue()
        roll_out_shard(told, whole, log=io.StringIO(), worker_command=processes.COMMAND)
    finally:
        if lender is not None:  # none where there are no abstract sockets: each shard builds its own
            keeper.stop(lender)
    assert rows(killed) == rows(whole)
    assert [row["steps"] for row in rows(whole)["episodes"]] == [20, 20]
    assert {row["task"] for row in rows(whole)["episodes"]} == {"put the wine bottle on top of the cabinet"}
