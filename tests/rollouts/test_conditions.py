"""Every kind of fault against frames worked out by hand; its randomness; its refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts.scripted import KEY

from flashtrail.base.errors import UserError
from flashtrail.experiment import conditions as kinds
from flashtrail.rollouts import conditions
from flashtrail.rollouts.conditions import noisy, occluded
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import Observation

WORDS = seeds.derive(7, KEY, "perturbation")
SIDE = 32  # the rules hold for any size of picture; a small one is quick


def frame(number: int, view: int) -> np.ndarray:
    return np.random.default_rng([number, view]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def observation(query: int) -> Observation:
    return Observation(frame(query, 0), frame(query, 1), np.full(8, query, float), "do it")


def played(spec, queries=12, words=WORDS):
    """What the policy sees at each query, and whether the condition says that it was hit."""
    condition = conditions.build(spec, words)
    return [condition.apply(observation(query), query) for query in range(queries)]


def shown(results, view="wrist") -> list[int | str]:
    """Which query's frame each one shows; x for black, ? for anything else."""
    number = {"agent": 0, "wrist": 1}[view]
    out: list[int | str] = []
    for seen, _ in results:
        image = getattr(seen, view)
        found = [query for query in range(len(results)) if np.array_equal(image, frame(query, number))]
        out.append(found[0] if found else "?" if image.any() else "x")
    return out


def hits(results) -> list[int]:
    return [query for query, (_, hit) in enumerate(results) if hit]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"kind": "zero", "every": 4, "phase": 1, "length": 2}, [0, "x", "x", 3, 4, "x", "x", 7, 8, "x", "x", 11]),
        ({"kind": "zero", "every": 4, "phase": 3, "length": 2}, [0, 1, 2, "x", "x", 5, 6, "x", "x", 9, 10, "x"]),
        ({"kind": "zero", "start": 9}, [*range(9), "x", "x", "x"]),
        ({"kind": "freeze", "start": 5}, [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]),
        ({"kind": "freeze"}, [0] * 12),
        ({"kind": "freeze", "every": 4, "phase": 2, "length": 2}, [0, 1, 1, 1, 4, 5, 5, 5, 8, 9, 9, 9]),
        ({"kind": "stale", "queries": 1}, [0, *range(11)]),
        ({"kind": "stale", "queries": 3}, [0, 0, 0, *range(9)]),
        ({"kind": "stale", "queries": 2, "every": 6, "phase": 5}, [0, 1, 2, 3, 4, 3, 6, 7, 8, 9, 10, 9]),
    ],
)
def test_which_frame_is_shown(spec, expected):
    results = played(spec)
    assert shown(results) == expected
    assert hits(results) == [query for query, what in enumerate(expected) if what != query]
    assert shown(results, "agent") == list(range(12))


@pytest.mark.parametrize("spec", [{"kind": "zero"}, {"kind": "freeze", "start": 3}, {"kind": "stale", "queries": 2}])
def test_each_view_alone_and_both(spec):
    for view, touched in (("agent", ["agent"]), ("wrist", ["wrist"]), ("both", ["agent", "wrist"])):
        results = played(spec | {"view": view})
        changed = [name for name in ("agent", "wrist") if shown(results, name) != list(range(12))]
        assert changed == touched
        assert all(seen.state[0] == query for query, (seen, _) in enumerate(results))


def test_swapped_cameras():
    results = played({"kind": "swap", "every": 3})
    for query, (seen, hit) in enumerate(results):
        assert hit is (query % 3 == 0)
        assert np.array_equal(seen.wrist, frame(query, 0 if hit else 1))
        assert np.array_equal(seen.agent, frame(query, 1 if hit else 0))


def test_a_patch_covers_what_it_says():
    image = np.full((20, 40, 3), 9, np.uint8)
    out = occluded(image, 0.5, 0.5, 0.25, 255)
    covered = (out == 255).all(axis=2)
    assert covered.sum() == 10 * 20 and covered[5:15, 0:20].all() and (out[~covered] == 9).all()
    assert (occluded(image, 0.5, 0.0, 0.0, 0) == 0).all(axis=2).sum() == 5 * 10  # cut at the corner
    assert (occluded(image, 1.0, 0.5, 0.5, 0) == 0).all()
    assert (image == 9).all()


def test_a_drawn_patch_stays_for_the_episode_and_differs_between_episodes():
    spec = {"kind": "occlusion", "size": 0.25, "value": 255, "view": "both"}

    def place(seen, view):
        return tuple(np.argwhere((getattr(seen, view) == 255).all(axis=2)).mean(axis=0))

    one = {place(seen, "wrist") for seen, _ in played(spec)}
    assert len(one) == 1
    others = {place(played(spec, 1, [*WORDS[:3], number, *WORDS[4:]])[0][0], "wrist") for number in range(8)}
    assert len(others) > 4
    seen, _ = played(spec, 1)[0]
    assert place(seen, "wrist") != place(seen, "agent")


def test_noise_has_the_deviation_asked_for_and_is_new_at_every_query():
    grey = np.full((200, 200, 3), 128, np.uint8)
    out = noisy(grey, 10.0, np.random.default_rng(0))
    assert out.dtype == np.uint8
    assert float(out.std()) == pytest.approx(10.0, abs=0.2) and float(out.mean()) == pytest.approx(128.0, abs=0.2)
    assert noisy(np.zeros_like(grey), 10.0, np.random.default_rng(0)).max() < 70  # cut, not wrapped round
    condition = conditions.build({"kind": "noise", "sigma": 10}, WORDS)
    first, second = (condition.apply(observation(0), query)[0].wrist for query in (0, 1))
    assert not np.array_equal(first, second)


def test_bursts_come_as_often_and_last_as_long_as_they_say():
    def struck(probability, length, queries=4000):
        condition = conditions.build({"kind": "bursts", "probability": probability, "length": length}, WORDS)
        seen = observation(0)
        return [condition.apply(seen, query)[1] for query in range(queries)]

    single = struck(0.1, 1)
    assert np.mean(single) == pytest.approx(0.1, abs=0.02)
    longer = struck(0.1, 3)
    # The same bursts begin; each lasts three queries, and those that overlap merge.
    assert longer == [any(single[max(0, query - 2) : query + 1]) for query in range(len(single))]
    assert all(struck(1.0, 1, 20))


def test_a_burst_of_another_fault_and_faults_together():
    burst = played({"kind": "bursts", "probability": 0.4, "length": 2, "fault": {"kind": "freeze", "view": "agent"}})
    assert 0 < len(hits(burst)) < 12 and shown(burst) == list(range(12))
    assert shown(burst, "agent") != list(range(12))
    both = played([{"kind": "zero", "view": "agent", "every": 2}, {"kind": "stale", "queries": 1}])
    assert shown(both) == [0, *range(11)]
    assert shown(both, "agent") == ["x" if query % 2 == 0 else query for query in range(12)]
    assert hits(both) == list(range(12))
    # In order: what the second is given is what the first left.
    assert shown(played([{"kind": "zero", "view": "agent"}, {"kind": "swap"}])) == ["x"] * 12


def test_another_instruction_reaches_the_policy_alone():
    told = played({"kind": "instruction", "text": "push {instruction}"}, 3)
    assert {seen.prompt for seen, _ in told} == {"push {instruction}"} and hits(told) == [0, 1, 2]
    assert shown(told) == [0, 1, 2] and observation(0).prompt == "do it"


RANDOM = [
    {"kind": "noise", "sigma": 12.5, "view": "both"},
    {"kind": "occlusion", "size": 0.3},
    {"kind": "bursts", "probability": 0.3, "length": 2},
    [{"kind": "noise", "sigma": 4}, {"kind": "bursts", "probability": 0.2, "fault": {"kind": "noise", "sigma": 9}}],
]


@pytest.mark.parametrize("spec", RANDOM, ids=str)
def test_the_same_episode_meets_the_same_fault_and_another_one_does_not(spec):
    def bits(words):
        return [(seen.agent.tobytes(), seen.wrist.tobytes(), hit) for seen, hit in played(spec, words=words)]

    assert bits(WORDS) == bits(list(WORDS))
    assert bits(WORDS) != bits([*WORDS[:3], WORDS[3] + 1, *WORDS[4:]])
    with pytest.raises(ValueError, match="needs the episode's seed"):
        played(spec, words=None)


def test_two_noises_together_are_not_one_noise_twice():
    twice = played([{"kind": "noise", "sigma": 20}, {"kind": "noise", "sigma": 20}], 1)[0][0].wrist
    once = played({"kind": "noise", "sigma": 20}, 1)[0][0].wrist
    assert not np.array_equal(twice.astype(int) - once, once.astype(int) - frame(0, 1))


numbers = {"every": st.integers(1, 6), "start": st.integers(0, 5), "view": st.sampled_from(["agent", "wrist", "both"])}
simple = st.one_of(
    st.fixed_dictionaries({"kind": st.just("zero"), **numbers}),
    st.fixed_dictionaries({"kind": st.just("freeze"), **numbers}),
    st.fixed_dictionaries({"kind": st.just("stale"), "queries": st.integers(1, 4), **numbers}),
    st.fixed_dictionaries({"kind": st.just("occlusion"), "size": st.floats(0.05, 1), **numbers}),
    st.fixed_dictionaries({"kind": st.just("noise"), "sigma": st.floats(0.5, 80), **numbers}),
    st.fixed_dictionaries({"kind": st.just("swap"), "every": st.integers(1, 6)}),
)
specs = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"kind": st.just("bursts"), "probability": st.floats(0.05, 1), "fault": inner}),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(specs)
def test_any_condition_leaves_its_input_alone_keeps_shapes_and_can_be_spelled_out(spec):
    parameters = kinds.read(spec)
    assert (
        kinds.read(parameters.model_dump())
        == kinds.read(parameters.called("x")).model_copy(update={"name": None})
        == parameters
    )
    condition = conditions.build(spec, WORDS)
    for query in range(6):
        before = observation(query)
        seen, hit = condition.apply(before, query)
        for view, number in (("agent", 0), ("wrist", 1)):
            assert np.array_equal(getattr(before, view), frame(query, number))
            assert getattr(seen, view).shape == (SIDE, SIDE, 3) and getattr(seen, view).dtype == np.uint8
        assert hit or seen is before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "frozen"}, "unknown kind 'frozen'; did you mean 'freeze'?"),
        ({"kind": "stale"}, "condition: queries: is missing"),
        ({"kind": "stale", "queries": 0}, "queries: must be at least 1, not 0"),
        ({"kind": "stale", "queries": 1.5}, "queries: 1.5 is not a whole number"),
        ({"kind": "noise", "sigma": 0}, "sigma: must be above 0, not 0"),
        ({"kind": "noise", "sigma": float("nan")}, "sigma: must be a finite number, not nan"),
        ({"kind": "noise", "sigma": 3, "view": "wirst"}, "view: unknown value 'wirst'; did you mean 'wrist'?"),
        ({"kind": "noise", "sigmas": 3}, "unknown key 'sigmas'; did you mean 'sigma'?"),
        ({"kind": "occlusion", "size": 1.5}, "size: must be at most 1, not 1.5"),
        ({"kind": "occlusion", "size": 0.5, "row": 0.5}, "give both row and column"),
        ({"kind": "bursts", "probability": 2}, "probability: must be at most 1, not 2"),
        (
            {"kind": "bursts", "probability": 0.5, "fault": {"kind": "swap", "view": "wrist"}},
            "unknown key 'fault.view'",
        ),
        ({"kind": "zero", "every": 2, "length": 3}, "length 3 is longer than the period"),
        ({"kind": "zero", "every": True}, "every: expected a number, not true or false"),
        ({"kind": "swap", "view": "wrist"}, "unknown key 'view'"),
        ([], "is empty"),
        ("zero", "expected a mapping, e.g. {kind: none}, not 'zero'"),
    ],
)
def test_a_mistake_is_named(spec, words):
    with pytest.raises(UserError) as caught:
        conditions.build(spec, WORDS)
    assert words in str(caught.value)
