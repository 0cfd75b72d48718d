"""What each test file costs: ``make test PYTEST=--cpu`` prints the CPU seconds of each at the end (tests/conftest.py).

A test's seconds are those of its worker and of all processes below it, ended or living, from the end of the test before
on; what has left the worker's tree is not seen. Beside the sum it says how long the machine's cores were idle, which no
faster test mends and another worker may. Linux only (/proc).
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

SHOWN = 40
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def seconds_of(root: int) -> float:
    """Return the CPU seconds, user and system, of a process, of its ended children and of all living below it."""
    ticks: dict[int, int] = {}
    below: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        below[int(fields[1])].append(int(stat.parent.name))
        ticks[int(stat.parent.name)] = sum(map(int, fields[11:15]))
    found, todo = 0, [root]
    while todo:
        process = todo.pop()
        found += ticks.get(process, 0)
        todo += below[process]
    return found / _TICKS_PER_S


def _cores() -> tuple[int, int]:
    """Return the ticks of all cores since the machine started: idle, and all."""
    told = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    return told[3] + told[4], sum(told)


class Costs:
    """A plugin of pytest: in each worker of xdist it measures, where their reports come together it counts."""

    def __init__(self) -> None:
        self._last, self._started, self._before = seconds_of(os.getpid()), time.monotonic(), _cores()
        self._files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def pytest_collection_finish(self) -> None:
        """Leave out what collecting and its imports took: every worker pays it once, and no file alone."""
        self._last = seconds_of(os.getpid())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Give a report the CPU seconds since the one before it."""
        report = yield
        now = seconds_of(os.getpid())
        vars(report)["cpu_s"], self._last = now - self._last, now  # xdist carries a report's attributes along
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a report to its file: CPU seconds, wall seconds, tests."""
        own = self._files[report.nodeid.split("::")[0]]
        for at, value in enumerate((getattr(report, "cpu_s", 0.0), report.duration, report.when == "call")):
            own[at] += value

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the costliest files and the sums."""
        say = terminalreporter.write_line
        say(f"{'CPU s':>8} {'wall s':>8} {'tests':>6}  file")
        for file, (cpu, wall, tests) in sorted(self._files.items(), key=lambda item: -item[1][0])[:SHOWN]:
            say(f"{cpu:8.1f} {wall:8.1f} {tests:6.0f}  {file}")
        idle, ticks = (now - then for now, then in zip(_cores(), self._before, strict=True))
        say(
            f"{sum(own[0] for own in self._files.values()):.0f} CPU s in {len(self._files)} files, "
            f"{time.monotonic() - self._started:.0f} s from start to end, cores idle {100 * idle / max(ticks, 1):.0f} %"
        )
