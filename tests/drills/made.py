"""Step logs made of numbers: a clean episode by default, and each failure as the one thing that differs."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashtrail.drills import bounds
from flashtrail.drills.predicates import Episode

CHUNK = 12


def episode(
    seed: int,
    *,
    steps: int = 100,
    reward: bool = True,
    shake: float = 0.2,
    gap: int = CHUNK,
    stale: int = 0,
    scale: float = 1.0,
    seam: float = 0.0,
    gripper: bool = True,
    sign: float = 1.0,
    drift: float = 0.0,
    late: int = 0,
    frozen: bool = False,
) -> Episode:
    """Return an episode: smooth motion up to about 1, a picture every `gap` steps, the gripper closed half-way.

    `stale`: the picture is of so many queries ago; `shake`: of the picture from query to
    query; `scale`: of the translation; `seam`: of the
    rotation; `drift`: along one axis, at every step; `sign`: of the gripper's command; `late`: steps by which an
    answer, which differs a little from the one before, takes effect late; `frozen`: every step executes the mean of the
    first answer.
    """
    generator = np.random.default_rng(seed)
    time = np.arange(steps)[:, None]
    actions = np.empty((steps, 7))
    actions[:, :6] = np.sin(time / generator.uniform(15, 25, 6) + generator.uniform(0, 6, 6)) * generator.uniform(
        0.35, 0.45
    )
    actions[:, :3] *= scale
    actions[:, 0] += drift
    actions[:, 6] = np.where(time[:, 0] > steps // 2, 1.0, -1.0) if gripper else -1.0
    actions[:, 6] *= sign
    query = time[:, 0] // gap
    actions[:, 3:6] += seam * (query % 2)[:, None]
    pictures = 118 + generator.normal(0, 0.8) + np.cumsum(generator.normal(0, shake, steps))
    means = np.full(steps, np.nan)
    for q in range(query[-1] + 1):
        means[q * gap] = pictures[max(q - stale, 0)]
    answers = generator.normal(0, 0.05, (steps, 6)) * np.repeat([scale, 1.0], 3)
    actions[:, :6] += answers[np.maximum(time[:, 0] - late, 0) // gap]
    if frozen:
        actions[:] = actions[:gap].mean(axis=0)
    rewards = np.zeros(steps)
    rewards[-1] = float(reward)
    return Episode(actions, means, rewards)


def reference(n: int = 15, **other: Any) -> bounds.Reference:
    """Return the bounds of `n` clean episodes of different lengths."""
    return bounds.derive([episode(1000 + i, steps=70 + 5 * i, **other) for i in range(n)])


# One toggle from the clean run each: what the log of that failure looks like.
FAILURES: dict[str, dict[str, Any]] = {
    "swapped_cameras": {"shake": 6.0, "reward": False, "steps": 300},
    "long_chunk": {"gap": 50, "reward": False, "steps": 300},
    "stale_frame": {"stale": 4, "reward": False, "steps": 300},
    "bad_unnorm": {"scale": 4.0, "reward": False, "steps": 300},
    "state_antipode": {"seam": 2.0, "reward": False, "steps": 300},
    "bad_prompt": {"scale": 0.0, "reward": False, "steps": 300, "gripper": False},
    "short_horizon": {"reward": False, "steps": 60},
    "gripper_sign": {"sign": -1.0, "reward": False, "steps": 300},
    "late_window": {"late": 9, "reward": False, "steps": 300},
    "frozen_policy": {"frozen": True, "reward": False, "steps": 300},
    "no_flip": {"reward": False, "steps": 300, "drift": 0.35, "scale": 0.2},
    "unexplained": {"reward": False, "steps": 300},
}
DRILLS = {name: toggle for name, toggle in FAILURES.items() if name not in ("gripper_sign", "unexplained")}
