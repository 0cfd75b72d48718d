"""What others take from our cores is seen, what we and our children use is not taken for theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashtrail.base import machine

BURN = "while True: pass"
pytestmark = pytest.mark.skipif(machine.Watch()._times() is None, reason="no /proc/stat here")


def watched(seconds: float, detached: bool) -> tuple[float, float]:
    """Return the shares of our cores' time that counted as ours and that a burning program took.

    The burner is a child of ours, or a program whose parent has gone.
    """
    if detached:
        starter = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {BURN!r}], stdout=2).pid)"
        pid = int(subprocess.run([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True).stdout)
    else:
        pid = subprocess.Popen([sys.executable, "-c", BURN]).pid
    try:
        watch = machine.Watch()
        before, burned = watch._times(), cpu_seconds(pid)
        time.sleep(seconds)
        after, burned = watch._times(), cpu_seconds(pid) - burned
        found = watch.record()
    finally:
        subprocess.run(["kill", str(pid)])
    assert before is not None and after is not None
    assert found["cores"] >= 1 and found["load_max"] >= found["load_begin"]
    total = after[1] - before[1]
    return (after[2] - before[2]) / total, burned / total


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_program_of_somebody_else_is_load_and_a_child_of_ours_is_not():
    """Whatever else runs on this machine: the burner's own share appears on the side where it belongs."""
    ours, burner = watched(3.0, detached=False)
    assert burner > 0.02 and ours > 0.8 * burner
    ours, burner = watched(3.0, detached=True)
    assert burner > 0.02 and ours < 0.5 * burner


def test_the_share_is_what_the_kernels_counters_say(tmp_path):
    """Two cores, 10 s each: 12 s busy, of which 4 s are steal; we used none."""

    def stat(user: int, idle: int, steal: int) -> None:
        cores = machine.Watch()._cores
        text = "".join(f"cpu{core} {user} 0 0 {idle} 0 0 0 {steal} 0 0\n" for core in cores)
        (tmp_path / "stat").write_text("cpu 9 9 9 9\n" + text)

    stat(0, 0, 0)
    watch = machine.Watch(proc=tmp_path)
    stat(400, 400, 200)
    watch.look()
    stat(400, 1400, 200)
    watch.look()
    assert watch.record()["others"] == 0.6


def test_what_works_for_us_is_ours_from_then_on(tmp_path):
    """A process that is lent to us, and its child: what they used before is theirs; with their end nothing is lost."""

    def stat(pid: int, parent: int, ticks: int) -> None:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a b) S {parent} {'0 ' * 9}{ticks} 0 0 0 0")

    tick = os.sysconf("SC_CLK_TCK")
    stat(os.getpid(), 1, 0)
    stat(902, 1, 500 * tick)
    stat(903, 902, 40 * tick)
    watch = machine.Watch(proc=tmp_path)
    assert watch._own(tick) == 0
    watch.count(902)
    assert watch._own(tick) == 0
    stat(903, 902, 47 * tick)
    assert watch._own(tick) == 7
    (tmp_path / "902/stat").unlink()
    assert watch._own(tick) == 7


def test_spare_memory_is_the_machines_or_the_containers_if_less(tmp_path):
    assert machine.spare_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   600 kB\n")
    assert machine.spare_memory(tmp_path) == 0.6
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("900\n")
    assert machine.spare_memory(tmp_path) == 0.6
    (group / "memory.max").write_text("1000\n")
    (group / "memory.stat").write_text("anon 700\ninactive_file 150\n")
    assert machine.spare_memory(tmp_path) == 0.25


def test_words_of_a_record_and_of_none():
    record = {"cores": 2, "load_begin": 0.5, "load_max": 20.0, "others": 0.8, "cpu_mhz": [2400.0, 2500.0]}
    assert machine.words(record | {"governor": None, "gpu_mhz": None}) == (
        "2 cores, load average 0.50 at the beginning, 20.00 at most, other programs on 80\u00a0% of them at most, "
        "CPU at 2400-2500 MHz"
    )
    steady = record | {"governor": None, "gpu_mhz": None, "cpu_mhz": [2445.0, 2445.2]}
    assert machine.words(steady).endswith("CPU at 2445 MHz")
    assert machine.brief(record) == "20.0 on 2 cores, others 80\u00a0%" and machine.brief(None) is None
    assert machine.words(None) == "load of the machine not recorded"
