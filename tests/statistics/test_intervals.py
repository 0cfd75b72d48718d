"""Statistics against published or hand-computed values, and against simulation where nobody published one."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables
from statsmodels.stats.proportion import proportion_confint

from flashtrail.statistics import intervals


def test_rates_of_the_reproduction():
    """FLASH.md H: 4/15 has Wilson [10.9, 52.0] %, 6/15 [19.8, 64.3] %."""
    four, six = intervals.rate(4, 15), intervals.rate(6, 15)
    assert (four.wilson.low, four.wilson.high) == pytest.approx((0.109, 0.520), abs=5e-4)
    assert (six.wilson.low, six.wilson.high) == pytest.approx((0.198, 0.643), abs=5e-4)


def test_clopper_pearson_closed_forms():
    """All of n: the lower limit is (alpha/2)^(1/n); none of n mirrors it."""
    every, none = intervals.rate(30, 30), intervals.rate(0, 30)
    assert every.exact.low == pytest.approx(0.025 ** (1 / 30))
    assert every.exact.high == 1.0 and none.exact.low == 0.0
    assert none.exact.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert intervals.rate(0, 0).rate is None
    with pytest.raises(ValueError, match="5 of 4"):
        intervals.rate(5, 4)


def test_what_an_arms_summary_needs_is_what_scipy_stats_and_statsmodels_say():
    """Bit for bit, McNemar's p to the last digits, though only scipy.special is asked."""
    for n in (1, 2, 9, 30, 500):
        k = np.arange(n + 1)
        low, high = proportion_confint(k, n, alpha=1 - 0.95, method="beta")
        found = intervals.clopper_pearson_limits(k, n)
        assert (found[0] == np.where(k == 0, 0, low)).all() and (found[1] == np.where(k == n, 1, high)).all()
        for q in (0.5, 0.95, 0.99):
            interval = intervals.quantile(k, q).interval
            ends = stats.binom.ppf(0.025, n + 1, q) - 1, stats.binom.isf(0.025, n + 1, q)
            assert (interval and (interval.low, interval.high)) == (ends if ends[0] >= 0 and ends[1] <= n else None)
    for a, b in np.random.default_rng(0).integers(0, 60, (300, 2)):
        p = min(contingency_tables.mcnemar([[1, a], [b, 1]], exact=True).pvalue, 1.0)
        assert intervals.mcnemar(int(a), int(b)) == pytest.approx(p, rel=1e-13, abs=0)


@pytest.mark.parametrize("module", ["flashtrail.claims.summaries", "flashtrail.report.episode_pages"])
def test_a_job_of_one_arm_starts_without_a_second_of_imports(module):
    """There are two such jobs for every arm of a report."""
    words = f"import sys, {module}; print([m for m in ('scipy.stats', 'statsmodels', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True).stdout.strip() == "[]"


def test_unpaired_tests_of_the_reproduction():
    """FLASH.md H: the guard 4/15 -> 6/15 has Fisher p = 0.70; the dropout 27/30 -> 4/15 has p = 3e-5."""
    guard = intervals.unpaired(6, 15, 4, 15)
    assert guard.fisher_p == pytest.approx(0.70, abs=0.005)
    assert guard.interval.low < 0 < guard.interval.high
    assert intervals.unpaired(4, 15, 27, 30).fisher_p == pytest.approx(3e-5, rel=0.2)
    assert guard.p <= guard.fisher_p and guard.test == "exact Boschloo"


def test_paired_counts_and_exact_mcnemar():
    """Eight discordant pairs, all one way: p = 2 / 2^8."""
    a = [True] * 2 + [False] * 8 + [False] * 5
    b = [True] * 2 + [True] * 8 + [False] * 5
    result = intervals.paired(a, b)
    assert (result.both, result.only_a, result.only_b, result.neither) == (2, 0, 8, 5)
    assert (result.k_a, result.k_b, result.n) == (2, 10, 15)
    assert result.p == pytest.approx(2 / 2**8)
    assert result.difference == pytest.approx(-8 / 15)
    assert result.interval.high < 0


def test_an_arm_against_itself_has_no_discordant_pair():
    outcome = [True, False, True, True]
    result = intervals.paired(outcome, outcome)
    assert result.p == 1.0 and result.difference == 0.0
    # With none discordant, Tango's limits are +-z^2 / (n + z^2).
    z2 = stats.norm.ppf(0.975) ** 2
    assert (result.interval.low, result.interval.high) == pytest.approx((-z2 / (4 + z2), z2 / (4 + z2)), abs=1e-6)


def test_paired_interval_of_a_large_survey():
    """Approval of the British prime minister (Agresti): 944 then 880 of 1600, discordant 150 and 86."""
    interval = intervals.paired_interval(86, 150, 1600)
    assert (interval.low, interval.high) == pytest.approx((-0.059, -0.021), abs=5e-4)


def test_paired_interval_covers_at_its_level():
    """By simulation at n = 30, where a Wald interval fails."""
    generator = np.random.default_rng(0)
    cells = np.array([0.5, 0.05, 0.30, 0.15])  # both, only a, only b, neither
    truth, hits, runs = cells[1] - cells[2], 0, 1500
    for only_a, only_b in generator.multinomial(30, cells, runs)[:, 1:3]:
        interval = intervals.paired_interval(int(only_a), int(only_b), 30)
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / runs <= 0.98


def test_non_inferiority_agrees_with_the_interval():
    for only_a, only_b in [(0, 0), (1, 4), (4, 1), (0, 9)]:
        low = intervals.paired_interval(only_a, only_b, 60).low
        p = intervals.paired_non_inferiority_p(only_a, only_b, 60, 0.10)
        assert (p < 0.025) == (low > -0.10)


def test_quantile_interval_is_made_of_order_statistics():
    """Median of 1..100: the binomial(100, 1/2) limits are the 40th and the 61st value."""
    found = intervals.quantile(range(1, 101), 0.5)
    assert found.value == 50.5
    assert (found.interval.low, found.interval.high) == (40, 61)


def test_no_p99_under_500_rounds_and_no_interval_from_too_few():
    few, many = intervals.latency(range(499)), intervals.latency(range(500))
    assert few.p99 is None and "499 of 500" in few.note
    assert many.p99 is not None and many.note == ""
    assert intervals.latency([1.0, 2.0, 3.0]).p95.interval is None
    assert intervals.latency([]).n == 0
    assert intervals.latency([1.0, float("nan")]).n == 1


def test_median_ratio():
    generator = np.random.default_rng(1)
    full, draft = generator.normal(33, 1, 100), generator.normal(8, 0.3, 100)
    found = intervals.median_ratio(draft, full)
    assert found.interval.low < found.ratio < found.interval.high < 0.3
    assert found.p < 1e-9
    assert intervals.median_ratio([1.0, 2.0], full) is None


def test_holm_of_a_textbook_family():
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([]) == []


def test_mixture_identity_of_the_published_tables():
    """FLASH.md H: the implied flash rounds are 9.95 / 8.33 / 8.93 / 8.25 ms."""
    cells = [(19.2, 0.689, 9.95), (12.6, 0.864, 8.33), (20.5, 0.624, 8.93), (24.1, 0.496, 8.25)]
    for mean, share, implied in cells:
        assert intervals.implied_draft_ms(mean, share, 39.7) == pytest.approx(implied, abs=0.01)
    assert intervals.mixture_mean(0.624, 8.93, 39.7) == pytest.approx(20.5, abs=0.01)


def test_a_rate_that_is_no_count_is_noticed():
    assert intervals.whole_count(94.4, 500) == 472
    assert intervals.whole_count(94.5, 500) is None
    assert intervals.whole_count(26.7, 15) == 4
    assert intervals.whole_count(94.15, 2000, 2) == 1883
