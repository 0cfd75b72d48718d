"""A fall of the success rate: no alarm in more than alpha of the campaigns without one, and a planted one is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashtrail.statistics import anytime
from flashtrail.statistics.decline import ALPHA, EVERY, decline


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_looked_at_after_every_episode_it_raises_no_more_false_alarms_than_alpha(rate):
    """At the bar itself, where they are most frequent; the intervals of the last 20, so often looked at, would."""
    played = np.random.default_rng(11).random((200, 120)) < rate
    alarms = sum(decline(list(campaign), rate).decided_at is not None for campaign in played)
    assert alarms / len(played) <= ALPHA
    rolling = np.lib.stride_tricks.sliding_window_view(played, 20, axis=1).mean(-1)
    spread = 1.64 * np.sqrt(rate * (1 - rate) / 20)
    assert (rolling < rate - spread).any(1).mean() > 0.2, "a rule that is not valid at all times alarms here"


@given(st.lists(st.booleans(), max_size=3 * EVERY), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_wealth_before_an_episode_is_its_mean_after_it(past, bar):
    """The property that bounds false alarms: whatever came before, it does not grow on average at the bar."""
    now = decline(past, bar, alpha=1e-9).e
    after = [decline([*past, outcome], bar, alpha=1e-9).e for outcome in (True, False)]
    assert bar * after[0] + (1 - bar) * after[1] == pytest.approx(now, rel=1e-9)


def test_a_fall_after_a_hundred_good_episodes_is_found_sooner_than_by_a_bet_from_the_start():
    rng = np.random.default_rng(5)
    delays, alone = [], []
    for _ in range(60):
        played = [*(rng.random(100) < 0.95), *(rng.random(80) < 0.4)]
        found = decline(played, 0.8)
        assert found.decided_at is None or found.decided_at > 100, "not before it fell (0.95 is above the bar)"
        delays.append((found.decided_at or len(played)) - 100)
        if found.decided_at:
            assert found.begins is not None and found.begins % EVERY == 1
        n, k = np.arange(1, 181), np.cumsum(played)
        wealth = anytime.rate_e(k, n, 0.8, above=False)
        alone.append(int(np.argmax(wealth >= 20)) + 1 - 100 if (wealth >= 20).any() else 80)
    assert max(delays) < 80, "each of 60 planted falls is found"
    assert np.median(delays) < 30 < np.median(alone)


def test_what_was_decided_stays_decided_and_counts_go_on():
    found = decline([True] * 20 + [False] * 30 + [True] * 50, 0.8)
    assert 20 < found.decided_at < 50 and found.begins == 21 and (found.k, found.n) == (70, 100)
    assert found.e >= found.needs == 20 and found.interval.low < 0.7 < found.interval.high
    assert decline([], 0.8).e == 1 and decline([True] * 60, 0.8).decided_at is None


def test_a_fall_after_a_thousand_good_episodes_is_found():
    found = decline([True] * 1050 + [False] * 60, 0.8)
    assert 1050 < found.decided_at < 1090 and found.begins > 950


@pytest.mark.parametrize("bar", [0.0, 1.0, -0.1, float("nan")])
def test_a_bar_that_nothing_can_fall_below_is_refused(bar):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        decline([True], bar)
