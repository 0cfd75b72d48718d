"""Every number of a training run of lift_vla; equal recipes and data give equal weights on one machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """`batch` frames with actions and `scenes` without, a step; losses are weighted against the motion's.

    `first`: the chunk's leading actions that count double, since most of them are executed. `unknown_words`: share of
    words that are hidden, so that the row of unknown words is trained; `wrist_missing`: share of frames whose wrist
    view is left out, as a client may say it is.
    """

    steps: int = 4000
    batch: int = 32
    scenes: int = 8
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.995
    gripper: float = 0.5
    auxiliary: float = 1.0
    first: int = 5
    unknown_words: float = 0.1
    wrist_missing: float = 0.05
    state_noise: float = 0.02
    shift: int = 1
    seed: int = 0
    threads: int = 1
    log_every: int = 50
    check_every: int = 250
    keep_every: int = 1000
    save_every_s: float = 60.0


FREE = {"steps", "threads", "log_every", "check_every", "keep_every", "save_every_s"}  # may change when a run goes on
