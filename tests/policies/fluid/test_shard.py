"""A shard whose policy is a field: over the real wire, with rounds of two simulators in one pass, into the tables."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from policies.fluid.made import SMALL, STATS
from rollouts.shards import rows, spec

from flashtrail.policies.fluid.artifact import FAMILY
from flashtrail.policies.fluid.dims import nano
from flashtrail.policies.fluid.model import FluidVLA
from flashtrail.policies.parts import words
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.training import artifact

KNOWN = words.vocabulary(["reach the mark on the left", "reach the mark on the right"])


def played(directory, *flags, simulators=1):
    command = [sys.executable, "-m", "flashtrail", "serve", "--exit-with-parent", "--artifact"]
    command += [str(directory / "artifact"), "--port", "{port}", "--threads", "1", *flags]
    told = spec((0, 1), command, suite="reach", task_id=1, condition={"kind": "none"}, guard={"kind": "none"})
    out = directory / "_".join(["out", *flags, str(simulators)]).replace("=", "")
    roll_out_shard(told.model_copy(update={"simulators": simulators}), out, log=(directory / "log").open("a")).check()
    return rows(out)


@pytest.mark.slow
def test_the_steps_of_each_round_stand_in_the_tables_and_no_session_hears_of_another(tmp_path):
    """One random artifact, with the dial on and off; alone and with another simulator's rounds beside."""
    torch.manual_seed(0)
    sizes = nano(len(KNOWN) + 1, **SMALL, steps=20, frames=2, lags=(1,))
    stats, files = {"norm_stats": STATS}, {words.FILE: json.dumps(KNOWN).encode()}
    artifact.write(tmp_path / "artifact", FAMILY, sizes, FluidVLA(sizes).state_dict(), stats, files)
    every, few = played(tmp_path), played(tmp_path, "--epsilon=0.05")
    assert {row["steps_used"] for row in every["rounds"]} == {2 * 20}
    assert all(2 * 3 <= row["steps_used"] < 2 * 20 for row in few["rounds"])
    both = played(tmp_path, "--epsilon=0.05", simulators=2)
    assert {row["batch_size"] for row in few["rounds"]} == {1}
    for table in ("rounds", "steps"):
        assert len(both[table]) == len(few[table])
    assert [row["steps_used"] for row in both["rounds"]] == [row["steps_used"] for row in few["rounds"]]
    alone, beside = (np.array([row["action"] for row in run["steps"]]) for run in (few, both))
    np.testing.assert_allclose(beside, alone, rtol=1e-4, atol=1e-4)
