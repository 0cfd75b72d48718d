"""A shard with the real simulator, killed in its second episode and resumed: no row lost, none doubled, all equal."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rollouts.shards import HERE, parts, rows, servers_of, spec, start, wait_until

from flashtrail.rollouts.shard import roll_out_shard

WORKER = [sys.executable, str(HERE / "short_worker.py")]


@pytest.mark.simulator
@pytest.mark.slow
def test_a_real_shard_killed_and_resumed_equals_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]))
    told, killed, whole = spec(init_states=[1, 4]), tmp_path / "killed", tmp_path / "whole"
    process = start(killed, told, WORKER)
    wait_until(lambda: len(parts(killed)) == 1, seconds=500)
    process.kill()
    process.wait()
    assert parts(killed) == ["init_001_repeat_0"] and not (killed / "ledger.json").exists()
    wait_until(lambda: not servers_of(killed))
    log = io.StringIO()
    roll_out_shard(told, killed, log=log, worker_command=WORKER)
    assert "1 of 2 episodes are kept from before" in log.getvalue()
    roll_out_shard(told, whole, log=io.StringIO(), worker_command=WORKER)
    assert rows(killed) == rows(whole)
    assert [row["steps"] for row in rows(whole)["episodes"]] == [20, 20]
    assert {row["task"] for row in rows(whole)["episodes"]} == {"put the wine bottle on top of the cabinet"}
