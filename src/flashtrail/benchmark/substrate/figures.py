"""Figures of these measurements: a number with an interval, where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.statistics import intervals, resampling
from flashtrail.tables.measurements import Figure, figure


def ratio(name: str, title: str, over: NDArray[Any], under: NDArray[Any] | float, of: str) -> Figure:
    """Sum over sum, with a bootstrap over what was sampled; `under` 1: a mean."""
    below = np.broadcast_to(under, over.shape)
    return figure(name, title, over.sum() / below.sum(), resampling.ratio_over_episodes(over, below), len(over), of)


def spread(name: str, title: str, values: NDArray[Any], of: str) -> Figure:
    """The standard deviation, with a bootstrap over what was sampled."""
    sums = resampling.resampled_sums(np.column_stack([values, values**2])) / len(values)
    resampled = np.sqrt(np.maximum(sums[:, 1] - sums[:, 0] ** 2, 0.0))
    interval = resampling.percentile_interval(resampled) if len(values) >= resampling.MIN_CLUSTERS else None
    return figure(name, title, values.std(), interval, len(values), of)


def difference(name: str, title: str, a: NDArray[np.bool_], b: NDArray[np.bool_], of: str) -> Figure:
    """A share less another one of the same cases, with Tango's interval."""
    pair = intervals.paired(a.tolist(), b.tolist())
    words = f"{title} (right alone: {pair.only_a} and {pair.only_b} {of})"
    return figure(name, words, pair.difference, pair.interval, pair.n, of)
