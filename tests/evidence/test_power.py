"""Power against the tests themselves, run on simulated counts, and the smallest n that has enough of it."""

import numpy as np
import pytest

from flashtrail.evidence import power, statistics


def share(n, only_a, only_b, found, runs=2000, seed=0):
    """Return how often `found(only_a, only_b)` is true of simulated discordant counts."""
    cells = [only_a, only_b, 1 - only_a - only_b]
    counts, times = np.unique(
        np.random.default_rng(seed).multinomial(n, cells, runs)[:, :2], axis=0, return_counts=True
    )
    return sum(t for (a, b), t in zip(counts.tolist(), times, strict=True) if found(a, b)) / runs


@pytest.mark.parametrize(("n", "only_a", "only_b"), [(30, 0.30, 0.05), (100, 0.15, 0.05), (60, 0.1, 0.1)])
def test_mcnemar_power_is_the_share_that_the_test_finds(n, only_a, only_b):
    def found(a, b):
        return (
            a > b
            and statistics.paired([True] * a + [False] * (n - a), [False] * a + [True] * b + [False] * (n - a - b)).p
            <= 0.05
        )

    simulated = share(n, only_a, only_b, found, runs=1500)
    predicted = power.mcnemar_power(n, only_a, only_b)
    assert simulated == pytest.approx(predicted, abs=4 * np.sqrt(0.25 / 1500))


def test_six_one_way_are_the_fewest_that_count():
    assert power.critical(np.array([0, 5, 6, 7, 8, 20]), 0.05).tolist() == [1, 6, 6, 7, 8, 15]


def test_score_power_is_the_share_that_the_interval_finds():
    def found(a, b):
        return statistics.paired_interval(a, b, 150).low > -0.1

    simulated = share(150, 0.06, 0.08, found)
    assert simulated == pytest.approx(power.score_power(150, 0.06, 0.08, -0.1), abs=0.05)


def test_rate_power_counts_the_outcomes_that_decide():
    wins = sum(
        t * (statistics.rate(k, 40).exact.low >= 0.5)
        for k, t in zip(*np.unique(np.random.default_rng(1).binomial(40, 0.7, 4000), return_counts=True), strict=True)
    )
    assert wins / 4000 == pytest.approx(power.rate_power(40, 0.7, 0.5, above=True), abs=0.035)


def test_the_smallest_n_has_the_power_and_fewer_have_not():
    n = power.smallest(lambda m: power.mcnemar_power(m, 0.2, 0.05))
    assert power.mcnemar_power(n, 0.2, 0.05) >= power.POWER > power.mcnemar_power(n - 4, 0.2, 0.05)
    assert power.smallest(lambda m: 0.1) is None


def test_plans_name_the_verdict_that_their_truth_leads_to():
    """5 against 2 discordant of 50: +6 points observed, 10 planned."""
    observed, planned, none = power.paired_plans(5, 2, 50, 0.1, 0.05)
    assert "+6 points" in observed.assumption and observed.verdict in ("supported", "refuted")
    assert planned.verdict == "supported" and none.verdict == "refuted"
    assert power.mcnemar_power(planned.n, 0.12, 0.02) >= 0.8
    assert power.score_power(none.n, 0.07, 0.07, -0.1) >= 0.8
    worse = power.paired_plans(2, 5, 50, 0.1, 0.05)[0]
    assert worse.verdict == "refuted" and worse.n < none.n
    kept, even = power.non_inferiority_plans(2, 6, 50, 0.1, 0.05)
    assert even.verdict == "supported" and even.n < kept.n
    assert power.rate_plans(18, 30, 0.5, 0.05)[0].verdict == "supported"
    assert power.rate_plans(15, 30, 0.5, 0.05)[0].n is None


def test_a_ratio_needs_the_more_rounds_the_nearer_it_is():
    near, far = (power.ratio_plans(r * 0.95, r / 0.95, r, 1.0, 40)[0] for r in (0.98, 0.8))
    assert near.n > 40 > far.n
