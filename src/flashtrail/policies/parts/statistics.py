"""norm_stats.json in openpi's form: norm_stats.state and .actions, each with mean and std."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.parts.errors import ArtifactError

FILE = "norm_stats.json"
EPSILON = 1e-6  # openpi's
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of states (state_dim,) and of actions (action_dim,)."""

    state_mean: Array
    state_std: Array
    action_mean: Array
    action_std: Array

    @classmethod
    def read(cls, path: Path, state_dim: int, action_dim: int) -> Self:
        """Read a norm_stats.json; ArtifactError where it is missing, damaged or of another robot."""
        return cls(*_read(path, {"state": state_dim, "actions": action_dim}))

    def with_actions_of(self, path: Path) -> Self:
        """These statistics with another file's for the actions: a drill's mistake."""
        return type(self)(self.state_mean, self.state_std, *_read(path, {"actions": len(self.action_mean)}))

    def state(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """States (..., state_dim) -> z-scores."""
        out: NDArray[np.float32] = ((states - self.state_mean) / (self.state_std + EPSILON)).astype(np.float32)
        return out

    def targets(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Robot actions (..., action_dim) -> what the network is to answer: z-scores."""
        out: NDArray[np.float32] = ((actions - self.action_mean) / (self.action_std + EPSILON)).astype(np.float32)
        return out

    def actions(self, answers: NDArray[Any]) -> Array:
        """What the network answers (..., action_dim) -> robot actions."""
        out: Array = answers * (self.action_std + EPSILON) + self.action_mean
        return out


def _read(path: Path, sizes: dict[str, int]) -> list[Array]:
    """Return mean and std of each of `sizes` (key: length), in this order; ArtifactError where one is not there."""
    try:
        root = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
        lists = {(key, part): root[key][part] for key in sizes for part in ("mean", "std")}
        values = {name: np.asarray(value, np.float64) for name, value in lists.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = " and .".join(sizes)
        raise ArtifactError(
            f"{path} must hold norm_stats.{wanted} with mean and std ({type(error).__name__}: {error})"
        ) from None
    for (key, part), value in values.items():
        if value.shape != (sizes[key],):
            raise ArtifactError(
                f"{path}: {key}.{part} has shape {value.shape}, not ({sizes[key]},): another robot's statistics"
            )
        if not np.isfinite(value).all() or (part == "std" and (value < 0).any()):
            raise ArtifactError(f"{path}: {key}.{part} holds a value that is not finite, or a negative std")
    return list(values.values())
