"""The stages in few operations against the reference stages, on memory that holds NaN wherever nobody wrote.

In float64 the two must agree to the last digits, so that a wrong term cannot hide in rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from policies.pi0.tiny import DIMS, DRAFT_DIMS

from flashtrail.policies.pi0 import draft, expert, lean, lean_weights, prefix, stages, vision, weights
from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims, Stem, StemLayer
from flashtrail.policies.pi0.prefix import PrefixCache
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.stages import Lean, Plain

CLOSE = {torch.float64: 1e-13, torch.float32: 3e-6}  # of the largest value
STEM = Stem(layers=(StemLayer(5, 4, 8), StemLayer(3, 2, 16)), pool=4)
TWO_HEADS = {"num_kv_heads": 2}
VARIANTS = {
    "patches": (DIMS, DRAFT_DIMS),
    "stem, two key heads": (
        replace(
            DIMS,
            vision=replace(DIMS.vision, patch=None, stem=STEM),
            prefix=replace(DIMS.prefix, depth=3, **TWO_HEADS),
            expert=replace(DIMS.expert, depth=3, **TWO_HEADS),
        ),
        replace(DRAFT_DIMS, **TWO_HEADS),
    ),
    "one layer": (
        replace(DIMS, prefix=replace(DIMS.prefix, depth=1), expert=replace(DIMS.expert, depth=1)),
        DRAFT_DIMS,
    ),
}


@pytest.fixture(autouse=True)
def poison():
    """Memory that nobody wrote holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    with torch.inference_mode():
        yield
    torch.use_deterministic_algorithms(before)


def moved(tensors: dict[str, torch.Tensor], dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """Weights whose scales and biases are not those of initialisation, which would hide a scale left out."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in tensors.items():
        shift = 0.2 * torch.randn(tensor.shape, generator=rng) if name.endswith((".scale", ".bias")) else 0.0
        out[name] = (tensor + shift).to(dtype)
    return out


@dataclass
class Both:
    """The two arrangements of one random policy, and where its random inputs come from."""

    dims: Pi0Dims
    draft_dims: DraftDims
    plain: Plain
    lean: Lean
    dtype: torch.dtype
    rng: torch.Generator

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.rng, dtype=torch.float64).to(self.dtype)

    def agree(self, ours: torch.Tensor, expected: torch.Tensor) -> None:
        assert ours.shape == expected.shape and ours.dtype == expected.dtype
        atol = CLOSE[self.dtype] * float(expected.abs().max())
        torch.testing.assert_close(ours, expected, rtol=0, atol=atol)

    def cache(self, batch: int, length: int) -> PrefixCache:
        g = self.dims.prefix
        shape = (g.depth, batch, length, g.num_kv_heads, g.head_dim)
        return PrefixCache(self.random(*shape), self.random(*shape), None)


@pytest.fixture(params=[(name, dtype) for name in VARIANTS for dtype in CLOSE], ids=lambda p: f"{p[0]}, {p[1]}")
def both(request) -> Both:
    name, dtype = request.param
    dims, draft_dims = VARIANTS[name]
    base, head = moved(weights.init_base(dims, 0), dtype, 1), moved(weights.init_draft(draft_dims, 1), dtype, 2)
    plain = Plain(weights.prepare(base), dims, head, draft_dims)
    return Both(dims, draft_dims, plain, Lean(base, dims, head, draft_dims), dtype, torch.Generator().manual_seed(3))


def holes(batch: int, length: int) -> torch.Tensor:
    """Valid slots of rows with other numbers of them, and not only at the end."""
    valid = torch.ones(batch, length, dtype=torch.bool)
    for row in range(batch):
        valid[row, length - row :] = False
        valid[row, 1 : 1 + 2 * row : 2] = False
    return valid


@pytest.mark.parametrize(("batch", "views"), [(1, 2), (2, 1), (1, 3)])
def test_encoder(both, batch, views):
    size = both.dims.vision.image_size
    images = both.random(batch, views, size, size, 3).clamp(-1, 1)
    both.agree(both.lean.encode_images(images), both.plain.encode_images(images))
    ids = torch.randint(0, both.dims.vocab_size, (batch, 5), generator=both.rng)
    both.agree(both.lean.embed_prompt(ids), both.plain.embed_prompt(ids))


def test_images_that_were_pooled_before(both):
    if both.dims.vision.stem is not None:
        side = both.dims.vision.image_size // both.dims.vision.stem.pool
        images = both.random(1, 2, side, side, 3)
        both.agree(both.lean.encode_images(images), both.plain.encode_images(images))


@pytest.mark.parametrize(("size", "side"), [(12, 2), (12, 3), (13, 4)])
def test_pooling_is_that_of_torch(size, side):
    images = torch.randn(2, size, size, 3, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
    torch.testing.assert_close(lean.pooled(images, side), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("masked", [False, True], ids=["all valid", "holes"])
@pytest.mark.parametrize(("batch", "length"), [(1, 9), (3, 1), (3, 40)])
def test_prefill_draft_and_passes(both, batch, length, masked):
    emb = both.random(batch, length, both.dims.prefix.width)
    valid = holes(batch, length) if masked and length > 9 else None
    cache, expected = both.lean.prefill(emb, valid), both.plain.prefill(emb, valid)
    seen = torch.ones(batch, length, dtype=torch.bool) if valid is None else valid
    for ours, theirs in ((cache.k, expected.k), (cache.v, expected.v)):
        assert ours.is_contiguous() and ours.isfinite().all()
        both.agree(ours[:, seen], theirs[:, seen])
    state, noise = both.random(batch, 32), both.random(batch, 50, 32)
    both.agree(both.lean.draft(emb, valid, state), both.plain.draft(emb, valid, state))
    both.agree(both.lean.denoise(expected, state, noise), both.plain.denoise(expected, state, noise))


@pytest.mark.parametrize(("caches", "states", "groups"), [(1, 1, 3), (2, 2, 2), (2, 2, 6), (1, 2, 4)])
@pytest.mark.parametrize("masked", [False, True], ids=["all valid", "holes"])
def test_several_times_share_a_prefix(both, caches, states, groups, masked):
    cache = both.cache(caches, 20)
    if masked:
        cache = replace(cache, valid=holes(caches, 20))
    state, x_t = both.random(states, 32), both.random(groups, 50, 32)
    t = torch.rand(groups, generator=both.rng)
    both.agree(both.lean.velocity(cache, state, x_t, t), both.plain.velocity(cache, state, x_t, t))


def test_more_slots_than_the_policy_s_own_views_and_prompts_have(both):
    cache = both.cache(1, 700)
    assert len(both.lean._w.rotary) < 700
    state, x_t = both.random(1, 32), both.random(1, 50, 32)
    t = torch.tensor([0.3])
    both.agree(both.lean.velocity(cache, state, x_t, t), both.plain.velocity(cache, state, x_t, t))


def test_a_batch_that_does_not_divide_is_refused(both):
    for caches, states in ((2, 3), (3, 2)):
        with pytest.raises(ValueError, match="not a multiple"):
            both.lean.velocity(both.cache(caches, 4), both.random(states, 32), both.random(3, 50, 32), torch.zeros(3))


def test_inputs_stay_as_they_were_and_a_second_run_gives_the_same_bits(both):
    emb, state, noise = both.random(2, 30, both.dims.prefix.width), both.random(2, 32), both.random(2, 50, 32)
    cache = both.lean.prefill(emb, None)
    kept = [x.clone() for x in (emb, state, noise, cache.k, cache.v)]
    first = both.lean.denoise(cache, state, noise), both.lean.draft(emb, None, state)
    again = both.lean.prefill(emb, None)
    second = both.lean.denoise(again, state, noise), both.lean.draft(emb, None, state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, (emb, state, noise, again.k, again.v), strict=True))


def test_weights_of_the_policy_stay_as_they_were():
    base, head = weights.init_base(DIMS, 0), weights.init_draft(DRAFT_DIMS, 1)
    kept = {k: v.clone() for k, v in (base | head).items()}
    run = TorchRuntime(base, DIMS, head, DRAFT_DIMS)
    inputs = ModelInputs(np.zeros((2, 224, 224, 3), np.float32), np.arange(4), np.zeros(32, np.float32))
    placed, noise = run.place(inputs), np.zeros((50, 32), np.float32)
    embeddings = run.encode(placed)
    chunk = run.denoise(run.prefill(embeddings), placed, noise)
    run.verify(run.prefill(embeddings), placed, run.draft(embeddings, placed), chunk, FlashSettings())
    assert all(torch.equal(v, (base | head)[k]) for k, v in kept.items())


# --- which is taken ---


@pytest.mark.parametrize(
    ("dtype", "most", "name"),
    [
        (torch.float32, None, "lean"),
        (torch.float64, None, "lean"),
        (torch.bfloat16, None, "plain"),
        (torch.float32, 0, "lean"),
        (torch.float32, -1, "plain"),
    ],
)
def test_small_policies_in_float32_take_few_operations(monkeypatch, dtype, most, name):
    base = {k: v.to(dtype) for k, v in weights.init_base(DIMS, 0).items()}
    if most is not None:
        monkeypatch.setattr(lean_weights, "MOST_NUMBERS", lean_weights.numbers(weights.base_shapes(DIMS)) + most)
    found: Any = TorchRuntime(base, DIMS).describe()["stages"]
    assert found == name


def test_other_devices_take_the_reference():
    base = {k: v.to("meta") for k, v in weights.init_base(DIMS, 0).items()}
    assert not stages.lean_suits(base)


def test_the_reference_is_what_these_are_compared_with():
    """Plain is the reference functions themselves, not a third arrangement."""
    w = weights.prepare(weights.init_base(DIMS, 0))
    plain = Plain(w, DIMS, weights.init_draft(DRAFT_DIMS, 1), DRAFT_DIMS)
    emb, state = torch.randn(1, 6, 16), torch.randn(1, 32)
    cache = prefix.prefill(w, DIMS, emb, None)
    assert torch.equal(plain.prefill(emb, None).k, cache.k)
    noise = torch.randn(1, 50, 32)
    assert torch.equal(plain.denoise(cache, state, noise), expert.denoise(w, DIMS, cache, state, noise, DIMS.num_steps))
    assert torch.equal(plain.draft(emb, None, state), draft.draft(plain._wd, DRAFT_DIMS, emb, None, state))
    images = torch.zeros(1, 1, 224, 224, 3)
    assert torch.equal(plain.encode_images(images), vision.encode_images(w, DIMS, images))
