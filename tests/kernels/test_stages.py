"""The stages and the runtime made of kernels against the PyTorch ones: prompts of odd lengths, 1-3 views, batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flash.tiny import DIMS, DRAFT_DIMS

from flashtrail.flash import draft, expert, prefix, vision, weights
from flashtrail.flash.dims import Stem, StemLayer, VisionDims
from flashtrail.flash.engine import Engine
from flashtrail.flash.errors import ObservationError
from flashtrail.flash.kernels import graphs, stages
from flashtrail.flash.kernels.runtime import TritonRuntime
from flashtrail.flash.runtime import ModelInputs, TorchRuntime
from flashtrail.flash.settings import FlashSettings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Few tokens and steps: the interpreter takes a millisecond for what a device does in one microsecond.
SMALL = replace(
    DIMS,
    vision=VisionDims(width=16, depth=1, mlp_dim=24, num_heads=2, head_dim=8, patch=112),
    action_horizon=6,
    num_steps=2,
)
STEM = replace(
    SMALL, vision=replace(SMALL.vision, patch=None, stem=Stem((StemLayer(5, 4, 8), StemLayer(3, 2, 16)), pool=8))
)
SMALL_DRAFT = replace(DRAFT_DIMS, chunk=6)
ACCEPT_ALL = FlashSettings(tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def base():
    return {k: _loud(k, v).to(DEVICE) for k, v in weights.init_base(SMALL, 0).items()}


def _loud(name, tensor):
    """Random norms and biases: their initial zeros and ones would hide a scale that is not applied."""
    if name.endswith((".bias", ".scale")):
        return tensor + 0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
    return tensor


@pytest.fixture(scope="module")
def packed(base):
    return stages.pack(weights.prepare(base))


def draw(rng, *shape):
    return torch.randn(*shape, generator=rng).to(DEVICE)


def close(ours, reference, tolerance=2e-5):
    assert torch.isfinite(ours).all()
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max(), (ours - reference).abs().max()


def rope(dims=SMALL):
    return stages.all_positions(96, dims.prefix.head_dim, torch.device(DEVICE))


def padded(rng, batch, length, spare=3):
    """Embeddings [batch, length + spare, W] of which each row has another valid length."""
    emb = draw(rng, batch, length + spare, SMALL.prefix.width)
    lengths = torch.tensor([length - i % 3 for i in range(batch)], dtype=torch.int32, device=DEVICE)
    return emb, lengths


def cache_of(packed, emb, lengths):
    shape = (SMALL.prefix.depth, *emb.shape[:2], SMALL.prefix.num_kv_heads, SMALL.prefix.head_dim)
    nan = [torch.full(shape, float("nan"), device=DEVICE) for _ in "kv"]
    cache = stages.Cache(*nan, lengths)
    stages.prefill(packed, SMALL, emb, rope(), cache)
    return cache


@pytest.mark.parametrize("dims", [SMALL, STEM], ids=["patches", "stem"])
@pytest.mark.parametrize(("batch", "views"), [(1, 1), (1, 3), (3, 2), (8, 0)])
def test_encode(rng, dims, batch, views):
    w = weights.prepare({k: _loud(k, v).to(DEVICE) for k, v in weights.init_base(dims, 0).items()})
    images = draw(rng, batch, views, 224, 224, 3)
    ids = torch.randint(0, 64, (batch, 5), generator=rng).to(DEVICE)
    out = torch.full((batch, views * dims.vision.tokens + 5, 16), float("nan"), device=DEVICE)
    stages.encode(stages.pack(w), dims, images, ids, out)
    parts = [vision.encode_images(w, dims, images)] if views else []
    close(out, torch.cat([*parts, prefix.embed_prompt(w, ids)], dim=1))


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (2, 21), (8, 12)])
def test_prefill_denoise_verify(rng, base, packed, batch, length):
    emb, lengths = padded(rng, batch, length)
    ours = cache_of(packed, emb, lengths)
    assert torch.isfinite(ours.k).all() and torch.isfinite(ours.v).all()
    state, noise = draw(rng, batch, 32), draw(rng, batch, 6, 32)
    chunk, drafted, x0_hat = noise.clone(), draw(rng, batch, 6, 32), draw(rng, batch, 2, 6, 32) * float("nan")
    t = torch.tensor([0.1, 0.05], device=DEVICE)
    euler = stages.time_biases(packed, torch.from_numpy(expert.euler_times(2)).to(DEVICE))
    stages.denoise(packed, SMALL, ours, state, rope(), euler, torch.tensor([-0.5], device=DEVICE), chunk)
    biases = stages.time_biases(packed, t)
    stages.verify(packed, SMALL, ours, state, rope(), biases, t, drafted, noise, x0_hat)
    for b, n in enumerate(lengths.tolist()):  # each alone and unpadded
        cache = prefix.prefill(base, SMALL, emb[b : b + 1, :n], None)
        close(ours.k[:, b, :n], cache.k[:, 0])
        close(ours.v[:, b, :n], cache.v[:, 0])
        row = slice(b, b + 1)
        close(chunk[row], expert.denoise(base, SMALL, cache, state[row], noise[row], 2))
        x_t = t[:, None, None] * noise[row] + (1 - t[:, None, None]) * drafted[row]
        v = expert.velocity(base, SMALL, cache, state[row], x_t, t)
        close(x0_hat[b], x_t - t[:, None, None] * v)


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (4, 18)])
def test_draft(rng, batch, length):
    wd = {k: _loud(k, v).to(DEVICE) for k, v in weights.init_draft(SMALL_DRAFT, 0).items()}
    emb, lengths = padded(rng, batch, length)
    state = draw(rng, batch, 32)
    out = torch.zeros(batch, 6, 32, device=DEVICE)
    stages.draft(stages.pack_draft(wd), SMALL_DRAFT, emb, lengths, state, rope(), out)
    valid = torch.arange(emb.shape[1], device=DEVICE) < lengths[:, None]
    close(out[..., :7], draft.draft(wd, SMALL_DRAFT, emb, valid, state))
    assert (out[..., 7:] == 0).all()


# --- the runtime ---


def inputs(seed, views=2, tokens=5):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (views, 224, 224, 3)).astype(np.float32)
    state = np.pad(rng.standard_normal(8), (0, 24)).astype(np.float32)
    return ModelInputs(images, rng.integers(0, 64, tokens), state)


@pytest.fixture(scope="module")
def runtimes(base):
    head = {k: _loud(k, v).to(DEVICE) for k, v in weights.init_draft(SMALL_DRAFT, 1).items()}
    return [cls(base, SMALL, head, SMALL_DRAFT) for cls in (TorchRuntime, TritonRuntime)]


def test_rounds_of_two_sessions_with_prompts_and_views_that_change(runtimes):
    """Full and draft rounds, interleaved, so that snapshots of one session meet another's buffers."""
    engines = [Engine(r, FlashSettings(tau_radius=0.8, enable_gripper_verify=False)) for r in runtimes]
    sessions = [[e.new_session() for _ in range(2)] for e in engines]
    rng = np.random.default_rng(0)
    routes = []
    for number, (which, views, tokens) in enumerate(
        [(0, 2, 5), (1, 2, 16), (0, 1, 5), (1, 3, 17), (0, 2, 48), (1, 2, 16), (0, 2, 1)]
    ):
        noise = rng.standard_normal((6, 32)).astype(np.float32)
        seen = inputs(number, views, tokens)
        ours, theirs = (
            e.infer(s[which], seen, noise, executed_steps=2)
            for e, s in zip(reversed(engines), reversed(sessions), strict=True)
        )
        assert (ours.route, ours.accepted, ours.cause, ours.scheduled) == (
            theirs.route, theirs.accepted, theirs.cause, theirs.scheduled
        )  # fmt: skip
        np.testing.assert_allclose(ours.chunk, theirs.chunk, rtol=0, atol=2e-5)
        if ours.route == "draft":
            np.testing.assert_allclose(ours.draft, theirs.draft, rtol=0, atol=2e-5)
            np.testing.assert_allclose(ours.x0_hat, theirs.x0_hat, rtol=0, atol=2e-5)
        assert set(ours.stage_ms) == set(theirs.stage_ms)
        routes.append(ours.route)
    assert {"full", "draft"} == set(routes)


def test_the_official_time_bias_is_an_option(runtimes):
    noise = np.random.default_rng(1).standard_normal((6, 32)).astype(np.float32)
    found = []
    for official in (False, True):
        settings = FlashSettings(official_time_bias=official)
        for run in runtimes:
            placed = run.place(inputs(3))
            emb = run.encode(placed)
            found.append(run.verify(run.prefill(emb), placed, run.draft(emb, placed), noise, settings))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found[2], found[3], rtol=0, atol=2e-5)
    assert np.array_equal(found[1][0], found[3][0])  # t = 0.10 has its own embedding either way
    assert np.abs(found[1][1] - found[3][1]).max() > 1e-4


def test_a_snapshot_from_the_pytorch_stages_serves(runtimes):
    torch_run, triton_run = runtimes
    noise = np.random.default_rng(2).standard_normal((6, 32)).astype(np.float32)
    placed = torch_run.place(inputs(4, tokens=7))
    cache = torch_run.prefill(torch_run.encode(placed))
    ours = triton_run.denoise(cache, triton_run.place(inputs(4, tokens=7)), noise)
    np.testing.assert_allclose(ours, torch_run.denoise(cache, placed, noise), rtol=0, atol=2e-5)


def test_after_warm_up_no_prompt_and_no_view_records_anything(base):
    class Counted:
        """Records and does nothing: what is computed is tested above."""

        def record(self, body):
            return lambda: None

    run = TritonRuntime(base, SMALL, recorder=Counted())
    run.warm_up(ACCEPT_ALL)
    recorded = run.counters.captures
    assert recorded > 0 and run.counters.late == {"captures": 0, "compilations": 0}
    engine = Engine(run, ACCEPT_ALL)
    noise = np.zeros((6, 32), np.float32)
    for tokens in (1, 13, 48):
        engine.infer(engine.new_session(), inputs(0, 1 + tokens % 2, tokens), noise)
    assert run.counters.captures == recorded
    engine.infer(engine.new_session(), inputs(0, 3, 4), noise)  # more views than the policy has: counted
    # Encoder and prefill; its 28 prefix slots are also those of one view and 24 tokens, which denoise knows.
    assert run.counters.late["captures"] == run.describe()["captures"] == 2


def test_a_prompt_too_long_is_one_line(runtimes):
    with pytest.raises(ObservationError, match="49 tokens is longer than this policy's 48"):
        runtimes[1].place(inputs(0, tokens=49))


def test_buckets():
    assert graphs.buckets_for(48) == (16, 24, 32, 48) and graphs.buckets_for(20) == (16, 20)
    assert [graphs.bucket_of(n, (16, 24)) for n in (1, 16, 17, 24)] == [16, 16, 24, 24]


def test_a_program_is_recorded_once_and_reads_its_buffers_each_time():
    counters = graphs.Counters()
    programs = graphs.Programs(graphs.Eager(), counters)
    source, out = torch.zeros(2), torch.zeros(2)
    for value in (1.0, 2.0):
        graphs.fill(source, np.full(2, value))
        programs.run("double", lambda: torch.mul(source, 2, out=out))
        assert out.tolist() == [2 * value] * 2
    assert (counters.captures, len(programs)) == (1, 1)
    with pytest.raises(ValueError, match="shape"):
        graphs.fill(source, np.zeros(3))
