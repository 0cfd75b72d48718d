"""Whether a success rate has fallen: a test that may be looked at after every episode, whenever the fall begins.

Null hypothesis: no episode's chance of success, whatever came before it, is below the bar. The wealth against it of a
bettor who begins at episode s is `anytime.rate_e` of the episodes from s on. Bettors begin every EVERY episodes, after
many each time some GROWTH later, each with a share of the stake that was fixed beforehand; those who have not begun
keep theirs. The sum is an e-process: the chance that it ever reaches 1/alpha without a fall is at most alpha. A bettor
from the start alone would have to win back first what many good episodes cost (Shin, Ramdas and Rinaldo, "E-detectors",
2022, begin one at each time, too, but bound how often alarms are false, not whether there ever is one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashtrail.statistics import anytime
from flashtrail.statistics.wilson import Interval

EVERY, GROWTH = 10, 0.05  # so that 80,000 episodes have 145 bettors
ALPHA = 0.05


@dataclass(frozen=True)
class Decline:
    """k successes of n episodes against `bar`: `e` needs `needs`; `interval` is the confidence sequence of one rate.

    `decided_at`: the episode, from 1 on, at which e reached `needs`, where it then stays; None: no fall is shown.
    `begins`: from which episode on the evidence is strongest; None as well.
    """

    k: int
    n: int
    bar: float
    e: float
    needs: float
    interval: Interval
    decided_at: int | None = None
    begins: int | None = None


def decline(outcomes: Sequence[bool], bar: float, alpha: float = ALPHA) -> Decline:
    """Return what episodes, in the order in which they ended, say of a fall below `bar`; ValueError outside (0, 1)."""
    if not 0 < bar < 1:
        raise ValueError(f"a bar of {bar:g} is not between 0 and 1")
    wins = np.concatenate([[0], np.cumsum(np.asarray(outcomes, bool))])
    k, total, e, begun = int(wins[-1]), len(outcomes), 1.0, [0]
    interval = anytime.rate_sequence(k, total, alpha)
    for n in range(1, total + 1):
        starts, order = np.array(begun), np.arange(1, len(begun) + 1)
        shares = 1 / (order * (order + 1))  # they sum to 1 over all bettors
        wealth = shares * anytime.rate_e(wins[n] - wins[starts], n - starts, bar, above=False)
        e = 1 / (len(begun) + 1) + float(wealth.sum())
        if e >= 1 / alpha:
            return Decline(k, total, bar, e, 1 / alpha, interval, n, int(starts[wealth.argmax()]) + 1)
        if n == begun[-1] + max(EVERY, int(GROWTH * begun[-1])):
            begun.append(n)
    return Decline(k, total, bar, e, 1 / alpha, interval)
