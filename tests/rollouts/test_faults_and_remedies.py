"""Conditions and guards against sequences worked out by hand from the rule in docs/rollouts.md."""

import numpy as np
import pytest

from flashtrail.base.errors import UserError
from flashtrail.rollouts import conditions, guards
from flashtrail.simulators.observation import Observation

LIVELY = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
BLACK = np.zeros((224, 224, 3), np.uint8)


def observation(wrist=LIVELY, agent=LIVELY) -> Observation:
    return Observation(agent, wrist, np.zeros(8), "do it")


@pytest.mark.parametrize(
    ("spec", "hit"),
    [
        ({"kind": "none"}, []),
        ({"kind": "zero", "view": "wrist", "every": 4, "phase": 0}, [0, 4, 8]),
        ({"kind": "zero", "every": 4, "phase": 3}, [3, 7]),
        ({"kind": "zero", "every": 1}, list(range(10))),
        ({"kind": "zero"}, list(range(10))),
    ],
)
def test_the_queries_that_are_hit(spec, hit):
    condition = conditions.build(spec)
    results = [condition.apply(observation(), query) for query in range(10)]
    assert [query for query, (_, applied) in enumerate(results) if applied] == hit
    assert [query for query, (seen, _) in enumerate(results) if not seen.wrist.any()] == hit
    assert all(seen.agent is LIVELY for seen, _ in results)


def test_views():
    agent, _ = conditions.build({"kind": "zero", "view": "agent"}).apply(observation(), 0)
    both, _ = conditions.build({"kind": "zero", "view": "both"}).apply(observation(), 0)
    assert (agent.agent.any(), agent.wrist.any()) == (False, True)
    assert (both.agent.any(), both.wrist.any()) == (False, False)
    assert LIVELY.any()  # the original is untouched


# Each letter is one query's wrist frame: H healthy, x black. Expected: what the policy sees
# (h own frame, c the cached one, x black), and the cache's age at each lookup.
SEQUENCES = [
    ("HHH", "hhh", {}),
    ("xxH", "xxh", {}),  # misses: nothing was ever healthy
    ("Hxxx", "hccc", {1: 1, 2: 2, 3: 3}),
    ("xHHHxHHHx", "xhhhchhhc", {4: 1, 8: 1}),  # wrist_zero_every4
    ("Hxxxxxxxx", "hcccccccc", {n: n for n in range(1, 9)}),  # the eighth is the last that the cache serves
    ("Hxxxxxxxxx", "hccccccccx", {n: n for n in range(1, 10)}),  # using the cache does not refresh it
    ("HxHxxxxxxxxxH", "hchccccccccxh", {1: 1, **{n: n - 2 for n in range(3, 12)}}),
]


@pytest.mark.parametrize(("frames", "seen", "ages"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_wrist_health_by_hand(frames, seen, ages):
    guard = guards.build({"kind": "wrist_health"})
    last = None
    for query, letter in enumerate(frames):
        wrist = np.roll(LIVELY, query, axis=0) if letter == "H" else BLACK
        given, found = guard.apply(observation(wrist), query)
        last = wrist if letter == "H" else last
        expected = {"h": wrist, "c": last, "x": BLACK}[seen[query]]
        assert np.array_equal(given.wrist, expected), query
        assert given.agent is LIVELY
        assert found.healthy is (letter == "H")
        assert found.replaced is found.cache_hit is (seen[query] == "c")
        assert found.cache_age == ages.get(query)
        assert found.health_std == pytest.approx(float(wrist.std()))
        assert found.health_range == float(wrist.max()) - float(wrist.min())


def wrist_with(std_pixels: int, high: int) -> np.ndarray:
    """A black frame with `std_pixels` values of `high`."""
    frame = np.zeros(224 * 224 * 3, np.uint8)
    frame[:std_pixels] = high
    return frame.reshape(224, 224, 3)


@pytest.mark.parametrize(
    ("wrist", "healthy"),
    [
        (wrist_with(224 * 224 * 3 // 2, 5), True),  # std 2.5, range exactly 5
        (wrist_with(224 * 224 * 3 // 2, 4), False),  # std 2.0, range 4
        (wrist_with(224 * 224 * 3 // 2, 2), False),  # std exactly 1.0, range 2
        (wrist_with(100, 255), True),  # std 6.6
        (wrist_with(1, 255), False),  # range 255, std 0.66
        (np.full((224, 224, 3), 200, np.uint8), False),  # bright, but nothing in it
    ],
)
def test_health_needs_both_thresholds(wrist, healthy):
    _, found = guards.build({"kind": "wrist_health"}).apply(observation(wrist), 0)
    assert found.healthy is healthy


def test_the_thresholds_are_inclusive():
    half = wrist_with(224 * 224 * 3 // 2, 2)
    _, found = guards.build({"kind": "wrist_health", "range_min": 2}).apply(observation(half), 0)
    assert (found.health_std, found.healthy) == (1.0, True)


def test_the_cache_is_a_copy_and_each_guard_has_its_own():
    frame = LIVELY.copy()
    guard = guards.build({"kind": "wrist_health"})
    guard.apply(observation(frame), 0)
    frame[:] = 0
    given, _ = guard.apply(observation(BLACK), 1)
    assert np.array_equal(given.wrist, LIVELY)
    _, found = guards.build({"kind": "wrist_health"}).apply(observation(BLACK), 1)
    assert found.cache_hit is False


def test_no_guard_looks_at_nothing():
    given, found = guards.build({"kind": "none"}).apply(observation(BLACK), 0)
    assert given.wrist is BLACK
    assert found == guards.GuardRecord()


def test_a_negative_threshold_is_refused():
    with pytest.raises(UserError, match="guard: max_age: must be at least 0, not -1"):
        guards.build({"kind": "wrist_health", "max_age": -1})
