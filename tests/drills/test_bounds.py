"""Bounds hold what they promise, by simulation over distributions that nobody assumed; stored they come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drills import made
from scipy import stats

from flashtrail.base.errors import UserError
from flashtrail.drills import bounds
from flashtrail.drills.predicates import NAMES, PREDICATES, SLACK, Bound, features

N, RUN, REPEATS = 15, 9, 20_000
KINDS = {
    "normal": stats.norm(),
    "heavy": stats.t(2),
    "skewed": stats.expon(),
    "flat": stats.uniform(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_clean_value_lies_beyond_the_largest_as_often_as_promised_and_with_slack_not_more_often(kind):
    generator = np.random.default_rng(0)
    reference = KINDS[kind].rvs((REPEATS, N), random_state=generator)
    new = KINDS[kind].rvs((REPEATS, RUN), random_state=generator)
    high, low = reference.max(axis=1), reference.min(axis=1)
    over = new > high[:, None]
    error = 4 * np.sqrt(0.25 / REPEATS)
    assert over[:, 0].mean() == pytest.approx(bounds.beyond(N), abs=error)
    outside = over | (new < low[:, None])
    assert outside[:, 0].mean() == pytest.approx(bounds.beyond(N, sides=2), abs=error)
    # Of a run all episodes share one bound: their number beyond it is no binomial, and most of them seldom are.
    assert (over.sum(axis=1) > RUN // 2).mean() == pytest.approx(bounds.run_alarm(RUN, N), abs=error)
    assert (outside.sum(axis=1) > RUN // 2).mean() == pytest.approx(bounds.run_alarm(RUN, N, 2), abs=error)
    wide = Bound(0, 1, N)
    assert (wide.low, wide.high) == (-SLACK, 1 + SLACK)
    slack = SLACK * (high - low)
    assert (new[:, 0] > high + slack).mean() <= over[:, 0].mean()
    # The share of all clean episodes below the largest of n, with 95 % confidence.
    assert (KINDS[kind].cdf(high) >= bounds.content(N)).mean() == pytest.approx(0.95, abs=error)


def test_a_binomial_would_promise_a_run_more_than_is_true():
    assert bounds.run_alarm(RUN, N) > stats.binom.sf(RUN // 2, RUN, bounds.beyond(N))


def test_more_reference_episodes_promise_more():
    alarms = [bounds.run_alarm(9, n) for n in (5, 10, 15, 40)]
    assert alarms == sorted(alarms, reverse=True) and len(set(alarms)) == 4
    assert bounds.content(15) == pytest.approx(0.05 ** (1 / 15))


def test_derived_bounds_enclose_every_reference_episode_and_touch_two():
    episodes = [made.episode(i, steps=70 + 7 * i) for i in range(8)]
    found = bounds.derive(episodes).bounds
    for name, bound in found.items():
        values = [features(e)[name] for e in episodes]
        assert bound.n == 8 and (min(values), max(values)) == (bound.least, bound.largest)
        assert bound.low <= min(values) <= max(values) <= bound.high


def test_a_feature_that_no_clean_episode_has_gets_no_bound():
    failed = [made.episode(i, reward=False) for i in range(6)]
    found = bounds.derive(failed)
    assert found.rewarded == 0 and "steps_to_reward" not in found.bounds and "effort" in found.bounds


def test_too_few_episodes_are_refused():
    with pytest.raises(UserError, match="at least 2 clean episodes, got 1"):
        bounds.derive([made.episode(0)])


def test_stored_bounds_come_back_with_their_origin_and_guarantee(tmp_path):
    made_of = bounds.derive([made.episode(i) for i in range(6)], {"policy": "p", "sources": {"a": "b"}})
    path = tmp_path / "bounds.json"
    bounds.save(made_of, path)
    assert bounds.load(path) == made_of
    stored = json.loads(path.read_text())
    assert stored["guarantee"]["new_clean_episode_beyond_one_side_at_most"] == pytest.approx(1 / 7)
    assert stored["origin"]["policy"] == "p"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no bounds at"),
        ("{", "not valid JSON"),
        ("[]", "does not hold bounds"),
        ('{"version": 1, "bounds": {"effort": {"least": 1}}}', "is incomplete"),
        (
            '{"version": 1, "guarantee": {"slack": 0}, "bounds": {"charm": {"least": 1, "largest": 2, "n": 5}}}',
            "of an unknown feature",
        ),
    ],
)
def test_what_is_no_bounds_is_refused_in_one_line_with_the_remedy(tmp_path, text, said):
    path = tmp_path / "bounds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        bounds.load(path)
    assert "\n" not in str(error.value)
    assert "valid JSON" in said or "doctor CLEAN_RUN --write-bounds" in str(error.value)


def test_every_bound_that_a_rule_asks_for_is_one_that_a_clean_run_gives():
    assert {name for p in PREDICATES for name in p.bounded} <= set(made.reference().bounds)
    assert len(set(NAMES)) == len(NAMES) == 10 + 2  # the drills, gripper_sign and unexplained
