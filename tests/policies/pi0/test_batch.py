"""Rounds of several sessions in one pass: the same routes, prefixes and actions as each session alone."""

import functools
import random
from pathlib import Path

import numpy as np
import pytest
from policies.pi0.conftest import write_policy
from policies.pi0.test_policy import observation
from policies.pi0.tiny import PROMPTS

from flashtrail.checkpoints import artifact
from flashtrail.policies.pi0.batch import BatchedStages
from flashtrail.policies.pi0.errors import ObservationError
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.policies.pi0.settings import FlashSettings

# Some draft rounds are accepted, some in part, some schedule a full round: both routes meet in one batch.
MIXED = FlashSettings(tau_radius=1.2, periodic_full_every_n_draft_rounds=3)
ROUNDS = 6
ROOT = Path(__file__).parents[3]
GOALS = ["open the middle drawer of the cabinet", "put the bowl on the stove"]


def asked(session_number: int, number: int) -> dict:
    """The observation of a session's round: prompts of three lengths, and one session in four without a wrist view."""
    obs = observation(100 * session_number + number) | {"prompt": PROMPTS[session_number % 3]}
    return obs | ({"__image_mask__": [True, False]} if session_number % 4 == 3 else {})


def rounds(session_number: int) -> list[tuple]:
    """(observation, executed_steps, reset, noise_seed) of each round; the fifth begins a new episode."""
    executed = random.Random(session_number).choices(range(13), k=ROUNDS)
    return [(asked(session_number, i), executed[i], i in (0, 4), [session_number, i]) for i in range(ROUNDS)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory, tokenizer_model) -> FlashPolicy:
    return FlashPolicy.load(*write_policy(tmp_path_factory.mktemp("policy"), tokenizer_model), settings=MIXED)


@functools.cache
def alone(policy: FlashPolicy, session_number: int) -> list[dict]:
    session = policy.new_session()
    return [
        policy.infer(session, obs, executed_steps=executed, reset=reset, noise_seed=seed)
        for obs, executed, reset, seed in rounds(session_number)
    ]


def interleaved(policy: FlashPolicy, count: int, seed: int) -> list[list[dict]]:
    """All sessions' rounds, in batches of whichever sessions a random draw puts together."""
    rng = random.Random(seed)
    sessions = [policy.new_session() for _ in range(count)]
    replies: list[list[dict]] = [[] for _ in range(count)]
    while left := [n for n in range(count) if len(replies[n]) < ROUNDS]:
        chosen = rng.sample(left, rng.randint(1, len(left)))
        answers = dict(policy.infer_many([(sessions[n], *rounds(n)[len(replies[n])]) for n in chosen]))
        assert sorted(answers) == list(range(len(chosen)))
        for index, n in enumerate(chosen):
            replies[n].append(answers[index])
    return replies


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(2))
def test_a_session_sees_nothing_of_its_company(policy, count, seed):
    together = interleaved(policy, count, seed)
    routes, sizes = set(), set()
    for n, replies in enumerate(together):
        for ours, other in zip(replies, alone(policy, n), strict=True):
            mine, theirs = ours["policy_timing"], other["policy_timing"]
            for key in ("route_type", "fallback_cause", "accepted_prefix_len", "scheduled_full_fallback"):
                assert mine[key] == theirs[key], (n, key)
            assert ours["accepted_prefix_len"] == other["accepted_prefix_len"]
            np.testing.assert_allclose(ours["actions"], other["actions"], rtol=0, atol=2e-5)
            assert set(mine) == set(theirs) and theirs["batch_size"] == 1
            routes.add(mine["route_type"])
            sizes.add(mine["batch_size"])
    assert routes == {"full", "draft"}
    assert (max(sizes) > 1) == (count > 1)


def test_a_trained_policy_spreads_a_difference_and_keeps_within_its_own_bound(tmp_path):
    """Pictures it never saw are the worst case: its flow then stands between two modes."""
    origin = {"uri": "resources/pi0_nano", "class": "MATCH_FLASH_PI0_LIBERO_JAX", "digest": "d" * 16}
    artifact.convert_base(ROOT / "resources/pi0_nano", tmp_path / "base", "float32", origin)
    trained, worst = FlashPolicy.load(tmp_path / "base"), 0.0
    for seed in range(6):
        seen = [asked(n, seed) | {"prompt": GOALS[n % 2]} for n in range(8)]
        asks = [(trained.new_session(), obs, 0, True, [n, seed]) for n, obs in enumerate(seen)]
        for index, ours in trained.infer_many(asks):
            other = trained.infer(trained.new_session(), seen[index], reset=True, noise_seed=[index, seed])
            assert ours["policy_timing"]["batch_size"] == 8
            worst = max(worst, float(np.abs(ours["actions"] - other["actions"]).max()))
    assert 0 < worst < 5e-4


def test_a_lone_round_is_bit_identical_and_no_route_is_padded_by_the_other(policy):
    for ours, other in zip(interleaved(policy, 1, 0)[0], alone(policy, 0), strict=True):
        np.testing.assert_array_equal(ours["actions"], other["actions"])
    # One session in its first round and one in its second are of different routes: each alone in its pass.
    first, second = policy.new_session(), policy.new_session()
    policy.infer(second, asked(1, 0), reset=True, noise_seed=[1, 0])
    answers = dict(policy.infer_many([(first, asked(0, 0), 0, True, [0]), (second, asked(1, 1), 12, False, [1])]))
    assert [answers[i]["policy_timing"]["route_type"] for i in (0, 1)] == ["full", "draft"]
    assert [answers[i]["policy_timing"]["batch_size"] for i in (0, 1)] == [1, 1]


def test_more_rounds_than_a_batch_takes(policy):
    asks = [(policy.new_session(), *rounds(n)[0]) for n in range(5)]
    sizes = [answer["policy_timing"]["batch_size"] for _, answer in policy.infer_many(asks, max_batch=2)]
    assert sizes == [2, 2, 2, 2, 1]


def test_one_bad_observation_spoils_no_other(policy):
    asks = [(policy.new_session(), *rounds(n)[0]) for n in range(3)]
    asks[1] = (asks[1][0], {"prompt": "x"}, 0, True, [1])
    answers = dict(policy.infer_many(asks))
    assert isinstance(answers[1], ObservationError)
    assert [answers[i]["policy_timing"]["batch_size"] for i in (0, 2)] == [2, 2]


@pytest.mark.parametrize("stage", ["place_many", "encode_many", "denoise_many", "split_snapshot"])
def test_a_pass_that_fails_is_done_again_one_by_one(policy, monkeypatch, stage):
    run = getattr(BatchedStages, stage)
    sessions = {
        "place_many": lambda inputs: len(inputs),
        "encode_many": lambda placed: len(placed.state),
        "denoise_many": lambda cache, placed, noise: len(noise),
        "split_snapshot": lambda cache, embeddings: cache.batch,
    }[stage]

    def fail(self, *arguments):
        if sessions(*arguments) > 1:
            raise RuntimeError("out of memory")
        return run(self, *arguments)

    monkeypatch.setattr(BatchedStages, stage, fail)
    replies = interleaved(policy, 2, 1)
    for n in range(2):
        for ours, other in zip(replies[n], alone(policy, n), strict=True):
            np.testing.assert_allclose(ours["actions"], other["actions"], rtol=0, atol=2e-5)


def test_a_snapshot_that_stays_holds_no_other_session(policy):
    sessions = [policy.new_session() for _ in range(4)]
    list(policy.infer_many([(s, *rounds(n)[0]) for n, s in enumerate(sessions)]))
    for session in sessions:
        k = session.state.snapshot.k
        assert k.untyped_storage().nbytes() == k.numel() * k.element_size()
    assert len({s.state.snapshot.length for s in sessions}) > 2  # other prompts, and a view less


def test_bfloat16_agrees_within_its_rounding(artifact):
    accept = FlashSettings(tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False)
    policy = FlashPolicy.load(*artifact, dtype="bfloat16", settings=accept)
    for n, replies in enumerate(interleaved(policy, 3, 0)):
        for ours, other in zip(replies, alone(policy, n), strict=True):
            assert ours["policy_timing"]["route_type"] == other["policy_timing"]["route_type"]
            assert np.abs(ours["actions"] - other["actions"]).mean() / other["actions"].std() < 0.03
