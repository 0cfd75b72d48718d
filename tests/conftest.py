"""For all tests: a process started in the background of a script ignores SIGINT, and its children inherit that.

Tests that interrupt a child would wait for ever then, so the usual disposition is restored first. And the files that
take longest start first: of two workers that take file by file, none is left with one of them at the end.
"""

import signal
from pathlib import Path

import pytest

# The longest in the runs of `make test`, longest first: a minute or more each on two cores. xdist would sort files by
# their number of tests, hence --no-loadscope-reorder in the Makefile.
LONGEST = (
    "rollouts/test_crash_points.py",
    "record/test_bundle.py",
    "report/test_browser.py",
    "simulators/test_verified_success.py",
    "rollouts/test_fidelity.py",
    "workflow/test_reruns.py",
    "test_setup.py",
    "workflow/test_plan.py",
    "workflow/test_frozen.py",
    "report/test_count_links.py",
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others, and the tests of a file, stay in their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "LONGEST names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))
