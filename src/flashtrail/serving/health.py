"""What a session's rounds show of its cameras and its actions, in numbers; no picture is kept.

A view is faulty in a round if it has no contrast, by the rule of the guard `wrist_health`, or else if it is frozen: the
picture of the round before, byte for byte, though the robot has moved. The features of actions are the doctor's
(drills/predicates.py), of the episode so far.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from flashtrail.experiment.guards import WristHealth
from flashtrail.serving.protocol import IMAGE_KEYS, IMAGE_MASK_KEY, STATE_KEY, Request

VIEWS = ("agent", "wrist")
FAULTS = ("no_contrast", "frozen")
MOVED = 1e-3  # a change of any number of the state from round to round; a robot at rest sends the same picture rightly
WINDOW = 40  # steps of a mean, as in drills.predicates
ANSWERS = 10  # before it is said that they hardly differ
_EVERY = 4  # rows and columns; the deviation of all pixels would take four times as long
_HEALTHY = WristHealth()


class SessionHealth:
    """The session of one connection. `round`: answered so far; `runs`: faulty rounds in a row, by view and fault.

    `effort`: the largest mean |action[:6]| over any WINDOW executed steps of this episode; `spread`: by how much its
    answers differ; NaN where too little is known.
    """

    def __init__(self) -> None:
        self.round = 0
        self.runs: Counter[tuple[str, str]] = Counter()
        self.looks: dict[str, tuple[float, float]] = {}  # mean and standard deviation, 0-255, of each view of the round
        self._pictures: dict[str, int] = {}  # checksums
        self._state = np.zeros(0)
        self._begin()

    def _begin(self) -> None:
        self._pictures = {}
        self.effort = math.nan
        self._motion = np.zeros(0)  # |action[:6]|, its mean, of the last steps
        self._sent = np.zeros((0, 7))
        self._answers, self._mean, self._squares = 0, np.zeros(()), np.zeros(())  # Welford's, of each number
        self._grips: set[float] = set()

    @property
    def spread(self) -> float:
        """The doctor's `spread` of at least ANSWERS answers in which the gripper did not change; else NaN."""
        known = self._answers >= ANSWERS and len(self._grips) <= 1
        return float(np.sqrt(np.mean(self._squares) / self._answers)) if known else math.nan

    def note(self, request: Request, result: Mapping[str, Any]) -> None:
        """Take in a round that was answered."""
        self.round += 1
        if request.reset:
            self._begin()
        executed = request.executed_steps
        self._executed(self._sent if executed is None else self._sent[: max(0, executed)])
        self._sent = result["actions"] if executed is not None else result["actions"][: result["accepted_prefix_len"]]
        state = request.observation[STATE_KEY]
        moved = state.shape == self._state.shape and bool(np.abs(state - self._state).max(initial=0) > MOVED)
        self._state = state.copy()
        self.looks = {}
        shown = request.observation.get(IMAGE_MASK_KEY, (True,) * len(VIEWS))
        for view, key, there in zip(VIEWS, IMAGE_KEYS, shown, strict=True):
            found = self._fault(view, request.observation[key], moved) if there else None
            for fault in FAULTS:
                self.runs[view, fault] = self.runs[view, fault] + 1 if fault == found else 0

    def _executed(self, actions: np.ndarray) -> None:
        if not len(actions):
            return
        motion = actions[:, :6]
        self._answers += 1
        off = motion.mean(axis=0) - self._mean
        self._mean = self._mean + off / self._answers
        self._squares = self._squares + off * (motion.mean(axis=0) - self._mean)
        steps = np.concatenate([self._motion, np.abs(motion).mean(axis=1)])
        if len(steps) >= WINDOW:
            most = np.convolve(steps, np.full(WINDOW, 1 / WINDOW), mode="valid").max()
            self.effort = float(np.fmax(self.effort, most))
        self._motion = steps[-(WINDOW - 1) :]
        self._grips |= set(np.sign(actions[:, 6:7]).ravel().tolist()) - {0.0}

    def _fault(self, view: str, picture: np.ndarray, moved: bool) -> str | None:
        checksum = zlib.crc32(picture.tobytes())
        few = picture[::_EVERY, ::_EVERY]
        mean, std = float(few.mean()), float(few.std())
        flat = std < _HEALTHY.std_min or int(picture.max()) - int(picture.min()) < _HEALTHY.range_min
        same = self._pictures.get(view) == checksum
        self._pictures[view], self.looks[view] = checksum, (mean, std)
        return "no_contrast" if flat else "frozen" if same and moved else None
