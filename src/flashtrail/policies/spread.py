"""How far several answers to one observation lie apart: a sign of a policy's doubt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOTION_DIMS = 6  # of an action; the last number is the gripper's command


def spread(answers: NDArray[np.float64]) -> float:
    """Return the standard deviation over N >= 2 chunks (N, steps, 7), RMS over steps and the six dims of motion."""
    return float(np.sqrt(answers[..., :MOTION_DIMS].var(axis=0, ddof=1).mean()))
