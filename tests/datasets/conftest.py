"""Sets that are written once and copied where a test spoils them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datasets import sets


@pytest.fixture(scope="session")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.v3(tmp_path_factory.mktemp("v3") / "set")


@pytest.fixture(scope="session")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.v21(tmp_path_factory.mktemp("v21") / "set")


@pytest.fixture
def copies(tmp_path: Path, v3: Path, v21: Path) -> dict[str, Path]:
    """A copy of each set, to be changed."""
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in (("v3", v3), ("v21", v21))}
