"""E-processes: values in closed form, mean at most 1 under the null, error at any stopping time, and their edges."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from flashtrail.statistics import anytime, intervals

ALPHA = 0.05


def test_values_in_closed_form():
    """d discordant pairs, all one way: Robbins' part is 2^d times 1/2 3/4 5/6 ... (2d-1)/2d, the mixture's chance."""
    for d in range(9):
        robbins = 2**d * math.prod((2 * i + 1) / (2 * i + 2) for i in range(d))
        bets = [weight * ((1 + f) ** d + (1 - f) ** d) / 2 for f, weight in anytime.PAIRED.items()]
        assert anytime.paired_e(d, 0) == pytest.approx(0.2 * robbins + sum(bets), rel=1e-12)
    for wins, losses in ((7, 0), (11, 1), (14, 2), (16, 3)):  # the fewest wins that decide
        assert anytime.paired_e(wins - 1, losses) < 1 / ALPHA < anytime.paired_e(wins, losses)
    # One bet f doubles as likelihood ratio: a rate's e is the mean of (q/bar)^k ((1-q)/(1-bar))^(n-k).
    q = 0.3 + anytime.BETS * 0.7
    ratio = (q / 0.3) ** 4 * ((1 - q) / 0.7) ** 3
    assert anytime.rate_e(4, 7, 0.3, above=True) == pytest.approx(ratio.mean(), rel=1e-12)


def test_symmetry_and_the_two_sides():
    for wins, losses in itertools.product(range(7), repeat=2):
        n = wins + losses + 5
        assert anytime.paired_e(wins, losses) == pytest.approx(anytime.paired_e(losses, wins))
        sides = (anytime.difference_e(wins, losses, n, 0.0, above) for above in (True, False))
        robbins = math.log(2) * (wins + losses) + special.betaln(wins + 0.5, losses + 0.5) - math.log(math.pi)
        assert anytime.hedged(*sides) == pytest.approx(math.exp(robbins), rel=1e-9)
        for null in (-0.1, 0.25):
            up, down = (
                anytime.difference_e(wins, losses, n, null, True),
                anytime.difference_e(losses, wins, n, -null, False),
            )
            assert up == pytest.approx(down)
        found, mirrored = (anytime.difference_sequence(*w, n, ALPHA) for w in ((wins, losses), (losses, wins)))
        assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-8)


def test_the_mean_is_1_at_the_null_and_no_more_inside_of_it():
    """By enumeration of every outcome of n episodes, so for every order of them."""
    for n in (1, 2, 5, 12):
        k = np.arange(n + 1)
        assert stats.binom.pmf(k, n, 0.5) @ anytime.paired_e(k, n - k) == pytest.approx(1, rel=1e-9)
        for bar, above in itertools.product((0.1, 0.5, 0.9), (True, False)):
            e = anytime.rate_e(k, n, bar, above)
            assert stats.binom.pmf(k, n, bar) @ e == pytest.approx(1, rel=1e-9)
            assert stats.binom.pmf(k, n, bar - 0.05 if above else bar + 0.05) @ e < 1
        w, lost = (x.ravel() for x in np.meshgrid(k, k))
        w, lost = w[w + lost <= n], lost[w + lost <= n]
        for null, ties in itertools.product((-0.1, 0.0, 0.2), (0.0, 0.5, 0.79)):
            rates = [(1 - ties + null) / 2, (1 - ties - null) / 2, ties]
            chance = stats.multinomial.pmf(np.column_stack([w, lost, n - w - lost]), n, rates)
            for above in (True, False):
                mean = chance @ anytime.difference_e(w, lost, n, null, above)
                assert mean == pytest.approx(1, rel=1e-9), (n, null, ties, above)


def test_independent_arms_with_a_common_rate_have_a_mean_of_1_at_most():
    """By enumeration, whatever the common rates of two tasks; a difference is found, equal tasks multiply."""
    for (n_a, n_b), (p, q) in itertools.product(((1, 1), (3, 2), (5, 5)), ((0.5, 0.1), (0.9, 0.3))):
        outcomes = list(itertools.product(range(n_a + 1), range(n_b + 1)))
        chances = [
            [stats.binom.pmf(a, n_a, rate) * stats.binom.pmf(b, n_b, rate) for a, b in outcomes] for rate in (p, q)
        ]
        mean = sum(
            chances[0][i] * chances[1][j] * anytime.unpaired_e([(a, n_a, b, n_b), (c, n_a, d, n_b)])
            for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(outcomes), repeat=2)
        )
        assert mean <= 1
    one = anytime.unpaired_e([(9, 10, 1, 10)])
    assert one > 20 and anytime.unpaired_e([(9, 10, 1, 10)] * 2) == pytest.approx(one**2)
    assert anytime.unpaired_e([(0, 0, 0, 0)]) == 1 and anytime.unpaired_e([(5, 10, 5, 10)]) < 1


def test_the_wealth_before_an_episode_is_its_mean_after_it():
    """So it stays an e-process whatever rule, seeing it, says whether to go on."""
    for wins, losses, ties in ((0, 0, 0), (3, 1, 4), (2, 9, 0)):
        n, null = wins + losses + ties, -0.1
        now = anytime.difference_e(wins, losses, n, null, True)
        after = [anytime.difference_e(wins + a, losses + b, n + 1, null, True) for a, b in ((1, 0), (0, 1), (0, 0))]
        assert np.dot((0.2, 0.3, 0.5), after) == pytest.approx(now)


def significant(bar: float, looks: int, block: int = 1) -> np.ndarray:
    """Return, by (looks - 1, k), whether a rate of `bar` is rejected after that many looks of `block` episodes each."""
    n, k = block * np.arange(1, looks + 1)[:, None], np.arange(block * looks + 1)[None, :]
    e = anytime.hedged(*(anytime.rate_e(np.minimum(k, n), n, bar, above) for above in (True, False)))
    return e >= 1 / ALPHA


def test_errors_at_any_stopping_time():
    """Who stops at the first "significant" look errs in 5 % of campaigns at most; with the fixed-n test in far more."""
    kinds = np.random.default_rng(15).choice([1, -1, 0], size=(1000, 100), p=[0.15, 0.15, 0.7])
    wins, losses, n = (kinds == 1).cumsum(1), (kinds == -1).cumsum(1), np.arange(1, 101)[None, :]
    peeked = 2 * stats.binom.cdf(np.minimum(wins, losses), wins + losses, 0.5) <= ALPHA
    assert (anytime.paired_e(wins, losses) >= 1 / ALPHA).any(1).mean() <= ALPHA < 0.1 < peeked.any(1).mean()
    for null in (0.0, 0.1):  # there is no gain, so none of 10 points either
        e = anytime.difference_e(wins[:, ::4], losses[:, ::4], n[:, ::4], null, above=True)
        assert (e >= 1 / ALPHA).any(1).mean() <= (ALPHA if null == 0 else 0.01)


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_coverage_at_any_stopping_time(rate):
    """The sequence holds the true rate at all times; Clopper-Pearson's intervals, looked at each time, do not."""
    k, n = (np.random.default_rng(7).random((2000, 200)) < rate).cumsum(1), np.arange(1, 201)
    low, high = intervals.clopper_pearson_limits(k, np.broadcast_to(n, k.shape))
    assert significant(rate, 200)[n - 1, k].any(1).mean() <= ALPHA
    assert ((low > rate) | (high < rate)).any(1).mean() > 0.1


def test_tasks_of_different_difficulty_added_in_equal_numbers():
    """Rates 1, 1/2 and 0 in blocks of three: the mean rate is 1/2, and looks after whole blocks do not err."""
    k = (np.random.default_rng(3).random((2000, 100)) < 0.5).cumsum(1) + np.arange(1, 101)
    assert significant(0.5, 100, block=3)[np.arange(100), k].any(1).mean() <= ALPHA


def test_sequences_hold_what_their_e_values_do_not_reject():
    for k, n in ((0, 10), (3, 10), (10, 10), (27, 30)):
        found = anytime.rate_sequence(k, n, ALPHA)
        exact = intervals.rate(k, n).exact
        assert found.low <= exact.low and exact.high <= found.high and found.level == 0.95
        for bar in np.linspace(0.005, 0.995, 100):
            e = anytime.hedged(anytime.rate_e(k, n, bar, True), anytime.rate_e(k, n, bar, False))
            assert (e < 1 / ALPHA) == (found.low < bar < found.high)
    for wins, losses, n in ((6, 0, 12), (0, 0, 45), (3, 9, 40)):
        found = anytime.difference_sequence(wins, losses, n, ALPHA)
        for null in np.linspace(-0.99, 0.99, 100):
            e = [anytime.difference_e(wins, losses, n, null, above) for above in (True, False)]
            assert (anytime.hedged(*e) < 1 / ALPHA) == (found.low < null < found.high)


def test_edges():
    assert anytime.paired_e(0, 0) == anytime.rate_e(0, 0, 0.5, True) == anytime.difference_e(0, 0, 0, -0.1, True) == 1
    nothing = anytime.rate_sequence(0, 0, ALPHA), anytime.difference_sequence(0, 0, 0, ALPHA)
    assert [(found.low, found.high) for found in nothing] == [(0, 1), (-1, 1)]
    assert anytime.rate_sequence(0, 20, ALPHA).low == 0 and anytime.rate_sequence(20, 20, ALPHA).high == 1
    assert anytime.difference_sequence(20, 0, 20, ALPHA).high == 1
    many = 1_000_000
    for wins, losses in ((many, 0), (0, many), (many // 2, many // 2)):
        for e in (
            anytime.paired_e(wins, losses),
            anytime.rate_e(wins, many, 0.5, True),
            anytime.difference_e(wins, losses, many, -0.1, False),
        ):
            assert isinstance(e, float) and 0 <= e < math.inf
    found = anytime.rate_sequence(many // 2, many, ALPHA)
    assert 0.49 < found.low < 0.5 < found.high < 0.51
    found = anytime.difference_sequence(many // 10, many // 10, many, ALPHA)
    assert -0.01 < found.low < 0 < found.high < 0.01
