"""The option --golden: which golden data to check; with it a table of all checks is printed (`make conformance`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.golden import DIRECTORY, SETS, Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, metavar="DIR", help="golden data, laid out as tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    directory = config.getoption("golden", None)
    if directory is not None and not directory.is_dir():
        raise pytest.UsageError(f"{directory} is not a directory; give one laid out as tests/golden")
    if directory is not None and not any((directory / name).is_dir() for name in SETS):
        raise pytest.UsageError(
            f"{directory} holds none of {', '.join(SETS)}; give a directory laid out as tests/golden"
        )


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
    return Golden(pytestconfig.getoption("golden", None) or DIRECTORY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("golden", None) is None:
        return
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [row for report in sorted(reports, key=lambda r: r.nodeid) for _, row in report.user_properties]
    terminalreporter.line(f"{'check':<58} {'worst':>9} {'tolerance':>9}")
    for text, _ in rows:
        terminalreporter.line(text)
    terminalreporter.line(f"{len(rows)} checks, {sum(not ok for _, ok in rows)} failed")
