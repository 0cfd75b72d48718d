"""Positions in the place of increments, as the document's first version was trained: what the robot is to reach.

Action i of a chunk moves dim d of the state by `scale`_d a_i, so its target is the state plus the sum of such moves up
to i. Where the robot moves a little, a target is nearly the state, and a net that copies the state looks good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_positions(actions: NDArray[Any], states: NDArray[Any], scale: Sequence[float]) -> NDArray[Any]:
    """Actions (..., H, D) -> targets, positions in the leading dims; no scale: the actions themselves."""
    out, count = np.array(actions, np.float64), len(scale)
    moves = out[..., :count] * np.asarray(scale)
    out[..., :count] = np.asarray(states)[..., None, :count] + np.cumsum(moves, -2)
    return out if count else actions


def to_actions(targets: NDArray[Any], states: NDArray[Any], scale: Sequence[float]) -> NDArray[Any]:
    """The inverse: targets (..., H, D) and states (..., S) -> robot actions."""
    out, count = np.array(targets, np.float64), len(scale)
    moves = np.diff(out[..., :count], axis=-2, prepend=np.asarray(states)[..., None, :count])
    out[..., :count] = moves / np.asarray(scale)
    return out if count else targets
