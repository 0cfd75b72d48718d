"""Demonstrations on disk -> training samples: frames, prompts, noisy-state pairs and masked action chunks.

A sample is one recorded frame: both views (112 x 112 uint8, the 2 x 2 area average of what the policy sees at 224), the
state at that step, and the expert's next `horizon` clean actions, with a mask where the episode ended. Targets are the
recorded actions, or openpi's delta actions (action - state on the first six dims): see docs/training.md for why the
former.

An imported set (`datasets/take.py`) has the same files and DESCRIPTION beside them: any dims and rate, one camera or
two, no landmarks. `kept` says which frames are learned from; all others stay, since windows are made of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError

DELTA_DIMS = 6
VIEWS = ("agent", "wrist")
DESCRIPTION = "training_set.json"
MOST_EPISODES = 10_000  # of a task
# The dims of our states and actions.
STATE_NAMES = ["x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right"]
ACTION_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
# Arrays of an episode's file that are read: kinds of numpy's dtypes, and dims.
_ARRAYS = {
    **{"state": ("fiu", 2), "label": ("fiu", 2), "executed": ("fiu", 2), "objects": ("fiu", 3)},
    **{"agent": ("u", 4), "wrist": ("u", 4), "at": ("i", 1), "kept": ("b", 1), "done_at": ("i", 0)},
}
_NAME = re.compile(r"task(0|[1-9][0-9]{0,8})/ep[0-9]{4}\.npz")  # one name for a task and number


class Description(documents.Section):
    """What an imported set is: its rate, cameras in the order of views, names of dims, instructions by task.

    `delta`: so many leading action dims are learned minus the state at the picture. `every`: steps from picture to
    picture. `source`: version and digest of what it was imported from.
    """

    format: Literal["flashtrail-training-set"] = "flashtrail-training-set"
    fps: float = Field(gt=0)
    cameras: list[str] = Field(min_length=1, max_length=len(VIEWS))
    state: list[str] = Field(min_length=1)
    action: list[str] = Field(min_length=1)
    tasks: dict[Annotated[int, Field(ge=0)], str] = Field(min_length=1)
    delta: int = Field(0, ge=0)
    every: int = Field(1, ge=1)
    source: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _delta_within_both(self) -> Self:
        if self.delta > (most := min(len(self.state), len(self.action))):
            raise ValueError(f"delta: must be at most {most}, the dims that state and action share, not {self.delta}")
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """What a policy's dims must be to learn from it."""
        return {"views": len(self.cameras), "state_dim": len(self.state), "action_dim": len(self.action)}


def described(directory: Path) -> Description | None:
    """Return the description of an imported set; None where there is none, as beside our own demonstrations."""
    path = directory / DESCRIPTION
    if not path.is_file():
        return None
    return documents.typed(TypeAdapter(Description), provenance.json_load(path), str(path))


@dataclass(frozen=True)
class Demonstrations:
    """All frames of all episodes, concatenated. F frames, T steps in total."""

    views: np.ndarray  # (F, V, 112, 112, 3) uint8: agent view, wrist
    states: np.ndarray  # (F, 8) float32
    objects: np.ndarray  # (F, K, 3) float32: landmarks minus hand position, m; for the auxiliary head; K 0: unknown
    chunks: np.ndarray  # (F, horizon, 7) float32: the expert's clean actions
    valid: np.ndarray  # (F, horizon) bool: False past the end of the record
    task: np.ndarray  # (F,) int
    step: np.ndarray  # (F,) int: the control step of the picture
    episode: np.ndarray  # (F,) int: 10,000 times the task plus the episode's number
    kept: np.ndarray  # (F,) bool: what is learned from

    def __len__(self) -> int:
        return len(self.states)

    @property
    def digest(self) -> str:
        """SHA-256 over what is learned from, pictures apart: their states tell whether they are the same."""
        total = hashlib.sha256()
        left_out = () if self.kept.all() else (self.kept,)
        for part in (self.states, self.objects, self.chunks, self.task, self.step, self.episode, *left_out):
            total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()


def files(directory: Path) -> list[Path]:
    """Return the files of all episodes, `directory`/task*/ep*.npz; none where there is no such directory.

    UserError for a name that our writers do not give, and for a folder that cannot be read.
    """
    try:
        inside = directory.iterdir() if directory.is_dir() else ()
        folders = [path for path in inside if path.name.startswith("task") and not path.is_file()]
        found = sorted(path for folder in folders for path in folder.iterdir() if path.match("ep*.npz"))
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it away"
        ) from None
    for path in found:
        if not _NAME.fullmatch(f"{path.parent.name}/{path.name}"):
            raise UserError(f"{path} is not called as task0/ep0007.npz is: rename it, or move it away")
    return found


def episodes(directory: Path, limit: int | None = None) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Yield task, number and arrays of every episode (`files`).

    UserError if there are none, and for one that is damaged or of other dims than the first, or than the description.
    """
    paths = files(directory)[:limit]
    if not paths:
        raise UserError(f"no demonstrations under {directory}: run `python -m flashtrail.training demonstrations`")
    about, dims = described(directory), dict[str, tuple[int, ...] | None]()
    for path in paths:
        task, number, arrays = read_episode(path)
        compared = ("state", "label", "agent", "wrist", "objects")
        own = {name: arrays[name].shape[1:] if name in arrays else None for name in compared}
        dims = dims or own
        if odd := [name for name in compared if own[name] != dims[name]]:
            raise UserError(f"{path}: {odd[0]} has other dims than in the set's first episode: a set is of one robot")
        sizes = [1 + ("wrist" in arrays), arrays["state"].shape[1], arrays["label"].shape[1]]
        if about and sizes != [*about.sizes.values()]:
            raise UserError(f"{directory}: {DESCRIPTION} has other dims than the episodes: import it again")
        if about and task not in about.tasks:
            raise UserError(f"{path}: nobody says what task {task} is: record or import the set again")
        yield task, number, arrays


def read_episode(path: Path) -> tuple[int, int, Mapping[str, Any]]:
    """Return task, number and arrays of one file; UserError where it is damaged."""
    try:
        task, number = int(path.parent.name.removeprefix("task")), int(path.stem.removeprefix("ep"))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        _check(arrays)
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds for bytes that have changed
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged, or no demonstration ({what}): record or import it again") from error
    return task, number, arrays


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError or KeyError for arrays that are not an episode's."""
    for name, (kinds, dims) in _ARRAYS.items():
        array = arrays[name] if name in ("state", "label", "agent", "at") else arrays.get(name)
        if array is None:
            continue
        if array.dtype.kind not in kinds or array.ndim != dims:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
    at, label, agent = arrays["at"], arrays["label"], arrays["agent"]
    rows = {len(arrays[name]) for name in ("agent", "objects", "kept") if name in arrays}
    if rows != {len(at)} or len(arrays["state"]) != len(label) or not 0 <= at.min() <= at.max() < len(label):
        raise ValueError("its states, actions and pictures are not of the same steps")
    if (np.diff(at) < 1).any():
        raise ValueError("its pictures are not in the order of its steps")
    if arrays.get("wrist", agent).shape != agent.shape or arrays.get("executed", label).shape != label.shape:
        raise ValueError("its views, or its actions, are of two shapes")
    if "objects" in arrays and arrays["objects"].shape[2] != 3:
        raise ValueError(f"objects is of shape {arrays['objects'].shape}, not (frames, landmarks, 3)")


def load(directory: str | Path, horizon: int = 50, limit: int | None = None) -> Demonstrations:
    """Read every episode (`episodes`) as frames, with what its description says is to be learned."""
    columns: dict[str, list[Any]] = {name: [] for name in Demonstrations.__dataclass_fields__}
    about = described(Path(directory))
    delta_dims = about.delta if about else 0
    for task, number, episode in episodes(Path(directory), limit):
        at, labels = episode["at"], episode["label"]
        steps = at[:, None] + np.arange(horizon)
        chunks = labels[np.minimum(steps, len(labels) - 1)]
        if delta_dims:
            chunks = delta(chunks, episode["state"][at], delta_dims)
        columns["views"].append(np.stack([episode[view] for view in VIEWS if view in episode], axis=1))
        columns["states"].append(episode["state"][at])
        columns["objects"].append(episode.get("objects", np.zeros((len(at), 0, 3), np.float32)))
        columns["chunks"].append(chunks)
        columns["valid"].append(steps < len(labels))
        columns["task"].append(np.full(len(at), task))
        columns["step"].append(at)
        columns["episode"].append(np.full(len(at), task * MOST_EPISODES + number))
        columns["kept"].append(episode.get("kept", np.ones(len(at), bool)))
    return Demonstrations(**{name: np.concatenate(parts) for name, parts in columns.items()})


def windows(demos: Demonstrations, rows: np.ndarray, frames: int, gap: int) -> np.ndarray:
    """Rows (B,) -> the rows (B, frames) of their pictures `gap` control steps apart, oldest first.

    A window never leaves its episode: before its start the first picture is repeated, as a served policy does it.
    """
    starts = np.flatnonzero(np.r_[True, demos.episode[1:] != demos.episode[:-1]])
    order = np.searchsorted(starts, np.arange(len(demos)), "right") - 1  # which episode, counted
    place = order * 1_000_000 + demos.step
    wanted = demos.step[rows, None] - gap * np.arange(frames - 1, -1, -1)
    found = np.searchsorted(place, order[rows, None] * 1_000_000 + np.maximum(wanted, 0), "right") - 1
    return np.maximum(found, starts[order[rows], None])


def others(demos: Demonstrations, rows: np.ndarray) -> np.ndarray:
    """Rows (B,) -> for each a row of the next episode of its task among `rows`, at the nearest control step.

    A task with one episode takes the next episode of all.
    """
    out, episode = rows.copy(), demos.episode[rows]
    for one in np.unique(episode):
        alike = np.unique(episode[episode // MOST_EPISODES == one // MOST_EPISODES])
        among = alike if len(alike) > 1 else np.unique(episode)
        following = among[(np.searchsorted(among, one) + 1) % len(among)]
        theirs = rows[episode == following]
        nearest = np.abs(demos.step[rows[episode == one]][:, None] - demos.step[theirs]).argmin(1)
        out[episode == one] = theirs[nearest]
    return out


def delta(chunks: np.ndarray, states: np.ndarray, dims: int = DELTA_DIMS) -> np.ndarray:
    """Subtract the state from the leading action dims: chunks (F, H, D), states (F, >= dims) -> (F, H, D)."""
    out = chunks.copy()
    out[..., :dims] -= states[:, None, :dims]
    return out


def targets(chunks: np.ndarray, states: np.ndarray, delta_actions: bool) -> np.ndarray:
    """What the policy is to predict, before normalisation: chunks (F, H, 7), states (F, >=6) -> (F, H, 7)."""
    return delta(chunks, states) if delta_actions else chunks


def norm_stats(demos: Demonstrations, delta_actions: bool) -> dict[str, dict[str, list[float]]]:
    """Mean, std, q01, q99 of states and of targets, as openpi's norm_stats.json has them."""

    def stats(rows: np.ndarray) -> dict[str, list[float]]:
        rows = rows.astype(np.float64)
        q01, q99 = np.quantile(rows, [0.01, 0.99], axis=0)
        parts = {"mean": rows.mean(0), "std": rows.std(0), "q01": q01, "q99": q99}
        return {name: [float(v) for v in value] for name, value in parts.items()}

    rows = targets(demos.chunks, demos.states, delta_actions)[demos.valid]
    return {"state": stats(demos.states), "actions": stats(rows)}


class Normaliser:
    """z-scores with openpi's epsilon: (x - mean) / (std + 1e-6)."""

    def __init__(self, stats: dict[str, dict[str, list[float]]]) -> None:
        self._mean = {k: np.asarray(v["mean"], np.float32) for k, v in stats.items()}
        self._scale = {k: np.asarray(v["std"], np.float32) + 1e-6 for k, v in stats.items()}

    def forward(self, key: str, x: np.ndarray) -> np.ndarray:
        """Physical -> normalised."""
        return (x - self._mean[key]) / self._scale[key]

    def inverse(self, key: str, x: np.ndarray) -> np.ndarray:
        """Normalised -> physical."""
        return x * self._scale[key] + self._mean[key]


def held_out(episode: np.ndarray, share: float = 0.06) -> np.ndarray:
    """Episodes (N,), numbered as `Demonstrations.episode`, each once or more often -> whether each is held out, (N,).

    The same ones however many there are. Of a small set, whose tasks have fewer episodes than that, each task's last
    one; none where a task has no other.
    """
    every = max(2, round(1 / share))
    held = episode % MOST_EPISODES % every == every - 1
    if not held.any():
        task = episode // MOST_EPISODES
        own = [np.unique(episode[task == one]) for one in np.unique(task)]
        held = np.isin(episode, [numbers[-1] for numbers in own if len(numbers) > 1])
    return held


def split(demos: Demonstrations, share: float = 0.06) -> tuple[np.ndarray, np.ndarray]:
    """Frame indices (train, validation); whole episodes are held out. `kept` is about training alone."""
    held = held_out(demos.episode, share)
    if not held.any() or not (~held & demos.kept).any():
        raise UserError("too few episodes: one of a task is held out, and another one is learned from")
    return np.flatnonzero(~held & demos.kept), np.flatnonzero(held)


def balanced(demos: Demonstrations, frames: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` frame indices drawn with every task equally likely."""
    tasks = np.unique(demos.task[frames])
    chosen = rng.choice(tasks, count)
    pools = {t: frames[demos.task[frames] == t] for t in tasks}
    return np.array([rng.choice(pools[t]) for t in chosen])


def augment(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (B, V, ..., 112, 112, 3) -> float32 in [-1, 1]: agent view shifted by up to 1 px, brightness, tint.

    A sample's frames (...) share them. A pixel is about a centimetre on the table, so larger shifts would teach
    imprecision.
    """
    out = views.astype(np.float32) / 127.5 - 1.0
    for row in out:
        dy, dx = rng.integers(-1, 2, 2)
        row[0] = np.roll(row[0], (dy, dx), axis=(-3, -2))
    shape = (*out.shape[:2], *(1 for _ in out.shape[2:-1]))
    gain = rng.normal(1.0, 0.05, (*shape, 1)).astype(np.float32)
    tint = rng.normal(0.0, 0.03, (*shape, 3)).astype(np.float32)
    return np.clip((out + 1.0) * gain - 1.0 + tint, -1.0, 1.0)
