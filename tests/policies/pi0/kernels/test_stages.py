"""The stages made of kernels against the PyTorch ones: prompts of odd lengths, 1-3 views, batches."""

from __future__ import annotations

import pytest
import torch
from policies.pi0.kernels.small import DEVICE, SMALL, SMALL_DRAFT, STEM, base_weights, draft_weights

from flashtrail.policies.pi0 import draft, expert, prefix, vision, weights
from flashtrail.policies.pi0.kernels import stages


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def base():
    return base_weights()


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
    w = weights.prepare(base_weights(dims))
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
    suffix = stages.Suffix(packed, SMALL, ours, state, rope())
    stages.denoise(suffix, euler, torch.tensor([-0.5], device=DEVICE), chunk)
    biases = stages.time_biases(packed, t)
    stages.verify(suffix, biases, t, drafted, noise, x0_hat)
    for b, n in enumerate(lengths.tolist()):  # each alone and unpadded
        cache = prefix.prefill(base, SMALL, emb[b : b + 1, :n], None)
        close(ours.k[:, b, :n], cache.k[:, 0])
        close(ours.v[:, b, :n], cache.v[:, 0])
        row = slice(b, b + 1)
        close(chunk[row], expert.denoise(base, SMALL, cache, state[row], noise[row], 2))
        x_t = t[:, None, None] * noise[row] + (1 - t[:, None, None]) * drafted[row]
        v = expert.velocity(base, SMALL, cache, state[row], x_t, t)
        close(x0_hat[b], x_t - t[:, None, None] * v)


@pytest.mark.parametrize(("batch", "length", "columns"), [(1, 9, 8), (4, 18, 32)])
def test_draft(rng, batch, length, columns):
    """With room for columns of zeros in the action buffer (32), and without (8)."""
    wd = draft_weights()
    emb, lengths = padded(rng, batch, length)
    state = draw(rng, batch, 32)
    out = torch.zeros(batch, 6, 32, device=DEVICE)
    packed = stages.pack_draft(wd, columns)
    assert packed["action_head.weight"].shape[1] == {8: 7, 32: 16}[columns]
    stages.draft(packed, SMALL_DRAFT, emb, lengths, state, rope(), out)
    valid = torch.arange(emb.shape[1], device=DEVICE) < lengths[:, None]
    close(out[..., :7], draft.draft(wd, SMALL_DRAFT, emb, valid, state))
    assert (out[..., 7:] == 0).all()
