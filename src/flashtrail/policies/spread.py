"""How far several answers to one observation lie apart: a sign of a policy's doubt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(answers: NDArray[np.float64]) -> float:
    """Return the standard deviation over N >= 2 chunks (N, steps, D), RMS over all but the last of D, the gripper's."""
    return float(np.sqrt(answers[..., :-1].var(axis=0, ddof=1).mean()))
