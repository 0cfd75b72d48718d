"""A LeRobot set on disk (v2.0, v2.1, v3.0): what it holds, episode by episode, or the one line that says what is wrong.

The set is data: a name in it is a file below its own directory, a template of names has numbers filled in and no more.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, Field, TypeAdapter

from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.base.names import below
from flashtrail.datasets import video

VERSIONS = ("v2.0", "v2.1", "v3.0")
STATES, ACTIONS = ("observation.state", "state"), ("action", "actions")
TOLERANCE_S = 1e-4  # by which LeRobot lets a time differ from its frame's
MOST_ROWS = 10_000_000  # frames of a set; more are refused before they are read
_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
_PICTURES = ("video", "image")


class Feature(BaseModel):
    """A column, or a camera."""

    dtype: str
    shape: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(max_length=4)
    names: Any = None


class Info(BaseModel):
    """What is read of meta/info.json."""

    codebase_version: str
    fps: float = Field(gt=0, le=1e6)
    features: dict[str, Feature]
    chunks_size: int = Field(1000, ge=1)
    data_path: str
    video_path: str | None = ""
    total_episodes: int | None = None
    total_frames: int | None = None


@dataclass(frozen=True)
class Episode:
    """One episode of T frames. `clips`: a camera -> its video and the number of the first picture there."""

    index: int
    task: str
    states: NDArray[np.float32]  # (T, S)
    actions: NDArray[np.float32]  # (T, A)
    late_s: float  # the largest difference of a time from its frame's
    clips: Mapping[str, tuple[Path, int]]
    stored: Mapping[str, Sequence[Any]]  # a camera whose pictures are in the table -> one for each frame


class LeRobotSet:
    """A set that was found well-formed as far as its metadata go; `episode` reads the rest.

    `state`, `action`, `cameras`: features by other names than LeRobot's; without `cameras` all of them.
    """

    def __init__(
        self, root: Path, cameras: Sequence[str] = (), state: str | None = None, action: str | None = None
    ) -> None:
        self.root = root
        self._held: tuple[Path, pa.Table] | None = None  # episodes of a v3.0 set share files
        with self._one_line("its metadata"):
            self._open(cameras, state, action)

    def _open(self, cameras: Sequence[str], state: str | None, action: str | None) -> None:
        root = self.root
        path = below(root, "meta/info.json")
        self.info = documents.typed(TypeAdapter(Info), provenance.json_load(path), str(path))
        self.version, self.fps, self.features = self.info.codebase_version, self.info.fps, self.info.features
        if self.version not in VERSIONS:
            raise self.wrong(f"codebase_version is {self.version}: {', '.join(VERSIONS)} are read, convert the set")
        self.state, self.action = self._vector(state, STATES), self._vector(action, ACTIONS)
        found = [name for name, about in self.features.items() if about.dtype in _PICTURES]
        if not found:
            raise self.wrong("no feature is a camera (dtype video or image): there is nothing for a policy to see")
        for name in cameras:
            if name not in found:
                raise self.wrong(f"{name} is not one of its cameras{nearest(name, found)}")
        self.cameras = tuple(cameras or found)
        self._v3 = self.version == "v3.0"
        self._tasks = self._read_tasks()
        self._rows = self._read_episodes()
        if not self._rows:
            raise self.wrong("it has no episode")
        lengths = [row.get("length") for row in self._rows]
        for said, counted, what in (
            (self.info.total_episodes, len(lengths), "episodes"),
            (self.info.total_frames, sum(n for n in lengths if isinstance(n, int)), "frames"),
        ):
            if said is not None and said != counted:
                raise self.wrong(f"meta/info.json says {said} {what}, their metadata {counted}: copy the set again")

    @contextlib.contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Turn whatever the libraries raise for bytes that are not what they were into a line about the set."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self.wrong(f"{what} cannot be read, it is damaged ({type(error).__name__}: {error})") from error

    def __len__(self) -> int:
        return len(self._rows)

    def wrong(self, what: str) -> UserError:
        """Return what is wrong with the set as one line."""
        return UserError(f"{self.root}: {what}")

    def names(self, feature: str) -> list[str]:
        """Return the names of a vector's dims; their numbers where the set has none."""
        given, size = self.features[feature].names, self.size(feature)
        while isinstance(given, Mapping) and len(given) == 1:
            given = next(iter(given.values()))
        fits = isinstance(given, list) and len(given) == size
        return [str(name) for name in (given if fits else range(size))]

    def size(self, feature: str) -> int:
        """Return the dims of a vector."""
        return self.features[feature].shape[0]

    def episode(self, index: int) -> Episode:
        """Read an episode's numbers; UserError where they are missing, uneven or not finite."""
        with self._one_line(f"episode {index}"):
            return self._episode(index)

    def _episode(self, index: int) -> Episode:
        row = self._rows[index]
        length, where = row.get("length"), f"episode {index}"
        if row.get("episode_index") != index or not isinstance(length, int) or length < 1:
            raise self.wrong(f"{where}: meta has no such episode with a length, they are counted from 0")
        places = self._numbers(row, "data") if self._v3 else self._numbers_of(index)
        path = self._file("data_path", places)
        stored = [name for name in self.cameras if self.features[name].dtype == "image"]
        table = self._table(path)
        wanted = ("episode_index", "timestamp", "task_index", self.state, self.action, *stored)
        if lacking := [name for name in wanted if name not in table.column_names]:
            raise self.wrong(f"{where}: {path.name} has no column {lacking[0]}")
        part = table.filter(pc.equal(table["episode_index"], index)).select(wanted)
        if part.num_rows != length:
            raise self.wrong(f"{where}: {path.name} has {part.num_rows} of its rows, meta says {length}")
        tasks = set(part["task_index"].to_pylist())
        if len(tasks) != 1 or (task := next(iter(tasks))) not in self._tasks:
            raise self.wrong(f"{where}: its task_index is {sorted(map(str, tasks))[:3]}, not one of meta's tasks")
        if (last := pc.max(table["episode_index"]).as_py()) >= len(self):
            raise self.wrong(f"{path.name} has rows of episode {last}, meta has {len(self)} episodes: copy it again")
        times = np.asarray(part["timestamp"].to_pylist(), np.float64) - np.arange(length) / self.fps
        if not np.isfinite(times).all():
            raise self.wrong(f"{where}: timestamp has values that are not finite")
        return Episode(
            index, self._tasks[task], self._column(part, self.state, where), self._column(part, self.action, where),
            float(np.abs(times).max()), self._clips(row, index), {name: part[name].to_pylist() for name in stored},
        )  # fmt: skip

    def pictures(self, episode: Episode, camera: str) -> Iterator[NDArray[np.uint8]]:
        """Yield a camera's pictures, uint8 (height, width, 3), one for each frame; UserError where one is damaged."""
        with self._one_line(f"episode {episode.index}: {camera}"):
            yield from self._pictures(episode, camera)

    def _pictures(self, episode: Episode, camera: str) -> Iterator[NDArray[np.uint8]]:
        if camera not in episode.stored:
            path, start = episode.clips[camera]
            if not path.is_file():
                raise self.wrong(f"episode {episode.index}: {path.relative_to(self.root)} is missing")
            yield from video.reading(path, self.fps, start, len(episode.actions))
        for number, cell in enumerate(episode.stored.get(camera, ())):
            data = cell.get("bytes") if isinstance(cell, Mapping) else None
            try:
                picture = Image.open(io.BytesIO(data or b""), formats=("PNG", "JPEG"))
                if max(picture.size) > video.LARGEST_SIDE:
                    raise ValueError(f"more than {video.LARGEST_SIDE} px a side")
                yield np.asarray(picture.convert("RGB"))
            except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
                raise self.wrong(f"episode {episode.index}: {camera}, picture {number}: {error}") from None

    # --- metadata ---

    def _vector(self, given: str | None, known: Sequence[str]) -> str:
        name = given or next((name for name in known if name in self.features), known[0])
        about = self.features.get(name)
        if about is None:
            raise self.wrong(f"it has no feature {name}{nearest(name, self.features)}")
        if len(about.shape) != 1:
            raise self.wrong(f"{name} has the shape {about.shape}, not that of a vector")
        return name

    def _read_tasks(self) -> dict[int, str]:
        if self._v3:
            table = self._table(below(self.root, "meta/tasks.parquet"))
            texts = [name for name in table.column_names if name != "task_index"]
            if "task_index" not in table.column_names or len(texts) != 1:
                raise self.wrong("meta/tasks.parquet is not a column of texts and task_index")
            rows: list[Mapping[str, Any]] = table.rename_columns({texts[0]: "task"}).to_pylist()
        else:
            rows = self._lines("meta/tasks.jsonl")
        return {row["task_index"]: row["task"] for row in rows if isinstance(row.get("task"), str)}

    def _read_episodes(self) -> list[Mapping[str, Any]]:
        if not self._v3:
            return sorted(self._lines("meta/episodes.jsonl"), key=lambda row: str(row.get("episode_index")).zfill(9))
        files = sorted(below(self.root, "meta/episodes").glob("chunk-*/file-*.parquet"))
        tables = [self._table(below(self.root, path.relative_to(self.root))) for path in files]
        kept = [table.select([n for n in table.column_names if not n.startswith("stats/")]) for table in tables]
        return [row for table in kept for row in table.to_pylist()]

    def _lines(self, name: str) -> list[Mapping[str, Any]]:
        path = below(self.root, name)
        if not path.is_file():
            raise self.wrong(f"{name} is missing")
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"{name} is not JSON, line by line: {error}") from None
        if not all(isinstance(row, dict) for row in rows):
            raise self.wrong(f"{name}: each line is a mapping")
        return rows

    # --- files and columns of an episode ---

    def _numbers(self, row: Mapping[str, Any], key: str) -> dict[str, Any]:
        return {f"{part}_index": row.get(f"{key}/{part}_index") for part in ("chunk", "file")}

    def _numbers_of(self, index: int) -> dict[str, Any]:
        return {"episode_index": index, "episode_chunk": index // self.info.chunks_size}

    def _file(self, key: str, values: Mapping[str, Any]) -> Path:
        template: str = getattr(self.info, key) or ""
        if not template:
            raise self.wrong(f"meta/info.json: {key} is missing")

        def filled(match: re.Match[str]) -> str:
            value = values.get(match[1])
            return str(value).zfill(int(match[2] or 0)) if isinstance(value, int | str) else match[0]

        name = _FIELD.sub(filled, template)
        if "{" in name:
            raise self.wrong(f"meta/info.json: {key} {template!r} asks for what an episode does not have: {name}")
        path = below(self.root, name)
        if key == "data_path" and not path.is_file():
            raise self.wrong(f"{name} is missing")
        return path

    def _clips(self, row: Mapping[str, Any], index: int) -> dict[str, tuple[Path, int]]:
        clips = {}
        for camera in (name for name in self.cameras if self.features[name].dtype == "video"):
            key = f"videos/{camera}"
            places = self._numbers(row, key) if self._v3 else self._numbers_of(index)
            since = row.get(f"{key}/from_timestamp") if self._v3 else 0.0
            if not isinstance(since, int | float) or not 0 <= since < MOST_ROWS:
                raise self.wrong(f"episode {index}: meta does not say where the pictures of {camera} begin")
            clips[camera] = (self._file("video_path", {**places, "video_key": camera}), round(since * self.fps))
        return clips

    def _column(self, table: pa.Table, name: str, where: str) -> NDArray[np.float32]:
        rows, size = table[name].to_pylist(), self.size(name)
        sizes = {len(row) if isinstance(row, list) else 1 for row in rows}
        if sizes != {size}:
            raise self.wrong(
                f"{where}: {name} has {'/'.join(map(str, sorted(sizes)))} dims, meta/info.json says {size}"
            )
        try:
            values = np.asarray(rows, np.float32).reshape(len(rows), size)
        except (TypeError, ValueError):
            raise self.wrong(f"{where}: {name} is not made of numbers") from None
        if not np.isfinite(values).all():
            raise self.wrong(f"{where}: {name} has values that are not finite")
        return values

    def _table(self, path: Path) -> pa.Table:
        if self._held is None or self._held[0] != path:
            self._held = path, _read(path)
        return self._held[1]


def _read(path: Path) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"{path} has {file.metadata.num_rows} rows, at most {MOST_ROWS} are read")
        return file.read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file, or is damaged: {str(error).splitlines()[0]}") from None
