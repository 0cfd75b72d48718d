"""Demonstrations on disk -> training samples: frames, prompts, noisy-state pairs and masked action chunks.

A sample is one recorded frame: both views (112 x 112 uint8, the 2 x 2 area average of what the policy sees at 224), the
state at that step, and the expert's next `horizon` clean actions, with a mask where the episode ended. Targets are the
recorded actions, or openpi's delta actions (action - state on the first six dims): see docs/training.md for why the
former.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError

DELTA_DIMS = 6


@dataclass(frozen=True)
class Demonstrations:
    """All frames of all episodes, concatenated. F frames, T steps in total."""

    views: np.ndarray  # (F, 2, 112, 112, 3) uint8: agent view, wrist
    states: np.ndarray  # (F, 8) float32
    objects: np.ndarray  # (F, K, 3) float32: landmarks minus hand position, m; for the auxiliary head only
    chunks: np.ndarray  # (F, horizon, 7) float32: the expert's clean actions
    valid: np.ndarray  # (F, horizon) bool: False past the end of the record
    task: np.ndarray  # (F,) int
    step: np.ndarray  # (F,) int: the control step of the picture
    episode: np.ndarray  # (F,) int: 10,000 times the task plus the episode's number

    def __len__(self) -> int:
        return len(self.states)

    @property
    def digest(self) -> str:
        """SHA-256 over what is learned from, pictures apart: their states tell whether they are the same."""
        total = hashlib.sha256()
        for part in (self.states, self.objects, self.chunks, self.task, self.step, self.episode):
            total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()


def load(directory: str | Path, horizon: int = 50, limit: int | None = None) -> Demonstrations:
    """Read every episode under `directory`/task*/ep*.npz; UserError if there are none."""
    names = ("views", "states", "objects", "chunks", "valid", "task", "step", "episode")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    files = sorted(Path(directory).glob("task*/ep*.npz"))[:limit]
    if not files:
        raise UserError(f"no demonstrations under {directory}: run `python -m flashtrail.training demonstrations`")
    for path in files:
        task = int(path.parent.name.removeprefix("task"))
        number = task * 10_000 + int(path.stem.removeprefix("ep"))
        with np.load(path, allow_pickle=False) as episode:
            at, labels = episode["at"], episode["label"]
            steps = at[:, None] + np.arange(horizon)
            valid = steps < len(labels)
            columns["views"].append(np.stack([episode["agent"], episode["wrist"]], axis=1))
            columns["states"].append(episode["state"][at])
            columns["objects"].append(episode["objects"])
            columns["chunks"].append(labels[np.minimum(steps, len(labels) - 1)])
            columns["valid"].append(valid)
            columns["task"].append(np.full(len(at), task))
            columns["step"].append(at)
            columns["episode"].append(np.full(len(at), number))
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
        alike = np.unique(episode[episode // 10_000 == one // 10_000])
        among = alike if len(alike) > 1 else np.unique(episode)
        following = among[(np.searchsorted(among, one) + 1) % len(among)]
        theirs = rows[episode == following]
        nearest = np.abs(demos.step[rows[episode == one]][:, None] - demos.step[theirs]).argmin(1)
        out[episode == one] = theirs[nearest]
    return out


def delta(chunks: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Subtract the state from the first six action dims: chunks (F, H, 7), states (F, >=6) -> (F, H, 7)."""
    out = chunks.copy()
    out[..., :DELTA_DIMS] -= states[:, None, :DELTA_DIMS]
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


def split(demos: Demonstrations, share: float = 0.06) -> tuple[np.ndarray, np.ndarray]:
    """Frame indices (train, validation); whole episodes are held out, the same ones however many there are."""
    every = max(2, round(1 / share))
    held = demos.episode % 10_000 % every == every - 1
    return np.flatnonzero(~held), np.flatnonzero(held)


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
