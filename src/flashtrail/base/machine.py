"""How busy the machine was with other things while something was timed: what stands beside every latency.

The load average counts our own threads too and lags by a minute; so the CPU time that other programs took from our
cores is measured: what the kernel counts as busy there (/proc/stat, a neighbour's steal included), less what this
process and its descendants used. Linux only: elsewhere the entries are None.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_LEAST_S = 1.0  # CPU times come in ticks of 10 ms: shorter intervals are joined to the next
_IDLE = (3, 4)  # of a line of /proc/stat: idle, iowait
_COUNTED = 8  # user, nice, system, idle, iowait, irq, softirq, steal (guests are in user)


class Watch:
    """Watches from its making on; `look` closes an interval, `record` says what was seen."""

    def __init__(self, gpu: bool = False, proc: str | Path = "/proc") -> None:
        self._gpu, self._proc = gpu, Path(proc)
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._loads = [_load()]
        self._counted: dict[int, tuple[int, int]] = {}  # ticks before, and at the last look
        self._last = self._times()
        self._others: list[float] = []
        self._clocks = [self._clock()]

    def count(self, pid: int) -> None:
        """Count a process that works for us, no descendant of ours, and its descendants as ours from now on."""
        used = _used(self._proc, pid)
        self._counted[pid] = (used, used)

    def look(self, least_s: float = _LEAST_S) -> None:
        """Close an interval: sample load and clock, and what others took since the last look."""
        self._loads.append(_load())
        self._clocks.append(self._clock())
        now = self._times()
        if now is None or self._last is None:
            return
        busy, total, own = (b - a for a, b in zip(self._last, now, strict=True))
        if total < least_s * len(self._cores):
            return
        self._others.append(min(1.0, max(0.0, (busy - own) / total)))
        self._last = now

    def record(self) -> dict[str, Any]:
        """Return cores, load average (begin, max), `others` and clocks (MHz), as plain data.

        `others`: the largest share of our cores' time that other programs took in one interval between looks, 0-1.
        """
        self.look(0.1)
        loads = [load for load in self._loads if load is not None]
        clocks = [clock for clock in self._clocks if clock is not None]
        return {
            "cores": len(self._cores) or os.cpu_count(),
            "load_begin": loads[0] if loads else None,
            "load_max": max(loads, default=None),
            "others": round(max(self._others), 4) if self._others else None,
            "cpu_mhz": [min(clocks), max(clocks)] if clocks else None,
            "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            "gpu_mhz": _gpu_clock() if self._gpu else None,
        }

    def _times(self) -> tuple[float, float, float] | None:
        """Return seconds that our cores were busy, that they had, and that we used; None without /proc."""
        ours = {f"cpu{core}" for core in self._cores}
        lines = [line.split() for line in (_text(self._proc / "stat") or "").splitlines()]
        counted = [[int(value) for value in line[1 : 1 + _COUNTED]] for line in lines if line and line[0] in ours]
        if not counted:
            return None
        total = sum(map(sum, counted))
        idle = sum(line[place] for line in counted for place in _IDLE)
        tick = os.sysconf("SC_CLK_TCK")
        return (total - idle) / tick, total / tick, self._own(tick)

    def _own(self, tick: int) -> float:
        """Return the CPU seconds of this process, its descendants, and those that `count` named, from then on."""
        for pid, (before, last) in self._counted.items():
            self._counted[pid] = before, max(last, _used(self._proc, pid))  # none where it has ended
        return (_used(self._proc, os.getpid()) + sum(last - before for before, last in self._counted.values())) / tick

    def _clock(self) -> float | None:
        lines = (_text(self._proc / "cpuinfo") or "").splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return round(sum(clocks) / len(clocks), 1) if clocks else None


def together(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return several records as one: the busiest of each, clocks from the lowest to the highest."""
    some = list(records)

    def extreme(key: str, choose: Callable[..., Any]) -> Any:
        return choose((record[key] for record in some if record[key] is not None), default=None)

    clocks = [mhz for record in some for mhz in record["cpu_mhz"] or []]
    return {
        **{key: extreme(key, max) for key in ("cores", "load_begin", "load_max", "others", "governor")},
        "cpu_mhz": [min(clocks), max(clocks)] if clocks else None,
        "gpu_mhz": extreme("gpu_mhz", min),
    }


def brief(record: dict[str, Any] | None) -> str | None:
    """Return a record in a cell of a table; None where there is none."""
    if not record or record["load_max"] is None:
        return None
    others = f", others {100 * record['others']:.0f}\u00a0%" if record["others"] is not None else ""
    return f"{record['load_max']:.1f} on {record['cores']} cores{others}"


def words(record: dict[str, Any] | None) -> str:
    """Return a record as the pages print it."""
    if not record:
        return "load of the machine not recorded"
    parts = [f"{record['cores']} cores"]
    if record["load_begin"] is not None:
        parts.append(f"load average {record['load_begin']:.2f} at the beginning, {record['load_max']:.2f} at most")
    if record["others"] is not None:
        parts.append(f"other programs on {100 * record['others']:.0f}\u00a0% of them at most")
    if record["cpu_mhz"]:
        ends = dict.fromkeys(f"{mhz:.0f}" for mhz in record["cpu_mhz"])  # one where the clock did not change
        parts.append(f"CPU at {'-'.join(ends)} MHz")
    if record["governor"]:
        parts.append(f"governor {record['governor']}")
    if record["gpu_mhz"]:
        parts.append(f"GPU at {record['gpu_mhz']:.0f} MHz")
    return ", ".join(parts)


def spare_memory(root: str | Path = "/") -> float | None:
    """Return the share of the memory that is free for use, 0-1: the machine's or, if less, our container's."""
    return min((free / most for free, most in _memories(root)), default=None)


def free_memory(root: str | Path = "/") -> int | None:
    """Return the bytes that are free for use: the machine's or, if less, our container's."""
    return min((free for free, _ in _memories(root)), default=None)


def _memories(root: str | Path) -> list[tuple[int, int]]:
    """Return the bytes that are free, and all, of the machine and of our container."""
    text = _text(Path(root, "proc/meminfo")) or ""
    of_machine = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in text.splitlines())}
    known = "MemAvailable" in of_machine
    found = [(of_machine["MemAvailable"] << 10, of_machine["MemTotal"] << 10)] if known else []
    group = Path(root, "sys/fs/cgroup")
    most, used = _text(group / "memory.max") or "max", _text(group / "memory.current")
    if used and most.strip() != "max":
        cached = re.search(r"^inactive_file (\d+)", _text(group / "memory.stat") or "", re.MULTILINE)
        found.append((int(most) - int(used) + (int(cached[1]) if cached else 0), int(most)))
    return found


def _used(proc: Path, root: int) -> int:
    """Return the CPU ticks of a process and its descendants, those that have ended and were waited for too."""
    parents, used = dict[int, int](), dict[int, int]()
    for entry in proc.iterdir():
        if entry.name.isdigit() and (text := _text(entry / "stat")):
            fields = text.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return sum(ticks for pid, ticks in used.items() if _descends(pid, root, parents))


def _descends(pid: int, from_: int, parents: dict[int, int]) -> bool:
    while pid != from_ and pid in parents:
        pid = parents[pid]
    return pid == from_


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):  # no such file here, or a process that has ended
        return path.read_text(encoding="utf-8").strip()
    return None


def _gpu_clock() -> float | None:
    command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return float(output.splitlines()[0])
    return None
