"""For all tests: a process started in the background of a script ignores SIGINT, and its children inherit that.

Tests that interrupt a child would wait for ever then, so the usual disposition is restored first. And the files that
take longest start first: of two workers that take file by file, none is left with one of them at the end. What all
imports have left when the tests begin is never freed, so no garbage collection walks it.
"""

import gc
import signal
from collections import Counter
from pathlib import Path

import pytest

SLOW = 15  # seconds at least of a test that is marked slow; a file's other tests take about one each

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu", action="store_true", help="print at the end what each file cost, in CPU seconds")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("cpu"):
        import cpu_by_file

        config.pluginmanager.register(cpu_by_file.Costs())


@pytest.hookimpl(trylast=True)  # after tests/workflow/conftest.py has marked its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that take longest by their marks; the tests of a file stay in their order.

    xdist would sort files by their number of tests, hence --no-loadscope-reorder in the Makefile.
    """
    seconds = Counter[Path]()
    for item in items:
        seconds[item.path] += SLOW if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -seconds[item.path])


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # over half a million objects, walked again and again, were a twelfth of the time of tests in-process
