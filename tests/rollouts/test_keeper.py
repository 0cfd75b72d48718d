"""Simulators that outlive their shard: the same tables, one process, and none left where a shard or the run is gone."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rollouts.shards import HERE, WORKER, rows, servers_of, spec, start, wait_until
from rollouts.test_watchdog import alive

from flashtrail.rollouts import keeper
from flashtrail.rollouts.shard import roll_out_shard


@pytest.fixture(autouse=True)
def _package_on_path(monkeypatch):
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A process with a keeper, as a run's main process is; its address is in the environment."""
    monkeypatch.setenv(keeper.VARIABLE, "")
    code = (
        "import os, sys; from flashtrail.rollouts import keeper; keeper.start(); "
        "print(os.environ[keeper.VARIABLE], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        monkeypatch.setenv(keeper.VARIABLE, process.stdout.readline().strip())
        yield process
        process.kill()


def simulators(mark: str) -> list[int]:
    """Processes with `mark` among their arguments that a keeper started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if mark in words and any(word.startswith("kept:") for word in words):
            found.append(int(process.name))
    return [pid for pid in found if alive(pid)]


def roll(tmp_path, name: str, mode: str = "", **more):
    log, command = io.StringIO(), [*WORKER, mode, str(tmp_path / "file")]
    told = spec(**more)
    summary = roll_out_shard(told, tmp_path / name, log=log, worker_command=command)
    return rows(tmp_path / name), summary, log.getvalue()


def test_the_next_shard_of_equal_settings_gets_the_simulator_and_gives_the_same_tables(run, tmp_path, monkeypatch):
    mark = str(tmp_path / "file")
    first = roll(tmp_path, "first")[0]
    wait_until(lambda: len(simulators(mark)) == 1, 20)
    (kept,) = simulators(mark)
    other = {"condition": {"kind": "freeze"}, "guard": {"kind": "none"}, "arm": "other", "init_states": (1, 0)}
    after = roll(tmp_path, "after", **other)[0]
    again = roll(tmp_path, "again")[0]
    assert simulators(mark) == [kept], "one process served three shards"
    roll(tmp_path, "elsewhere", seed=8)
    assert len(simulators(mark)) == 2, "another seed is another simulator"
    monkeypatch.setenv(keeper.VARIABLE, "")
    assert first == again == roll(tmp_path, "alone")[0] and after == roll(tmp_path, "alone_other", **other)[0]
    assert {row["arm"] for row in after["episodes"]} == {"other"}


def test_a_shard_that_is_killed_leaves_nobody_at_work_and_one_that_is_slow_goes_on(run, tmp_path):
    mark = str(tmp_path / "file")
    process = start(tmp_path / "out", spec(), [*WORKER, "slow", mark])
    wait_until(lambda: (tmp_path / "out/parts").exists() and any((tmp_path / "out/parts").glob("*/init_000*")))
    (busy,) = simulators(mark)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(busy), 30)
    wait_until(lambda: not servers_of(tmp_path / "out"))
    assert run.poll() is None
    assert list(roll(tmp_path, "out", "slow")[1].outcomes.values()) == ["success", "horizon", "horizon"]


@pytest.mark.parametrize(
    "mode, said", [("wedge", "no sign of life for 3 s and was ended"), ("crash", "signal SIGSEGV")]
)
def test_a_simulator_that_fails_is_ended_and_said_as_without_a_keeper(run, tmp_path, mode, said):
    summary = roll(tmp_path, "out", mode, init_states=[0, 1], stall_timeout_s=3)[1]
    assert summary.outcomes == {"init_000_repeat_0": "success", "init_001_repeat_0": "error"}
    assert said in summary.errors["init_001_repeat_0"]
    pids = [int(pid) for pid in (tmp_path / "file").read_text().split()]
    assert len(set(pids)) == 3 and not any(alive(pid) for pid in pids)
    assert not simulators(str(tmp_path / "file"))


def test_one_that_raised_is_not_used_again(run, tmp_path):
    _, summary, log = roll(tmp_path, "out", "raise_once")
    assert list(summary.outcomes.values()) == ["success", "horizon", "horizon"]
    assert log.count("attempt") == 1 and "FloatingPointError: unstable" in log
    wait_until(lambda: len(simulators(str(tmp_path / "file"))) == 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_keeper_and_its_simulators_leave_with_the_run(run, tmp_path, how):
    roll(tmp_path, "out")
    left = [*simulators(str(tmp_path / "file")), *children(run.pid)]
    assert len(left) == 2
    if how is None:
        run.stdin.close()
    else:
        run.send_signal(how)
    run.wait()
    wait_until(lambda: not any(alive(pid) for pid in left), 30)
    if how != signal.SIGKILL:
        assert how or not Path(os.environ[keeper.VARIABLE]).exists()
    roll(tmp_path, "without")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_keeper_that_is_killed_costs_an_attempt_at_most_and_the_shard_starts_its_own(run, tmp_path):
    roll(tmp_path, "before")
    (own,) = children(run.pid)
    (kept,) = simulators(str(tmp_path / "file"))
    os.kill(own, signal.SIGKILL)
    wait_until(lambda: not alive(kept), 30)
    assert list(roll(tmp_path, "after")[1].outcomes.values()) == ["success", "horizon", "horizon"]


def test_a_stranger_s_words_end_nothing(run, tmp_path):
    for words in (b"", b"{", b"[]", b'{"command": 1}', b"\xff" * 100):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(os.environ[keeper.VARIABLE])
            stranger.send(words)
            stranger.settimeout(5)
            assert stranger.recv(100) == b""
    assert oct(Path(os.environ[keeper.VARIABLE]).parent.stat().st_mode)[-3:] == "700"
    assert list(roll(tmp_path, "out")[1].outcomes.values()) == ["success", "horizon", "horizon"]


def test_idle_simulators_are_bounded(monkeypatch):
    for free, left in ((0.5, 2), (0.1, 0)):
        monkeypatch.setattr(keeper, "_share_free", lambda free=free: free)
        monkeypatch.setattr(keeper, "MOST_IDLE", 2)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            own = keeper.Keeper(ours, theirs.fileno())
            sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
            for number in range(3):
                request = {"command": sleeping, "cwd": "/", "env": {}, "simulator": {"seed": number}}
                kept = own._start(json.dumps(request).encode())
                kept.idle, kept.since = True, time.monotonic() + number
            pids = [kept.process.pid for kept in own._kept]
            own._tidy()
            assert [kept.process.pid for kept in own._kept] == pids[3 - left :]
            for kept in list(own._kept):
                own._end(kept)
