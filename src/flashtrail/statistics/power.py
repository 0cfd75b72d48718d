"""How many episodes would settle a claim: power of the tests that verdicts use, and the smallest n that has enough.

One claim, one number: `Plan`. The effect assumed is the observed one where it exceeds the claim's margin, else the
margin, the smallest effect that matters; a claim without a margin is planned as observed. Power is exact: every
outcome is weighted by its probability and put to the test of the verdict itself (McNemar, Tango, Clopper-Pearson here;
tests of independent arms in unpaired_power.py). Only the ratio of latencies is planned by an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from flashtrail.statistics import intervals, stratified, unpaired_power

POWER = 0.8
MOST = 20_000  # episodes; beyond, the answer is "not by more episodes"
_UNLIKELY = 1e-10  # probability of the counts that are left out at each end
_LARGE = 1000  # episodes over several tasks from which on a tooth is under a point
_SMALL = 64  # sizes up to which every size below the double is looked at


@dataclass(frozen=True)
class Plan:
    """The number of episodes (pairs, in paired tests; rounds, of latency) that would settle a claim.

    From `n` on the claim gets `verdict` with probability `power` or more, at `alpha`, if `assumption` holds. `n` is
    None where more than MOST would be needed.
    """

    assumption: str
    verdict: str
    n: int | None
    power: float = POWER
    unit: str = "paired episode"
    alpha: float = 0.05

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


# --- power ---


def mcnemar_power(n: int, only_a: float, only_b: float, alpha: float = 0.05) -> float:
    """Return the probability that exact McNemar (two-sided, alpha) finds a better than b in n pairs.

    `only_a` and `only_b` are the probabilities of the two kinds of discordant pair. Exact: the number of discordant
    pairs is binomial, and so is a's share of them.
    """
    discordant = only_a + only_b
    if discordant <= 0:
        return 0.0
    counts = _likely(n, discordant)
    # The fewest of d discordant pairs that are significant: P(X >= k | d, 1/2) <= alpha / 2.
    significant = scipy.stats.binom.sf(critical(counts, alpha) - 1, counts, only_a / discordant)
    return float(np.sum(scipy.stats.binom.pmf(counts, n, discordant) * significant))


def _likely(n: int, p: float) -> NDArray[Any]:
    """Return the counts of n that are not too unlikely to matter."""
    if p >= 1:
        return np.array([n])
    return np.arange(int(scipy.stats.binom.ppf(_UNLIKELY, n, p)), int(scipy.stats.binom.isf(_UNLIKELY, n, p)) + 1)


def critical(discordant: NDArray[Any], alpha: float) -> NDArray[Any]:
    """Return, for each number of discordant pairs, the smallest one-sided count that exact McNemar calls significant.

    It is one more than the number of pairs where no count is.
    """
    k: NDArray[Any] = scipy.stats.binom.isf(alpha / 2, discordant, 0.5).astype(int)
    # isf gives the smallest k with P(X > k) <= alpha / 2, so k + 1 is the critical count.
    return k + 1


def score_power(n: int, only_a: float, only_b: float, bound: float, level: float = 0.95) -> float:
    """Return the probability that the score interval of the paired difference lies wholly above `bound`.

    Exact: both kinds of discordant pair are trinomial, and the interval lies above `bound` where its test rejects it.
    """
    x, y = np.meshgrid(_likely(n, only_a), _likely(n, only_b), indexing="ij")
    rest = n - x - y
    possible = rest >= 0
    weight = np.zeros(x.shape)
    shares = (only_a, only_b, max(1 - only_a - only_b, 0.0))
    cells = (x[possible], y[possible], rest[possible])
    log = (
        gammaln(n + 1)
        - sum(gammaln(k + 1) for k in cells)
        + sum(xlogy(k, p) for k, p in zip(cells, shares, strict=True))
    )
    weight[possible] = np.exp(log)
    above = intervals.paired_score(x, y, n, bound) > float(scipy.stats.norm.ppf(0.5 + level / 2))
    return float(weight[above].sum())


def rate_power(n: int, p: float, bar: float, above: bool, level: float = 0.95) -> float:
    """Return the probability that Clopper-Pearson's interval of n episodes lies at or above (or below) `bar`."""
    k = np.arange(n + 1)
    low, high = intervals.clopper_pearson_limits(k, n, level)
    return float(scipy.stats.binom.pmf(k, n, p)[(low >= bar) if above else (high < bar)].sum())


# --- the smallest n ---


def smallest(power_of: Callable[[int], float], power: float = POWER, most: int = MOST, tasks: int = 1) -> int | None:
    """Return the smallest n from which on the power suffices; None where `most` has too little.

    Power of an exact test is a saw-tooth in n: a larger n can have less. From a size whose power exceeds `power` by
    more than a tooth (1 / sqrt(n)), every smaller one is tried down to the first that falls short; n is the one above
    it.
    Where n is a number in each of several `tasks`, the tooth is that of their sum, and from _LARGE on it is neglected.
    """
    cached_power = cache(power_of)

    def safe(n: int) -> bool:
        tooth = 0.0 if tasks > 1 and n * tasks > _LARGE else min((1 - power) / 2, (n * tasks) ** -0.5)
        return cached_power(n) >= power + tooth

    high = 4 if tasks == 1 else 1
    while not safe(high):
        if high == most:
            if cached_power(most) < power:
                return None
            break
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1 and high < most:
        middle = (low + high) // 2
        low, high = (low, middle) if safe(middle) else (middle, high)
    high = min(2 * high, most) if high * tasks <= _SMALL else high
    while high > 1 and cached_power(high - 1) >= power:
        high -= 1
    return high


# --- plans: one for each kind of claim ---


@cache
def paired_plan(only_a: int, only_b: int, n: int, margin: float, alpha: float) -> Plan:
    """Return what would support "a is better than b", on the same episodes.

    With the margin as effect, the share of discordant pairs is the observed one, at least one pair and the margin.
    """
    a, b, assumption = only_a / n, only_b / n, _as_observed((only_a - only_b) / n)
    if a - b <= margin:
        discordant = max(a + b, 1 / n, margin)
        a, b, assumption = (discordant + margin) / 2, (discordant - margin) / 2, _as_planned(margin)
    return Plan(assumption, "supported", smallest(lambda m: mcnemar_power(m, a, b, alpha)), alpha=alpha)


@cache
def non_inferiority_plan(only_a: int, only_b: int, n: int, margin: float, alpha: float) -> Plan:
    """Return what would support "a is not worse than b by `margin`": a gain as observed, else no difference."""
    a, b, assumption = only_a / n, only_b / n, f"the difference is as observed ({_points((only_a - only_b) / n)})"
    if a <= b:
        a = b = max(a + b, 1 / n) / 2
        assumption = "there is no difference"
    n_needed = smallest(lambda m: score_power(m, a, b, -margin, 1 - alpha))
    return Plan(assumption, "supported", n_needed, alpha=alpha)


@cache
def rate_plan(k: int, n: int, bar: float, alpha: float) -> Plan:
    """Return what would settle "the rate is at least `bar`", if the rate is as observed."""
    p = k / n
    above = p > bar
    n_needed = None if p == bar else smallest(lambda m: rate_power(m, p, bar, above, 1 - alpha))
    assumption = f"the rate is as observed ({100 * p:.0f} %)"
    return Plan(assumption, "supported" if above else "refuted", n_needed, unit="episode", alpha=alpha)


def unpaired_plan(strata: Sequence[Sequence[int]], margin: float, alpha: float) -> Plan:
    """Return what would support "a is better than b" on other episodes: how many in each arm, both arms alike.

    `strata` has (k_a, n_a, k_b, n_b) for each task; of several tasks the number is a multiple of theirs. With the
    margin as effect, the control's rates are the observed ones.
    """
    rates = [(k_a / n_a, k_b / n_b) for k_a, n_a, k_b, n_b in strata]
    difference, _ = stratified.difference_interval([stratified.Stratum(*s) for s in strata])
    a, b, assumption = [x for x, _ in rates], [y for _, y in rates], _as_observed(difference)
    if difference <= margin:
        b = [min(y, 1 - margin) for y in b]
        a, assumption = [y + margin for y in b], _as_planned(margin)
    if len(strata) == 1:
        n_needed = smallest(lambda m: unpaired_power.unpaired_power(m, a[0], b[0], alpha))
        return Plan(assumption, "supported", n_needed, unit="episode in each arm", alpha=alpha)
    per_task = smallest(
        lambda m: unpaired_power.stratified_power(m, a, b, alpha), most=MOST // len(strata), tasks=len(strata)
    )
    n_needed = None if per_task is None else per_task * len(strata)
    unit = f"episode in each arm, evenly over {len(strata)} tasks"
    return Plan(assumption, "supported", n_needed, unit=unit, alpha=alpha)


def ratio_plan(low: float, high: float, ratio: float, below: float, n: int, alpha: float) -> Plan:
    """Return how many profiled rounds a route would settle "the ratio is under `below`", if it is as observed.

    The interval's half width on the log scale shrinks with the root of the number of rounds.
    """
    width, gap = math.log(high / low) / 2, abs(math.log(ratio / below))
    # To lie on one side in 80 % of the repetitions the gap must exceed the half width by 0.84 standard errors.
    error = width / float(scipy.stats.norm.isf(alpha / 2))
    factor = (width + error * float(scipy.stats.norm.ppf(POWER))) / gap if gap > 0 else math.inf
    estimate = n * factor**2
    verdict = "supported" if ratio < below else "refuted"
    assumption = f"the ratio is as observed ({ratio:.2f})"
    n_needed = math.ceil(estimate) if estimate <= MOST else None
    return Plan(assumption, verdict, n_needed, unit="round a route", alpha=alpha)


def _as_observed(difference: float) -> str:
    return f"the effect is as observed ({_points(difference)} in the direction claimed)"


def _as_planned(margin: float) -> str:
    return f"the effect is the smallest that matters ({_points(margin)} in the direction claimed)"


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f} points".replace("-", "\u2212").replace("+0", "0")
