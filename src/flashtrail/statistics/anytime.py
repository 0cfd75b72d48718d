"""Tests and intervals that stay valid however often one looks and whenever one stops: e-processes of success counts.

An e-process is a wealth that starts at 1 and does not grow on average while its null hypothesis holds. By Ville's
inequality (Ville 1939; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid
inference", Stat. Sci. 38:576, 2023) the chance that it *ever* reaches 1/alpha is then at most alpha. So: reject where
e >= 1/alpha, at any time, chosen for any reason that lies in the past. All nulls not rejected form an interval that
covers the truth at all times at once, a confidence sequence.

The wealth here is that of constant bets (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 86:1, 2024: the diversified Kelly bettor, dKelly in their `confseq`, hedged). An observation y in
[0, 1] against a mean of at most m multiplies the wealth of the bettor who stakes the share f by

    1 + f (y - m) / m  =  (1 - f) + f y / m,        0 <= f <= 1,

whose mean is at most 1 if the mean of y is at most m. An average over several f, its weights fixed beforehand, is such
a wealth, too. Success is y = 1; a pair of episodes is D in {-1, 0, 1} (only the control, both or none, only the arm
succeeded), y = (1 + D) / 2. Against m = 1/2 the share f is a likelihood ratio, that of q = (1 + f) / 2 against a fair
coin, and the average over Beta(1/2, 1/2) is Robbins' mixture (Ann. Math. Stat. 41:1397, 1970). BETS is the quadrature
of that; a finite average is as valid as the integral. More pairs won than lost is tested with PAIRED beside it, bets on
effects that robots' starts suffice for. Every product depends on counts only, not on the order of
the episodes. STEP (Snyder et al., RSS 2025, arXiv 2503.10966) compares two *independent* arms up to a largest n; where
both arms have the same episodes, discordant pairs need neither.

What the data must satisfy, beside independence of episodes:
- Tasks of different difficulty do no harm if they are added in equal numbers: a product over a block of independent
  episodes has mean Prod(1 + f (m_i - m) / m) <= (1 + f (mean m_i - m) / m)^block <= 1. So look after whole blocks.
- Whether the next pair is run must not depend on one side of it. An arm that two claims share must not run ahead of
  its partner and then be matched only where its outcomes, already seen, are welcome.

Counts may be arrays where a float is returned for numbers. An e-value is cut at exp(700): it stays a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from scipy import special

from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.stratified import Stratum

_NODES = 128
# Shares f = 2 q - 1 of the wealth, q by Beta(1/2, 1/2) above 1/2 (Gauss-Chebyshev nodes): from 0.006 to 0.99998.
BETS = np.sin(math.pi * (2 * np.arange(_NODES) + 1) / (4 * _NODES))
# Of the wealth on discordant pairs 0.6 is staked at f = 0.45 (20 points at usual rates), 0.2 at f = 0.95 (40 points and
# more), the rest by Robbins' mixture. Fixed. It was chosen by exact summation (no draws) among Beta(a, a) mixtures, a
# from 0.5 to 8, of one to four bets, with or without Robbins', first on the rates of docs/evidence.md (Calibration),
# then on six others (30 to 95 %, other shares of alike pairs): so the choice knew that table's effects, not its draws,
# and false endings do not depend on it. It is one of the best at +20 points on both that decides at 7 : 0 and 11 : 1 as
# Robbins' alone does and leaves a fifth to it; smaller bets would save at +10 and cost there.
PAIRED = {0.45: 0.6, 0.95: 0.2}
_LOG_MOST = 700.0
_EDGE = 1e-12  # means are looked for this far inside of 0 and 1


# --- pairs against "as many wins as losses" ---


def paired_e(wins: Any, losses: Any) -> Any:
    """Return the e-value against P(win) = P(loss) among discordant pairs, two-sided; 1 where there are none.

    The likelihood of a mixture over that of a fair coin: Robbins' 2^d B(wins + 1/2, losses + 1/2) / B(1/2, 1/2), d
    discordant pairs, and of each f of PAIRED the mean of (1 + f)^wins (1 - f)^losses and the same with the sides
    exchanged. 7 : 0 gives 20.1, 6 : 0 gives 11.4; 11 : 1 are needed with one loss, 14 : 2 with two.
    """
    a, b = np.asarray(wins, float), np.asarray(losses, float)
    robbins = (a + b) * math.log(2) + special.betaln(a + 0.5, b + 0.5) - special.betaln(0.5, 0.5)
    total = math.log(1 - sum(PAIRED.values())) + robbins
    for f, weight in PAIRED.items():
        sides = [x * math.log1p(f) + y * math.log1p(-f) for x, y in ((a, b), (b, a))]
        total = np.logaddexp(total, math.log(weight / 2) + np.logaddexp(*sides))
    return _value(total)


# --- two independent arms against "as good in every task" ---


def unpaired_e(strata: Sequence[Stratum]) -> float:
    """Return the e-value against equal rates of both arms within every task (`stratified.Stratum`), two-sided.

    The likelihood of each arm's rate under Beta(1/2, 1/2) over the largest that a common rate can have, tasks
    multiplied: below a martingale for every common rate, so an e-process in any order of arms, tasks and episodes
    (universal inference without a split: Wasserman, Ramdas and Balakrishnan, PNAS 117:16880, 2020, section 8).
    """
    k_a, n_a, k_b, n_b = np.asarray(strata, float).T
    free = sum(special.betaln(k + 0.5, n - k + 0.5) - special.betaln(0.5, 0.5) for k, n in ((k_a, n_a), (k_b, n_b)))
    k, n = k_a + k_b, np.maximum(n_a + n_b, 1.0)
    common = special.xlogy(k, k / n) + special.xlogy(n_a + n_b - k, 1 - k / n)
    return float(_value(np.sum(free - common)))


# --- a mean against a bound ---


def rate_e(k: Any, n: Any, bar: float, above: bool) -> Any:
    """Return the e-value of k successes in n against a rate of at most `bar` (`above`), else of at least `bar`."""
    k, n = np.asarray(k, float), np.asarray(n, float)
    won, mean = (k, bar) if above else (n - k, 1 - bar)
    return _value(_log_wealth((won, n - won), (1.0, 0.0), mean))


def difference_e(wins: Any, losses: Any, n: Any, null: float, above: bool) -> Any:
    """Return the e-value against "rate of wins - rate of losses <= null" (`above`), else ">= null".

    n pairs, `wins` of them with success only in the arm, `losses` only in the control. Non-inferiority has
    null = -margin and `above`; futility of a gain null = +margin and not `above`.
    """
    won, lost, n = (np.asarray(x, float) for x in (wins, losses, n))
    up, down, mean = (won, lost, (1 + null) / 2) if above else (lost, won, (1 - null) / 2)
    return _value(_log_wealth((up, n - won - lost, down), (1.0, 0.5, 0.0), mean))


def hedged(above: Any, below: Any) -> Any:
    """Return the two-sided e-value of two one-sided ones against the same bound: half of the stake on each."""
    return (above + below) / 2


def _log_wealth(counts: tuple[Any, ...], values: tuple[float, ...], mean: float) -> Any:
    """Return log of the average wealth over BETS after `counts` observations of each of `values` in [0, 1]."""
    factors = np.log1p(BETS * (np.array(values)[:, None] - mean) / mean)
    total = np.stack(np.broadcast_arrays(*counts), -1) @ factors
    most = total.max(-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(total - most).mean(-1))


def _value(log_e: Any) -> Any:
    e = np.exp(np.minimum(log_e, _LOG_MOST))
    return e if np.ndim(e) else float(e)


# --- confidence sequences ---


def rate_sequence(k: int, n: int, alpha: float) -> Interval:
    """Return all rates that `hedged` of both `rate_e` does not reject at alpha; [0, 1] for n = 0."""

    def e(bar: float) -> float:
        return float(hedged(rate_e(k, n, bar, True), rate_e(k, n, bar, False)))

    return _not_rejected(e, 0.0, k / n if n else 0.5, 1.0, alpha)


def difference_sequence(wins: int, losses: int, n: int, alpha: float) -> Interval:
    """Return all differences that `hedged` of both `difference_e` does not reject at alpha; [-1, 1] for n = 0."""

    def e(null: float) -> float:
        return float(hedged(difference_e(wins, losses, n, null, True), difference_e(wins, losses, n, null, False)))

    return _not_rejected(e, -1.0, (wins - losses) / n if n else 0.0, 1.0, alpha)


def _not_rejected(e: Any, least: float, estimate: float, most: float, alpha: float) -> Interval:
    """Return the two means beside the estimate, whose own e is at most 1, at which e reaches 1/alpha."""

    def excess(mean: float) -> float:
        return math.log(max(e(mean), 1e-300)) + math.log(alpha)

    inner = min(max(estimate, least + _EDGE), most - _EDGE)

    def end(edge: float) -> float:
        inside = edge + math.copysign(_EDGE, inner - edge)
        return edge if excess(inside) < 0 else float(scipy.optimize.brentq(excess, inside, inner, xtol=1e-10))

    return Interval(end(least), end(most), 1 - alpha)
