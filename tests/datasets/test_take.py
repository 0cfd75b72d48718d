"""An imported set is what training reads: its windows, pictures, prompts and what it leaves out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import sets

from flashtrail import cli
from flashtrail.policies.parts.pictures import shrink
from flashtrail.simulators.observation import resize_with_pad
from flashtrail.training import dataset

HORIZON = 4


def taken(source: Path, out: Path, *words: str) -> dataset.Demonstrations:
    assert cli.main(["import-dataset", str(source), "--out", str(out), *words]) == 0
    return dataset.load(out, HORIZON)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["import-dataset", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("version", ["v3", "v21"])
def test_windows_states_and_pictures_are_those_of_the_set(version, copies, tmp_path, capsys) -> None:
    demos = taken(copies[version], tmp_path / "out", "--every", "3")
    assert "3 episodes, 12 windows, 0 of them static" in capsys.readouterr().out
    # Two episodes of the first task, one of the second.
    assert demos.episode.tolist() == [0] * 4 + [1] * 3 + [10_000] * 5
    for number, index in ((0, 0), (1, 1), (10_000, 2)):
        rows = np.flatnonzero(demos.episode == number)
        states, actions = sets.numbers(index)
        np.testing.assert_array_equal(demos.step[rows], np.arange(0, sets.LENGTHS[index], 3))
        np.testing.assert_array_equal(demos.states[rows], states[::3])
        ahead = demos.step[rows][:, None] + np.arange(HORIZON)
        np.testing.assert_array_equal(demos.valid[rows], ahead < len(actions))
        np.testing.assert_array_equal(demos.chunks[rows], actions[np.minimum(ahead, len(actions) - 1)])
        for view in (0, 1):
            expected = np.stack([shrink(resize_with_pad(p)) for p in sets.pictures(index, view)[::3]])
            assert np.abs(demos.views[rows, view].astype(int) - expected).max() < 12
    assert demos.objects.shape == (12, 0, 3) and demos.kept.all()
    about = dataset.described(tmp_path / "out")
    assert about is not None and about.tasks == {0: "pick the cube", 1: "push the cube"}
    assert about.sizes == {"views": 2, "state_dim": 6, "action_dim": 6}
    assert (about.fps, about.cameras, about.action) == (30, list(sets.CAMERAS), sets.JOINTS)


def test_five_pictures_a_second_are_kept(v3, tmp_path) -> None:
    assert taken(v3, tmp_path / "out").step[:2].tolist() == [0, 6]


def test_one_camera_may_be_chosen(v3, tmp_path) -> None:
    demos = taken(v3, tmp_path / "out", "--cameras", sets.CAMERAS[1])
    assert demos.views.shape[1:] == (1, 112, 112, 3)


def test_the_wrist_is_the_second_view(v21, tmp_path) -> None:
    path = v21 / "meta/info.json"
    info = json.loads(path.read_text())
    turned = {name: info["features"][name] for name in reversed(info["features"])}
    sets.dump(path, info | {"features": turned})
    taken(v21, tmp_path / "out")
    sets.dump(path, info)
    about = dataset.described(tmp_path / "out")
    assert about is not None and about.cameras == list(sets.CAMERAS)


def test_differences_are_from_the_state_at_the_picture(v3, tmp_path) -> None:
    plain = taken(v3, tmp_path / "plain", "--every", "3")
    delta = taken(v3, tmp_path / "delta", "--every", "3", "--delta", "5")
    np.testing.assert_allclose(delta.chunks[..., :5], plain.chunks[..., :5] - plain.states[:, None, :5], atol=1e-5)
    np.testing.assert_array_equal(delta.chunks[..., 5], plain.chunks[..., 5])
    stats = dataset.norm_stats(delta, delta_actions=False)["actions"]
    np.testing.assert_allclose(stats["mean"], delta.chunks[delta.valid].mean(0), atol=1e-4)


def test_what_stands_still_is_left_out_after_windows_are_made(v3, tmp_path) -> None:
    """Frames are still there for windows, whose pictures stay as far apart as they were."""
    whole = taken(v3, tmp_path / "whole", "--every", "1")
    left = taken(v3, tmp_path / "left", "--every", "1", "--drop-static")
    assert len(left) == len(whole) and 0 < (~left.kept).sum() < len(left)
    for number, index in ((0, 0), (1, 1), (10_000, 2)):
        rows = np.flatnonzero(left.episode == number)  # the last four steps do not move
        np.testing.assert_array_equal(left.kept[rows], np.arange(len(rows)) < sets.LENGTHS[index] - 5)
    rows = np.flatnonzero(left.kept)
    found = dataset.windows(left, rows, 3, 2)
    np.testing.assert_array_equal(left.step[found], np.maximum(left.step[rows, None] - [4, 2, 0], 0))
    np.testing.assert_array_equal(left.chunks, whole.chunks)
    train, held = dataset.split(left)
    assert left.kept[train].all() and not left.kept[held].all()
    assert left.digest != whole.digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--every", "-1"], "--every -1: give at least 1"),
        (["--delta", "7"], "--delta 7: state and action share no such dims"),
        (["--cameras", "observation.images.wrst"], "did you mean 'observation.images.wrist'?"),
        (["--state", "joints"], "it has no feature joints"),
    ],
)
def test_a_wish_that_cannot_be_is_one_line(words, message, v3, tmp_path, capsys) -> None:
    assert message in refused(capsys, str(v3), "--out", str(tmp_path / "out"), *words)
    assert not list(tmp_path.iterdir())


def test_three_cameras_have_to_be_chosen_from(tmp_path, capsys) -> None:
    root = sets.v21(tmp_path / "set", cameras=(*sets.CAMERAS, "observation.images.top"))
    line = refused(capsys, str(root), "--out", str(tmp_path / "out"))
    assert "it has 3 cameras, a policy sees 2: give --cameras A,B of" in line


def test_a_task_without_words_is_refused(copies, tmp_path, capsys) -> None:
    sets.lines(copies["v21"] / "meta/tasks.jsonl", [{"task_index": i, "task": "?"} for i in range(2)])
    assert "has no words" in refused(capsys, str(copies["v21"]), "--out", str(tmp_path / "out"))


def test_a_training_set_is_not_imported_again(v3, tmp_path, capsys) -> None:
    taken(v3, tmp_path / "out")
    assert "out is a training set already" in refused(capsys, str(tmp_path / "out"), "--out", str(tmp_path / "again"))


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
import numpy as np
from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.datasets import video
place, source = map(Path, sys.argv[1:])
def film(name, size, frames):
    with provenance.write_atomic(place / name) as fresh:
        fresh.mkdir()
        with video.writing(fresh / "a.mp4", size, 20) as add:
            for number in range(frames):
                add(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8))
film("small", (64, 48), 4)
try:
    film("large", (640, 480), 60)
except UserError as error:
    print(error)
print(cli.main(["import-dataset", str(source), "--out", str(place / "out"), "--every", "1"]))
print(sorted(path.name for path in place.iterdir()))
"""


def test_a_full_disk_is_one_line(v3, tmp_path) -> None:
    """A file system of 2.5 MiB, where this user may mount one."""
    place, script = tmp_path / "disk", tmp_path / "script.py"
    place.mkdir()
    script.write_text(ON_A_SMALL_DISK)
    shell = f"mount -t tmpfs -o size=2500k none {place} && exec {sys.executable} {script} {place} {v3}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")
    filmed, code, left = done.stdout.splitlines()
    assert (code, left) == (
        "2",
        "['small']",
    ) and filmed == f"disk full while writing {place}/large: free some space and run again"
    assert done.stderr == f"error: disk full while writing {place}/out: free some space and run again\n"


def test_nothing_half_written_is_left_and_nothing_replaced(copies, tmp_path, capsys) -> None:
    (copies["v21"] / f"videos/chunk-001/{sets.CAMERAS[1]}/episode_000002.mp4").unlink()
    assert "is missing" in refused(capsys, str(copies["v21"]), "--out", str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v21", "v3"]
    assert "is there already" in refused(capsys, str(copies["v3"]), "--out", str(copies["v21"]))
