"""The keeper of a run, for tests of shards that borrow."""

from __future__ import annotations

import os

import pytest
from rollouts.shards import HERE

from flashtrail.rollouts import keeper, lending


@pytest.fixture
def package_on_path(monkeypatch):
    """What is started by a shard finds the package and the tests' own workers."""
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def kept(package_on_path):
    """The keeper of a run."""
    process = keeper.start(4)
    yield process
    keeper.stop(process)
    assert lending.ADDRESS not in os.environ
