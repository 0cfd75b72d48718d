"""Small LeRobot sets of a made-up arm: v3.0 by our own writer, v2.1 by hand after the layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flashtrail.datasets import video, write

FPS, LENGTHS, TASKS = 30, (12, 9, 14), ("pick the cube", "pick the cube", "push the cube")
JOINTS = ["pan", "lift", "elbow", "flex", "roll", "gripper"]
CAMERAS = ("observation.images.front", "observation.images.wrist")
WIDTH, HEIGHT = 64, 48


def numbers(episode: int) -> tuple[np.ndarray, np.ndarray]:
    """States (T, 6) that move until the last four steps, and actions (T, 6) a little ahead of them."""
    steps = np.minimum(np.arange(LENGTHS[episode]), LENGTHS[episode] - 5)[:, None]
    states = (10 * episode + steps + 0.1 * np.arange(6)).astype(np.float32)
    return states, states + np.float32(0.5)


def pictures(episode: int, camera: int) -> np.ndarray:
    """Pictures (T, 48, 64, 3) of one grey each, which says which one it is."""
    grey = 20 + 60 * episode + 4 * np.arange(LENGTHS[episode]) + 2 * camera
    return np.broadcast_to(grey[:, None, None, None], (len(grey), HEIGHT, WIDTH, 3)).astype(np.uint8)


def film(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with video.writing(path, (WIDTH, HEIGHT), FPS) as add:
        for frame in frames:
            add(frame)
    return path


def played(folder: Path, episode: int) -> write.Played:
    states, actions = numbers(episode)
    seen = {camera: pictures(episode, number) for number, camera in enumerate(CAMERAS)}
    films = {camera: film(folder / f"{episode}_{camera}.mp4", frames) for camera, frames in seen.items()}
    vectors = {"observation.state": states, "action": actions}
    return write.Played(TASKS[episode], vectors, films, {name: frames[:, ::16, ::16] for name, frames in seen.items()})


def v3(root: Path) -> Path:
    """A set as `export-dataset` writes it."""
    names = {"observation.state": JOINTS, "action": JOINTS}
    episodes = [played(root / "films", number) for number in range(len(LENGTHS))]
    write.write(root, episodes, names, (WIDTH, HEIGHT), "so101", FPS)
    return root


def v21(root: Path, cameras: tuple[str, ...] = CAMERAS, version: str = "v2.1") -> Path:
    """A set of one file an episode, as lerobot 0.3 writes it."""
    feature: dict[str, Any] = {"dtype": "float32", "shape": [6], "names": {"motors": JOINTS}}
    features = {"observation.state": feature, "action": feature}
    features |= {name: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3]} for name in cameras}
    tasks = list(dict.fromkeys(TASKS))
    dump(root / "meta/info.json", {
        **{"codebase_version": version, "robot_type": "so101", "fps": FPS, "chunks_size": 2, "features": features},
        **{"total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "splits": {"train": "0:3"}},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    })  # fmt: skip
    lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": text} for i, text in enumerate(tasks)])
    about = [{"episode_index": i, "tasks": [TASKS[i]], "length": n} for i, n in enumerate(LENGTHS)]
    lines(root / "meta/episodes.jsonl", about)
    for episode, length in enumerate(LENGTHS):
        states, actions = numbers(episode)
        table(data_file(root, episode), episode, states, actions, tasks.index(TASKS[episode]))
        for number, name in enumerate(cameras):
            place = root / f"videos/chunk-{episode // 2:03d}/{name}/episode_{episode:06d}.mp4"
            film(place, pictures(episode, number)[:length])
    return root


def data_file(root: Path, episode: int) -> Path:
    return root / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"


def table(path: Path, episode: int, states: np.ndarray, actions: np.ndarray, task: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = np.arange(len(states))
    columns = {"observation.state": pa.array(states.tolist()), "action": pa.array(actions.tolist())}
    columns |= {"timestamp": pa.array((steps / FPS).astype(np.float32)), "frame_index": pa.array(steps)}
    columns |= {"episode_index": pa.array(steps * 0 + episode), "task_index": pa.array(steps * 0 + task)}
    pq.write_table(pa.table(columns), path)


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def change(root: Path, **values: Any) -> None:
    """Change keys of a set's info.json."""
    path = root / "meta/info.json"
    dump(path, json.loads(path.read_text()) | values)


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
