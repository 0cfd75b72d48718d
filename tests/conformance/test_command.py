"""`make conformance`: the table, the exit status, and what happens where data are missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.checks import run
from conformance.golden import DIRECTORY, SETS, Golden

ROOT = DIRECTORY.parents[1]


def conformance(directory: Path) -> subprocess.CompletedProcess:
    """What `make conformance GOLDEN=directory` runs once the environment is set up."""
    recipe = re.search(r"^conformance:.*\n\t@?(.+(?:\\\n.+)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = recipe[1].replace("$(BIN)/python", sys.executable).replace("$(GOLDEN)", str(directory))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)


def linked(folder: Path, *left_out: str) -> Path:
    """A copy of the golden data by links, without the sets and files named."""
    for path in DIRECTORY.glob("G*/*"):
        name = path.relative_to(DIRECTORY)
        if not {str(name), str(name.parent)} & set(left_out):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(path)
    return folder


@pytest.mark.parametrize("missing", SETS)
def test_a_missing_set_fails(tmp_path, missing):
    rows = run(Golden(linked(tmp_path, missing)), missing)
    assert rows and not any(row.ok for row in rows) and missing in rows[0].note


def test_a_missing_file_fails_and_the_rest_still_runs(tmp_path):
    ended = conformance(linked(tmp_path, "G4_draft_head/draft.pt"))
    lines = ended.stdout.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("check "))
    rows, last = lines[start + 1 : -1], lines[-1]
    assert any(row.startswith("G4 tiny_prefix ") and "FAIL" in row for row in rows)
    assert any(row.startswith("G1 obs2 out_actions_env") and row.split()[-1] == "ok" for row in rows)
    assert last == f"{len(rows)} checks, {sum('FAIL' in row for row in rows)} failed"
    assert ended.returncode == 1


def test_another_directory_that_does_not_exist_is_one_line(tmp_path):
    ended = conformance(tmp_path / "nowhere")
    assert ended.returncode != 0 and "nowhere is not a directory; give one" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
