"""Each failure is named from its log alone; what a log lacks is not judged; nothing but the log is looked at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from drills import made
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from flashtrail.drills import bounds, predicates, verdicts
from flashtrail.drills.predicates import FEATURES, NAMES, PREDICATES, Episode, features
from flashtrail.statistics import intervals

REFERENCE = made.reference()
BOUNDS = REFERENCE.bounds


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_named_by_its_own_predicate(name):
    found = [verdicts.cause(verdicts.judge(made.episode(seed, **made.FAILURES[name]), BOUNDS)) for seed in range(20)]
    assert found.count(name) >= 19, found


def test_clean_episodes_are_seldom_flagged_and_never_as_a_run():
    judged = [verdicts.judge(made.episode(seed, steps=70 + seed % 60), BOUNDS) for seed in range(60)]
    assert sum(verdicts.cause(flags) is not None for flags in judged) <= 6
    assert verdicts.firing(verdicts.counts(judged), REFERENCE) == []


def test_what_is_seen_is_an_episode_and_an_episode_has_no_name():
    """Whoever adds arm, tag or condition to what predicates see breaks this."""
    assert [field.name for field in dataclasses.fields(Episode)] == ["actions", "img_mean", "reward"]
    assert set(features(made.episode(0))) == set(FEATURES)


def test_without_pictures_those_that_need_them_cannot_be_judged_and_the_others_can():
    whole = made.episode(3, **made.FAILURES["bad_unnorm"])
    blind = Episode(whole.actions, np.full(len(whole.actions), np.nan), whole.reward)
    flags = verdicts.judge(blind, BOUNDS)
    needing = {p.name for p in PREDICATES if {"picture_step", "longest_hold", "alternation"} & set(p.logged)}
    assert needing == {"swapped_cameras", "long_chunk", "stale_frame", "state_antipode"}
    assert {name for name, said in flags.items() if said is None} == needing
    assert verdicts.cause(flags) == "bad_unnorm"
    assert verdicts.unjudged([blind], BOUNDS)["long_chunk"] == ["longest_hold"]


def test_bounds_of_a_run_without_pictures_leave_the_same_unjudged():
    blind = {
        name: bound for name, bound in BOUNDS.items() if name not in ("picture_step", "longest_hold", "alternation")
    }
    assert verdicts.judge(made.episode(3), blind)["swapped_cameras"] is None
    assert "stale_frame" in verdicts.unjudged([made.episode(3)], blind)


def test_a_picture_at_every_step_or_at_queries_only_says_the_same():
    for kind in ({}, {"gap": 50}, {"shake": 6.0}):
        sparse = made.episode(5, steps=120, **kind)
        index = np.maximum.accumulate(np.where(np.isnan(sparse.img_mean), 0, np.arange(120)))
        dense = Episode(sparse.actions, sparse.img_mean[index], sparse.reward)
        assert features(dense) == features(sparse)


def test_queries_that_got_the_same_picture_are_told_from_queries_that_were_not_made():
    stale = features(made.episode(1, steps=120, stale=3))
    long = features(made.episode(1, steps=120, gap=48))
    assert (stale["query_gap"], stale["longest_hold"]) == (12, 48)
    assert (long["query_gap"], long["longest_hold"]) == (48, 48)
    frozen = made.episode(1, steps=120)
    frozen = Episode(frozen.actions, np.where(np.isnan(frozen.img_mean), np.nan, 118.0), frozen.reward)
    assert verdicts.cause(verdicts.judge(frozen, BOUNDS)) == "stale_frame"


def constant(level: float, still: bool, steps: int = 300) -> Episode:
    """One action throughout; `still`: the picture stays the same, as before an arm that stands."""
    whole = made.episode(1, steps=steps, reward=False)
    actions = np.broadcast_to(np.array([level] * 6 + [-1.0]), (steps, 7))
    return Episode(actions, np.where(np.isnan(whole.img_mean) | (not still), whole.img_mean, 118.0), whole.reward)


@pytest.mark.parametrize("level", [0.0, 0.01, 0.1, 0.5, -1.0])
@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_a_constant_action_of_any_size_is_a_frozen_policy(level, still, dense):
    """Without this name: no_flip, bad_prompt, stale_frame, or a hand that never rests."""
    episode = constant(level, still)
    if dense:
        index = np.maximum.accumulate(np.where(np.isnan(episode.img_mean), 0, np.arange(300)))
        episode = Episode(episode.actions, episode.img_mean[index], episode.reward)
    noisy = Episode(episode.actions + np.random.default_rng(0).normal(0, 0.001, (300, 7)), *_rest(episode))
    for one in (episode, noisy, Episode(episode.actions, np.full(300, np.nan), episode.reward)):
        assert verdicts.cause(verdicts.judge(one, BOUNDS)) == "frozen_policy" and features(one)["change"] < 0.005
    others = {name for name, said in verdicts.judge(episode, BOUNDS).items() if said} - {"frozen_policy"}
    assert others, "another predicate holds as well: the order decides"


def _rest(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    return episode.img_mean, episode.reward


def test_who_is_rewarded_or_uses_the_gripper_is_not_frozen():
    still = constant(0.0, still=True)
    rewarded = Episode(still.actions, still.img_mean, np.r_[np.zeros(299), 1.0])
    closes = Episode(still.actions * np.r_[np.ones(6), -1.0] ** (np.arange(300) > 150)[:, None], *_rest(still))
    assert [verdicts.judge(one, BOUNDS)["frozen_policy"] for one in (rewarded, closes)] == [False, False]


def test_bounds_that_nothing_can_lie_below_leave_their_predicates_unjudged():
    """Two clean episodes that differ much: the bound is below 0, and a frozen policy is not called healthy."""
    scarce = bounds.derive([made.episode(0), Episode(made.episode(1).actions * 0.1, *_rest(made.episode(1)))])
    assert scarce.bounds["spread"].low < 0 and scarce.bounds["effort"].low < 0
    still = constant(0.0, still=False)
    flags = verdicts.judge(still, scarce.bounds)
    assert flags["frozen_policy"] is None and flags["bad_prompt"] is None
    lacks = verdicts.unjudged([still], scarce.bounds)
    assert lacks["frozen_policy"] == ["a bound of spread above 0"]


@pytest.mark.parametrize("late", [0, 1, 4, 9, 11])
def test_a_seam_is_where_answers_take_effect(late):
    for seed in range(5):
        seam = features(made.episode(seed, steps=200, late=late))["seam"]
        assert (seam > 3) if late else (seam < 1)


def test_without_a_chunk_a_late_hand_is_known_by_never_resting():
    """A query at each step: every step is a new answer's first, so that there is no seam to look at."""
    on_time = [made.episode(seed, gap=1) for seed in range(15)]
    for episode in on_time:
        episode.actions[40:55, :3] *= 0.05  # it stands still to grasp
    clean = bounds.derive(on_time)
    assert "seam" not in clean.bounds
    swings = made.episode(20, gap=1, steps=200, reward=False)
    swings.actions[:, :3] = 0.4 * np.sign(np.sin(np.arange(200) / 10))[:, None]
    assert verdicts.judge(swings, clean.bounds)["late_window"]
    faster = Episode(swings.actions * 10, swings.img_mean, swings.reward)
    assert not verdicts.judge(faster, clean.bounds)["late_window"], "another robot's statistics"
    rests = Episode(swings.actions.copy(), swings.img_mean, swings.reward)
    rests.actions[80:95, :3] = 0.0
    assert not verdicts.judge(rests, clean.bounds)["late_window"]
    rewarded = Episode(swings.actions, swings.img_mean, np.r_[np.zeros(199), 1.0])
    assert not verdicts.judge(rewarded, clean.bounds)["late_window"]


def test_one_query_for_a_whole_short_episode_is_a_long_chunk():
    assert verdicts.cause(verdicts.judge(made.episode(2, steps=45, gap=50, reward=False), BOUNDS)) == "long_chunk"


def test_who_never_uses_the_gripper_is_not_left_unexplained():
    flags = verdicts.judge(made.episode(4, reward=False, steps=300, gripper=False), BOUNDS)
    assert flags["unexplained"] is False and verdicts.cause(flags) is None


def test_most_means_more_than_half_of_those_that_could_be_judged():
    base = dict.fromkeys(NAMES, False)
    half = [base | {"bad_unnorm": True}] * 2 + [base] * 2
    assert verdicts.firing(verdicts.counts(half), REFERENCE) == []
    some = [base | {"bad_unnorm": True}] * 2 + [base] + [base | {"bad_unnorm": None}] * 9
    assert verdicts.counts(some)["bad_unnorm"] == intervals.rate(2, 3)
    assert verdicts.firing(verdicts.counts(some), REFERENCE) == ["bad_unnorm"]
    assert verdicts.firing(verdicts.counts([]), REFERENCE) == []


@pytest.mark.parametrize(
    ("actions", "means", "reward"),
    [((0, 7), 0, 0), ((5, 6), 5, 5), ((5, 7), 4, 5), ((5, 7), 5, 6)],
)
def test_other_shapes_are_refused(actions, means, reward):
    with pytest.raises(ValueError, match="an episode is"):
        Episode(np.zeros(actions), np.zeros(means), np.zeros(reward))


def test_an_action_that_is_not_finite_is_refused():
    whole = made.episode(0)
    broken = whole.actions.copy()
    broken[3, 2] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        Episode(broken, whole.img_mean, whole.reward)


# --- properties over any log ---

SMALL = st.floats(-5, 5, width=32)


@st.composite
def episodes(draw) -> Episode:
    steps = draw(st.integers(1, 90))
    actions = draw(arrays.arrays(np.float64, (steps, 7), elements=SMALL))
    means = draw(arrays.arrays(np.float64, steps, elements=st.one_of(st.just(np.nan), st.floats(0, 255, width=16))))
    return Episode(actions, means, draw(arrays.arrays(np.float64, steps, elements=st.sampled_from([0.0, 1.0]))))


@settings(max_examples=150, deadline=None)
@given(episodes())
def test_any_log_has_features_within_their_meaning_and_a_verdict(episode):
    found = features(episode)
    n, largest = len(episode.actions), np.abs(episode.actions[:, :6]).max()
    assert 0 <= found["effort"] <= largest + 1e-9 and found["reach"] <= largest + 1e-9
    assert found["gripper_changes"] <= n - 1
    for name in ("query_gap", "longest_hold"):
        assert np.isnan(found[name]) or 1 <= found[name] <= n
    flags = verdicts.judge(episode, BOUNDS)
    assert set(flags) == set(NAMES)
    assert not flags["unexplained"] or not any(said for name, said in flags.items() if name != "unexplained")
    assert not (flags["long_chunk"] and flags["stale_frame"])


@settings(max_examples=60, deadline=None)
@given(episodes(), st.floats(1.0, 8.0))
def test_larger_translations_never_unflag_bad_unnorm_and_smaller_never_unflag_bad_prompt(episode, factor):
    def scaled(by: float) -> dict[str, bool | None]:
        actions = episode.actions.copy()
        actions[:, :6] *= by
        return verdicts.judge(Episode(actions, episode.img_mean, episode.reward), BOUNDS)

    now = verdicts.judge(episode, BOUNDS)
    assert not now["bad_unnorm"] or scaled(factor)["bad_unnorm"]
    assert not now["bad_prompt"] or scaled(1 / factor)["bad_prompt"]


@settings(max_examples=60, deadline=None)
@given(episodes(), st.integers(0, 20))
def test_time_before_the_first_picture_is_no_picture(episode, wait):
    """A running clock holds before its first query: the pictures change as much, and were acted on as long."""
    if not np.isnan(episode.img_mean).any() or np.isnan(episode.img_mean).all():
        return
    late = Episode(
        np.vstack([np.zeros((wait, 7)), episode.actions]),
        np.r_[np.full(wait, np.nan), episode.img_mean],
        np.r_[np.zeros(wait), episode.reward],
    )
    one, other = features(late), features(episode)
    for name in ("picture_step", "longest_hold"):
        assert one[name] == other[name] or (np.isnan(one[name]) and np.isnan(other[name]))


def test_every_predicate_has_its_sentence():
    for predicate in PREDICATES:
        assert predicate.sentence.startswith("If ") and ": check " in predicate.sentence
        assert set(predicate.logged) | set(predicate.bounded) <= set(FEATURES)
    assert predicates.NAMES[-1] == predicates.LEFT_OVER  # by elimination: after all others


# --- runs ---


def test_a_run_is_not_left_unexplained_for_failing_as_often_as_the_clean_one_does():
    """Three of fifteen clean episodes fail: three of five do by chance, five of five do not; one alone says nothing."""
    weak = bounds.Reference(BOUNDS, 15, 12)
    failing = [dict.fromkeys(NAMES, False) | {"unexplained": True}]
    fine = [dict.fromkeys(NAMES, False)]
    assert verdicts.firing(verdicts.counts(failing * 3 + fine * 2), weak) == []
    assert verdicts.firing(verdicts.counts(failing * 5), weak) == ["unexplained"]
    assert verdicts.firing(verdicts.counts(failing), weak) == []
    hopeless = bounds.Reference(BOUNDS, 15, 1)  # this policy fails by itself: nothing can be left over
    assert verdicts.firing(verdicts.counts(failing * 15), hopeless) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 15))
def test_failures_needed_is_the_least_count_that_a_clean_run_seldom_reaches(m, failed):
    needed = bounds.failures_needed(m, failed, 15)
    tail = lambda k: stats.betabinom.sf(k - 1, m, failed + 1, 16 - failed)  # noqa: E731
    assert needed == m + 1 or tail(needed) <= 0.05 + 1e-12
    assert tail(needed - 1) > 0.05 - 1e-12
