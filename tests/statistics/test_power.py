"""Power against the tests themselves: every outcome put to the verdict's test; and the smallest n with enough."""

import warnings

import numpy as np
import pytest
from scipy import stats

from flashtrail.statistics import intervals, power, stratified, unpaired_power

pytestmark = pytest.mark.filterwarnings("error")


def share(n, only_a, only_b, found):
    """Return the probability of the discordant counts of which `found(only_a, only_b)` is true, one by one."""
    return sum(
        stats.multinomial.pmf([a, b, n - a - b], n, [only_a, only_b, max(1 - only_a - only_b, 0)])
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if found(a, b)
    )


def mcnemar_finds(n):
    def found(a, b):
        rest = n - a - b
        result = intervals.paired([True] * a + [False] * (n - a), [False] * a + [True] * b + [False] * rest)
        return result.p <= 0.05 and result.difference > 0

    return found


@pytest.mark.parametrize(
    ("n", "only_a", "only_b"), [(5, 1.0, 0.0), (7, 0.9, 0.1), (20, 0.30, 0.05), (24, 0.05, 0.0), (20, 0.5, 0.5)]
)
def test_mcnemar_power_is_the_share_that_the_test_finds(n, only_a, only_b):
    assert power.mcnemar_power(n, only_a, only_b) == pytest.approx(share(n, only_a, only_b, mcnemar_finds(n)), abs=1e-8)


def test_six_one_way_are_the_fewest_that_count():
    assert power.critical(np.array([0, 5, 6, 7, 8, 20]), 0.05).tolist() == [1, 6, 6, 7, 8, 15]


@pytest.mark.parametrize(
    ("n", "only_a", "only_b", "bound"),
    [(12, 0.1, 0.1, -0.1), (30, 0.06, 0.08, -0.1), (30, 0.0, 0.0, -0.1), (10, 1.0, 0.0, 0.5), (28, 0.5, 0.5, -0.3)],
)
def test_score_power_is_the_share_that_the_interval_finds(n, only_a, only_b, bound):
    def found(a, b):
        return intervals.paired_interval(a, b, n).low > bound

    expected = share(n, only_a, only_b, found)
    assert power.score_power(n, only_a, only_b, bound) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("n", "p", "above"), [(40, 0.7, True), (11, 1.0, True), (9, 0.0, False), (25, 0.3, False)])
def test_rate_power_counts_the_outcomes_that_decide(n, p, above):
    ends = [intervals.rate(k, n).exact for k in range(n + 1)]
    expected = sum(stats.binom.pmf(k, n, p) for k, e in enumerate(ends) if (e.low >= 0.5 if above else e.high < 0.5))
    assert power.rate_power(n, p, 0.5, above) == pytest.approx(expected, abs=1e-12)


# --- two independent arms ---


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_the_region_of_boschloo_is_scipys(n, alpha):
    fewest = unpaired_power.critical(n, alpha)
    for k_b in range(n + 1):
        found = [
            k_a
            for k_a in range(k_b + 1, n + 1)
            if stats.boschloo_exact([[k_a, k_b], [n - k_a, n - k_b]]).pvalue <= alpha
        ]
        assert found == list(range(fewest[k_b], n + 1)), k_b


@pytest.mark.parametrize("n", [201, 350])
def test_the_region_of_the_score_test_is_statsmodels(n):
    fewest = unpaired_power.critical(n, 0.05)
    for k_b in (0, 1, 5, n // 2, n - 40, n - 1, n):
        near = range(max(k_b + 1, fewest[k_b] - 2), min(n, fewest[k_b] + 2) + 1)
        assert all((intervals.unpaired(k_a, n, k_b, n).p <= 0.05) == (k_a >= fewest[k_b]) for k_a in near), k_b


@pytest.mark.parametrize(("n", "a", "b"), [(5, 1.0, 0.4), (8, 1.0, 0.4), (3, 1.0, 0.0), (9, 0.5, 0.5), (9, 0.999, 0.6)])
def test_unpaired_power_weighs_every_table_that_the_verdict_finds(n, a, b):
    expected = sum(
        stats.binom.pmf(k_a, n, a) * stats.binom.pmf(k_b, n, b)
        for k_a in range(n + 1)
        for k_b in range(k_a)
        if intervals.unpaired(k_a, n, k_b, n).p <= 0.05
    )
    assert unpaired_power.unpaired_power(n, a, b) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("counts", "margin", "n", "words"),
    [
        ((5, 5, 2, 5), 0.1, 8, "as observed (+60 points"),
        ((1, 1, 0, 1), 0.1, 3, "as observed (+100 points"),
        ((0, 9, 0, 9), 0.1, 66, "the smallest that matters (+10 points"),
        ((9, 9, 9, 9), 0.1, 66, "the smallest that matters (+10 points"),
    ],
)
def test_extreme_rates_are_planned_by_the_test_that_will_judge_them(counts, margin, n, words):
    plan = power.unpaired_plan([counts], margin, 0.05)
    assert (plan.n, plan.unit, plan.verdict) == (n, "episode in each arm", "supported") and words in plan.assumption


def test_several_tasks_are_planned_by_the_stratified_test():
    """All 4^4 outcomes of two tasks, 3 episodes in each arm and task, put to the verdict's own test."""
    a, b, expected = (1.0, 0.8), (0.1, 0.3), 0.0
    for first in np.ndindex(4, 4):
        for second in np.ndindex(4, 4):
            strata = [stratified.Stratum(int(x), 3, int(y), 3) for x, y in (first, second)]
            weight = np.prod(
                [stats.binom.pmf(k, 3, p) for k, p in zip((*first, *second), (a[0], b[0], a[1], b[1]), strict=True)]
            )
            found = stratified.compare(strata)
            expected += weight * (found.p <= 0.05 and found.difference > 0)
    assert unpaired_power.stratified_power(3, a, b) == pytest.approx(expected, abs=1e-9)
    assert unpaired_power.stratified_power(4, [0.5] * 3, [0.5] * 3) <= 0.025


RUNS = 600


def test_many_tasks_are_drawn_and_come_close():
    generator, n, tasks = np.random.default_rng(0), 5, 6
    a, b = np.linspace(0.5, 1.0, tasks), np.linspace(0.0, 0.6, tasks)
    wins = 0
    for k_a, k_b in zip(generator.binomial(n, a, (RUNS, tasks)), generator.binomial(n, b, (RUNS, tasks)), strict=True):
        found = stratified.compare([stratified.Stratum(int(x), n, int(y), n) for x, y in zip(k_a, k_b, strict=True)])
        wins += found.p <= 0.05 and found.difference > 0
    assert unpaired_power.stratified_power(n, a, b) == pytest.approx(wins / RUNS, abs=4 * np.sqrt(0.25 / RUNS))


# --- the smallest n ---

TRUTHS = [
    lambda m: power.mcnemar_power(m, 0.2, 0.05),
    lambda m: power.mcnemar_power(m, 0.1, 0.0),
    lambda m: power.mcnemar_power(m, 1.0, 0.0),
    lambda m: power.score_power(m, 0.05, 0.05, -0.1),
    lambda m: power.score_power(m, 0.0, 0.0, -0.1),
    lambda m: power.rate_power(m, 0.6, 0.5, True),
    lambda m: power.rate_power(m, 1.0, 0.5, True),
    lambda m: unpaired_power.unpaired_power(m, 1.0, 0.4),
    lambda m: unpaired_power.unpaired_power(m, 0.1, 0.0),
    lambda m: unpaired_power.unpaired_power(m, 0.7, 0.4),
    lambda m: unpaired_power.stratified_power(m, [1.0, 0.6], [0.5, 0.1]),
]


@pytest.mark.parametrize("power_of", TRUTHS)
def test_from_the_smallest_n_on_the_power_suffices_and_below_it_does_not(power_of):
    n = power.smallest(power_of)
    assert n == 1 or power_of(n - 1) < power.POWER
    assert min(power_of(m) for m in range(n, 3 * n + 10)) >= power.POWER


def test_what_more_episodes_do_not_settle_has_no_number():
    assert power.smallest(lambda m: 0.1) is None
    assert power.smallest(lambda m: 0.0 if m < 90 else 1.0, most=100) == 90
    assert power.smallest(lambda m: 0.0 if m < 101 else 1.0, most=100) is None


def test_one_claim_has_one_plan_and_says_what_it_rests_on():
    """5 against 2 discordant of 50 are +6 points, less than the margin; 8 against 1 are +14, more."""
    planned = power.paired_plan(5, 2, 50, 0.1, 0.05)
    assert "smallest that matters (+10 points" in planned.assumption and planned.verdict == "supported"
    assert power.mcnemar_power(planned.n, 0.12, 0.02) >= 0.8 > power.mcnemar_power(planned.n - 1, 0.12, 0.02)
    observed = power.paired_plan(8, 1, 50, 0.1, 0.05)
    assert "as observed (+14 points" in observed.assumption
    assert power.mcnemar_power(observed.n, 0.16, 0.02) >= 0.8 > power.mcnemar_power(observed.n - 1, 0.16, 0.02)
    strict = power.paired_plan(8, 1, 50, 0.1, 0.05 / 3)
    assert strict.n > observed.n and strict.alpha == 0.05 / 3
    even = power.non_inferiority_plan(2, 6, 50, 0.1, 0.05)
    assert even.verdict == "supported" and even.assumption == "there is no difference"
    assert power.score_power(even.n, 0.08, 0.08, -0.1) >= 0.8
    assert power.rate_plan(18, 30, 0.5, 0.05).verdict == "supported"
    assert power.rate_plan(15, 30, 0.5, 0.05).n is None


def test_plans_of_extreme_counts_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k_a in (0, 1, 2):
            for k_b in (0, 1, 2):
                assert power.unpaired_plan([(k_a, 2, k_b, 2)], 0.1, 0.05).n
                assert power.unpaired_plan([(k_a, 2, k_b, 2), (2, 2, 0, 1)], 0.1, 0.05).n
        for a, b in ((0, 0), (3, 0), (0, 3), (1, 2)):
            assert power.paired_plan(a, b, 3, 0.1, 0.05).n and power.non_inferiority_plan(a, b, 3, 0.1, 0.05).n
        for k in (0, 3):
            assert power.rate_plan(k, 3, 0.5, 0.05).n


def test_a_ratio_needs_the_more_rounds_the_nearer_it_is():
    near, far = (power.ratio_plan(r * 0.95, r / 0.95, r, 1.0, 40, 0.05) for r in (0.98, 0.8))
    assert near.n > 40 > far.n
