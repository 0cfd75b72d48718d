"""The statistics of the reports: counts, paired and unpaired comparisons, latency, and checks of published figures.

What scipy or statsmodels have is theirs, but for the score interval of a paired risk difference (Tango 1998), which
neither has, two for which theirs take too long (Holm's method, a quantile's interval), and Wilson's (`wilson`). An
arm's summary needs scipy.special alone; what takes a second to import is imported by the comparison that needs it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import scipy  # scipy.stats is imported at its first use
from numpy.typing import NDArray
from scipy import special

from flashtrail.statistics import wilson
from flashtrail.statistics.wilson import LEVEL as LEVEL
from flashtrail.statistics.wilson import Interval as Interval

P99_MIN_ROUNDS = 500  # below, the 99th percentile is a statement about a handful of rounds


@dataclass(frozen=True)
class Rate:
    """k successes of n: Wilson's interval to look at, Clopper-Pearson's as the guarantee."""

    k: int
    n: int
    rate: float | None
    wilson: Interval | None
    exact: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def rate(k: int, n: int, level: float = LEVEL) -> Rate:
    """Return k/n with both intervals; n = 0 has neither a rate nor an interval."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a count")
    if n == 0:
        return Rate(0, 0, None, None, None)
    score, exact = (
        Interval(float(low), float(high), level)
        for low, high in (wilson_limits(k, n, level), clopper_pearson_limits(k, n, level))
    )
    return Rate(int(k), int(n), k / n, score, exact)


def wilson_limits(k: Any, n: Any, level: float = LEVEL) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both ends of Wilson's interval of k/n, for one count or many."""
    low, high = wilson.limits(np.asarray(k), np.asarray(n), level)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def clopper_pearson_limits(k: Any, n: Any, level: float = LEVEL) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both ends of Clopper-Pearson's interval of k/n, which are 0 at k = 0 and 1 at k = n."""
    failures, tail = np.subtract(n, k), (1 - level) / 2
    low = special.betaincinv(np.maximum(k, 1), failures + 1, tail)
    high = special.betainccinv(np.add(k, 1), np.maximum(failures, 1), tail)
    return np.where(np.equal(k, 0), 0.0, low), np.where(np.equal(k, n), 1.0, high)


def binomial_p(k: int, n: int, bar: float) -> float:
    """Return the exact p value of `k` of `n` against a rate of at most `bar`."""
    return float(scipy.stats.binomtest(k, n, bar, alternative="greater").pvalue)


# --- paired arms ---


@dataclass(frozen=True)
class Paired:
    """Two arms on the same episodes: a is compared with b; the difference is rate(a) - rate(b)."""

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    interval: Interval
    p: float  # exact McNemar, two-sided

    @property
    def k_a(self) -> int:
        """Successes of a."""
        return self.both + self.only_a

    @property
    def k_b(self) -> int:
        """Successes of b."""
        return self.both + self.only_b


def paired(a: Sequence[bool], b: Sequence[bool], level: float = LEVEL) -> Paired:
    """Compare two arms on the same episodes, in the same order.

    p is McNemar's exact test on the discordant pairs; the interval is Tango's score interval of the risk difference.
    """
    x, y = np.asarray(a, bool), np.asarray(b, bool)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"paired arms need the same episodes, got {x.shape} and {y.shape}")
    both, only_a, only_b = int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum())
    neither = len(x) - both - only_a - only_b
    interval = paired_interval(only_a, only_b, len(x), level)
    p = mcnemar(only_a, only_b)
    return Paired(len(x), both, only_a, only_b, neither, (only_a - only_b) / len(x), interval, p)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p value of the discordant pairs: twice the smaller tail of a fair coin, at most 1."""
    more, fewer = max(only_a, only_b), min(only_a, only_b)
    return min(1.0, 2 * float(special.betainc(more, fewer + 1, 0.5))) if more else 1.0


def paired_score(only_a: Any, only_b: Any, n: int, difference: float) -> Any:
    """Return Tango's score statistic (a standard normal) for a true paired risk difference (Stat. Med. 17:891, 1998).

    Positive when the data lie above `difference`. Counts may be arrays of one shape.
    """
    # Constrained maximum-likelihood estimate of P(only b succeeds).
    linear = -only_a - only_b + (2 * n - only_a + only_b) * difference
    constant = -only_b * difference * (1 - difference)
    q = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + difference * (1 - difference))
    excess = only_a - only_b - n * difference
    none = np.where(np.abs(excess) < 1e-9, 0.0, np.copysign(math.inf, excess))
    score = np.where(variance <= 1e-12, none, excess / np.sqrt(np.maximum(variance, 1e-12)))
    return score if score.ndim else float(score)


def paired_interval(only_a: int, only_b: int, n: int, level: float = LEVEL) -> Interval:
    """Return the interval of rate(a) - rate(b): all differences that the score test does not reject."""
    z = float(special.ndtri(0.5 + level / 2))
    estimate = (only_a - only_b) / n

    def low_side(difference: float) -> float:
        return float(paired_score(only_a, only_b, n, difference)) - z

    def high_side(difference: float) -> float:
        return float(paired_score(only_a, only_b, n, difference)) + z

    edge = 1 - 1e-9
    low = -1.0 if low_side(-edge) <= 0 else scipy.optimize.brentq(low_side, -edge, estimate, xtol=1e-10)
    high = 1.0 if high_side(edge) >= 0 else scipy.optimize.brentq(high_side, estimate, edge, xtol=1e-10)
    return Interval(float(low), float(high), level)


def paired_non_inferiority_p(only_a: int, only_b: int, n: int, margin: float) -> float:
    """Return the one-sided p value against "a is worse than b by `margin` or more"."""
    return float(special.ndtr(-paired_score(only_a, only_b, n, -margin)))


# --- unpaired arms ---


EXACT_CELLS = 40_000  # n_a * n_b up to which Boschloo's test is computed: about 3 s


@dataclass(frozen=True)
class Unpaired:
    """Two independent rates; the difference is rate(a) - rate(b)."""

    a: Rate
    b: Rate
    difference: float
    interval: Interval  # Newcombe's hybrid score interval
    p: float  # two-sided, of `test`
    test: str
    fisher_p: float


def unpaired(k_a: int, n_a: int, k_b: int, n_b: int, level: float = LEVEL) -> Unpaired:
    """Compare two independent counts, two-sided: Boschloo's exact test, in large samples the score test.

    Boschloo's is uniformly more powerful than Fisher's, whose p stands beside it because others print it.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

    table = [[k_a, k_b], [n_a - k_a, n_b - k_b]]
    low, high = confint_proportions_2indep(k_a, n_a, k_b, n_b, method="newcomb", compare="diff", alpha=1 - level)
    exact = n_a * n_b <= EXACT_CELLS
    if exact:
        p = float(scipy.stats.boschloo_exact(table).pvalue)
    elif k_a + k_b in (0, n_a + n_b):
        p = 1.0  # nothing differs, and the score test has no variance to divide by
    else:
        with np.errstate(divide="ignore"):  # statsmodels divides by the second rate, for a ratio that is not used here
            p = float(test_proportions_2indep(k_a, n_a, k_b, n_b, method="score").pvalue)
    return Unpaired(
        rate(k_a, n_a, level),
        rate(k_b, n_b, level),
        k_a / n_a - k_b / n_b,
        Interval(float(low), float(high), level),
        p,
        "exact Boschloo" if exact else "score test",
        float(scipy.stats.fisher_exact(table).pvalue),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their family by Holm's method, in the given order."""
    p = np.array(p_values, float)
    order = np.argsort(p)
    p[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in p]


# --- latency ---


@dataclass(frozen=True)
class Quantile:
    """One percentile; the interval is distribution-free and None where n is too small to have one."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Latency:
    """Latencies in ms. p99 is None under 500 rounds."""

    n: int
    mean: float | None = None
    p50: Quantile | None = None
    p95: Quantile | None = None
    p99: Quantile | None = None
    maximum: float | None = None
    note: str = field(default="")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def quantile(values: Iterable[float], q: float, level: float = LEVEL) -> Quantile:
    """Return the q-quantile (linear interpolation) with the order-statistics interval of scipy's ``quantile_test``.

    That is Conover's (Practical Nonparametric Statistics, 3.2), which says between which of the sorted values the
    quantile lies. Computed from the binomial distribution itself: the test builds three of them and sorts twice.
    """
    x = np.sort(_numbers(values))
    tail = (1 - level) / 2
    low = bisect_left(range(len(x) + 1), tail, key=lambda k: special.bdtr(k, len(x), q)) - 1
    high = bisect_left(range(len(x) + 1), -tail, key=lambda k: -special.bdtrc(k, len(x), q))
    # No order statistic of so few values guarantees an end outside of them.
    interval = Interval(float(x[low]), float(x[high]), level) if low >= 0 and high < len(x) else None
    return Quantile(float(np.quantile(x, q)), interval)


def latency(values: Iterable[float], level: float = LEVEL) -> Latency:
    """Return mean, p50, p95 and, from 500 rounds on, p99 of latencies in ms."""
    x = _numbers(values)
    if not len(x):
        return Latency(0, note="no round")
    x = np.sort(x)  # once; sorting it again for each percentile is then cheap
    enough = len(x) >= P99_MIN_ROUNDS
    return Latency(
        len(x),
        float(x.mean()),
        quantile(x, 0.50, level),
        quantile(x, 0.95, level),
        quantile(x, 0.99, level) if enough else None,
        float(x.max()),
        "" if enough else f"no p99: {len(x)} of {P99_MIN_ROUNDS} rounds",
    )


@dataclass(frozen=True)
class Ratio:
    """Median(a) / median(b) with an interval that holds at least at its level, and Mann-Whitney's p (a < b)."""

    ratio: float
    interval: Interval
    p: float


def median_ratio(a: Iterable[float], b: Iterable[float], level: float = LEVEL) -> Ratio | None:
    """Compare two samples of latencies by their medians; None if either is too small for an interval.

    Each median gets a distribution-free interval at half the error, and their ends are divided (Bonferroni).
    """
    x, y = _numbers(a), _numbers(b)
    if not len(x) or not len(y):
        return None
    half = 1 - (1 - level) / 2
    top, bottom = quantile(x, 0.5, half), quantile(y, 0.5, half)
    if top.interval is None or bottom.interval is None or bottom.interval.low <= 0:
        return None
    interval = Interval(top.interval.low / bottom.interval.high, top.interval.high / bottom.interval.low, level)
    return Ratio(top.value / bottom.value, interval, float(scipy.stats.mannwhitneyu(x, y, alternative="less").pvalue))


def _numbers(values: Iterable[float]) -> NDArray[Any]:
    x = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, float)
    finite: NDArray[Any] = x[np.isfinite(x)]
    return finite


# --- checks that any run, also a published one, must pass ---


def mixture_mean(draft_share: float, draft_ms: float, full_ms: float) -> float:
    """Return the mean latency that route shares and route means imply: share x draft + (1 - share) x full."""
    return draft_share * draft_ms + (1 - draft_share) * full_ms


def implied_draft_ms(mean_ms: float, draft_share: float, full_ms: float) -> float:
    """Return the draft round's latency that a published mean, share and full latency imply."""
    return (mean_ms - (1 - draft_share) * full_ms) / draft_share


def whole_count(percent: float, n: int, decimals: int = 1) -> int | None:
    """Return the k for which k/n is `percent` at `decimals` printed digits; None if no whole k gives it."""
    half = 0.5 * 10**-decimals + 1e-9
    for k in {math.floor(percent * n / 100), math.ceil(percent * n / 100)}:
        if abs(100 * k / n - percent) <= half:
            return k
    return None
