"""For all tests: a process started in the background of a script ignores SIGINT, and its children inherit that.

Tests that interrupt a child would wait for ever then, so the usual disposition is restored first. And the files that
take longest start first: of two workers that take file by file, none is left with one of them at the end. What all
imports have left when the tests begin is never freed, so no garbage collection walks it.
"""

import gc
import signal
from pathlib import Path

import pytest

# The longest in the runs of `make test`, longest first: half a minute or more each on two cores. xdist would sort
# files by their number of tests, hence --no-loadscope-reorder in the Makefile.
LONGEST = (
    "record/test_bundle.py",
    "workflow/test_reruns.py",
    "report/test_browser.py",
    "simulators/test_verified_success.py",
    "rollouts/test_fidelity.py",
    "rollouts/test_shard.py",
    "rollouts/test_crash_points.py",
    "workflow/test_growth.py",
    "workflow/test_settle.py",
    "workflow/test_plan.py",
    "studio/test_stage.py",
    "studio/test_page.py",
    "conformance/test_mutations.py",
    "checkpoints/test_parity.py",
    "policies/pi0/kernels/test_compiled.py",
    "record/test_strangers.py",
    "record/test_drills.py",
    "rollouts/test_watchdog.py",
    "workflow/test_places.py",
    "statistics/test_calibration.py",
    "simulators/test_simulator.py",
    "rollouts/test_killed_in_the_simulator.py",
    "report/test_count_links.py",
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others, and the tests of a file, stay in their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "LONGEST names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # over half a million objects, walked again and again, were a twelfth of the time of tests in-process
