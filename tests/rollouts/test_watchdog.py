"""What a shard does about simulators that crash, hang or stand still, and about a disk that is full or closed."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rollouts.shards import HERE, WORKER, parts, rows, servers_of, spec, start, wait_until

from flashtrail.base.errors import UserError
from flashtrail.rollouts import worker
from flashtrail.rollouts.shard import roll_out_shard


@pytest.fixture(autouse=True)
def _package_on_path(monkeypatch):
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "mode, said", [("wedge", "no sign of life for 3 s and was ended"), ("crash", "signal SIGSEGV")]
)
def test_a_simulator_that_fails_every_time_is_retried_twice_and_is_no_failure(tmp_path, mode, said):
    file, log = tmp_path / "file", io.StringIO()
    told = spec(init_states=[0, 1], stall_timeout_s=3)
    summary = roll_out_shard(told, tmp_path / "out", log=log, worker_command=[*WORKER, mode, str(file)])
    assert summary.outcomes == {"init_000_repeat_0": "success", "init_001_repeat_0": "error"}
    assert said in summary.errors["init_001_repeat_0"]
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == len(set(pids)) == 3 == log.getvalue().count("init_001_repeat_0: attempt")
    assert not any(alive(pid) for pid in pids), "killed, and reaped"
    (kept,) = [row for row in rows(tmp_path / "out")["episodes"] if row["outcome"] == "error"]
    assert not kept["success"] and said in kept["error"] and kept["steps"] == 0
    with pytest.raises(UserError, match="1 of 2 episodes could not be run"):
        summary.check()


def test_a_simulator_that_raised_is_not_built_again_in_its_process(tmp_path):
    """A second simulator in one process renders other pictures: the next attempt has a process of its own."""
    log = io.StringIO()
    command = [*WORKER, "raise_once", str(tmp_path / "file")]
    summary = roll_out_shard(spec(), tmp_path / "out", log=log, worker_command=command)
    assert list(summary.outcomes.values()) == ["success", "horizon", "horizon"]
    assert log.getvalue().count("attempt") == 1 and "FloatingPointError: unstable" in log.getvalue()


def test_a_slow_simulator_is_not_taken_for_a_wedged_one(tmp_path):
    """60 steps of 0.1 s with 3 s between signs of life: the whole takes longer than that, no step does."""
    told, log = spec(init_states=[1], stall_timeout_s=3), io.StringIO()
    roll_out_shard(told, tmp_path, log=log, worker_command=[*WORKER, "slow", "-"])
    assert "attempt" not in log.getvalue()
    assert rows(tmp_path, timing=True)["episodes"][0]["wall_s"] > 6


def test_a_policy_that_thinks_is_not_taken_for_a_wedged_simulator(tmp_path):
    told, log = spec(init_states=[0], stall_timeout_s=1), io.StringIO()
    told.server.command.append("1.2")
    assert roll_out_shard(told, tmp_path, log=log, worker_command=WORKER).outcomes == {"init_000_repeat_0": "success"}
    assert "attempt" not in log.getvalue()


def test_a_shard_that_is_killed_takes_its_wedged_simulator_with_it(tmp_path):
    file = tmp_path / "file"
    process = start(tmp_path / "out", spec(init_states=[1]), [*WORKER, "wedge", str(file)])
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    pid = int(file.read_text())
    assert alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not alive(pid), seconds=20)
    wait_until(lambda: not servers_of(tmp_path / "out"), seconds=60)


def test_signs_of_life_come_once_a_second_and_at_once_when_the_promise_changes(monkeypatch):
    now, sent = [100.0], []
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    heartbeat = worker.Heartbeat(sent.append)
    for _ in range(250):
        heartbeat.within(120)
        now[0] += 0.01
    heartbeat.within(720)
    heartbeat.within(120)
    assert [message["within_s"] for message in sent] == [120, 120, 120, 720, 120]


@pytest.mark.parametrize(
    "number, said",
    [(errno.ENOSPC, "disk full while writing"), (errno.EACCES, "cannot write"), (errno.EIO, "cannot write")],
)
def test_a_disk_that_fails_ends_the_shard_with_one_line_and_keeps_what_was_recorded(
    tmp_path, monkeypatch, number, said
):
    """At the second episode: the first stays readable, server and simulators are taken down, resuming works."""
    write, count = pq.write_table, [0]

    def failing(*args, **named):
        count[0] += 1
        if count[0] == 5:
            raise OSError(number, os.strerror(number))
        write(*args, **named)

    monkeypatch.setattr(pq, "write_table", failing)
    with pytest.raises(UserError, match=said) as caught:
        roll_out_shard(spec(), tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert len(str(caught.value).splitlines()) == 1 and str(tmp_path) in str(caught.value)
    assert parts(tmp_path) == ["init_000_repeat_0"] and not servers_of(tmp_path)
    monkeypatch.undo()
    _again(tmp_path, monkeypatch)


def _again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)]))
    log = io.StringIO()
    roll_out_shard(spec(), out, log=log, worker_command=WORKER)
    assert "1 of 3 episodes are kept from before" in log.getvalue()
    assert [row["outcome"] for row in rows(out)["episodes"]] == ["success", "horizon", "horizon"]


TMPFS = "mount -t tmpfs -o size=100k none {place} && exec {python} {script} {place}"
ON_A_SMALL_DISK = """
import io, sys
from rollouts.shards import WORKER, parts, spec
from pathlib import Path
from flashtrail.base.errors import UserError
from flashtrail.rollouts.recorder import Recorder
from flashtrail.rollouts.shard import default_parts_dir, roll_out_shard
out = Path(sys.argv[1])
try:
    roll_out_shard(spec(init_states=range(50)), out, log=io.StringIO(), worker_command=WORKER)
except UserError as error:
    print(error)
(digest,) = [p.name for p in default_parts_dir(out).iterdir() if p.is_dir()]
recorder = Recorder(default_parts_dir(out), digest, {}, {})
print(len(parts(out)), len(recorder.outcomes()))
"""


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 100 KiB, where this user may mount one."""
    place, script = tmp_path / "disk", tmp_path / "script.py"
    place.mkdir()
    script.write_text(ON_A_SMALL_DISK)
    shell = TMPFS.format(place=place, python=sys.executable, script=script)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    line, counts = done.stdout.strip().splitlines()
    assert line.startswith("disk full while writing"), line
    kept, readable = map(int, counts.split())
    assert 1 <= readable == kept < 50


def test_results_that_cannot_be_written_are_told_before_a_server_starts(tmp_path):
    (tmp_path / "out").write_text("a file where a directory should be")
    mark = tmp_path / "started"
    with pytest.raises(UserError, match="cannot write"):
        roll_out_shard(spec(server=["touch", str(mark), "{port}"]), tmp_path / "out", worker_command=WORKER)
    assert not mark.exists()
