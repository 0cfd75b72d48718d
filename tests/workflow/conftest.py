"""Checkouts to run snakemake in: a fresh one, and one whose small experiment has run to its end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from workflow.checkouts import Checkout, copy_checkout, with_stand_in


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh checkout in which nothing has run."""
    return copy_checkout(tmp_path / "checkout")


@pytest.fixture(scope="module")
def finished_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the small experiment has run to its end, by stand-ins; do not change it."""
    checkout = copy_checkout(tmp_path_factory.mktemp("finished") / "checkout")
    for script in (checkout.path / "scripts").glob("*.py"):
        script.write_text(with_stand_in(script.read_text()))
    checkout.snakemake("--", "reports/final.html")
    return checkout.path


@pytest.fixture
def finished(finished_tree: Path, tmp_path: Path) -> Checkout:
    """A copy of the finished checkout, times preserved, to be changed at will."""
    shutil.copytree(finished_tree, tmp_path / "checkout", symlinks=True)
    return Checkout(tmp_path / "checkout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs snakemake as slow: `make check` leaves it to `make test`."""
    running = {"checkout", "finished", "deployed", "local_plan"}
    for item in items:
        if running & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
