"""Each route is timed by itself, with its own stages, after its warm-up, for each prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flashtrail.base.errors import UserError
from flashtrail.benchmark.profiling import full_against_full, load, profile_routes
from flashtrail.policies.pi0 import transforms as tf
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.kernels.graphs import Counters
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.rollouts import recordings
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import Observation

RESOURCES = Path(__file__).parents[2] / "resources"
GEMMA = {"width": 16, "depth": 1, "mlp_dim": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
DIMS = {
    "vision": {"width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 1, "head_dim": 8, "patch": 112, "image_size": 224}
    | {"stem": None},
    "prefix": GEMMA,
    "expert": GEMMA | {"width": 8},
    **{"vocab_size": 32, "action_dim": 32, "action_horizon": 50, "max_token_len": 48, "num_views": 2},
    **{"num_steps": 2, "state_dim": 8, "env_action_dim": 7},
}
DRAFT = {"width": 16, "mlp_dim": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "chunk": 50}
DRAFT |= {"state_dim": 32, "out_dim": 7}


def tiny_policy(draft: bool = True) -> FlashPolicy:
    dims, ddims = Pi0Dims.from_dict(DIMS), DraftDims.from_dict(DRAFT)
    head = (weights.init_draft(ddims, 1), ddims) if draft else (None, None)
    runtime = TorchRuntime(weights.init_base(dims, 0), dims, *head)
    stats = tf.Stats(np.zeros(32), np.ones(32))
    inputs = [tf.PickViews(2, 8), tf.NormalizeState(stats), tf.ResizeWithPad(224), tf.ScaleImages(224)]
    inputs += [tf.Tokenize(lambda prompt: np.arange(1, 5)), tf.PadState(32)]
    return FlashPolicy(Engine(runtime), inputs, [tf.UnnormalizeActions(stats, 7)])


def recorded(prompts: tuple[str, ...] = ("open it", "close it")) -> list[Recorded]:
    generator = np.random.default_rng(0)

    def seen(prompt: str) -> Observation:
        views = generator.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
        return Observation(*views, generator.standard_normal(8), prompt)

    return [Recorded((task, init), seen(prompt)) for task, prompt in enumerate(prompts) for init in (0, 1)]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    lines: list[str] = []
    return profile_routes(
        tiny_policy(), recorded(), name="tiny", samples=3, warmup=2, seed=7, device="cpu", report=lines.append
    )


def test_every_prompt_and_route_has_its_warm_up_and_its_samples(rows):
    for prompt in ("open it", "close it"):
        for route in ("full", "draft"):
            own = [row for row in rows if (row["prompt"], row["route"]) == (prompt, route)]
            assert [row["warmup"] for row in own] == [True, True, False, False, False]
            assert [row["sample"] for row in own] == [0, 1, 2, 3, 4]
    assert len(rows) == 2 * 2 * 5


def test_a_route_has_its_own_stages_only(rows):
    for row in rows:
        full = row["route"] == "full"
        assert (row["prefill_ms"] is not None, row["denoise_ms"] is not None) == (full, full)
        assert (row["draft_ms"] is None, row["verify_ms"] is None) == (full, full)
        stages = [row[k] for k in ("encoder_ms", "prefill_ms", "denoise_ms", "draft_ms", "verify_ms") if row[k]]
        assert 0 < sum(stages) <= row["policy_ms"]
        assert row["synchronized"] is True


def test_without_a_draft_head_there_is_only_the_full_route():
    rows = profile_routes(
        tiny_policy(draft=False), recorded(("open it",)), name="tiny", samples=1, warmup=0, seed=7, device="cpu"
    )
    assert [row["route"] for row in rows] == ["full"]


def test_a_policy_of_another_family_has_full_rounds_and_no_control():
    engine = {"device": "cpu", "dtype": "float32", "flash": {"max_exec_steps": 5, "tau_radius": 0.5}}
    policy = load(RESOURCES / "lift_nano", None, engine, "torch")
    seen = recorded(("lift the red cube", "push the red cube forward"))
    rows = profile_routes(policy, seen, name="lift", samples=3, warmup=1, seed=7, device="cpu", report=lambda _: None)
    assert [row["warmup"] for row in rows] == [True, False, False, False] * 2
    assert {row["route"] for row in rows} == {"full"} and all(row["draft_ms"] is None for row in rows)
    for row in rows:
        own = [row[name] for name in ("encoder_ms", "prefill_ms", "denoise_ms")]
        assert min(own) > 0 and sum(own) == pytest.approx(row["policy_ms"])
    assert full_against_full(policy, seen, samples=2, seed=7) == {"queries": 0, "histogram": []}


def test_the_control_compares_two_full_chunks_of_each_query():
    policy = tiny_policy()
    control = full_against_full(policy, recorded(), samples=1, seed=7)
    assert control["queries"] == sum(control["histogram"]) == 2 and len(control["histogram"]) == 13
    assert control["median_distance"] > 0
    assert full_against_full(policy, recorded(), samples=1, seed=7) == control
    assert full_against_full(policy, recorded(), samples=9, seed=7)["queries"] == 4


def test_observations_come_back_as_they_were(tmp_path):
    saved = recorded()
    recordings.save(saved, tmp_path / "observations.npz")
    loaded = recordings.load(tmp_path / "observations.npz")
    assert [(r.episode, r.observation.prompt) for r in loaded] == [(r.episode, r.observation.prompt) for r in saved]
    for a, b in zip(loaded, saved, strict=True):
        for name in ("agent", "wrist", "state"):
            assert np.array_equal(getattr(a.observation, name), getattr(b.observation, name))


def test_no_observation_and_a_broken_file_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"profile\.episodes"):
        recordings.save([], tmp_path / "x.npz")
    recordings.save(recorded(), tmp_path / "whole.npz")
    for content in (b"no archive", (tmp_path / "whole.npz").read_bytes()[:1000]):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz does not hold recorded observations"):
            recordings.load(tmp_path / "x.npz")


def test_captures_after_warm_up_fail_the_profile():
    policy = tiny_policy()
    policy.engine.runtime.counters = Counters(captures=4)
    policy.engine.runtime.counters.settle()
    words = {"name": "tiny", "samples": 1, "warmup": 0, "seed": 7, "device": "cpu", "report": lambda line: None}
    profile_routes(policy, recorded(("open it",)), **words)
    policy.engine.runtime.counters.captures += 1
    with pytest.raises(UserError, match="1 captures, 0 compilations after warm-up"):
        profile_routes(policy, recorded(("open it",)), **words)
