"""Resampling whole episodes or init states: against scipy where it can, against simulation where it cannot."""

import numpy as np
import pytest
from scipy import stats

from flashtrail.statistics import intervals, resampling


def ratio(a, b, axis=-1):
    return a.sum(axis=axis) / b.sum(axis=axis)


def test_a_ratio_over_episodes_agrees_with_scipy():
    generator = np.random.default_rng(0)
    part, whole = generator.poisson(6, 40).astype(float), generator.poisson(15, 40).astype(float)
    ours = resampling.ratio_over_episodes(part, whole)
    theirs = stats.bootstrap(
        (part, whole), ratio, paired=True, n_resamples=4000, method="percentile", rng=generator
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert resampling.ratio_over_episodes(part[:4], whole[:4]) is None


@pytest.mark.parametrize("episodes", [20, 3000])
def test_a_small_ratio_has_the_interval_of_a_large_one_and_equal_episodes_have_none(episodes):
    """Squares of rounding errors are as small as 1e-14."""
    part, whole = np.random.default_rng(2).uniform(1, 2, episodes), np.full(episodes, 7.0)
    large, small = (resampling.ratio_over_episodes(part * size, whole) for size in (1, 1e-14))
    assert (small.low, small.high) == pytest.approx((large.low * 1e-14, large.high * 1e-14), rel=1e-6)
    for size in (0, 1e-14, 0.3):
        assert resampling.ratio_over_episodes(np.full(episodes, size), whole) is None


def test_the_normal_limit_is_the_bootstrap_of_many():
    generator = np.random.default_rng(1)
    columns = np.column_stack([generator.poisson(6, 2000), generator.poisson(15, 2000)]).astype(float)
    exact = resampling.resampled_sums(columns)
    limit = resampling.resampled_sums(np.concatenate([columns, columns[:1]]))
    for sums in (exact, limit):
        assert sums.shape == (resampling.RESAMPLES, 2)
    assert limit.std(axis=0) == pytest.approx(exact.std(axis=0), rel=0.1)
    assert limit.mean(axis=0) == pytest.approx(exact.mean(axis=0), rel=0.01)


def test_repeats_of_an_init_state_go_together():
    """Ten repeats of ten states say what ten states say, not what a hundred episodes would."""
    generator = np.random.default_rng(2)
    states = np.arange(10)
    difference = generator.choice([-1, 0, 1], 10, p=[0.1, 0.4, 0.5])
    once = resampling.paired_difference(np.zeros(10, int), states, difference)
    tenfold = resampling.paired_difference(np.zeros(100, int), np.repeat(states, 10), np.repeat(difference, 10))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    independent = resampling.paired_difference(np.zeros(100, int), np.arange(100), np.repeat(difference, 10))
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_tasks_keep_their_init_states():
    """One task all wins, the other nearly all losses: what varies between tasks is not in the interval."""
    tasks, states = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    difference = np.repeat([1, -1], 10)
    assert resampling.paired_difference(tasks, states, difference) is None  # nothing varies within a task
    difference[-1] = 0
    within = resampling.paired_difference(tasks, states, difference)
    mixed = resampling.paired_difference(np.zeros(20, int), np.arange(20), difference)
    assert within.high - within.low < 0.3 * (mixed.high - mixed.low)
    assert resampling.paired_difference(tasks, states, np.zeros(20)) is None
    assert resampling.paired_difference(np.arange(8), np.arange(8), np.ones(8)) is None


def test_hierarchical_interval_covers_clustered_repeats():
    """Coverage by simulation with a strong effect of the init state; an interval over episodes would miss."""
    generator = np.random.default_rng(3)
    tasks, states = np.repeat(np.arange(3), 60), np.tile(np.repeat(np.arange(20), 3), 3)
    hits, runs = 0, 150
    for _ in range(runs):
        lean = np.repeat(generator.choice([0.0, 0.8], 60, p=[0.5, 0.5]), 3)  # P(only a), by init state; mean 0.4
        found = resampling.paired_difference(tasks, states, (generator.random(180) < lean).astype(int))
        hits += found.low <= 0.4 <= found.high
    assert 0.87 <= hits / runs <= 0.99


def test_quantile_over_alike_rounds_is_wider_and_covers():
    """Rounds of an episode share its level: the interval over rounds covers far less than it says."""
    generator = np.random.default_rng(4)
    episodes = np.repeat(np.arange(40), 25)
    over_episodes = over_rounds = 0
    runs = 40
    for _ in range(runs):
        values = np.repeat(generator.normal(0, 1, 40), 25) + generator.normal(0, 0.3, 1000)
        clustered = resampling.quantile_over_episodes(values, episodes, 0.5)
        single = resampling.quantile_over_episodes(values[:1000], np.arange(1000), 0.5)
        over_episodes += clustered.low <= 0 <= clustered.high
        over_rounds += single.low <= 0 <= single.high
    assert over_episodes / runs >= 0.8
    assert over_rounds / runs < 0.65


def test_one_round_an_episode_is_the_ordinary_bootstrap_of_a_median():
    values = np.random.default_rng(5).permutation(np.arange(1, 101)).astype(float)
    found = resampling.quantile_over_episodes(values, np.arange(100), 0.5)
    # The binomial(100, 1/2) limits of the median are the 40th and 61st value.
    assert found.low == pytest.approx(40, abs=2) and found.high == pytest.approx(61, abs=2)


def test_woodruff_continues_the_bootstrap():
    generator = np.random.default_rng(6)
    limit = resampling.EXACT_CLUSTERS
    values = np.repeat(generator.normal(0, 1, limit + 1), 3) + generator.normal(0, 0.1, 3 * limit + 3)
    episodes = np.repeat(np.arange(limit + 1), 3)
    many = resampling.quantile_over_episodes(values, episodes, 0.95)
    few = resampling.quantile_over_episodes(values[3:], episodes[3:] - 1, 0.95)
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.03)


def test_latency_quantiles_skip_what_is_empty():
    values, episodes = [1.0, np.nan, 2.0, 3.0], [0, 0, 1, 2]
    found = resampling.latency_quantiles(values, episodes, (0.5,))
    assert found[0.5].value == 2.0 and found[0.5].interval is None
    assert resampling.latency_quantiles([np.nan], [0], (0.5,)) == {0.5: None}


def test_a_share_of_all_or_none_has_wilsons_interval_over_episodes():
    of = np.array([40.0, 50.0, 60.0, 10.0, 20.0, 30.0])
    for share in (0.0, 1.0):
        found = resampling.share_over_episodes(share * of, of)
        assert found == intervals.rate(int(6 * share), 6).wilson
    part = of / 2 + np.array([5, -5, 5, -5, 5, -5])
    assert resampling.share_over_episodes(part, of) == resampling.ratio_over_episodes(part, of)
