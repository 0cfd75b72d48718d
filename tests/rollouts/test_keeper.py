"""Simulators that outlive a shard: the next one gets the same tables, and nobody outlives run, shard or failure."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rollouts.shards import HERE, WORKER, rows, spec, start, wait_until

from flashtrail.rollouts import keeper, lending, processes
from flashtrail.rollouts.shard import roll_out_shard

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="no abstract sockets: no keeper",
)
OTHER = {"arm": "other", "condition": {"kind": "swap"}, "guard": {"kind": "none"}}  # it leaves other traces


def children(pid: int) -> list[int]:
    """Processes whose parent this is, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def roll_out(told, out: Path, worker=WORKER) -> str:
    log = io.StringIO()
    roll_out_shard(told, out, log=log, worker_command=worker)
    return log.getvalue()


@pytest.fixture(autouse=True)
def _package_on_path(monkeypatch):
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def kept(_package_on_path):
    """The keeper of a run."""
    process = keeper.start(4)
    yield process
    keeper.stop(process)
    assert lending.ADDRESS not in os.environ


def test_the_next_shard_has_the_same_simulator_and_the_same_tables(tmp_path, kept, monkeypatch):
    told = spec(suite="reach", task_id=1, video="all")
    roll_out(spec(suite="reach", task_id=1, **OTHER), tmp_path / "first", processes.COMMAND)
    before = children(kept.pid)
    log = roll_out(told, tmp_path / "second", processes.COMMAND)
    assert len(before) == 1 and children(kept.pid) == before, "one worker for both"
    assert log.count("a simulator of an earlier shard is at hand") == 1
    roll_out(spec(suite="reach", task_id=0), tmp_path / "third", processes.COMMAND)
    roll_out(spec(suite="reach", task_id=1, metadata={"code_digest": "new"}), tmp_path / "fourth", processes.COMMAND)
    assert len(children(kept.pid)) == 3, "another task, or other code, is another simulator"
    monkeypatch.delenv(lending.ADDRESS)
    roll_out(told, tmp_path / "alone", processes.COMMAND)
    assert len(children(kept.pid)) == 3
    assert_equal(tmp_path / "second", tmp_path / "alone")


@pytest.mark.simulator
@pytest.mark.slow
def test_a_real_simulator_kept_from_another_arm_gives_the_same_states_and_pictures(tmp_path, kept, monkeypatch):
    """Two episodes of a task after one of another arm, against both in a process of their own; films to the byte."""
    told = spec(init_states=[1, 4], horizon=20, video="all")
    roll_out(spec(init_states=[3], horizon=20, **OTHER), tmp_path / "first", processes.COMMAND)
    before = children(kept.pid)
    roll_out(told, tmp_path / "second", processes.COMMAND)
    assert len(before) == 1 and children(kept.pid) == before
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
    assert log.count(said) == 3 == len(set(pids)) and not children(kept.pid)
    assert kept.poll() is None


def test_an_error_that_a_worker_survives_is_none_that_the_next_shard_inherits(tmp_path, kept):
    roll_out(spec(), tmp_path / "out", [*WORKER, "raise_once", str(tmp_path / "file")])
    assert len(children(kept.pid)) == 1, "the one that was started after the failure"


def test_a_shard_that_is_killed_takes_its_borrowed_simulator_with_it(tmp_path, kept):
    file = tmp_path / "file"
    shard = start(tmp_path / "out", spec(init_states=[1]), [*WORKER, "wedge", str(file)])
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    assert children(kept.pid) == [int(file.read_text())]
    shard.send_signal(signal.SIGKILL)
    shard.wait()
    wait_until(lambda: not children(kept.pid), seconds=20)


def test_a_keeper_that_dies_costs_a_line(tmp_path, kept):
    roll_out(spec(init_states=[0]), tmp_path / "first")
    (worker,) = children(kept.pid)
    kept.kill()
    kept.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), seconds=20)
    log = roll_out(spec(), tmp_path / "second")
    assert log.count("keeper") == 1 and "Connection refused): starting our own" in log
    assert [row["outcome"] for row in rows(tmp_path / "second")["episodes"]] == ["success", "horizon", "horizon"]


def test_a_run_that_is_killed_takes_keeper_and_simulators_with_it(tmp_path):
    code = (
        "import os, sys, time; from flashtrail.rollouts import keeper, lending; "
        "print(keeper.start(4).pid, os.environ[lending.ADDRESS], flush=True); time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid, address = run.stdout.readline().split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(lending.ADDRESS, address)
        roll_out(spec(init_states=[0]), tmp_path / "out")
    (worker,) = children(int(pid))
    run.kill()
    run.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists() and not Path(f"/proc/{pid}").exists(), seconds=20)


def test_another_user_is_neither_asked_nor_answered(kept, monkeypatch):
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(lending.os, "getuid", lambda: -1)
        assert lending.Lender(said.append, lambda pid: None).borrow(WORKER, {}, {}) is None
    assert said == [
        "the run's keeper of simulators is not at hand (another user answers in its place): starting our own"
    ]


def test_no_more_idle_workers_than_were_allowed_and_none_where_memory_is_short(tmp_path, monkeypatch):
    ends = [keeper.socket.socketpair() for _ in range(3)]
    workers = [keeper._Worker(str(n), subprocess.Popen(["sleep", "60"]), ours) for n, (ours, _) in enumerate(ends)]
    kept = keeper.Keeper(2)
    kept._idle += workers
    monkeypatch.setattr(keeper.machine, "spare_memory", lambda: 0.5)
    kept._tidy()
    assert kept._idle == workers[1:] and workers[0].process.returncode == -signal.SIGKILL
    ends[1][1].close()  # one whose worker has closed its connection
    kept._tidy()
    assert kept._idle == workers[2:]
    monkeypatch.setattr(keeper.machine, "spare_memory", lambda: 0.1)
    kept._tidy()
    assert not kept._idle and all(worker.process.returncode is not None for worker in workers)
