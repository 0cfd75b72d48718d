"""Run by the interpreter of an environment with lerobot 0.4.4 (docs/datasets.md): the official class, both ways.

python official.py write DIR       a set of a six-jointed arm, as the golden one beside this file was made
python official.py read DIR FILE   what the class gives of a set, as JSON
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
# PyPI's torchvision is a CUDA build, whose registrations a CPU's torch does not know.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from lerobot.datasets import lerobot_dataset  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

FPS, LENGTHS, HEIGHT, WIDTH = 30, (10, 8, 12), 64, 96
JOINTS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
TASKS = ("pick the red cube", "pick the red cube", "put it in the box")
CAMERAS = ("observation.images.front", "observation.images.wrist")


def pyav(path, timestamps, tolerance_s, backend=None):
    """The video reader that torchvision no longer has: pictures (N, 3, H, W) in [0, 1] at these times."""
    with av.open(str(path)) as container:
        seen = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    times = np.array([time for time, _ in seen])
    at = [int(np.abs(times - wanted).argmin()) for wanted in timestamps]
    assert all(abs(times[i] - wanted) <= tolerance_s for i, wanted in zip(at, timestamps, strict=True))
    return torch.from_numpy(np.stack([seen[i][1] for i in at])).permute(0, 3, 1, 2).float() / 255


def frame(episode: int, step: int) -> dict[str, object]:
    """A frame of which everything says which one it is."""
    joints = np.float32(10 * episode + step + 0.1 * np.arange(6))
    views = [np.full((HEIGHT, WIDTH, 3), 20 + 60 * episode + 4 * step + 2 * n, np.uint8) for n in range(2)]
    named = {"observation.state": joints, "action": joints + np.float32(0.5), "task": TASKS[episode]}
    return named | dict(zip(CAMERAS, views, strict=True))


def write(root: Path) -> None:
    vector = {"dtype": "float32", "shape": (6,), "names": JOINTS}
    view = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector} | dict.fromkeys(CAMERAS, view)
    made = LeRobotDataset.create("golden/so101", FPS, features, root=root, robot_type="so101_follower")
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            made.add_frame(frame(episode, step))
        made.save_episode()
    made.finalize()


def read(root: Path) -> dict[str, object]:
    lerobot_dataset.decode_video_frames = pyav
    meta = json.loads((root / "meta/info.json").read_text())
    step = 1 / meta["fps"]
    cameras = [name for name, about in meta["features"].items() if about["dtype"] == "video"]
    times = {"action": [0.0, step, 2 * step], cameras[0]: [-step, 0.0]}
    made = LeRobotDataset("our/set", root=root, delta_timestamps=times)
    items = [made[i] for i in range(len(made))]
    greys = {name: [item[name].mean((-3, -2, -1)).tolist() for item in items] for name in cameras}
    stats = {
        name: {key: np.asarray(value).tolist() for key, value in own.items()} for name, own in made.meta.stats.items()
    }
    return {
        "episodes": made.num_episodes, "frames": len(made), "fps": made.fps, "robot": made.meta.robot_type,
        "tasks": [item["task"] for item in items], "episode": [int(item["episode_index"]) for item in items],
        "state": [item["observation.state"].tolist() for item in items],
        "action": [item["action"].tolist() for item in items],
        "pad": [item["action_is_pad"].tolist() for item in items],
        "shapes": {name: list(items[0][name].shape) for name in cameras},
        "greys": greys, "stats": stats,
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        Path(sys.argv[3]).write_text(json.dumps(read(Path(sys.argv[2]))))
