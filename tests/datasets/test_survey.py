"""A set read once: the split is training's, the sheet has the pictures, what is damaged is named."""

from __future__ import annotations

import io
import json
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


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("state", np.full((12, 6), np.nan, np.float32), "state is not made of rows of finite numbers"),
        ("label", np.full((12, 6), "a"), "label is not made of rows of finite numbers"),
        ("agent", np.zeros((4, 50, 112, 3), np.uint8), "agent is not made of pictures of 112 x 112 px, uint8"),
        ("wrist", np.zeros((4, 112, 112, 3), np.float32), "wrist is not made of pictures of 112 x 112 px, uint8"),
    ],
)
def test_arrays_of_another_kind_are_named(imported: Path, tmp_path: Path, name: str, value: object, line: str) -> None:
    arrays = dict(np.load(imported / "task0/ep0000.npz")) | {name: value}
    (tmp_path / "task0").mkdir()
    np.savez(tmp_path / "task0/ep0000.npz", **arrays)
    found = survey.survey(tmp_path)
    assert found.refused == [f"{survey.OURS}: {tmp_path}/task0/ep0000.npz: {line}"] and found.summary is None
    with pytest.raises(UserError, match="not made of"):
        survey.record(found, "set", io.BytesIO())


def test_it_tells_how_far_it_is(v3: Path, imported: Path) -> None:
    for path in (v3, imported):
        told: list[int] = []
        survey.survey(path, told=told.append)
        assert told == [1, 2, 3]


def test_chosen_cameras_are_those_of_the_record(v3: Path) -> None:
    found = survey.survey(v3, {"cameras": [sets.CAMERAS[1]]})
    assert survey.record(found, "set", io.BytesIO())["cameras"] == [sets.CAMERAS[1]]
    assert take.opened(v3).cameras == sets.CAMERAS
