"""What a shard says of itself while it runs, after a kill, and when it is done."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest
from rollouts.shards import HERE, WORKER, parts, spec, start, wait_until

from flashtrail.experiment import outlook, progress
from flashtrail.experiment.outlook import Shard
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.tables import schemas

NAMES = [f"init_{n:03d}_repeat_0" for n in range(3)]


@pytest.fixture(autouse=True)
def _package_on_path(monkeypatch):
    source = str(HERE.parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])))


def rows(directory) -> list[dict]:
    table = schemas.read_table(directory / "episodes.parquet", schemas.EPISODES).to_pylist()
    return [row | {"name": f"init_{row['init_state']:03d}_repeat_{row['repeat']}"} for row in table]


def test_a_shard_says_after_each_episode_what_is_there(tmp_path):
    process = start(tmp_path, spec())
    wait_until(lambda: len(progress.read(tmp_path).get("outcomes", {})) >= 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said, asked = progress.read(tmp_path), Shard("clean", 2, tmp_path, tuple(NAMES))
    assert said["expected"] == NAMES and set(said["outcomes"]) <= set(parts(tmp_path))
    assert set(said["outcomes"]) == set(said["wall_s"]) == set(said["steps"]) == set(said["ended_at"])
    assert (tmp_path / "parts" / said["spec_digest"] / NAMES[0]).is_dir()
    assert outlook.state(asked, finished=False).n == len(said["outcomes"]) and not outlook.state(asked, True).n

    roll_out_shard(spec(), tmp_path, log=io.StringIO(), worker_command=WORKER)
    done, ledger = progress.read(tmp_path), json.loads((tmp_path / "ledger.json").read_text())
    assert done["outcomes"] == ledger["outcomes"] and done["steps"] == dict(zip(NAMES, (30, 60, 60), strict=True))
    kept = said["wall_s"].items()
    assert all(done["wall_s"][name] == seconds for name, seconds in kept), "an episode that was kept is not timed again"
    state = outlook.state(asked, finished=True)
    assert (state.k, state.n, len(state.seconds)) == (1, 3, 3)
    ends = [state.ended[name].at for name in NAMES]
    assert ends == sorted(ends) and state.spec_digest == ledger["spec_digest"]
    assert {name: end.rounds for name, end in state.ended.items()} == {
        row["name"]: row["rounds"] for row in rows(tmp_path)
    }


def test_what_cannot_be_read_is_as_if_it_were_not_there(tmp_path):
    for text in ("", "[1", "[1]", '"x"'):
        (tmp_path / progress.FILE).write_text(text)
        assert progress.read(tmp_path) == {}
