"""A tiny random policy from its artifact, as a server would use it."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from policies.pi0.tiny import DIMS, PROMPTS, write_stats
from serving.in_process import running

from flashtrail.policies.pi0.errors import ArtifactError, ObservationError
from flashtrail.policies.pi0.policy import EXTRA_KEYS, FlashPolicy, draw_noise
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.transforms import ResizeWithPad, Tokenizer, read_action_stats
from flashtrail.serving.client import PolicyClient
from flashtrail.simulators.observation import Observation

ROOT = Path(__file__).parents[3]
ACCEPT_ALL = FlashSettings(tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False)


def observation(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 256, (224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (224, 224, 3), dtype=np.uint8),
        "observation/state": rng.normal(size=8),
        "prompt": PROMPTS[0],
    }


@pytest.fixture
def policy(artifact):
    return FlashPolicy.load(*artifact, settings=ACCEPT_ALL)


def test_a_full_round_then_a_draft_round(policy):
    session = policy.new_session()
    first = policy.infer(session, observation(), reset=True, noise_seed=[7, 0])
    second = policy.infer(session, observation(1), executed_steps=12, noise_seed=[7, 1])
    assert [r["policy_timing"]["route_type"] for r in (first, second)] == ["full", "draft"]
    for reply in (first, second):
        assert reply["actions"].shape == (50, 7) and reply["actions"].dtype == np.float64
        assert reply["accepted_prefix_len"] == 12
        assert set(EXTRA_KEYS) <= set(reply["policy_timing"])
    assert math.isnan(first["policy_timing"]["radius_dist"]) and second["policy_timing"]["radius_dist"] >= 0
    assert first["policy_timing"]["fallback_cause"] == "first" and second["policy_timing"]["fallback_cause"] == ""
    times = first["policy_timing"]
    stages = sum(times[k] for k in ("encoder_ms", "vlm_prefill_ms", "full_fallback_ms"))
    assert 0 < stages == pytest.approx(times["total_ms"]) and times["total_ms"] <= times["sample_actions_ms"]


def test_the_noise_seed_decides_and_sessions_do_not_touch_each_other(policy):
    a, b = policy.new_session(), policy.new_session()
    alone = [policy.infer(a, observation(i), executed_steps=12, noise_seed=[1, i])["actions"] for i in range(3)]
    other, mixed = policy.new_session(), []
    for i in range(3):
        policy.infer(other, observation(9 - i), executed_steps=3, noise_seed=[5, i])
        mixed.append(policy.infer(b, observation(i), executed_steps=12, noise_seed=[1, i])["actions"])
    np.testing.assert_array_equal(alone, mixed)
    changed = policy.infer(policy.new_session(), observation(0), noise_seed=[2, 0])["actions"]
    assert not np.array_equal(changed, alone[0])


def test_further_noises_say_how_sure_a_full_round_is_and_change_no_action(artifact, policy):
    settings = dataclasses.replace(ACCEPT_ALL, samples=4)
    several = FlashPolicy.load(*artifact, settings=settings)
    session, alone = several.new_session(), policy.new_session()
    for index in range(2):
        one, many = (
            p.infer(s, observation(index), executed_steps=12, noise_seed=[7, index])
            for p, s in ((policy, alone), (several, session))
        )
        np.testing.assert_array_equal(many["actions"], one["actions"])
        assert "sample_spread" not in one["policy_timing"]
        assert ("sample_spread" in many["policy_timing"]) == (index == 0)  # the second round drafts
    # by hand: the same observation under each of the noises
    noise = draw_noise([7, 0], (4, DIMS.action_horizon, DIMS.action_dim))
    np.testing.assert_array_equal(noise[0], draw_noise([7, 0], (DIMS.action_horizon, DIMS.action_dim)))
    sent = [policy.replay(policy.new_session(), observation(0), n, reset=True)["actions"][:12, :6] for n in noise]
    by_hand = np.sqrt(np.std(sent, axis=0, ddof=1) ** 2).ravel()
    reply = several.infer(several.new_session(), observation(0), noise_seed=[7, 0])
    assert reply["policy_timing"]["sample_spread"] == pytest.approx(np.sqrt(np.mean(by_hand**2)), rel=1e-4)
    asks = [(several.new_session(), observation(0), 0, True, [7, 0]) for _ in range(2)]
    spreads = [answer["policy_timing"]["sample_spread"] for _, answer in several.infer_many(asks)]
    assert spreads == [reply["policy_timing"]["sample_spread"]] * 2


def test_a_reset_begins_again(policy):
    session = policy.new_session()
    first = policy.infer(session, observation(), noise_seed=[3])
    policy.infer(session, observation(1), executed_steps=12, noise_seed=[4])
    again = policy.infer(session, observation(), reset=True, noise_seed=[3])
    assert again["policy_timing"]["route_type"] == "full"
    np.testing.assert_array_equal(first["actions"], again["actions"])


def test_a_masked_view_is_not_looked_at(policy):
    def act(changes: dict) -> np.ndarray:
        return policy.infer(policy.new_session(), observation() | changes, noise_seed=[1])["actions"]

    black = {"observation/wrist_image": np.zeros((224, 224, 3), np.uint8)}
    mask = {"__image_mask__": [True, False]}
    np.testing.assert_array_equal(act(mask), act(mask | black))
    assert not np.array_equal(act({}), act(mask))
    assert not np.array_equal(act({}), act(black))


def test_a_view_declared_missing_is_masked_through_server_and_client(policy):
    """What a guard declares missing (`Observation.wrist_missing`) is what the engine leaves out."""
    given = observation()
    seen = Observation(
        given["observation/image"], given["observation/wrist_image"], given["observation/state"], given["prompt"]
    )
    with running(policy) as serving, PolicyClient(serving.url) as client:
        assert "__image_mask__" in client.metadata["request_keys"]
        missing = client.infer(dataclasses.replace(seen, wrist_missing=True).request(), reset=True, noise_seed=[1])
        present = client.infer(seen.request(), reset=True, noise_seed=[1])
    here = policy.infer(policy.new_session(), given | {"__image_mask__": [True, False]}, noise_seed=[1])
    np.testing.assert_array_equal(missing.actions, here["actions"])
    assert not np.array_equal(missing.actions, present.actions)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float64", 1e-5)])
def test_other_number_formats_agree(artifact, policy, dtype, tolerance):
    other = FlashPolicy.load(*artifact, dtype=dtype, settings=ACCEPT_ALL)
    for p_round in range(2):
        seen = []
        for p in (policy, other):
            session = p.new_session()
            replies = [
                p.infer(session, observation(i), executed_steps=12, noise_seed=[1, i]) for i in range(p_round + 1)
            ]
            seen.append(replies[-1]["actions"])
        gap = np.abs(seen[0] - seen[1]).mean() / seen[0].std()
        assert 0 < gap < tolerance


def test_without_a_draft_every_round_is_full(artifact):
    policy = FlashPolicy.load(artifact[0], settings=ACCEPT_ALL)
    session = policy.new_session()
    routes = [policy.infer(session, observation(i))["policy_timing"]["route_type"] for i in range(3)]
    assert routes == ["full"] * 3


def test_delta_actions_follow_the_manifest(artifact):
    def act() -> np.ndarray:
        policy = FlashPolicy.load(artifact[0])
        return policy.infer(policy.new_session(), observation(), noise_seed=[1])["actions"]

    absolute = act()
    path = artifact[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transforms": {"delta_actions": False}}))
    added = np.append(observation()["observation/state"][:6], 0.0)
    np.testing.assert_allclose(absolute - act(), np.tile(added, (50, 1)), atol=1e-12)


def test_metadata_names_artifacts_and_settings(policy):
    told = policy.metadata
    assert told["request_keys"] == ["__image_mask__", "noise_seed"]
    assert told["base_digest"] == "digest-of-base" and told["draft_digest"] == "digest-of-draft"
    assert told["settings"]["tau_radius"] == 1e6 and told["dtype"] == "float32"
    json.dumps(told)


@pytest.mark.parametrize("key", ["observation/wrist_image", "observation/state", "prompt"])
def test_a_missing_key_is_named(policy, key):
    obs = observation()
    del obs[key]
    with pytest.raises(ObservationError, match=key):
        policy.infer(policy.new_session(), obs)


def test_a_refused_observation_leaves_the_session_as_it_was(policy):
    a, b = policy.new_session(), policy.new_session()
    for session in (a, b):
        policy.infer(session, observation(), noise_seed=[1])
    with pytest.raises(ObservationError):
        policy.infer(a, {"prompt": "x"}, executed_steps=12)
    replies = [policy.infer(s, observation(1), executed_steps=5, noise_seed=[2]) for s in (a, b)]
    np.testing.assert_array_equal(replies[0]["actions"], replies[1]["actions"])


@pytest.mark.parametrize(("state_dim", "action_dim"), [(7, 7), (8, 8)])
def test_norm_stats_of_a_wrong_length_are_refused(artifact, state_dim, action_dim):
    write_stats(artifact[0] / "norm_stats.json", state_dim, action_dim)
    with pytest.raises(ArtifactError, match="has length"):
        FlashPolicy.load(*artifact)


def test_foreign_action_statistics_change_what_the_robot_is_told_and_nothing_the_engine_knows(artifact, tmp_path):
    """The drill bad_unnorm, with drafts: routes, prefixes and radii are the clean ones; actions are spelled anew."""
    foreign = tmp_path / "foreign.json"
    mean, std = [0.0] * 7, [2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5]
    foreign.write_text(json.dumps({"norm_stats": {"actions": {"mean": mean, "std": std}}}))
    replies = []
    for stats in (None, foreign):
        policy = FlashPolicy.load(*artifact, settings=ACCEPT_ALL, action_stats=stats)
        session = policy.new_session()
        replies.append([policy.infer(session, observation(i), executed_steps=12, noise_seed=[1, i]) for i in range(4)])
    assert policy.metadata["action_stats"] == "foreign.json"  # and no path
    clean, drilled = replies
    assert {r["policy_timing"]["route_type"] for r in clean} == {"full", "draft"}
    for i, (one, other) in enumerate(zip(clean, drilled, strict=True)):
        for key in ("route_type", "accepted_prefix_len", "fallback_cause"):
            assert one["policy_timing"][key] == other["policy_timing"][key]
        np.testing.assert_equal(one["policy_timing"]["radius_dist"], other["policy_timing"]["radius_dist"])
        added = np.append(observation(i)["observation/state"][:6], 0.0)  # these actions are differences from the state
        meant = (one["actions"] - added - 0.1) / (0.5 + 1e-6)
        np.testing.assert_allclose(other["actions"] - added, meant * (np.array(std) + 1e-6), atol=1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing; give another file"),
        ("[]", "must hold norm_stats"),
        ('{"norm_stats": {"state": {}}}', "must hold norm_stats.actions with mean and std"),
        ('{"norm_stats": {"actions": {"mean": [0, 0], "std": [1, 1]}}}', "has length 2, the policy needs 7"),
        ('{"norm_stats": {"actions": {"mean": [0, 0, 0, 0, 0, 0, "x"], "std": []}}}', "something other than numbers"),
    ],
)
def test_foreign_statistics_that_are_none_are_refused(artifact, tmp_path, text, words):
    path = tmp_path / "foreign.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=words):
        FlashPolicy.load(*artifact, action_stats=path)


def test_the_drills_own_statistics_are_larger_in_translation_than_liberos():
    """Three to five times pi0_nano's; rotation and gripper of LIBERO's own size, so that the gripper still works."""
    own = read_action_stats(next(ROOT.glob("resources/pi0_nano/assets/**/norm_stats.json")), 7, 32)
    foreign = read_action_stats(ROOT / "resources/drills/bridge_like.json", 7, 32)
    ratios = foreign.std / own.std[:7]
    assert (ratios[:3] >= 3).all() and (ratios[:3] <= 5).all() and (ratios[3:] < 2).all()
    told = foreign.unnormalize(own.normalize(np.array([[0.0] * 6 + [grip] for grip in (-1.0, 1.0)])))[:, 6]
    assert told[0] < 0 < told[1]


def test_padded_norm_stats_are_legal(artifact):
    write_stats(artifact[0] / "norm_stats.json", 32, 32)
    assert FlashPolicy.load(*artifact)


def test_a_tokenizer_that_is_none_or_missing(artifact):
    path = artifact[0] / "tokenizer.model"
    path.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="not a SentencePiece model"):
        FlashPolicy.load(*artifact)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        FlashPolicy.load(*artifact)


def test_prompts_are_cleaned_as_paligemma_does(artifact):
    tokenizer = Tokenizer.load(artifact[0] / "tokenizer.model", 48, DIMS.vocab_size)
    ids = tokenizer("put the bowl on the plate")
    np.testing.assert_array_equal(ids, tokenizer("  put_the_bowl\non the plate \n"))
    processor = tokenizer.processor
    assert ids[0] == processor.bos_id() and ids[-1] == processor.piece_to_id("\n")
    assert len(Tokenizer(processor, 5)("put the bowl on the plate")) == 5


def test_a_prompt_that_is_cut_is_said_once(artifact, caplog):
    tokenizer = Tokenizer.load(artifact[0] / "tokenizer.model", 48, DIMS.vocab_size)
    tokenizer("put the bowl on the plate")
    assert not caplog.records
    for number in range(3):
        long = f"{number} " + "put the wine bottle on the cabinet " * 20
        np.testing.assert_array_equal(tokenizer(long), tokenizer.processor.encode(long.strip(), add_bos=True)[:48])
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "cut to this policy's 48, as openpi does" in record.getMessage()


def test_resizing_keeps_the_aspect_and_pads_with_black():
    image = np.full((100, 200, 3), 90, np.uint8)
    out = ResizeWithPad(224)(dict(images=[image]))["images"][0]
    assert out.shape == (224, 224, 3)
    assert (out[:56] == 0).all() and (out[-56:] == 0).all() and (out[56:168] == 90).all()


def test_noise_is_the_same_everywhere():
    """Pinned values: numpy's Philox is part of the record of an episode."""
    noise = draw_noise([7, 0], (50, 32))
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, draw_noise([7, 0], (50, 32)))
    np.testing.assert_allclose(noise[0, :3], PINNED, rtol=1e-6)


PINNED = [-1.4035643, 0.8484195, 1.3086803]
