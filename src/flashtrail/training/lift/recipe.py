"""Every number of a training run of lift_vla; equal recipes and data give equal weights on one machine."""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.training import loop


@dataclass(frozen=True)
class Recipe(loop.Recipe):
    """`batch` frames with actions and `scenes` without, a step; losses are weighted against the motion's.

    `first`: the chunk's leading actions that count double, since most of them are executed. `unknown_words`: share of
    words that are hidden, so that the row of unknown words is trained; `wrist_missing`: share of frames whose wrist
    view is left out, as a client may say it is.
    """

    scenes: int = 8
    gripper: float = 0.5
    auxiliary: float = 1.0
    first: int = 5
    unknown_words: float = 0.1
    wrist_missing: float = 0.05
    state_noise: float = 0.02
    shift: int = 1
