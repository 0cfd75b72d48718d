"""A set read once: the split is training's, the sheet has the pictures, what is damaged is named."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import sets
from PIL import Image

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.datasets import survey, take
from flashtrail.training import dataset


@pytest.fixture(scope="module")
def imported(v3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "set"
    assert cli.main(["import-dataset", str(v3), "--out", str(out), "--every", "3"]) == 0
    return out


def test_a_set_and_its_import_say_the_same(v3: Path, imported: Path) -> None:
    one, other = (survey.survey(path).held() for path in (v3, imported))
    assert [episode["name"] for episode in one["each"]] == ["episode 0", "episode 1", "episode 2"]
    assert [episode["name"] for episode in other["each"]] == ["task0/ep0000", "task0/ep0001", "task1/ep0000"]
    for about in (one, other):
        for episode in about["each"]:
            del episode["name"], episode["number"]
    assert one == other


def test_what_is_held_out_is_what_training_holds_out(imported: Path, tmp_path: Path) -> None:
    for root, more in ((imported, 0), (tmp_path / "more", 40)):
        for number in range(more):
            arrays = dict(np.load(imported / "task0/ep0000.npz"))
            (root / "task3").mkdir(parents=True, exist_ok=True)
            np.savez(root / f"task3/ep{number:04d}.npz", **arrays)
        demos = dataset.load(root)
        _, held = dataset.split(demos)
        wanted = [(n // dataset.MOST_EPISODES, n % dataset.MOST_EPISODES) for n in np.unique(demos.episode[held])]
        each = survey.survey(root).held()["each"]
        named = [one["name"] for one in each if one["held_out"]]
        assert named == [f"task{task}/ep{number:04d}" for task, number in wanted] and len(named) == (2 if more else 1)


def test_the_sheet_has_first_and_last_pictures_where_the_record_says(v3: Path) -> None:
    found, sheet = survey.survey(v3), io.BytesIO()
    about = json.loads(json.dumps(survey.record(found, "set", sheet)))
    assert about["cameras"] == list(sets.CAMERAS) and sorted(one["episode"] for one in about["pictured"]) == [0, 1, 2]
    image = np.asarray(Image.open(sheet))
    for one in about["pictured"]:
        left, top, right, bottom = one["box"]
        assert (right - left, bottom - top) == (224, 224)
        for camera in (0, 1):
            greys = sets.pictures(one["episode"], camera)[:, 0, 0, 0]
            for side, grey in ((0, greys[0]), (1, greys[-1])):
                row, column = top + 112 * camera + 56, left + 112 * side + 56
                assert abs(int(image[row, column, 0]) - int(grey)) <= 6


@pytest.mark.parametrize("tasks", [2, 10, 20, 80])
def test_some_episodes_of_every_task_are_pictured_and_the_odd_ones(tasks: int) -> None:
    each = [{"task": f"task {number // 40}"} for number in range(40 * tasks)]
    about = {"each": each, "tasks": [f"task {number}" for number in range(tasks)], "odd": [("longest", 1)]}
    chosen = survey.pictured(about)
    assert chosen[0] == 1 and len(chosen) == len(set(chosen)) == min(survey.MOST_SHOWN, 1 + survey.SHOWN * tasks)
    counts = np.bincount([place // 40 for place in chosen[1:]], minlength=tasks)
    assert counts.max() == {2: 6, 10: 6, 20: 3, 80: 1}[tasks] and (tasks > survey.MOST_SHOWN or counts.min() > 1)
    assert [place for place in chosen[1:] if place < 40] == ([0, 8, 16, 23, 31, 39] if tasks < 11 else [0, 20, 39])[
        : counts[0]
    ]


WRONG = {
    "state": [np.full((12, 6), np.nan, np.float32), np.zeros(12, np.float32)],
    "label": [np.full((12, 6), "a"), np.full((12, 6), np.inf, np.float32)],
    "at": [np.arange(0, 12, 3) * 1.0, np.array([0, 3, 3, 6]), np.array([6, 3, 0, 9]), np.array([0, 3, 6, 12])],
    "kept": [np.full(4, "yes"), np.ones(3, bool), np.ones(4)],
    "objects": [np.zeros((4, 3), np.float32), np.zeros((4, 2, 2), np.float32), np.full((4, 2, 3), np.nan)],
    "executed": [np.zeros((12, 5), np.float32), np.zeros((11, 6), np.float32)],
    "done_at": [np.array("5"), np.array(np.nan), np.array([5, 6])],
    "agent": [np.zeros((4, 50, 112, 3), np.uint8)],
    "wrist": [np.zeros((4, 112, 112, 3), np.float32), np.zeros((4, 56, 56, 3), np.uint8)],
}


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, values in WRONG.items() for place in range(len(values))]
)
def test_arrays_of_another_kind_are_named_by_check_and_training(
    imported: Path, tmp_path: Path, name: str, place: int
) -> None:
    root = Path(shutil.copytree(imported, tmp_path / "set"))
    arrays = dict(np.load(path := root / "task0/ep0000.npz"))
    np.savez(path, **arrays | {name: WRONG[name][place]})
    found = survey.survey(root)
    assert found.summary is None and str(path) in found.refused[0]
    with pytest.raises(UserError, match=r"task0/ep0000\.npz"):
        survey.record(found, "set", io.BytesIO())
    with pytest.raises(UserError, match=r"task0/ep0000\.npz"):
        dataset.load(root)


@pytest.mark.parametrize("arrays", [("wrist",), ("kept", "wrist")])
def test_a_first_episode_without_the_wrist_is_of_another_robot(imported: Path, tmp_path: Path, arrays) -> None:
    root = Path(shutil.copytree(imported, tmp_path / "set"))
    (root / dataset.DESCRIPTION).unlink()
    whole = dict(np.load(path := root / "task0/ep0000.npz"))
    np.savez(path, **{name: value for name, value in whole.items() if name not in arrays})
    assert "ep0001.npz: wrist has other dims than in the set's first" in survey.survey(root).refused[0]


@pytest.mark.parametrize(
    "about", [{"delta": 7}, {"delta": 99}, {"state": ["x"]}, {"cameras": ["one"]}, {"tasks": {"0": "pick"}}]
)
def test_a_description_of_another_set_is_refused(imported: Path, tmp_path: Path, about) -> None:
    root = Path(shutil.copytree(imported, tmp_path / "set"))
    path = root / dataset.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | about))
    line = "nobody says what task 1 is" if "tasks" in about else dataset.DESCRIPTION
    assert line in survey.survey(root).refused[0]
    with pytest.raises(UserError, match=line):
        dataset.load(root)


@pytest.mark.parametrize("name", ["task-3/ep0000.npz", "task0/ep000.npz", "task00/ep0000.npz", "task0/ep-001.npz"])
def test_a_name_that_our_writers_do_not_give_is_refused(imported: Path, tmp_path: Path, name: str) -> None:
    """Two names could be of one number, and numbers below 0 or above 9999 would be of another task."""
    root = Path(shutil.copytree(imported, tmp_path / "set"))
    (root / name).parent.mkdir(exist_ok=True)
    shutil.copy(root / "task0/ep0000.npz", root / name)
    for read in (dataset.load, dataset.files):
        with pytest.raises(UserError, match=f"{name} is not called as task0/ep0007.npz is"):
            read(root)


def test_a_folder_that_cannot_be_read_is_not_passed_over() -> None:
    """Root may read everything: it reads as nobody."""
    with tempfile.TemporaryDirectory() as name:
        place, root = Path(name), os.geteuid() == 0
        place.chmod(0o755)
        for task in (0, 1):
            (place / f"task{task}").mkdir()
            (place / f"task{task}/ep0000.npz").touch()
        (place / "task1").chmod(0)
        os.seteuid(65534 if root else os.geteuid())
        try:
            with pytest.raises(UserError, match=r"task1 cannot be read \(Permission denied\)"):
                dataset.files(place)
        finally:
            os.seteuid(0 if root else os.geteuid())
            (place / "task1").chmod(0o755)


def test_any_damage_to_a_file_is_one_line(imported: Path, tmp_path: Path) -> None:
    """Bytes turned at random, half of them in headers and directory: read, or refused; never another exception."""
    whole, rng = (imported / "task1/ep0000.npz").read_bytes(), np.random.default_rng(0)
    heads = [match.start() for match in re.finditer(rb"PK|NUMPY|numpy", whole)]
    refused = 0
    (path := tmp_path / "task1/ep0000.npz").parent.mkdir()
    for trial in range(400):
        turned = np.frombuffer(whole, np.uint8).copy()
        start = rng.choice(heads) if trial % 2 else rng.integers(len(whole))
        at = (start + rng.integers(0, 120, rng.integers(1, 4))) % len(whole)
        turned[at] = rng.integers(0, 256, len(at))
        path.write_bytes(turned.tobytes())
        try:
            dataset.read_episode(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 200


def test_it_tells_how_far_it_is(v3: Path, imported: Path) -> None:
    for path in (v3, imported):
        told: list[int] = []
        survey.survey(path, told=told.append)
        assert told == [1, 2, 3]


def test_chosen_cameras_are_those_of_the_record(v3: Path) -> None:
    found = survey.survey(v3, {"cameras": [sets.CAMERAS[1]]})
    assert survey.record(found, "set", io.BytesIO())["cameras"] == [sets.CAMERAS[1]]
    assert take.opened(v3).cameras == sets.CAMERAS
