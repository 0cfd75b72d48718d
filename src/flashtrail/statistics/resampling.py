"""Intervals for numbers over rounds or repeats that are alike: whole episodes, or whole init states, are resampled.

scipy's bootstrap draws rows; here what is drawn are clusters, so that only each cluster's sums are needed: B resampled
campaigns are one matrix of draws (B x clusters) times the clusters' sums. Above `EXACT_CLUSTERS` clusters the sums of a
bootstrap are drawn from their normal limit instead (same mean, same covariance), which makes a million episodes cheap.
Seeds are fixed: the same rows give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from flashtrail.statistics.intervals import LEVEL, Interval, Quantile, rate

RESAMPLES = 2000
EXACT_CLUSTERS = 2000  # more than these, and the normal limit of the bootstrap is used
MIN_CLUSTERS = 5  # fewer, and there is no interval: the spread of so few says next to nothing


@lru_cache(maxsize=4)  # at most 32 MB each; a summary asks for the same draws again and again
def draws(clusters: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[Any]:
    """Return how often each cluster is drawn in each resample: (resamples, clusters), rows sum to `clusters`.

    Whole numbers, as float64 for the products to come; not to be written to.
    """
    generator = np.random.default_rng(seed)
    times_drawn = generator.multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(float)
    times_drawn.setflags(write=False)
    return times_drawn


def resampled_sums(columns: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """Return the columns' sums over resampled clusters; `columns` is (clusters, c), the answer (RESAMPLES, c)."""
    x = np.asarray(columns, float)
    clusters = len(x)
    if clusters > EXACT_CLUSTERS:
        # The bootstrap's sum of n draws has mean n * mean(x) and covariance n * cov(x): draw it from there.
        spread = np.atleast_2d(np.cov(x, rowvar=False, bias=True)) * clusters
        generator = np.random.default_rng(seed)
        return generator.multivariate_normal(x.sum(axis=0), spread, RESAMPLES, method="svd")
    sums: NDArray[Any] = draws(clusters, RESAMPLES, seed) @ x
    return sums


def percentile_interval(values: NDArray[Any], level: float = LEVEL) -> Interval | None:
    """Return the middle `level` of resampled values; None where they are all one value.

    Where all clusters are alike a bootstrap sees no spread, although there may be some.
    """
    low, high = np.nanquantile(values, [0.5 - level / 2, 0.5 + level / 2])
    alike = 1e-12 * max(abs(low), abs(high))  # of their own size: squares of rounding errors are as small as 1e-14
    return Interval(float(low), float(high), level) if high - low > alike else None


def ratio_over_episodes(
    numerators: Sequence[float] | NDArray[Any], denominators: Sequence[float] | NDArray[Any]
) -> Interval | None:
    """Return the interval of sum(part) / sum(whole), resampling episodes; None with fewer than 5 of them.

    Rounds of one episode are alike, so that an interval over rounds would be too short.
    """
    x, y = np.asarray(numerators, float), np.asarray(denominators, float)
    if len(x) < MIN_CLUSTERS or y.sum() <= 0:
        return None
    sums = resampled_sums(np.column_stack([x, y]))
    ratio = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    return percentile_interval(ratio)


def share_over_episodes(numerators: NDArray[Any], denominators: NDArray[Any]) -> Interval | None:
    """Return `ratio_over_episodes` of a share; where all or none are meant, which resampling leaves alike, Wilson's."""
    part, whole = np.asarray(numerators, float), np.asarray(denominators, float)
    if part.sum() not in (0, whole.sum()):
        return ratio_over_episodes(part, whole)
    return rate(len(part) * bool(part.sum()), len(part)).wilson


def paired_difference(
    tasks: Sequence[int] | NDArray[Any],
    states: Sequence[int] | NDArray[Any],
    differences: Sequence[float] | NDArray[Any],
    level: float = LEVEL,
) -> Interval | None:
    """Return the interval of a mean paired difference: init states are resampled within each task.

    One entry per pair; `differences` is 1, 0 or -1. All repeats of an init state go together, and every task keeps its
    number of init states: the interval is about these tasks, with other init states. None where no task has two
    init states, or where fewer than 5 init states differ at all (a resample of zeros is zero, which is no interval).
    """
    task, state = np.asarray(tasks), np.asarray(states)
    cluster, index = np.unique(np.column_stack([task, state]), axis=0, return_inverse=True)
    index = index.ravel()
    sums = np.bincount(index, np.asarray(differences, float), len(cluster))
    sizes = np.bincount(index, minlength=len(cluster))
    if np.count_nonzero(sums) < MIN_CLUSTERS or len(cluster) == len(np.unique(task)):
        return None
    total = np.zeros((RESAMPLES, 2))
    for number, name in enumerate(np.unique(task)):
        inside = cluster[:, 0] == name
        total += resampled_sums(np.column_stack([sums[inside], sizes[inside]]), seed=number)
    return percentile_interval(total[:, 0] / total[:, 1], level)


def quantile_over_episodes(
    values: Sequence[float] | NDArray[Any],
    episodes: Sequence[int] | NDArray[Any],
    q: float,
    level: float = LEVEL,
    order: NDArray[Any] | None = None,
) -> Interval | None:
    """Return the interval of the q-quantile of `values` with whole episodes resampled; None with fewer than 5.

    A resampled quantile lies at or below x if, and only if, at least a share q of the resampled rounds does: so the
    ends are the order statistics at which that happens in 2.5 and 97.5 % of the resamples, found by bisection. With
    very many episodes the share's standard error over episodes is translated once (Woodruff, JASA 47:635, 1952).
    `episodes` are whole numbers from 0; `order` may bring the values' argsort.
    """
    x, episode = np.asarray(values, float), np.asarray(episodes)
    order = np.argsort(x, kind="stable") if order is None else order
    size = np.bincount(episode)
    size, renumber = size[size > 0], np.cumsum(size > 0) - 1
    if len(size) < MIN_CLUSTERS:
        return None
    x, episode = x[order], renumber[episode[order]]

    def excess(rank: int) -> NDArray[Any]:
        """Return each episode's rounds among the first rank + 1, less the share q of its rounds."""
        return np.bincount(episode[: rank + 1], minlength=len(size)) - q * size

    if len(size) > EXACT_CLUSTERS:
        middle = excess(int(q * (len(x) - 1)))
        error = float(special.ndtri(0.5 + level / 2)) * np.sqrt(len(middle) * middle.var()) / len(x)
        low, high = (x[round(float(np.clip(q + side * error, 0, 1)) * (len(x) - 1))] for side in (-1, 1))
        return Interval(float(low), float(high), level)
    weight = draws(len(size))

    def first_rank(share: float) -> int:
        low, high = 0, len(x) - 1
        while low < high:
            middle = (low + high) // 2
            if np.mean(weight @ excess(middle) >= -1e-9) >= share:
                high = middle
            else:
                low = middle + 1
        return low

    return Interval(float(x[first_rank(0.5 - level / 2)]), float(x[first_rank(0.5 + level / 2)]), level)


def latency_quantiles(
    values: Sequence[float] | NDArray[Any], episodes: Sequence[int] | NDArray[Any], quantiles: Sequence[float]
) -> dict[float, Quantile | None]:
    """Return quantiles of latencies (ms) with intervals over episodes; empty values are left out."""
    x, episode = np.asarray(values, float), np.asarray(episodes)
    finite = np.isfinite(x)
    x, episode = x[finite], episode[finite]
    if not len(x):
        return dict.fromkeys(quantiles)
    order = np.arange(len(x)) if np.all(x[1:] >= x[:-1]) else np.argsort(x, kind="stable")
    return {
        q: Quantile(float(np.quantile(x, q)), quantile_over_episodes(x, episode, q, order=order)) for q in quantiles
    }
