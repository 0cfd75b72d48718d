"""How many episodes would settle a claim: power of the tests that verdicts use, and the smallest n that has enough.

Assumptions are stated with every number: the effect is as observed, or as planned (the claim's own margin), and the
share of discordant pairs stays as observed. Exact where the test is (McNemar, Clopper-Pearson); the score test's power
is its normal approximation. Knows numbers; knows no table and no claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

POWER = 0.8
MOST = 100_000  # episodes; beyond, the answer is "not by more episodes"


@dataclass(frozen=True)
class Plan:
    """How many episodes (pairs, for paired tests; rounds, for latency) give `verdict` with probability `power`.

    `n` is None where more than MOST would be needed, or where the assumed truth does not lead to that verdict.
    """

    assumption: str
    verdict: str
    n: int | None
    power: float = POWER
    unit: str = "paired episode"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def mcnemar_power(n: int, only_a: float, only_b: float, alpha: float = 0.05) -> float:
    """Return the probability that exact McNemar (two-sided, alpha) finds a better than b in n pairs.

    `only_a` and `only_b` are the probabilities of the two kinds of discordant pair. Exact: the number of discordant
    pairs is binomial, and so is a's share of them.
    """
    discordant = only_a + only_b
    if discordant <= 0:
        return 0.0
    counts = np.arange(n + 1)
    weight = stats.binom.pmf(counts, n, discordant)
    kept = np.flatnonzero(weight > 1e-12)
    # The smallest k of d discordant pairs that is significant: P(X >= k | d, 1/2) <= alpha / 2.
    smallest = critical(counts[kept], alpha)
    return float(np.sum(weight[kept] * stats.binom.sf(smallest - 1, counts[kept], only_a / discordant)))


def critical(discordant: np.ndarray, alpha: float) -> np.ndarray:
    """Return, for each number of discordant pairs, the smallest one-sided count that exact McNemar calls significant.

    It is one more than the number of pairs where no count is.
    """
    k = stats.binom.isf(alpha / 2, discordant, 0.5).astype(int)
    # isf gives the smallest k with P(X > k) <= alpha / 2, so k + 1 is the critical count.
    return k + 1


def score_power(n: int, only_a: float, only_b: float, bound: float, level: float = 0.95) -> float:
    """Return the probability that the score interval of the paired difference lies wholly above `bound`."""
    difference = only_a - only_b
    null, true = _variance_at(only_a, only_b, bound), only_a + only_b - difference**2
    z = float(stats.norm.ppf(0.5 + level / 2))
    gap = math.sqrt(n) * (difference - bound) - z * math.sqrt(null)
    if true <= 1e-12:
        return float(gap > 0)
    return float(stats.norm.cdf(gap / math.sqrt(true)))


def _variance_at(only_a: float, only_b: float, bound: float) -> float:
    """Return the variance of a pair's difference that Tango's score test assumes at `bound`, from expected shares."""
    linear = -only_a - only_b + (2 - only_a + only_b) * bound
    constant = -only_b * bound * (1 - bound)
    q = (math.sqrt(max(linear * linear - 8 * constant, 0.0)) - linear) / 4
    return max(2 * q + bound * (1 - bound), 0.0)


def rate_power(n: int, p: float, bar: float, above: bool, level: float = 0.95) -> float:
    """Return the probability that Clopper-Pearson's interval of n episodes lies at or above (or below) `bar`."""
    k = np.arange(n + 1)
    low, high = proportion_confint(k, n, alpha=1 - level, method="beta")
    low, high = np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)
    return float(stats.binom.pmf(k, n, p)[(low >= bar) if above else (high < bar)].sum())


def smallest(power_of: Callable[[int], float], power: float = POWER, most: int = MOST) -> int | None:
    """Return about the smallest n whose power suffices, None beyond `most`.

    Power of an exact test is a saw-tooth in n; this doubles and bisects, so that n may be a few off the last tooth.
    """
    high = 4
    while power_of(high) < power:
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high


def paired_plans(only_a: int, only_b: int, n: int, margin: float, alpha: float) -> list[Plan]:
    """Return what would settle "a is better than b" (refuted where a gain of `margin` is excluded).

    Three truths: the effect observed so far, the planned effect of `margin`, and no effect.
    """
    share_a, share_b = only_a / n, only_b / n
    # Nothing discordant seen so far does not mean never: half a pair each.
    discordant = max(share_a + share_b, 1 / n)
    observed = share_a - share_b

    def supported(a: float, b: float) -> int | None:
        return smallest(lambda m: mcnemar_power(m, a, b, alpha)) if a > b else None

    def refuted(a: float, b: float) -> int | None:
        return smallest(lambda m: score_power(m, b, a, -margin, 1 - alpha)) if a - b < margin else None

    plans = [
        Plan(
            f"the effect is as observed ({_points(observed)} in the direction claimed)",
            *_sooner(share_a, share_b, supported, refuted),
        )
    ]
    wide = max(discordant, margin)
    plans.append(
        Plan(
            f"the effect is the planned {_points(margin)}",
            "supported",
            supported((wide + margin) / 2, (wide - margin) / 2),
        )
    )
    plans.append(Plan("there is no difference", "refuted", refuted(discordant / 2, discordant / 2)))
    return plans


def _sooner(
    a: float, b: float, supported: Callable[[float, float], int | None], refuted: Callable[[float, float], int | None]
) -> tuple[str, int | None]:
    """Return which verdict comes first under this truth, and when."""
    found = {"supported": supported(a, b), "refuted": refuted(a, b)}
    verdict = min(found, key=lambda name: found[name] or math.inf)
    return verdict, found[verdict]


def non_inferiority_plans(only_a: int, only_b: int, n: int, margin: float, alpha: float) -> list[Plan]:
    """Return what would settle "a is not worse than b by `margin`": the effect as observed, and no effect."""
    share_a, share_b = only_a / n, only_b / n
    discordant = max(share_a + share_b, 1 / n)

    def supported(a: float, b: float) -> int | None:
        return smallest(lambda m: score_power(m, a, b, -margin, 1 - alpha)) if a - b > -margin else None

    def refuted(a: float, b: float) -> int | None:
        return smallest(lambda m: score_power(m, b, a, margin, 1 - alpha)) if a - b < -margin else None

    observed = Plan(
        f"the difference is as observed ({_points(share_a - share_b)})", *_sooner(share_a, share_b, supported, refuted)
    )
    even = Plan("there is no difference", "supported", supported(discordant / 2, discordant / 2))
    return [observed, even]


def rate_plans(k: int, n: int, bar: float, alpha: float) -> list[Plan]:
    """Return what would settle "the rate is at least `bar`", if the rate is as observed."""
    p = k / n
    above = p > bar
    found = None if p == bar else smallest(lambda m: rate_power(m, p, bar, above, 1 - alpha), most=20_000)
    assumption = f"the rate is as observed ({100 * p:.0f} %)"
    return [Plan(assumption, "supported" if above else "refuted", found, unit="episode")]


def unpaired_plans(k_a: int, n_a: int, k_b: int, n_b: int, margin: float, alpha: float) -> list[Plan]:
    """Return how many episodes in each arm would settle "a is better than b", unpaired, equal arms."""
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    a, b = k_a / n_a, k_b / n_b
    plans = []
    for assumption, top in (
        (f"the effect is as observed ({_points(a - b)} in the direction claimed)", a),
        ("", min(b + margin, 1.0)),
    ):
        size = proportion_effectsize(top, b)
        found = NormalIndPower().solve_power(size, alpha=alpha, power=POWER) if size > 1e-3 else math.inf
        name = assumption or f"the effect is the planned {_points(margin)}"
        plans.append(Plan(name, "supported", math.ceil(found) if found <= MOST else None, unit="episode in each arm"))
    return plans


def ratio_plans(low: float, high: float, ratio: float, below: float, n: int) -> list[Plan]:
    """Return how many profiled rounds a route would settle "the ratio is under `below`", if it is as observed.

    The interval's half width on the log scale shrinks with the root of the number of rounds.
    """
    width, gap = math.log(high / low) / 2, abs(math.log(ratio / below))
    # To lie on one side in 80 % of the repetitions the gap must exceed the half width by 0.84 standard errors.
    factor = (width + width / 1.96 * float(stats.norm.ppf(POWER))) / gap if gap > 0 else math.inf
    needed = n * factor**2
    verdict = "supported" if ratio < below else "refuted"
    assumption = f"the ratio is as observed ({ratio:.2f})"
    return [Plan(assumption, verdict, math.ceil(needed) if needed <= MOST else None, unit="round a route")]


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f} points".replace("-", "\u2212").replace("+0", "0")
