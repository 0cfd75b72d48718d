"""What held-out demonstrations say of a policy before it moves anything: where it sees the cube, when it would close.

Offline errors choose a checkpoint and find gross faults; only rollouts measure success.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.training.lift.data import Frames

AROUND = 2  # steps before and after the one at which the expert closes


def figures(frames: Frames, grip: NDArray[Any], cube: NDArray[Any]) -> dict[str, float]:
    """Return the figures of answers to these frames.

    `grip` (F,): the first action's gripper, positive closes. `cube` (F, 3): where cube minus hand is read, m.

    cube_mm: median horizontal error of the cube's place. closing_right: share of frames within two steps of the step
    at which the expert closes where the policy's word is the expert's. closing_late: median of how many steps later
    than the expert it first says close (negative: earlier; of a demonstration in which it never does, its length).
    """
    error = np.linalg.norm((cube - frames.cube)[:, :2], axis=-1) * 1e3
    expert, right, late = frames.chunks[:, 0, -1] > 0, [], []
    for demo in np.unique(frames.demo):
        own = np.flatnonzero(frames.demo == demo)
        told, said = expert[own], grip[own] > 0
        if told[0] or not told.any():
            continue  # closed from the start, or never
        close = int(np.argmax(told))
        near = slice(max(0, close - AROUND), close + AROUND + 1)
        right += (told[near] == said[near]).tolist()
        late.append((int(np.argmax(said)) if said.any() else len(own)) - close)
    none = float("nan")
    return {
        "cube_mm": float(np.median(error)),
        "closing_right": float(np.mean(right)) if right else none,
        "closing_late": float(np.median(late)) if late else none,
    }


COLUMNS = ("held_out_loss", "held_out_motion", "held_out_gripper", "cube_mm", "closing_right", "closing_late")
