"""A shard killed, or met by a full disk, at every file operation in turn: nothing but the episode in flight is lost."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rollouts.shards import HERE

MEMORY = Path("/dev/shm")  # thousands of small files: not for a disk


@functools.cache
def lives(scenario: str, fault: str) -> tuple[dict, list[dict]]:
    """The undisturbed life and all disturbed ones (see crash_points.py)."""
    source = str(HERE.parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, str(HERE.parent), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as directory:
        command = [sys.executable, str(HERE / "crash_points.py"), directory, scenario, fault]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, *rest = [json.loads(line) for line in done.stdout.splitlines()]
    return whole["whole"], rest


def described(life: dict) -> str:
    return f"{'in the middle of' if life['torn'] else 'before'} operation {life['at']}, {life['point']}: {life}"


def test_every_operation_on_files_is_among_the_points():
    whole, rest = lives("fresh", "kill")
    paths = [point for point in whole["points"] if point.split()[0] not in ("fsync", "write", "sendfile")]
    assert len(paths) == whole["audited"] > 90, "an operation that the interpreter saw and this test did not"
    assert {point.split()[0] for point in whole["points"]} >= {
        "open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "sendfile",
    }  # fmt: skip
    torn = [life for life in rest if life["torn"]]
    assert len(rest) - len(torn) == len(whole["points"]) and len(torn) > 15


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["fresh", "mended", "grown"])
def test_a_kill_loses_nothing_but_the_episode_in_flight(scenario):
    whole, rest = lives(scenario, "kill")
    removes = any(point.startswith("rmdir ") and "/init_" in point for point in whole["points"])
    assert removes == (scenario == "mended"), "only a part that another one of its name replaces is removed"
    for life in rest:
        hurt, after = life["hurt"], life["after"]
        assert hurt["end"] == "killed" and hurt["status"] == -9, described(life)
        assert after["end"] == "finished" and life["same"] and not life["leftovers"], described(life)
        assert not set(hurt["recorded"]) & set(after["played"]), described(life)
        # What was in the tables before is played again only by who removes them before it was taken.
        if scenario == "grown" and not life["outputs_removed"]:
            assert set(after["played"]) <= {"init_002_repeat_0"}, described(life)


@pytest.mark.slow
def test_a_full_disk_at_any_operation_is_one_line_and_leaves_what_was_recorded():
    _, rest = lives("fresh", "full")
    stopped = 0
    for life in rest:
        hurt, after = life["hurt"], life["after"]
        assert after["end"] == "finished" and life["same"] and not life["leftovers"], described(life)
        if hurt["end"] == "finished":
            assert life["point"].startswith("mkdir"), described(life)  # the directory is there already
            continue
        stopped += 1
        assert hurt["end"] == "told" and hurt["status"] == 0, described(life)
        assert hurt["line"].startswith("disk full while writing /") and "\n" not in hurt["line"], described(life)
        assert not set(hurt["recorded"]) & set(after["played"]), described(life)
    assert stopped > 120


def test_what_a_power_cut_could_lose_is_synced_first():
    """A file is synced before its name stands, a directory before the parts that it replaces go."""
    points = [point.split() for point in lives("fresh", "kill")[0]["points"]]
    synced: set[str] = set()
    written: set[str] = set()
    for number, (name, path) in enumerate(points):
        if name in ("write", "sendfile"):
            written.add(path)
            synced.discard(path)
        elif name == "fsync":
            synced.add(path)
        elif name in ("replace", "rename"):
            if path in written:
                assert path in synced, (number, name, path)
            if name == "rename":  # a part that is whole
                assert path in synced, (number, name, path)
                assert points[number + 1] == ["fsync", str(Path(path).parent)], "the part's own name"
            if path.endswith("film.mp4") or "/.films.partial/" in path:
                moved = Path(path).stem
                assert points[number + 1][0] == "fsync" and moved in points[number + 1][1], "the film's bytes"
    *_, placed, synced_last = [point for point in points if point[0] not in ("rmdir", "unlink")]  # tidied after that
    assert synced_last == ["fsync", str(Path(placed[1]).parent)], "the tables' names"
