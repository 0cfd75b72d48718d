"""Simulators that outlive a shard: the next one gets the same tables, and nobody outlives run, shard or failure.

Policy servers: test_kept_servers.py; where a whole run, shard or keeper is killed, both are looked for here.
"""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rollouts.shards import WORKER, children, roll_out, rows, simulators, spec, start, wait_until

from flashtrail.rollouts import keeper, lending, processes

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no abstract sockets: no keeper"),
    pytest.mark.usefixtures("package_on_path"),
]
OTHER = {"arm": "other", "condition": {"kind": "swap"}, "guard": {"kind": "none"}}  # it leaves other traces


def test_the_next_shard_has_the_same_simulator_and_the_same_tables(tmp_path, kept, monkeypatch):
    told = spec(suite="reach", task_id=1, video="all")
    roll_out(spec(suite="reach", task_id=1, **OTHER), tmp_path / "first", processes.COMMAND)
    before = simulators(kept.pid)
    log = roll_out(told, tmp_path / "second", processes.COMMAND)
    assert len(before) == 1 and simulators(kept.pid) == before, "one worker for both"
    assert log.count("a simulator of an earlier shard is at hand") == 1
    roll_out(spec(suite="reach", task_id=0), tmp_path / "third", processes.COMMAND)
    roll_out(spec(suite="reach", task_id=1, metadata={"code_digest": "new"}), tmp_path / "fourth", processes.COMMAND)
    assert len(simulators(kept.pid)) == 3, "another task, or other code, is another simulator"
    monkeypatch.delenv(lending.ADDRESS)
    roll_out(told, tmp_path / "alone", processes.COMMAND)
    assert len(simulators(kept.pid)) == 3
    assert_equal(tmp_path / "second", tmp_path / "alone")


@pytest.mark.simulator
@pytest.mark.slow
def test_a_real_simulator_kept_from_another_arm_gives_the_same_states_and_pictures(tmp_path, kept, monkeypatch):
    """Two episodes of a task after one of another arm, against both in a process of their own; films to the byte."""
    told = spec(init_states=[1, 4], horizon=20, video="all")
    roll_out(spec(init_states=[3], horizon=20, **OTHER), tmp_path / "first", processes.COMMAND)
    before = simulators(kept.pid)
    roll_out(told, tmp_path / "second", processes.COMMAND)
    assert len(before) == 1 and simulators(kept.pid) == before
    monkeypatch.delenv(lending.ADDRESS)
    roll_out(told, tmp_path / "alone", processes.COMMAND)
    assert [row["steps"] for row in rows(tmp_path / "alone")["episodes"]] == [20, 20]
    assert_equal(tmp_path / "second", tmp_path / "alone")


def assert_equal(one: Path, other: Path) -> None:
    """The same rows, and the same films of what the policy saw."""
    assert rows(one) == rows(other)
    films = [{film.name: film.read_bytes() for film in (out / "videos").iterdir()} for out in (one, other)]
    assert films[0] and films[0] == films[1]


@pytest.mark.parametrize("mode, said", [("wedge", "no sign of life for 3 s"), ("crash", "signal SIGSEGV")])
def test_a_worker_that_failed_is_ended_and_never_lent_again(tmp_path, kept, mode, said):
    file = tmp_path / "file"
    log = roll_out(spec(init_states=[0, 1], stall_timeout_s=3), tmp_path / "out", [*WORKER, mode, str(file)])
    pids = [int(pid) for pid in file.read_text().split()]
    assert log.count(said) == 3 == len(set(pids)) and not simulators(kept.pid)
    assert kept.poll() is None


def test_an_error_that_a_worker_survives_is_none_that_the_next_shard_inherits(tmp_path, kept):
    roll_out(spec(), tmp_path / "out", [*WORKER, "raise_once", str(tmp_path / "file")])
    assert len(simulators(kept.pid)) == 1, "the one that was started after the failure"


def test_a_shard_that_is_killed_takes_all_that_it_borrowed_with_it(tmp_path, kept):
    file = tmp_path / "file"
    shard = start(tmp_path / "out", spec(init_states=[1]), [*WORKER, "wedge", str(file)])
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    assert simulators(kept.pid) == [int(file.read_text())] and len(children(kept.pid)) == 2
    shard.send_signal(signal.SIGKILL)
    shard.wait()
    wait_until(lambda: not children(kept.pid), seconds=20)


def test_a_keeper_that_dies_costs_a_line(tmp_path, kept):
    roll_out(spec(init_states=[0]), tmp_path / "first")
    left = children(kept.pid)
    kept.kill()
    kept.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), seconds=20)
    assert len(left) == 2
    log = roll_out(spec(), tmp_path / "second")
    assert log.count("keeper") == 1 and "Connection refused): starting our own" in log
    assert [row["outcome"] for row in rows(tmp_path / "second")["episodes"]] == ["success", "horizon", "horizon"]


def test_a_run_that_is_killed_takes_keeper_simulators_and_servers_with_it(tmp_path):
    code = (
        "import os, sys, time; from flashtrail.rollouts import keeper, lending; "
        "print(keeper.start(4).pid, os.environ[lending.ADDRESS], flush=True); time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid, address = run.stdout.readline().split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(lending.ADDRESS, address)
        roll_out(spec(init_states=[0]), tmp_path / "out")
    left = [int(pid), *children(int(pid))]
    run.kill()
    run.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), seconds=20)
    assert len(left) == 3


def test_another_user_is_neither_asked_nor_answered(kept, monkeypatch):
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(lending.os, "getuid", lambda: -1)
        assert lending.Lender(said.append, lambda pid: None).borrow("simulator", WORKER, {}, {}) is None
    assert said == ["the run's keeper is not at hand (another user answers in its place): starting our own processes"]


def test_no_more_idle_workers_of_a_kind_than_were_allowed_and_none_where_memory_is_short(tmp_path, monkeypatch):
    sleep = functools.partial(subprocess.Popen, ["sleep", "60"], start_new_session=True)
    ends = [keeper.socket.socketpair() for _ in "abcd"]
    kinds = ["simulator", "policy server", "simulator", "simulator"]
    workers = [keeper._Worker(kind, "", {}, sleep(), ours) for kind, (ours, _) in zip(kinds, ends, strict=True)]
    kept = keeper.Keeper(2)
    kept._idle += workers
    monkeypatch.setattr(keeper.machine, "spare_memory", lambda: 0.5)
    kept._tidy()
    assert kept._idle == workers[1:] and workers[0].process.returncode == -signal.SIGKILL
    ends[2][1].close()  # one whose worker has closed its connection
    kept._tidy()
    assert kept._idle == [workers[1], workers[3]]
    monkeypatch.setattr(keeper.machine, "spare_memory", lambda: 0.1)
    kept._tidy()
    assert not kept._idle and all(worker.process.returncode is not None for worker in workers)
