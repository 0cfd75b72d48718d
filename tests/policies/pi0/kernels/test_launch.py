"""Every kernel against its PyTorch reference: odd sizes, 1 to 8 rows of batch, outputs poisoned with NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policies.pi0.kernels.conftest import DTYPES

from flashtrail.benchmark import by_kernel
from flashtrail.policies.pi0 import gemma, verify
from flashtrail.policies.pi0.kernels import launch, stages
from flashtrail.policies.pi0.kernels.tiles import Tile
from flashtrail.policies.pi0.settings import FlashSettings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def draw(rng, *shape, dtype=torch.float32, gain=1.0):
    return (torch.randn(*shape, generator=rng) * gain).to(DEVICE, dtype)


def poisoned(*shape, dtype=torch.float32):
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def assert_close(ours, reference, dtype):
    gap = by_kernel.error(ours, reference)
    assert gap < by_kernel.TOLERANCE[dtype], f"off by {gap:.2e} of the largest entry"


def tables(rows, head_dim, start=3):
    cos, sin = gemma.rope_tables(torch.arange(start, start + rows)[None], head_dim, torch.float32)
    return tuple(t[0, :, 0].contiguous().to(DEVICE) for t in (cos, sin))


@dtypes
@pytest.mark.parametrize(("groups", "rows", "width", "heads", "kv", "head_dim"), [
    (1, 51, 48, 4, 1, 16), (2, 13, 40, 2, 2, 8), (8, 5, 64, 3, 1, 24), (1, 37, 16, 0, 1, 40),
])  # fmt: skip
def test_norm_qkv_rope(rng, dtype, groups, rows, width, heads, kv, head_dim):
    x = draw(rng, groups * rows, width, dtype=dtype)
    scale = draw(rng, width, dtype=dtype, gain=0.3)
    w = draw(rng, width, (heads + 2 * kv) * head_dim, dtype=dtype, gain=width**-0.5)
    cos, sin = tables(rows, head_dim)
    out = poisoned(groups * rows, heads + 2 * kv, head_dim, dtype=dtype)
    launch.norm_qkv_rope(x, scale, w, (cos, sin), heads + kv, out=out)
    assert_close(out, by_kernel.norm_qkv_rope(x, scale, w, (cos, sin), heads + kv), dtype)


@dtypes
@pytest.mark.parametrize(("rows", "width", "inner"), [(51, 48, 80), (1, 16, 24), (102, 40, 33), (408, 24, 16)])
def test_norm_gated(rng, dtype, rows, width, inner):
    x, scale = draw(rng, rows, width, dtype=dtype), draw(rng, width, dtype=dtype, gain=0.3)
    w = draw(rng, width, 2 * inner, dtype=dtype, gain=width**-0.5)
    out = launch.norm_gated(x, scale, w, out=poisoned(rows, inner, dtype=dtype))
    assert_close(out, by_kernel.norm_gated(x, scale, w), dtype)


@dtypes
@pytest.mark.parametrize("split", [1, 2, 8])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(51, 200, 48), (102, 33, 17)])
def test_linear_residual(rng, dtype, rows, inner, columns, split):
    a, residual = draw(rng, rows, inner, dtype=dtype), draw(rng, rows, columns, dtype=dtype)
    w = draw(rng, inner, columns, dtype=dtype, gain=inner**-0.5)
    tile = Tile(32, 16, 16, split)
    out = launch.linear_residual(a, w, residual, out=poisoned(rows, columns, dtype=dtype), tile=tile)
    reference = by_kernel.linear_residual(a, w, residual)
    assert_close(out, reference, dtype)
    assert_close(launch.linear_residual(a, w, residual, out=residual), reference, dtype)  # in place, own tile


@dtypes
@pytest.mark.parametrize(("groups", "states", "biases"), [(1, 1, 1), (2, 1, 2), (8, 4, 8), (6, 2, 1)])
def test_embed_actions(rng, dtype, groups, states, biases):
    actions, dim, width = 7, 32, 40
    x_t, bias = draw(rng, groups, actions, dim), draw(rng, biases, width)
    fused, state = draw(rng, dim, width, dtype=dtype, gain=0.2), draw(rng, states, width, dtype=dtype)
    w, b = draw(rng, width, width, dtype=dtype, gain=0.2), draw(rng, width, dtype=dtype)
    out = poisoned(groups, actions + 1, width, dtype=dtype)
    launch.embed_actions(x_t, fused, bias, w, b, state, out=out)
    assert_close(out, by_kernel.embed_actions(x_t, fused, bias, w, b, state), dtype)


@dtypes
@pytest.mark.parametrize(("groups", "factors"), [(1, 1), (2, 2), (8, 1), (5, 5)])
def test_project_update(rng, dtype, groups, factors):
    actions, width, columns = 9, 40, 32
    x, scale = draw(rng, groups, actions + 1, width, dtype=dtype), draw(rng, width, dtype=dtype, gain=0.3)
    w, b = draw(rng, width, columns, dtype=dtype, gain=width**-0.5), draw(rng, columns, dtype=dtype)
    base, factor = draw(rng, groups, actions, columns), draw(rng, factors)
    out = poisoned(groups, actions, columns)
    launch.project_update(x, w, b, scale=scale, base=base, factors=factor, out=out)
    expected = by_kernel.project_update(x, w, b, scale=scale, base=base, factors=factor)
    assert_close(out, expected, dtype)
    launch.project_update(x, w, b, scale=scale, base=base, factors=factor, out=base)
    assert_close(base, expected, dtype)


@dtypes
def test_project_update_as_the_draft_head(rng, dtype):
    """No norm, no base, fewer columns than the output has: the rest of the output stays as it was."""
    x = draw(rng, 2, 6, 24, dtype=dtype)
    w, b = draw(rng, 24, 7, dtype=dtype, gain=0.2), draw(rng, 7, dtype=dtype)
    out = torch.full((2, 5, 32), 9.0, device=DEVICE)
    launch.project_update(x, w, b, out=out)
    assert_close(out[..., :7], by_kernel.project_update(x, w, b), dtype)
    assert (out[..., 7:] == 9.0).all()


@dtypes
@pytest.mark.parametrize("first_alone", [True, False])
@pytest.mark.parametrize(("batch", "draws", "rows", "prefix", "heads", "kv", "head_dim", "split"), [
    (1, 1, 11, 35, 4, 1, 16, 1), (1, 2, 9, 49, 4, 1, 8, 4), (3, 1, 5, 1, 2, 2, 24, 2), (4, 2, 6, 20, 4, 2, 8, 3),
])  # fmt: skip
def test_two_part_attention(rng, dtype, first_alone, batch, draws, rows, prefix, heads, kv, head_dim, split):
    """The reference concatenates and masks, as the PyTorch stage does; slots past the valid length hold rot."""
    qkv = draw(rng, batch * draws, rows, heads + 2 * kv, head_dim, dtype=dtype)
    k, v = draw(rng, batch, prefix, kv, head_dim, dtype=dtype), draw(rng, batch, prefix, kv, head_dim, dtype=dtype)
    lengths = torch.tensor([max(1, prefix - 3 * b) for b in range(batch)], dtype=torch.int32, device=DEVICE)
    out = poisoned(batch * draws, rows, heads * head_dim, dtype=dtype)
    tile = Tile(16, 16, max(16, 1 << (head_dim - 1).bit_length()), split, 4, 2)
    valid = torch.arange(prefix, device=DEVICE) < lengths[:, None]
    poison = float("nan")
    rot_k, rot_v = (t.masked_fill(~valid[..., None, None], poison) for t in (k, v))
    launch.two_part_attention(qkv, rot_k, rot_v, lengths, heads, first_alone=first_alone, out=out, tile=tile)
    expected = by_kernel.two_part_attention(qkv, k, v, lengths, heads, first_alone=first_alone)
    assert_close(out, expected, dtype)


@dtypes
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (37, 48), (130, 33)])
def test_rms_norm(rng, dtype, rows, width):
    x, scale = draw(rng, rows, width, dtype=dtype), draw(rng, width, dtype=dtype, gain=0.3)
    out = launch.rms_norm(x, scale, out=poisoned(rows, width, dtype=dtype))
    assert_close(out, by_kernel.rms_norm(x, scale), dtype)


@dtypes
@pytest.mark.parametrize(("rows", "heads", "kv", "head_dim"), [(35, 4, 1, 16), (3, 2, 2, 24), (9, 0, 1, 8)])
def test_rope_into_cache(rng, dtype, rows, heads, kv, head_dim):
    qkv = draw(rng, rows, heads + 2 * kv, head_dim, dtype=dtype)
    k, v = poisoned(rows, kv, head_dim, dtype=dtype), poisoned(rows, kv, head_dim, dtype=dtype)
    cos, sin = tables(rows, head_dim)
    q = launch.rope_into_cache(qkv, (cos, sin), heads, k, v)
    queries, keys, values = by_kernel.rope_into_cache(qkv, (cos, sin), heads, k, v)
    assert_close(q, queries, dtype)
    assert_close(k, keys, dtype)
    assert torch.equal(v.float(), values)


@dtypes
@pytest.mark.parametrize(("rows", "inner"), [(1, 16), (35, 1500)])
def test_gated_gelu(rng, dtype, rows, inner):
    gate_up = draw(rng, rows, 2 * inner, dtype=dtype)
    out = launch.gated_gelu(gate_up, out=poisoned(rows, inner, dtype=dtype))
    assert_close(out, by_kernel.gated_gelu(gate_up), dtype)


SETTINGS = [
    FlashSettings(),
    FlashSettings(enable_gripper_verify=False),
    FlashSettings(enable_gripper_verify=False, enable_gripper_post_verify=False, max_exec_steps=60),
    FlashSettings(tau_radius=0.1, dist_dims=3, gripper_switch_threshold=0.4, max_exec_steps=1),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"tau {s.tau_radius} steps {s.max_exec_steps}")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_judge_decides_as_the_host_does(rng, settings, times):
    """Random sessions on both sides of every branch; the branches met are counted, so that none goes untested."""
    batch, horizon, dim = 8, 15, 9
    met = set()
    for trial in range(3):
        draft = draw(rng, batch, horizon, dim)
        spread = (0.05 + 0.25 * torch.rand(batch, 1, horizon, 1, generator=rng)).to(DEVICE)
        spread[:2] *= 0.1  # these two hold
        x0_hat = draft[:, None] + settings.tau_radius / 0.3 * spread * draw(rng, batch, times, horizon, dim)
        if trial:  # a calm gripper, but for two drafts that switch where the estimates do not
            draft[..., 6], x0_hat[..., 6] = 1.0, 1.0
            draft[0, 4:, 6], draft[1, 0, 6] = -1.0, -1.0
        last = torch.full((batch,), 1.0 if trial < 2 else -1.0, device=DEVICE)
        rules = torch.tensor(stages.rules(settings, horizon, dim), device=DEVICE)
        packed = launch.judge(draft, x0_hat, last, rules, out=poisoned(batch, 4 + horizon * dim))
        for b in range(batch):
            ours = stages.unpack_verdict(packed[b].cpu().numpy(), horizon, dim)
            host = verify.judge(draft[b].cpu().numpy(), x0_hat[b].cpu().numpy(), float(last[b]), settings)
            assert (ours.accepted, ours.gripper_stop, ours.gripper_cut) == (
                host.accepted, host.gripper_stop, host.gripper_cut
            )  # fmt: skip
            assert ours.radius == pytest.approx(host.radius, rel=1e-6)
            np.testing.assert_allclose(ours.chunk, host.chunk, rtol=0, atol=1e-6)
            met.add((host.gripper_stop, host.gripper_cut, min(host.accepted, 1)))
    assert (True, False, 0) in met or not settings.enable_gripper_verify
    assert (False, True, 0) in met or (False, True, 1) in met or not settings.enable_gripper_post_verify
    assert any(not stop for stop, _, _ in met)


def test_a_tie_with_tau_is_accepted_and_a_nan_is_not():
    draft, x0_hat = torch.zeros(1, 50, 32, device=DEVICE), torch.zeros(1, 1, 50, 32, device=DEVICE)
    x0_hat[0, 0, :, 0] = 0.5
    settings = FlashSettings(tau_radius=0.5, dist_dims=1)
    rules = torch.tensor(stages.rules(settings, 50, 32), device=DEVICE)
    last = torch.zeros(1, device=DEVICE)
    assert launch.judge(draft, x0_hat, last, rules)[0, 0] == 12
    x0_hat[0, 0, 5, 0] = float("nan")
    assert launch.judge(draft, x0_hat, last, rules)[0, 0] == 5


def test_shapes_that_do_not_fit_are_refused():
    x = torch.zeros(4, 8, device=DEVICE)
    with pytest.raises(ValueError, match="w must be a contiguous"):
        launch.norm_gated(x, x[0], torch.zeros(9, 8, device=DEVICE))
    with pytest.raises(ValueError, match="out has shape"):
        launch.rms_norm(x, x[0], out=torch.zeros(4, 9, device=DEVICE))
