"""norm_stats.json of this family, and what is computed by it: proprioception in, robot actions out.

The state is a hand position (m), an axis-angle (rad) and two finger joints; the last action is the gripper's, -1 opens
and +1 closes, and is not normalised. In demonstrations the joints are 0.00 to 0.04 m and its negative (Panda), 0.01 to
0.46 rad and its negative (IIWA), or twice -0.03 to 0.47 rad (UR5e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.parts import statistics
from flashtrail.policies.parts.statistics import EPSILON, FILE, Array

__all__ = ["FILE", "Stats", "read", "rotation", "stacked"]


class Stats(statistics.Stats):
    """Mean and standard deviation of states (8,) and of actions (action_dim,); several robots' are `stacked`."""

    def of(self, robot: int) -> Stats:
        """Of stacked statistics, a robot's own."""
        return Stats(*(getattr(self, field.name)[robot] for field in fields(self)))

    def rows(self, robots: NDArray[np.int64]) -> Stats:
        """Of stacked statistics those of each row's robot (B,), for states (B, 8) and chunks (B, horizon, D)."""
        return Stats(
            self.state_mean[robots],
            self.state_std[robots],
            self.action_mean[robots][:, None],
            self.action_std[robots][:, None],
        )

    def proprioception(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """States (..., 8) -> (..., 10): position and opening as z-scores, two columns of the hand's rotation."""
        scores = (states - self.state_mean) / (self.state_std + EPSILON)
        turned = rotation(np.asarray(states[..., 3:6], np.float64))
        columns = np.concatenate((turned[..., 0], turned[..., 1]), -1)
        mirrored = np.where(self.state_mean[..., 6:7] * self.state_mean[..., 7:8] > 0, 1.0, -1.0)
        opening = (scores[..., 6:7] + mirrored * scores[..., 7:8]) / 2
        out: NDArray[np.float32] = np.concatenate((scores[..., :3], columns, opening), -1).astype(np.float32)
        return out

    def targets(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Robot actions (..., D) -> what the network is to answer: z-scores, and 0 or 1 for the gripper."""
        out = super().targets(actions)
        out[..., -1] = actions[..., -1] > 0
        return out

    def actions(self, answers: NDArray[Any]) -> Array:
        """What the network answers (..., D) -> robot actions: the gripper's logit becomes a number in (-1, 1)."""
        out = super().actions(answers)
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


def stacked(own: Sequence[Stats]) -> Stats:
    """Return the statistics of several robots as one, robot by robot in the first dimension."""
    return Stats(*(np.stack([getattr(stats, field.name) for stats in own]) for field in fields(Stats)))


read = Stats.read
