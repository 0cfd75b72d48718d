"""Properties the trainer and the engine rely on, beyond the golden numbers of tests/conformance."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from policies.pi0.tiny import DIMS, DRAFT_DIMS

from flashtrail.policies.pi0 import draft, expert, prefix, vision, weights
from flashtrail.policies.pi0.dims import Stem, StemLayer
from flashtrail.policies.pi0.gemma import gelu
from flashtrail.policies.pi0.prefix import PrefixCache

STEM_DIMS = replace(
    DIMS,
    vision=replace(DIMS.vision, patch=None, stem=Stem(layers=(StemLayer(5, 4, 8), StemLayer(3, 2, 16)), pool=4)),
)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def w():
    return weights.init_base(DIMS, 0)


def velocity(w, emb, valid, state, x_t, t):
    return expert.velocity(w, DIMS, prefix.prefill(w, DIMS, emb, valid), state, x_t, t)


def test_a_masked_slot_is_a_dropped_slot(w, rng):
    emb = torch.randn(1, 12, DIMS.prefix.width, generator=rng)
    valid = torch.ones(1, 12, dtype=torch.bool)
    valid[0, [2, 3, 7, 11]] = False
    state, x_t, t = torch.randn(1, 32, generator=rng), torch.randn(1, 50, 32, generator=rng), torch.tensor([0.4])
    masked = velocity(w, emb, valid, state, x_t, t)
    dropped = velocity(w, emb[valid][None], None, state, x_t, t)
    torch.testing.assert_close(masked, dropped, rtol=0, atol=2e-6)
    wd = weights.init_draft(DRAFT_DIMS, 0)
    torch.testing.assert_close(
        draft.draft(wd, DRAFT_DIMS, emb, valid, state),
        draft.draft(wd, DRAFT_DIMS, emb[valid][None], None, state),
        rtol=0,
        atol=2e-6,
    )


def test_rows_of_a_batch_do_not_mix(w, rng):
    emb = torch.randn(3, 10, DIMS.prefix.width, generator=rng)
    valid = torch.rand(3, 10, generator=rng) > 0.3
    state, x_t, t = (
        torch.randn(3, 32, generator=rng),
        torch.randn(3, 50, 32, generator=rng),
        torch.rand(3, generator=rng),
    )
    together = velocity(w, emb, valid, state, x_t, t)
    for i in range(3):
        row = slice(i, i + 1)
        alone = velocity(w, emb[row], valid[row], state[row], x_t[row], t[row])
        torch.testing.assert_close(together[row], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_several_draws_share_one_prefix(w, rng, batch):
    emb = torch.randn(batch, 10, DIMS.prefix.width, generator=rng)
    valid = torch.rand(batch, 10, generator=rng) > 0.3
    state, x_t = torch.randn(batch, 32, generator=rng), torch.randn(3 * batch, 50, 32, generator=rng)
    t = torch.rand(3 * batch, generator=rng)
    cache = prefix.prefill(w, DIMS, emb, valid)
    shared = expert.velocity(w, DIMS, cache, state, x_t, t)
    repeated = PrefixCache(
        cache.k.repeat_interleave(3, dim=1), cache.v.repeat_interleave(3, dim=1), valid.repeat_interleave(3, dim=0)
    )
    apart = expert.velocity(w, DIMS, repeated, state.repeat_interleave(3, dim=0), x_t, t)
    torch.testing.assert_close(shared, apart, rtol=0, atol=5e-6)


def test_a_batch_that_does_not_divide_is_refused(w, rng):
    cache = prefix.prefill(w, DIMS, torch.randn(2, 4, DIMS.prefix.width, generator=rng), None)
    with pytest.raises(ValueError, match="not a multiple"):
        expert.velocity(w, DIMS, cache, torch.zeros(2, 32), torch.zeros(3, 50, 32), torch.zeros(3))


def test_the_state_does_not_see_the_actions_and_the_actions_see_it(w, rng):
    emb = torch.randn(1, 6, DIMS.prefix.width, generator=rng)
    x_t, t = torch.randn(1, 50, 32, generator=rng), torch.tensor([0.5])
    state = torch.randn(1, 32, generator=rng)
    assert not torch.allclose(velocity(w, emb, None, state, x_t, t), velocity(w, emb, None, state + 1, x_t, t))
    mask = expert.suffix_mask(None, 6, 51, emb.device)[0]
    assert mask[0].tolist() == [True] * 7 + [False] * 50
    assert mask[1:].all()


@pytest.mark.parametrize("dims", [DIMS, STEM_DIMS], ids=["patches", "stem"])
def test_every_weight_is_trained_through_the_stages(dims, rng):
    params = {k: v.requires_grad_() for k, v in weights.init_base(dims, 0).items()}
    w = weights.unbind(params)
    images = torch.rand(2, 2, 224, 224, 3, generator=rng) * 2 - 1
    language = prefix.embed_prompt(w, torch.randint(0, dims.vocab_size, (2, 5), generator=rng))
    emb = torch.cat((vision.encode_images(w, dims, images), language), dim=1)
    valid = torch.ones(emb.shape[:2], dtype=torch.bool)
    valid[0, -2:] = False
    cache = prefix.prefill(w, dims, emb, valid)
    x_t = torch.randn(4, 50, 32, generator=rng)
    expert.velocity(w, dims, cache, torch.randn(2, 32, generator=rng), x_t, torch.rand(4)).square().mean().backward()
    # The last prefix layer gives keys and values only, and the prefix's final norm is unused by design.
    idle = {"prefix.norm.scale"}
    assert {k for k, p in params.items() if p.grad is None or not p.grad.abs().sum() > 0} == idle


def test_the_draft_is_trained_through_its_stage(rng):
    params = {k: v.requires_grad_() for k, v in weights.init_draft(DRAFT_DIMS, 0).items()}
    emb = torch.randn(2, 9, DRAFT_DIMS.width, generator=rng)
    draft.draft(params, DRAFT_DIMS, emb, None, torch.randn(2, 32, generator=rng)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in params.values())


def test_gradients_agree_with_finite_differences(rng):
    """In float64, which also shows that nothing on the way is fixed to float32."""
    w = {k: v.double() for k, v in weights.init_base(DIMS, 0).items()}
    emb = torch.randn(1, 3, DIMS.prefix.width, generator=rng, dtype=torch.float64, requires_grad=True)
    state, x_t = torch.randn(1, 32, generator=rng).double(), torch.randn(1, 50, 32, generator=rng).double()
    t = torch.tensor([0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: velocity(w, e, None, state, x_t, t).sum(), (emb,), atol=1e-7, rtol=1e-5)


def test_images_pooled_before_give_the_same_tokens(rng):
    w = weights.init_base(STEM_DIMS, 0)
    images = torch.rand(2, 2, 224, 224, 3, generator=rng) * 2 - 1
    pooled = F.avg_pool2d(images.flatten(0, 1).permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1).unflatten(0, (2, 2))
    assert STEM_DIMS.vision.tokens == 7**2
    torch.testing.assert_close(
        vision.encode_images(w, STEM_DIMS, pooled), vision.encode_images(w, STEM_DIMS, images), rtol=0, atol=1e-5
    )


def test_views_are_encoded_apart_and_in_order(w, rng):
    images = torch.rand(1, 2, 224, 224, 3, generator=rng) * 2 - 1
    both = vision.encode_images(w, DIMS, images)
    one = vision.encode_images(w, DIMS, images[:, 1:])
    torch.testing.assert_close(both[:, DIMS.vision.tokens :], one, rtol=0, atol=1e-6)


def test_patches_are_read_row_by_row(w):
    """A patch that differs changes its own token most directly: with no encoder layers, only that one."""
    flat = replace(DIMS, vision=replace(DIMS.vision, depth=0))
    images = torch.zeros(1, 1, 224, 224, 3)
    images[0, 0, 56:112, 168:, :] = 1.0  # second row, fourth column of the 4 x 4 grid
    changed = vision.encode_images(w, flat, images) - vision.encode_images(w, flat, torch.zeros_like(images))
    assert changed[0].abs().sum(-1).nonzero().flatten().tolist() == [1 * 4 + 3]


def test_denoising_is_ten_euler_steps_from_noise(w, rng):
    emb = torch.randn(1, 6, DIMS.prefix.width, generator=rng)
    state, x = torch.randn(1, 32, generator=rng), torch.randn(1, 50, 32, generator=rng)
    cache = prefix.prefill(w, DIMS, emb, None)
    ours = expert.denoise(w, DIMS, cache, state, x, 10)
    for i in range(10):
        x = x - 0.1 * expert.velocity(w, DIMS, cache, state, x, torch.tensor([1.0 - i / 10]))
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-5)


def test_the_fast_gelu_is_the_differentiable_one(rng):
    x = torch.randn(1000, generator=rng) * 4
    with torch.no_grad():
        fast = gelu(x)
    torch.testing.assert_close(fast, gelu(x), rtol=1e-6, atol=1e-6)
    assert x.std() > 3  # the argument itself is not written
