"""Power of the tests that compare two independent arms, n episodes each, at the level that a verdict needs.

Exact: every pair of counts is weighted by its binomial probability and put to the test of the verdict itself:
Boschloo's (scipy) in small samples, the score test (statsmodels) in large ones, the exact stratified test where there
are several tasks. Only where the tasks' margins are too many to enumerate are they drawn, with a fixed seed; given the
margins the power is exact there, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import gammaln

from flashtrail.statistics.intervals import EXACT_CELLS

_TIE = 1 + 1e-10  # Fisher p values nearer than this are one value
_GRID = np.sin(np.linspace(0, np.pi / 4, 202)[1:]) ** 2  # rates in (0, 1/2], denser near 0
MARGINS = 4096  # vectors of margins that are enumerated, at most
DRAWN = 512  # those that are drawn where there are more (a power of two); the error is under a point


def unpaired_power(n: int, a: float, b: float, alpha: float = 0.05) -> float:
    """Return the probability that a is found better than b (two-sided p <= alpha) with n episodes in each arm.

    `a` and `b` are the true rates.
    """
    fewest = critical(n, alpha)
    counts = np.arange(n + 1)
    return float(np.sum(scipy.stats.binom.pmf(counts, n, b) * scipy.stats.binom.sf(fewest - 1, n, a)))


@lru_cache(maxsize=512)
def critical(n: int, alpha: float) -> NDArray[Any]:
    """Return, by the control's successes (0 to n), the fewest of the arm that are significantly more; n + 1: none."""
    return _boschloo(n, alpha) if n * n <= EXACT_CELLS else _score(n, alpha)


def _score(n: int, alpha: float) -> NDArray[Any]:
    """The score test of statsmodels (Miettinen and Nurminen's factor), solved for the arm's successes.

    Between the bounds 0 and n the statistic grows with the arm's successes, so that bisection finds where it crosses.
    """
    control = np.arange(n + 1)
    bar = float(scipy.stats.norm.isf(alpha / 2))
    low, high = control.copy(), np.full(n + 1, n + 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        pooled = (middle + control) / (2 * n)
        error = np.sqrt(pooled * (1 - pooled) * 2 / n * (2 * n / (2 * n - 1)))
        enough = (middle - control) / n >= bar * np.where(error > 0, error, np.inf)
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    return high


def _boschloo(n: int, alpha: float) -> NDArray[Any]:
    """The region of Boschloo's test: the largest set {Fisher's p <= t} whose probability stays at or under alpha / 2
    whatever the common rate.
    """
    fisher = _fisher_tails(n)
    above = np.arange(n + 1)[:, None] > np.arange(n + 1)[None, :]
    levels = np.unique(fisher[above & (fisher <= alpha / 2 * _TIE * 4)])
    tails = np.ones((len(_GRID), n + 2))
    tails[:, :-1] = scipy.stats.binom.sf(np.arange(n + 1) - 1, n, _GRID[:, None])
    tails[:, -1] = 0.0
    weights = scipy.stats.binom.pmf(np.arange(n + 1), n, _GRID[:, None])

    def fewest(level: float) -> NDArray[Any]:
        count: NDArray[Any] = (n + 1) - np.sum((fisher <= level * _TIE) & above, axis=0)
        return count

    def size(level: float) -> float:
        least = fewest(level)
        return max(
            float(np.sum(side, axis=1).max()) for side in (weights * tails[:, least], _mirror(weights, tails, least))
        )

    low, high = -1, len(levels)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(levels[middle]) <= alpha / 2 else (low, middle)
    return fewest(levels[low]) if low >= 0 else np.full(n + 1, n + 1)


def _mirror(weights: NDArray[Any], tails: NDArray[Any], least: NDArray[Any]) -> NDArray[Any]:
    """The same probability at the rates above one half: there both arms' failures are what is rare."""
    n = len(least) - 1
    # P(X >= k) at rate 1 - r is P(X <= n - k) at rate r, and the control's weights are turned round.
    mirrored: NDArray[Any] = weights[:, ::-1] * (1 - tails[:, n + 1 - least])
    return mirrored


def _fisher_tails(n: int) -> NDArray[Any]:
    """Fisher's one-sided p of every table: rows are the arm's successes, columns the control's, n episodes each."""
    counts = np.arange(n + 1)
    ways = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    tails = np.zeros((n + 1, n + 1))
    for total in range(2 * n + 1):
        arm = np.arange(min(total, n), max(0, total - n) - 1, -1)
        log = ways[arm] + ways[total - arm]
        mass = np.exp(log - log.max())
        tails[arm, total - arm] = np.cumsum(mass) / mass.sum()
    return tails


# --- several tasks ---


def stratified_power(n: int, a: Sequence[float], b: Sequence[float], alpha: float = 0.05) -> float:
    """Return the probability that a is found better than b within tasks, n episodes in each arm and task.

    `a` and `b` are the true rates by task. The test is `stratified.exact_p`.
    """
    tasks = len(a)
    counts = np.arange(n + 1)
    nulls = _by_margin(n, np.full(n + 1, 0.5), None)
    truths = [
        _by_margin(n, scipy.stats.binom.pmf(counts, n, x), scipy.stats.binom.pmf(counts, n, y))
        for x, y in zip(a, b, strict=True)
    ]
    size = 1 << math.ceil(math.log2(tasks * n + 1))
    power = 0.0
    margins, weights = _margins(n, [weight for _, weight in truths], min(DRAWN, max(64, (1 << 18) // size)))
    block = max(1, 4_000_000 // size)
    for start in range(0, len(margins), block):
        vectors = margins[start : start + block]
        mass, truth = np.ones((2, len(vectors), size // 2 + 1), complex)
        for task in range(tasks):
            totals, index = np.unique(vectors[:, task], return_inverse=True)
            mass *= np.fft.rfft(nulls[0][totals], size)[index]
            truth *= np.fft.rfft(truths[task][0][totals], size)[index]
        tails = np.cumsum(np.fft.irfft(mass, size)[:, ::-1], axis=1)[:, ::-1]
        inside = tails <= alpha / 2 * _TIE
        power += float(weights[start : start + block] @ np.sum(np.fft.irfft(truth, size) * inside, axis=1))
    return min(max(power, 0.0), 1.0)


def _by_margin(n: int, arm: NDArray[Any], control: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return P(arm's successes | successes of both) as (2n + 1, n + 1), and P(successes of both).

    `arm` and `control` are the binomial probabilities 0 to n; without `control` the rates are equal (any rate).
    """
    counts = np.arange(n + 1)
    if control is None:
        log = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
        arm = control = np.exp(log - log.max())
    joint = np.zeros((2 * n + 1, n + 1))
    for k in counts:
        joint[k : k + n + 1, k] = arm[k] * control
    weight = joint.sum(axis=1)
    return np.divide(joint, weight[:, None], out=np.zeros_like(joint), where=weight[:, None] > 0), weight


def _margins(n: int, weights: Sequence[NDArray[Any]], most: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return vectors of margins (one column a task) and their probabilities: all of them, or `most` of them."""
    possible = [np.flatnonzero(w > 1e-12) for w in weights]
    if math.prod(map(len, possible)) <= MARGINS:
        every = np.array(list(product(*possible)))
        return every, np.prod([w[every[:, task]] for task, w in enumerate(weights)], axis=0)
    uniform = scipy.stats.qmc.Sobol(len(weights), seed=0).random_base2(int(math.log2(most)))
    drawn = [np.searchsorted(np.cumsum(w), uniform[:, task]) for task, w in enumerate(weights)]
    return np.minimum(np.column_stack(drawn), 2 * n), np.full(len(uniform), 1 / len(uniform))
