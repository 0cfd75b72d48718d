"""norm_stats.json of this family, and what is computed by it: proprioception in, robot actions out.

The file has openpi's form (norm_stats.state and .actions, each with mean and std). The state is a hand position (m), an
axis-angle (rad) and two finger joints; the last action is the gripper's, -1 opens and +1 closes, and is not normalised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.lift_vla.errors import ArtifactError

FILE = "norm_stats.json"
EPSILON = 1e-6
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of states (8,) and of actions (action_dim,)."""

    state_mean: Array
    state_std: Array
    action_mean: Array
    action_std: Array

    def proprioception(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """States (..., 8) -> (..., 10): position and opening as z-scores, two columns of the hand's rotation."""
        scores = (states - self.state_mean) / (self.state_std + EPSILON)
        turned = rotation(np.asarray(states[..., 3:6], np.float64))
        columns = np.concatenate((turned[..., 0], turned[..., 1]), -1)
        opening = (scores[..., 6:7] - scores[..., 7:8]) / 2
        out: NDArray[np.float32] = np.concatenate((scores[..., :3], columns, opening), -1).astype(np.float32)
        return out

    def targets(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Robot actions (..., D) -> what the network is to answer: z-scores, and 0 or 1 for the gripper."""
        scores = (actions - self.action_mean) / (self.action_std + EPSILON)
        scores[..., -1] = actions[..., -1] > 0
        out: NDArray[np.float32] = scores.astype(np.float32)
        return out

    def actions(self, answers: NDArray[Any]) -> Array:
        """What the network answers (..., D) -> robot actions: the gripper's logit becomes a number in (-1, 1)."""
        out: Array = answers * (self.action_std + EPSILON) + self.action_mean
        out[..., -1] = np.tanh(np.asarray(answers[..., -1], np.float64) / 2)
        return out


def rotation(turns: Array) -> Array:
    """Axis times angle (..., 3), rad -> rotation matrices (..., 3, 3), by Rodrigues' formula."""
    angle = np.linalg.norm(turns, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(turns / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    out: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return out


def read(path: Path, state_dim: int, action_dim: int) -> Stats:
    """Read a norm_stats.json; ArtifactError where it is missing, damaged or of another robot."""
    try:
        root = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
        lists = {(key, part): root[key][part] for key in ("state", "actions") for part in ("mean", "std")}
        values = {name: np.asarray(value, np.float64) for name, value in lists.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} must hold norm_stats.state and .actions with mean and std ({type(error).__name__}: {error})"
        ) from None
    for (key, part), value in values.items():
        size = state_dim if key == "state" else action_dim
        if value.shape != (size,):
            raise ArtifactError(
                f"{path}: {key}.{part} has shape {value.shape}, not ({size},): another robot's statistics"
            )
        if not np.isfinite(value).all() or (part == "std" and (value < 0).any()):
            raise ArtifactError(f"{path}: {key}.{part} holds a value that is not finite, or a negative std")
    return Stats(*(values[key, part] for key in ("state", "actions") for part in ("mean", "std")))
