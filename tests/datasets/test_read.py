"""Sets of each version are read to the last frame; what is wrong with one is a line that names it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import sets
from PIL import Image

from flashtrail.base.errors import UserError
from flashtrail.datasets.read import LeRobotSet

GREY = 2.5  # by which a decoded picture of one grey may differ


def read_all(root: Path) -> None:
    source = LeRobotSet(root)
    for index in range(len(source)):
        episode = source.episode(index)
        for camera in source.cameras:
            for _ in source.pictures(episode, camera):
                pass


@pytest.mark.parametrize("version", ["v3", "v21"])
def test_every_number_and_picture_is_the_one_that_was_written(version, copies) -> None:
    source = LeRobotSet(copies[version])
    assert (len(source), source.fps, source.cameras) == (3, 30, sets.CAMERAS)
    assert source.names("action") == sets.JOINTS
    for index, length in enumerate(sets.LENGTHS):
        episode = source.episode(index)
        states, actions = sets.numbers(index)
        assert episode.task == sets.TASKS[index] and episode.late_s < 1e-6
        np.testing.assert_array_equal(episode.states, states)
        np.testing.assert_array_equal(episode.actions, actions)
        for number, camera in enumerate(sets.CAMERAS):
            seen = np.stack(list(source.pictures(episode, camera)))
            assert seen.shape == (length, sets.HEIGHT, sets.WIDTH, 3)
            greys = seen.mean((1, 2, 3)) - sets.pictures(index, number).mean((1, 2, 3))
            assert np.abs(greys).max() < GREY


def test_version_2_0_is_read_as_2_1_is(tmp_path) -> None:
    read_all(sets.v21(tmp_path / "set", cameras=sets.CAMERAS[:1], version="v2.0"))


def test_an_episode_that_begins_within_a_file_is_found(copies) -> None:
    """Episodes 0 and 1 in one video, as lerobot's own writer joins them."""
    root = copies["v3"]
    for number, camera in enumerate(sets.CAMERAS):
        both = np.concatenate([sets.pictures(0, number), sets.pictures(1, number)])
        sets.film(root / f"videos/{camera}/chunk-000/file-000.mp4", both)
        (root / f"videos/{camera}/chunk-000/file-001.mp4").unlink()
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    for camera in sets.CAMERAS:
        rows[1] |= {f"videos/{camera}/file_index": 0, f"videos/{camera}/from_timestamp": sets.LENGTHS[0] / sets.FPS}
    pq.write_table(pa.Table.from_pylist(rows), path)
    source = LeRobotSet(root)
    for index in (0, 1):
        seen = np.stack(list(source.pictures(source.episode(index), sets.CAMERAS[1])))
        assert np.abs(seen.mean((1, 2, 3)) - sets.pictures(index, 1).mean((1, 2, 3))).max() < GREY


def stored(root: Path, cell) -> None:
    """Give the v2.1 set one camera whose pictures lie in the table."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    for camera in sets.CAMERAS[1:]:
        del features[camera]
    features[sets.CAMERAS[0]]["dtype"] = "image"
    sets.change(root, features=features)
    for index in range(3):
        path = sets.data_file(root, index)
        table = pq.read_table(path)
        cells = [cell(picture) for picture in sets.pictures(index, 0)]
        column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(table.append_column(sets.CAMERAS[0], column), path)


def png(picture: np.ndarray) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "frame.png"}


def test_pictures_in_the_table_are_read(copies) -> None:
    stored(copies["v21"], png)
    source = LeRobotSet(copies["v21"])
    seen = np.stack(list(source.pictures(source.episode(2), sets.CAMERAS[0])))
    np.testing.assert_array_equal(seen, sets.pictures(2, 0))


def test_a_picture_by_its_path_is_not_opened(copies, tmp_path) -> None:
    Image.fromarray(sets.pictures(0, 0)[0]).save(tmp_path / "outside.png")
    stored(copies["v21"], lambda _: {"bytes": None, "path": str(tmp_path / "outside.png")})
    with pytest.raises(UserError, match="picture 0: cannot identify image file"):
        read_all(copies["v21"])


def no_camera(root: Path) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    sets.change(root, features={name: features[name] for name in ("observation.state", "action")})


def other_dims(root: Path) -> None:
    states, actions = sets.numbers(1)
    sets.table(sets.data_file(root, 1), 1, states, np.hstack([actions, actions[:, :1]]), 0)


def not_finite(root: Path) -> None:
    states, actions = sets.numbers(1)
    states[3, 2] = np.nan
    sets.table(sets.data_file(root, 1), 1, states, actions, 0)


def short_video(root: Path) -> None:
    sets.film(root / f"videos/chunk-000/{sets.CAMERAS[0]}/episode_000001.mp4", sets.pictures(1, 0)[:4])


def playlist(root: Path) -> None:
    """A text that ffmpeg would follow to other files, were it let."""
    path = root / f"videos/chunk-000/{sets.CAMERAS[0]}/episode_000001.mp4"
    path.rename(path.with_name("real.mp4"))
    path.write_text(f"ffconcat version 1.0\nfile {path.with_name('real.mp4')}\n")


def cut_table(root: Path) -> None:
    path = sets.data_file(root, 1)
    path.write_bytes(path.read_bytes()[:200])


def link(root: Path) -> None:
    path = sets.data_file(root, 1)
    path.rename(root.parent / "elsewhere.parquet")
    path.symlink_to(root.parent / "elsewhere.parquet")


def column(name: str, value) -> Callable[[Path], None]:
    """Give episode 1 a column of other values, one for each row (None: the column twice)."""

    def spoil(root: Path) -> None:
        table = pq.read_table(path := sets.data_file(root, 1))
        if value is None:
            pq.write_table(table.append_column(name, table[name]), path)
        else:
            cells = pa.array([value] * len(table))
            pq.write_table(table.set_column(table.column_names.index(name), name, cells), path)

    return spoil


def tasks(*indices) -> Callable[[Path], None]:
    rows = [{"task": "a"} | ({} if index is ... else {"task_index": index}) for index in indices]
    return lambda root: sets.lines(root / "meta/tasks.jsonl", rows)


def turned_in_circles(root: Path) -> None:
    (path := root / "meta/tasks.jsonl").unlink()
    path.symlink_to(path.name)


def fewer_episodes(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().splitlines()[0])


FAULTS = {
    "no time": (column("timestamp", float("nan")), "episode 1: timestamp has values that are not finite"),
    "null time": (column("timestamp", pa.scalar(None, pa.float32())), "episode 1: timestamp has values that are"),
    "time of text": (column("timestamp", "noon"), "episode 1 cannot be read, it is damaged"),
    "index of text": (column("episode_index", "one"), "episode 1 cannot be read, it is damaged"),
    "index of lists": (column("episode_index", [1]), "episode 1 cannot be read, it is damaged"),
    "twice": (column("action", None), "episode 1 cannot be read, it is damaged"),
    "nameless task": (tasks(...), "its metadata cannot be read, it is damaged"),
    "task of a list": (tasks([0]), "its metadata cannot be read, it is damaged"),
    "link to itself": (turned_in_circles, "its metadata cannot be read, it is damaged"),
    "surrogate": (lambda r: sets.change(r, data_path="\ud800{episode_index}"), "cannot be read, it is damaged"),
    "fewer episodes": (fewer_episodes, "meta/info.json says 3 episodes, their metadata 1"),
    "more frames": (lambda r: sets.change(r, total_frames=36), "meta/info.json says 36 frames, their metadata 35"),
    "no video_path": (lambda r: sets.change(r, video_path=None), "meta/info.json: video_path is missing"),
    "no camera": (no_camera, "no feature is a camera"),
    "other dims": (other_dims, "episode 1: action has 7 dims, meta/info.json says 6"),
    "not finite": (not_finite, "episode 1: observation.state has values that are not finite"),
    "short video": (short_video, "4 pictures from number 0 on, the episode has 9"),
    "no video": (lambda r: (r / f"videos/chunk-001/{sets.CAMERAS[1]}/episode_000002.mp4").unlink(),
                 "episode 2: videos/chunk-001/observation.images.wrist/episode_000002.mp4 is missing"),
    "playlist": (playlist, "is not an MP4 video, or is damaged"),
    "no table": (lambda r: sets.data_file(r, 2).unlink(), "data/chunk-001/episode_000002.parquet is missing"),
    "cut table": (cut_table, "is not a Parquet file, or is damaged"),
    "link": (link, "is a link that leads out of"),
    "version": (lambda r: sets.change(r, codebase_version="v1.6"), "codebase_version is v1.6: v2.0, v2.1, v3.0 are"),
    "no info": (lambda r: (r / "meta/info.json").unlink(), "meta/info.json does not exist"),
    "no JSON": (lambda r: (r / "meta/info.json").write_text("{"), "is not valid JSON"),
    "a list": (lambda r: sets.dump(r / "meta/info.json", []), "meta/info.json: expected a mapping"),
    "fps": (lambda r: sets.change(r, fps=0), "meta/info.json: fps: must be above 0"),
    "features": (lambda r: sets.change(r, features=3), "meta/info.json: features: expected a mapping"),
    "up": (lambda r: sets.change(r, data_path="../{episode_index}.parquet"), "'../0.parquet' is not below"),
    "root": (lambda r: sets.change(r, video_path="/etc/{episode_index}.mp4"), "'/etc/0.mp4' is not below"),
    "attribute": (lambda r: sets.change(r, data_path="{episode_index.real}"), "asks for what an episode does not have"),
    "endless": (lambda r: sets.change(r, data_path="{episode_index:099999d}"), "asks for what an episode does not"),
    "task": (lambda r: sets.lines(r / "meta/tasks.jsonl", []), "not one of meta's tasks"),
    "lines": (lambda r: (r / "meta/episodes.jsonl").write_text("[]"), "each line is a mapping"),
    "no episode": (lambda r: (r / "meta/episodes.jsonl").write_text(""), "it has no episode"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line(fault, copies) -> None:
    spoil, message = FAULTS[fault]
    spoil(copies["v21"])
    with pytest.raises(UserError) as refused:
        read_all(copies["v21"])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_rows_that_no_episode_has_are_refused(copies) -> None:
    """Metadata cut in both files, the data whole."""
    path = copies["v3"] / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    sets.change(copies["v3"], total_episodes=1, total_frames=sets.LENGTHS[0])
    with pytest.raises(UserError, match="has rows of episode 2, meta has 1 episodes"):
        read_all(copies["v3"])


@pytest.mark.parametrize(
    "name", ["meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"]
)
def test_any_damage_to_a_table_is_one_line(name: str, copies) -> None:
    """Bytes turned at random: the numbers are read, or refused; never another exception."""
    path, rng = copies["v3"] / name, np.random.default_rng(0)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(150):
        turned = whole.copy()
        at = rng.integers(len(whole), size=3)
        turned[at] = rng.integers(0, 256, 3)
        path.write_bytes(turned.tobytes())
        try:
            source = LeRobotSet(copies["v3"])
            for index in range(len(source)):
                source.episode(index)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_a_camera_called_up_and_out_is_not_followed(copies) -> None:
    features = json.loads((copies["v21"] / "meta/info.json").read_text())["features"]
    features["../../../out"] = features.pop(sets.CAMERAS[0])
    sets.change(copies["v21"], features=features)
    with pytest.raises(UserError, match=r"is not below"):
        read_all(copies["v21"])
