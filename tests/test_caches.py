"""Caches: where the home can be written nothing moves, elsewhere they go below the project and credentials stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashtrail import caches


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """An environment of its own, with none of the variables set."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(caches, "ROOT", tmp_path)
    return os.environ


def test_a_home_that_can_be_written_is_left_alone(environment, tmp_path):
    environment["HOME"] = str(tmp_path)
    caches.settle()
    assert set(environment) - {"PYTEST_CURRENT_TEST"} == {"HOME"}


def test_without_one_each_library_gets_a_folder_below_the_project(environment, tmp_path):
    environment |= {"HOME": "/nowhere", "MPLCONFIGDIR": "/chosen"}
    caches.settle()
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / ".snakemake/caches/cache")
    assert environment["MPLCONFIGDIR"] == "/chosen"
    assert environment["HF_TOKEN_PATH"] == "/nowhere/.cache/huggingface/token"


def test_a_project_that_cannot_be_written_gives_way_to_a_private_folder(environment, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(caches, "ROOT", tmp_path / "file")
    environment["HOME"] = "/nowhere"
    caches.settle()
    place = Path(environment["XDG_CACHE_HOME"]).parent.stat()
    assert place.st_mode & 0o777 == 0o700 and place.st_uid == os.geteuid()
