"""Two independent arms compared within strata (tasks): like with like, never a task of one arm with another's.

The difference is Mantel-Haenszel's (J. Natl. Cancer Inst. 22:719, 1959; strata weighted by n_a n_b / (n_a + n_b)); its
interval combines each stratum's Wilson limits (MOVER: Zou, Huang and Zhang, Comput. Stat. Data Anal. 53:1080, 2009),
which with one stratum is Newcombe's (Stat. Med. 17:873, 1998). The p value is exact given each stratum's margins
(Mehta, Patel and Gray, JASA 80:969, 1985), twice the smaller tail: the exact form of the Cochran-Mantel-Haenszel test,
valid in small cells. statsmodels' StratifiedTable has the asymptotic form only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from flashtrail.statistics.intervals import LEVEL, Interval, Rate, rate, wilson_limits

_FEWEST = 5  # strata from which on their spread says anything
_NEGLIGIBLE = 1e-20  # probability of a count that is left out of a tail


class Stratum(NamedTuple):
    """Successes and episodes of both arms in one task."""

    k_a: int
    n_a: int
    k_b: int
    n_b: int


@dataclass(frozen=True)
class Stratified:
    """Two arms over common strata; `difference` is rate(a) - rate(b), weighted; `a` and `b` are plain sums."""

    a: Rate
    b: Rate
    difference: float
    interval: Interval
    p: float  # two-sided
    strata: int
    test: str = "exact Mantel-Haenszel, within tasks"


def compare(strata: Sequence[Stratum], level: float = LEVEL) -> Stratified:
    """Compare two arms within strata; ValueError where a stratum lacks the episodes of an arm."""
    if not strata or any(s.n_a < 1 or s.n_b < 1 for s in strata):
        raise ValueError("every stratum needs episodes of both arms")
    sums = [int(x) for x in np.sum(strata, axis=0)]
    difference, interval = difference_interval(strata, level)
    a, b = rate(sums[0], sums[1], level), rate(sums[2], sums[3], level)
    return Stratified(a, b, difference, interval, exact_p(strata), len(strata))


def difference_interval(strata: Sequence[Stratum], level: float = LEVEL) -> tuple[float, Interval]:
    """Return the Mantel-Haenszel difference and its interval."""
    k_a, n_a, k_b, n_b = np.asarray(strata, float).T
    weight = n_a * n_b / (n_a + n_b)
    weight = weight / weight.sum()
    (low_a, high_a), (low_b, high_b) = (wilson_limits(k, n, level) for k, n in ((k_a, n_a), (k_b, n_b)))
    a, b = k_a / n_a, k_b / n_b
    difference = float(np.sum(weight * (a - b)))
    down = math.sqrt(np.sum(weight**2 * ((a - low_a) ** 2 + (high_b - b) ** 2)))
    up = math.sqrt(np.sum(weight**2 * ((high_a - a) ** 2 + (b - low_b) ** 2)))
    return difference, Interval(max(difference - down, -1.0), min(difference + up, 1.0), level)


def over_tasks(strata: Sequence[Stratum], level: float = LEVEL) -> Interval | None:
    """Return the t interval of the mean of the strata's differences, each stratum one observation.

    It asks what other tasks of the kind would give, which an interval over episodes does not: episodes of one task are
    alike. None with fewer than five strata, and where all differ by the same.
    """
    k_a, n_a, k_b, n_b = np.asarray(strata, float).T
    differences = k_a / n_a - k_b / n_b
    if len(differences) < _FEWEST or np.ptp(differences) == 0:
        return None
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    reach = float(scipy.stats.t.ppf(0.5 + level / 2, len(differences) - 1)) * error
    return Interval(max(mean - reach, -1.0), min(mean + reach, 1.0), level)


def exact_p(strata: Sequence[Stratum]) -> float:
    """Return the two-sided p of "no difference in any stratum": twice the smaller tail of sum(k_a), margins fixed."""
    first, mass = 0, np.ones(1)
    for s in strata:
        total = s.k_a + s.k_b
        counts = np.arange(max(0, total - s.n_b), min(total, s.n_a) + 1)
        part = scipy.stats.hypergeom.pmf(counts, s.n_a + s.n_b, total, s.n_a)
        kept = np.flatnonzero(part > _NEGLIGIBLE)
        first += int(counts[kept[0]])
        mass = np.convolve(mass, part[kept[0] : kept[-1] + 1])
    observed = sum(s.k_a for s in strata) - first
    p = min(1.0, 2 * min(mass[: observed + 1].sum(), mass[observed:].sum()))
    return float(f"{p:.12g}")  # a p of exactly 1/20 must not come out as 0.05000000000000001
