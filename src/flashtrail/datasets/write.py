"""A LeRobot v3.0 set from episodes that were played: tables by pyarrow, one video an episode and camera."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashtrail.base.provenance import json_dump
from flashtrail.datasets import video

VERSION, CHUNK = "v3.0", 1000
FPS = 20  # control steps a second of every suite
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_COUNTED = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Stats = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Played:
    """An episode of T frames to be written.

    `vectors`: a feature -> (T, D) float32. `films`: a camera's feature -> its video. `samples`: the same ->
    some pixels of each picture, uint8 (T, k, k, 3), from which its statistics are taken.
    """

    task: str
    vectors: Mapping[str, NDArray[np.float32]]
    films: Mapping[str, Path]
    samples: Mapping[str, NDArray[np.uint8]]


def write(
    root: Path,
    episodes: Sequence[Played],
    names: Mapping[str, list[str]],
    size: tuple[int, int],
    robot: str,
    fps: int = FPS,
) -> None:
    """Write a set below `root`, and move the videos there. `names`: of each vector's dims; `size`: of a picture."""
    tasks = list(dict.fromkeys(one.task for one in episodes))
    tables, rows, first = [], [], 0
    for index, one in enumerate(episodes):
        steps = np.arange(length := len(next(iter(one.vectors.values()))))
        chunk, file = divmod(index, CHUNK)
        place = {"chunk_index": chunk, "file_index": file}
        task = tasks.index(one.task)
        counted = dict(
            zip(_COUNTED, (steps / fps, steps, steps * 0 + index, steps + first, steps * 0 + task), strict=True)
        )
        tables.append(_frames(one.vectors, counted))
        row: dict[str, Any] = {"episode_index": index, "tasks": [one.task], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": first}
        row |= {"dataset_to_index": (first := first + length)}
        for camera, film in one.films.items():
            target = root / VIDEO.format(video_key=camera, **place)
            target.parent.mkdir(parents=True, exist_ok=True)
            film.rename(target)
            about = {**place, "from_timestamp": 0.0, "to_timestamp": length / fps}
            row |= {f"videos/{camera}/{key}": value for key, value in about.items()}
        stats = statistics([one], counted)
        row |= {f"stats/{feature}/{name}": value for feature, own in stats.items() for name, value in own.items()}
        rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    _parquet(pa.concat_tables(tables), root / DATA.format(chunk_index=0, file_index=0))
    _parquet(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    _parquet(_tasks(tasks), root / "meta/tasks.parquet")
    whole = pa.concat_tables(tables)
    json_dump(statistics(episodes, {name: whole[name].to_numpy() for name in _COUNTED}), root / "meta/stats.json")
    json_dump(
        _info(episodes, names, size, fps, robot) | {"total_frames": first, "total_tasks": len(tasks)},
        root / "meta/info.json",
    )


def _tasks(texts: list[str]) -> pa.Table:
    """Return LeRobot's table of tasks: to pandas, which reads it there, the text is the index."""
    index = {"name": None, "field_name": "text", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    about = {"index_columns": ["text"], "column_indexes": [], "columns": [number | {"metadata": None}, index]}
    table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "text": texts})
    return table.replace_schema_metadata({"pandas": json.dumps(about | {"pandas_version": "2.3.3"})})


def statistics(episodes: Sequence[Played], counted: Mapping[str, NDArray[Any]]) -> Stats:
    """Return LeRobot's statistics of each feature; of a camera by channel, (3, 1, 1) in [0, 1]."""
    stats: Stats = {}
    for feature in episodes[0].vectors:
        stats[feature] = _of(np.concatenate([one.vectors[feature] for one in episodes]))
    for camera in episodes[0].films:
        pixels = np.concatenate([one.samples[camera] for one in episodes])
        own = _of(pixels.reshape(-1, 3) / 255.0)
        stats[camera] = {name: [[[v]] for v in value] for name, value in own.items()} | {"count": [len(pixels)]}
    return stats | {name: _of(np.asarray(column)[:, None]) for name, column in counted.items()}


def _of(rows: NDArray[Any]) -> dict[str, Any]:
    rows = rows.astype(np.float64)
    own = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    own |= dict(zip(_QUANTILES, np.quantile(rows, list(_QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in own.items()} | {"count": [len(rows)]}


def _frames(vectors: Mapping[str, NDArray[np.float32]], counted: Mapping[str, NDArray[Any]]) -> pa.Table:
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1])
        for name, rows in vectors.items()
    }
    return pa.table(columns | {name: pa.array(counted[name].astype(kind)) for name, kind in _COUNTED.items()})


def _info(
    episodes: Sequence[Played], names: Mapping[str, list[str]], size: tuple[int, int], fps: int, robot: str
) -> dict[str, Any]:
    about: dict[str, Any] = {"video.width": size[0], "video.height": size[1], "video.codec": video.CODEC}
    about |= {"video.pix_fmt": video.PIXEL_FORMAT, "video.is_depth_map": False, "video.fps": fps}
    about |= {"video.channels": 3, "has_audio": False}
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [len(own)], "names": own} for name, own in names.items()
    }
    for camera in episodes[0].films:
        shape = {"shape": [size[1], size[0], 3], "names": ["height", "width", "channels"]}
        features[camera] = {"dtype": "video", **shape, "info": about}
    features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in _COUNTED.items()}
    return {
        **{"codebase_version": VERSION, "robot_type": robot, "fps": fps, "features": features},
        **{"total_episodes": len(episodes), "splits": {"train": f"0:{len(episodes)}"}},
        **{"chunks_size": CHUNK, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200},
        **{"data_path": DATA, "video_path": VIDEO},
    }


def _parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
