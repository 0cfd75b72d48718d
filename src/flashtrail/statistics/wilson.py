"""Wilson's score interval of k/n, by arithmetic alone.

The page of a run under way is written where Snakemake runs, which has neither scipy nor statsmodels.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; both ends in the unit of its estimate."""

    low: float
    high: float
    level: float = LEVEL


def wilson(k: int, n: int, level: float = LEVEL) -> Interval:
    """Return the interval of k successes of n > 0."""
    low, high = limits(k, n, level)
    return Interval(max(0.0, low), min(1.0, high), level)


def limits(k: Any, n: Any, level: float = LEVEL) -> tuple[Any, Any]:
    """Return both ends for one count or for arrays of them (Wilson, J. Am. Stat. Assoc. 22:209, 1927).

    An end at 0 or 1 may lie a rounding error outside.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, widening = k / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / widening
    half = z * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5 / widening
    return centre - half, centre + half
